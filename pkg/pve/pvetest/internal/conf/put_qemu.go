// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// qemuWrite is one write of a virtual machine's config on its way. PVE writes
// the file after every key, so what was done before a failure stays.
type qemuWrite struct {
	Request
	g        *Guest // the draft, as PVE holds it in memory
	written  *Guest // the guest as the file last had it, nil if it was not written
	modified map[string]bool
	errs     map[string]string
	effects  []Effect
	log      []string

	params           map[string]string
	deletes, reverts []string
	force, skiplock  bool
	digest           string
	bootOrder        []string // of the config at the start
}

func (g *Guest) putQEMU(r Request) Result {
	w := &qemuWrite{Request: r, g: g.draft(), modified: map[string]bool{}, errs: map[string]string{}}
	res := Result{Guest: g}
	res.Err = w.check()
	if res.Err == nil {
		res.Err = w.work()
		if r.Post {
			res.Task = true
			res.TaskErr, res.Err = taskText(res.Err), nil
			res = w.waited(res)
		}
	}
	res.Effects, res.Log = w.effects, w.log
	if w.written != nil {
		res.Guest = w.written
	}
	return res
}

// taskText is how a task ends that failed with err.
func taskText(err *Error) string {
	if err == nil {
		return ""
	}
	text := err.Message
	if err.Status != 500 {
		text = fmt.Sprintf("%d %s", err.Status, text) // PVE's exceptions print their code
	}
	for _, k := range sortedKeys(err.Errors) {
		text += "\n" + k + ": " + err.Errors[k]
	}
	return text
}

// waited is the answer to a POST that waits for its task: null or its error.
func (w *qemuWrite) waited(res Result) Result {
	if _, ok := w.Params["background_delay"]; !ok {
		return res
	}
	res.Task = false
	if res.TaskErr != "" {
		res.Err = died("failed to update VM %d: %s", w.g.VMID, strings.ReplaceAll(res.TaskErr, "\n", " "))
	}
	return res
}

