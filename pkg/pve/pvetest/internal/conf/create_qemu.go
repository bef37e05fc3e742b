// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// CreateQEMU makes a virtual machine's config as POST .../qemu does without
// "archive". vmid must be free and not among the params; a "pool" must exist.
// now is the time of the creation in seconds since 1970. Refusals before the
// task are Result.Err, the task's own Result.TaskErr; Result.Guest is nil with
// either.
func CreateQEMU(r Request, vmid guest.VMID, now int64) Result {
	w := &qemuWrite{Request: r, g: New(guest.QEMU, vmid, nil).draft(), modified: map[string]bool{}}
	var res Result
	if res.Err = CheckParams(r.Version, guest.QEMU, Create, r.Params); res.Err == nil {
		res.Err = w.admit()
	}
	if res.Err != nil {
		return res
	}
	res.Task = true
	if err := w.create(now); err != nil {
		for _, e := range w.effects {
			w.effects = append(w.effects, Effect{Op: Free, Volume: e.Volume})
		}
		res.TaskErr = fmt.Sprintf("unable to create VM %d - %s", vmid, taskText(err))
	} else {
		res.Guest = w.g.settle()
	}
	res.Effects, res.Log = w.effects, w.log
	return res
}

// admit is what PVE checks before it reserves the VMID.
func (w *qemuWrite) admit() *Error {
	w.params = make(map[string]string)
	for k, v := range w.Params {
		if _, own := qemuCreateParams[k]; !own {
			w.params[k] = v
		}
	}
	if keys, ok := w.params["sshkeys"]; ok && !validSSHKeys(decodeText(keys)) {
		return died("SSH public key validation error")
	}
	if v, ok := w.params["cpuunits"]; ok {
		w.params["cpuunits"] = clampShares(w.Env.Host, v)
	}
	if err := w.mayCreate(); err != nil {
		return err
	}
	w.renameCDROM()
	for _, step := range []func() *Error{w.mayStore, w.mayChange, w.mayDevices, w.mayPlug, w.checkDrives} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, k := range sortedKeys(w.params) {
		if inFamily(k, "net") {
			if err := w.completeNet(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *qemuWrite) mayCreate() *Error {
	if s := w.Params["storage"]; s != "" {
		if err := w.Caller.need("/storage/"+s, "Datastore.AllocateSpace"); err != nil {
			return err
		}
	}
	if w.Version >= 9 && w.Params["ha-managed"] == "1" {
		if err := w.Caller.need("/", "Sys.Console"); err != nil {
			return err
		}
	}
	if w.Version >= 9 && w.Params["start"] == "1" {
		if err := w.Caller.need(w.g.path(), privPower); err != nil {
			return err
		}
	}
	pool := w.Params["pool"]
	if w.Caller.allowed(w.g.path(), privAllocate) || pool != "" && w.Caller.allowed("/pool/"+pool, privAllocate) {
		return nil
	}
	return &Error{Status: 403, Message: "Permission check failed"}
}

func (w *qemuWrite) mayDevices() *Error {
	for _, k := range sortedKeys(w.params) {
		if err := w.mayDevice(k, w.params[k], "set"); err != nil {
			return err
		}
	}
	return nil
}

// create is the task: disks, and what PVE fills in.
func (w *qemuWrite) create(now int64) *Error {
	w.g.Current.Values = w.params
	set := w.g.Current.Set
	set("meta", "creation-qemu="+w.Env.Host.qemu(w.Version)+",ctime="+strconv.FormatInt(now, 10))
	for _, k := range sortedKeys(w.params) {
		if isDrive(k) {
			if err := w.createDrive(k); err != nil {
				return err
			}
		}
	}
	cur := w.g.Current.Values
	if !truthy(cur["boot"]) {
		set("boot", printBootOrder(w.g.bootDevices()))
	}
	if err := clipboardError(cur["vga"]); err != nil {
		return err
	}
	if !truthy(cur["smbios1"]) {
		set("smbios1", "uuid="+w.Env.uuid())
	}
	if id, ok := cur["vmgenid"]; (!ok || id == "1") && cur["arch"] != "aarch64" {
		set("vmgenid", w.Env.uuid())
	}
	if err := w.createMachine(); err != nil {
		return err
	}
	if err := w.createTags(); err != nil {
		return err
	}
	for _, k := range sortedKeys(cur) {
		if err := writeError(k, cur[k]); err != nil {
			return err
		}
	}
	return nil
}

func (w *qemuWrite) createDrive(name string) *Error {
	d, err := parseDrive(name, w.g.Current.Values[name])
	if err != nil {
		return oneParam(name, "unable to parse drive options")
	}
	if err := w.fillDrive(name, d); err != nil {
		return err
	}
	w.g.Current.Set(name, printDrive(d))
	return nil
}

// createMachine pins the machine version of a Windows.
func (w *qemuWrite) createMachine() *Error {
	cur := w.g.Current.Values
	if err := viommuError(cur["machine"]); err != nil {
		return err
	}
	if m := w.pinned(cur["machine"], cur["ostype"]); m != "" {
		w.g.Current.Set("machine", m)
	}
	return nil
}

// createTags normalises the tags, which PVE 8 does only when they change.
func (w *qemuWrite) createTags() *Error {
	tags, ok := w.g.Current.Get("tags")
	if !ok || w.Version < 9 {
		return nil
	}
	if err := w.g.mayTag(w.Caller, w.Env, "", tags); err != nil {
		return err
	}
	w.g.Current.Set("tags", uniqueTags(w.Env.Datacenter, tags))
	return nil
}

// bootDevices are what a guest boots from if it is not told: its first disk,
// first CD-ROM and first interface.
func (g *Guest) bootDevices() []string {
	var disk, cdrom, net string
	for _, k := range diskNames(guest.QEMU) {
		v := g.Current.Values[k]
		d, err := parseDrive(k, v)
		switch {
		case !truthy(v) || err != nil || k == "efidisk0" || k == "tpmstate0":
		case isCDROM(d) && cdrom == "":
			cdrom = k
		case !isCDROM(d) && disk == "":
			disk = k
		}
	}
	for n := 31; n >= 0; n-- {
		if k := "net" + itoa(n); truthy(g.Current.Values[k]) {
			net = k
		}
	}
	return slices.DeleteFunc([]string{disk, cdrom, net}, func(s string) bool { return s == "" })
}

// qemu is the version of the installed QEMU.
func (h Host) qemu(version int) string {
	switch {
	case h.QEMU != "":
		return h.QEMU
	case version >= 9:
		return "10.1.2"
	}
	return "9.2.0"
}