// check is everything up to where a POST forks its task.
func (w *qemuWrite) check() *Error {
	steps := []func() *Error{
		w.takeParams, w.checkLists, w.checkDrives, w.completeParams, w.mayChange, w.mayStore, w.mayPlug,
		w.checkState, w.revert, w.checkBalloon,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (w *qemuWrite) takeParams() *Error {
	w.params = maps.Clone(w.Params)
	p := w.params
	w.digest = take(p, "digest")
	take(p, "background_delay")
	take(p, "import-working-storage")
	w.log = append(w.log, w.logLine())
	w.skiplock = take(p, "skiplock") == "1"
	if w.skiplock && !w.Caller.root() {
		return oneParam("skiplock", "Only root may use this option.")
	}
	del, rev := take(p, "delete"), take(p, "revert")
	w.deletes, w.reverts = splitList(del), splitList(rev)
	w.force = take(p, "force") == "1"
	if keys, ok := p["sshkeys"]; ok && !validSSHKeys(decodeText(keys)) {
		return died("SSH public key validation error")
	}
	if v, ok := p["cpuunits"]; ok {
		p["cpuunits"] = clampShares(w.Env.Host, v)
	}
	if !truthy(del) && !truthy(rev) && len(p) == 0 {
		return died("no options specified")
	}
	w.renameCDROM()
	return nil
}

// renameCDROM gives "cdrom" the name it has today.
func (w *qemuWrite) renameCDROM() {
	if v := take(w.params, "cdrom"); truthy(v) {
		if !strings.Contains(v, "media=") {
			v += ",media=cdrom"
		}
		w.params["ide2"] = v
	}
}

// logLine is the first line of the task's log.
func (w *qemuWrite) logLine() string {
	line := fmt.Sprintf("update VM %d:", w.g.VMID)
	for _, k := range sortedKeys(w.params) {
		v := w.params[k]
		if k == "cipassword" {
			v = "<hidden>"
		}
		line += " -" + k + " " + v
	}
	return line
}

func (w *qemuWrite) checkLists() *Error {
	for _, k := range w.reverts {
		if knownIn(w.Version, guest.QEMU, k) == nil {
			return oneParam("revert", "unknown option '"+k+"'")
		}
		if hasParam(w.params, k) {
			return oneParam("delete", "you can't use '-"+k+"' and -revert "+k+"' at the same time")
		}
	}
	for i, k := range w.deletes {
		if k == "cdrom" {
			k = "ide2"
			w.deletes[i] = k
		}
		if hasParam(w.params, k) {
			return oneParam("delete", "you can't use '-"+k+"' and -delete "+k+"' at the same time")
		}
		if slices.Contains(w.reverts, k) {
			return oneParam("revert", "you can't use '-delete "+k+"' and -revert "+k+"' at the same time")
		}
		if knownIn(w.Version, guest.QEMU, k) == nil {
			return oneParam("delete", "unknown option '"+k+"'")
		}
	}
	return nil
}

// checkDrives re-prints the disks and completes their media.
func (w *qemuWrite) checkDrives() *Error {
	for _, k := range sortedKeys(w.params) {
		if !isDrive(k) {
			continue
		}
		d, err := parseDrive(k, w.params[k])
		if err != nil {
			return oneParam(k, "unable to parse drive options")
		}
		if err := w.cleanDrive(k, d); err != nil {
			return err
		}
		w.params[k] = printDrive(d)
	}
	return nil
}

// importError refuses an import that is not asked for in PVE's form.
func importError(name string, d values) *Error {
	if d["import-from"] == "" {
		return nil
	}
	if m := newDriveRE.FindStringSubmatch(d["file"]); m == nil || numeric(m[2]) != 0 {
		return oneParam(name, "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>")
	}
	needs := map[string][]string{"efidisk0": {"efitype", "pre-enrolled-keys"}, "tpmstate0": {"version"}}[name]
	for _, opt := range needs {
		if d[opt] == "" {
			return oneParam(name, "need to specify '"+opt+"' when using 'import-from'")
		}
	}
	return nil
}

func (w *qemuWrite) cleanDrive(name string, d values) *Error {
	file := d["file"]
	if err := importError(name, d); err != nil {
		return err
	}
	if strings.HasPrefix(file, "/") && !strings.HasPrefix(file, "/dev/") && !strings.Contains(file, ":") {
		return oneParam(name, "unable to associate path '"+file+"' to any storage")
	}
	if d["media"] == "" && (file == "none" || file == "cdrom") {
		d["media"] = "cdrom"
	}
	_, vol, ok := splitVolume(file)
	if !ok || newDriveRE.MatchString(file) || vol == "cloudinit" {
		return nil
	}
	info, err := w.Env.volumeInfo(file)
	if err != nil {
		return err
	}
	if info.content == "iso" && !isCDROM(d) {
		return oneParam(name, "explicit 'media=cdrom' is required for iso images")
	}
	return nil
}

// completeParams generates what is left to PVE: hardware addresses, vmgenid.
func (w *qemuWrite) completeParams() *Error {
	for _, k := range sortedKeys(w.params) {
		switch {
		case inFamily(k, "net"):
			if err := w.completeNet(k); err != nil {
				return err
			}
		case k == "vmgenid" && w.params[k] == "1":
			w.params[k] = w.Env.uuid()
		case k == "hookscript":
			if err := checkHookscript(w.Env, w.params[k]); err != nil {
				return oneParam(k, err.Message+"\n")
			}
		}
	}
	return nil
}

func (w *qemuWrite) completeNet(name string) *Error {
	net, err := qemuNetProps.parse("", w.params[name])
	if err != nil {
		return codeError(err)
	}
	if net["macaddr"] == "" {
		net["macaddr"] = w.Env.mac()
	}
	w.params[name] = qemuNetProps.print(net)
	return nil
}

// checkState compares the digest and looks at the lock.
func (w *qemuWrite) checkState() *Error {
	if truthy(w.digest) && w.digest != w.g.digest {
		return died("checksum mismatch (file change by other user?)")
	}
	cur := w.g.Current.Values
	if slices.Contains(w.deletes, "vmstate") {
		if cur["lock"] == "suspended" {
			w.skiplock = true
			w.deletes = append(w.deletes, "lock")
		}
		for _, k := range []string{"runningmachine", "runningcpu"} {
			if truthy(cur[k]) {
				w.deletes = append(w.deletes, k)
			}
		}
	}
	if l := cur["lock"]; l != "" && !w.skiplock {
		return died("VM is locked (%s)", l)
	}
	return nil
}

// revert sets a key to what it is, or deletes it if it is only pending.
func (w *qemuWrite) revert() *Error {
	for _, k := range w.reverts {
		if v, ok := w.g.Current.Values[k]; ok {
			w.params[k] = v
		} else if hasParam(w.g.Pending.Values, k) {
			w.deletes = append(w.deletes, k)
		}
	}
	return nil
}

func (w *qemuWrite) checkBalloon() *Error {
	given, has := w.params["balloon"]
	if !truthy(w.params["memory"]) && !has {
		return nil
	}
	first := func(values ...string) string {
		for _, v := range values {
			if truthy(v) {
				return v
			}
		}
		return ""
	}
	pend, cur := w.g.Pending.Values, w.g.Current.Values
	if !has {
		given = first(pend["balloon"], cur["balloon"])
	}
	limit := "512"
	if m := first(w.params["memory"], pend["memory"], cur["memory"]); m != "" {
		v, err := memoryProps.parse("", m)
		if err != nil {
			return codeError(err)
		}
		limit = v["current"]
	}
	if truthy(given) && numeric(given) > numeric(limit) {
		return died("balloon value too large (must be smaller than assigned memory)")
	}
	return nil
}
