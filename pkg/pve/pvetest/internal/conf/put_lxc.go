// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"maps"
	"strconv"
	"strings"
)

// lxcWrite is one write of a container's config on its way.
type lxcWrite struct {
	Request
	before *Guest
	g      *Guest // the draft
	// written is the guest as the file last had it, nil if it was not written.
	written  *Guest
	modified map[string]bool
	errs     map[string]string
	effects  []Effect
	log      []string
}

func (g *Guest) putLXC(r Request) Result {
	w := &lxcWrite{Request: r, before: g, g: g.draft(), modified: map[string]bool{}, errs: map[string]string{}}
	err := w.run()
	res := Result{Guest: g, Err: err, Effects: w.effects, Log: w.log}
	if w.written != nil {
		res.Guest = w.written
	}
	return res
}

func (w *lxcWrite) run() *Error {
	params := maps.Clone(w.Params)
	digest := take(params, "digest")
	if len(params) == 0 {
		return died("no options specified")
	}
	deletes, reverts := splitList(take(params, "delete")), splitList(take(params, "revert"))
	if v, ok := params["cpuunits"]; ok {
		params["cpuunits"] = clampShares(w.Env.Host, v)
	}
	if l := w.before.Lock(); l != "" {
		return died("CT is locked (%s)", l)
	}
	if truthy(digest) && digest != w.before.digest {
		return died("detected modified configuration - file changed by other user? Try again.")
	}
	if err := w.mayChange(params, deletes, reverts); err != nil {
		return err
	}
	return w.update(params, deletes, reverts)
}

// take removes a parameter and returns it.
func take(params map[string]string, name string) string {
	v := params[name]
	delete(params, name)
	return v
}

// clampShares fits cpuunits into what the cgroup version knows.
func clampShares(h Host, v string) string {
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case err != nil:
		return v
	case h.CgroupV1 && n < 2:
		return "2"
	case !h.CgroupV1 && n >= 10000:
		return "10000"
	}
	return v
}

func (w *lxcWrite) mayChange(params map[string]string, deletes, reverts []string) *Error {
	for _, list := range [][]string{deletes, reverts} {
		if err := w.before.mayChangeLXC(w.Request, nil, list); err != nil {
			return err
		}
	}
	if err := checkLists(w.Version, w.before.Kind, params, deletes, reverts); err != nil {
		return err
	}
	return w.before.mayChangeLXC(w.Request, params, nil)
}

// update is what PVE does once the caller is known to be allowed.
func (w *lxcWrite) update(params map[string]string, deletes, reverts []string) *Error {
	for _, k := range reverts {
		delete(w.g.Pending.Values, k)
		delete(w.g.Delete, k)
	}
	for _, k := range deletes {
		if err := w.delete(k); err != nil {
			return err
		}
	}
	for _, k := range sortedKeys(params) {
		if err := w.set(k, params[k]); err != nil {
			return err
		}
	}
	w.g.dropUnchanged()
	if w.g.Running {
		w.hotplug()
	} else {
		w.apply()
	}
	if len(w.errs) > 0 {
		return paramError(w.errs)
	}
	w.write()
	return w.g.settle().lxcConfigError(w.Version, w.Env)
}

// write stores the draft.
func (w *lxcWrite) write() { w.written = w.g.settle() }

func (w *lxcWrite) delete(name string) *Error {
	_, set := w.g.Current.Values[name]
	_, pending := w.g.Pending.Values[name]
	if !set && !pending {
		w.log = append(w.log, "cannot delete '"+name+"' - not set in current configuration!")
		return nil
	}
	w.modified[name] = true
	switch {
	case name == "memory" || name == "rootfs" || name == "ostype":
		return died("unable to delete required option '%s'", name)
	case name == "unprivileged":
		return died("unable to delete read-only option: '%s'", name)
	case inFamily(name, "unused") || inFamily(name, "mp"):
		if err := w.g.protected("can't remove CT " + w.g.VMID.String() + " drive '" + name + "'"); err != nil {
			return err
		}
	}
	w.g.deleteLater(name, false)
	return nil
}

// set puts a checked value among the pending ones.
func (w *lxcWrite) set(name, value string) *Error {
	w.modified[name] = true
	value, err := w.prepare(name, value)
	if err != nil {
		return err
	}
	w.g.Pending.Set(name, value)
	delete(w.g.Delete, name)
	return nil
}

// prepare checks a value beyond its schema and returns what PVE keeps of it.
func (w *lxcWrite) prepare(name, value string) (string, *Error) {
	switch {
	case name == "rootfs" || inFamily(name, "mp"):
		return value, w.checkMount(name, value)
	case name == "hookscript":
		return value, checkHookscript(w.Env, value)
	case name == "nameserver" || name == "searchdomain":
		return strings.Join(splitList(value), " "), nil
	case name == "unprivileged":
		return "", died("unable to modify read-only option: '%s'", name)
	case name == "tags":
		return uniqueTags(w.Env.Datacenter, value), nil
	case inFamily(name, "net"):
		return value, w.checkNet(name, value)
	case inFamily(name, "dev"):
		return value, w.checkDevice(value)
	}
	return value, nil
}

func (w *lxcWrite) checkMount(name, value string) *Error {
	if err := w.g.protected("can't update CT " + w.g.VMID.String() + " drive '" + name + "'"); err != nil {
		return err
	}
	mp, err := parseMount(name, value)
	if err != nil {
		return codeError(err)
	}
	if err := idmapError(mp["idmap"]); err != nil {
		return err
	}
	if mountType(mp["volume"]) != "volume" {
		return nil
	}
	id, _, ok := splitVolume(mp["volume"])
	if !ok {
		return died("unable to parse volume ID '%s'", mp["volume"])
	}
	s, perr := w.Env.storage(id)
	if perr == nil && !s.has("rootdir") {
		perr = died("storage '%s' does not allow content type 'rootdir' (Container)", id)
	}
	return perr
}

func (w *lxcWrite) checkNet(name, value string) *Error {
	net, err := lxcNetProps.parse("", value)
	if err != nil {
		return codeError(err)
	}
	if net["mtu"] != "" {
		if err := mtuError(w.Env, name, net); err != nil {
			return err
		}
	}
	return slaacError(w.Version, name, net, ".")
}

// mtuError refuses an interface whose MTU its bridge cannot carry, or whose
// bridge is missing.
func mtuError(env *Env, name string, net values) *Error {
	b, ok := env.Bridges[net["bridge"]]
	if !ok {
		return died("bridge '%s' does not exist", net["bridge"])
	}
	limit := b.MTU
	if limit == 0 {
		limit = 1500
	}
	if n, err := strconv.Atoi(net["mtu"]); err == nil && n > limit {
		return died("%s: MTU size '%s' is bigger than bridge MTU '%d'", name, net["mtu"], limit)
	}
	return nil
}

func (w *lxcWrite) checkDevice(value string) *Error {
	dev, err := devProps.parse("", value)
	if err != nil {
		return codeError(err)
	}
	path, ok := dev["path"]
	if !ok {
		return died("Path has to be defined")
	}
	return deviceError(w.Env, path)
}

func deviceError(env *Env, path string) *Error {
	switch env.path(path) {
	case PathDevice:
		return nil
	case PathAbsent:
		return died("Device %s does not exist", path)
	}
	return died("%s is not a device", path)
}

// checkHookscript is PVE's check of a script's place, existence and mode.
func checkHookscript(env *Env, volid string) *Error {
	info, err := env.volumeInfo(volid)
	if err != nil {
		return err
	}
	if info.content != "snippets" {
		return died("'%s' is not in the snippets directory", volid)
	}
	switch env.path(volid) {
	case PathExecutable:
		return nil
	case PathFile:
		return died("script '%s' is not executable", volid)
	}
	return died("script '%s' does not exist", volid)
}

// lxcConfigError is what PVE finds wrong when it makes the file LXC reads,
// after the config was written.
func (g *Guest) lxcConfigError(version int, env *Env) *Error {
	c := g.Current.Values
	if g.Template() {
		return nil
	}
	if a := c["arch"]; a == "" || a == "0" {
		return died("missing 'arch' - internal error at /usr/share/perl5/PVE/LXC.pm line %d.", sourceLine(version, 676, 729))
	}
	for _, k := range sortedKeys(c) {
		if dev, err := devProps.parse("", c[k]); inFamily(k, "dev") && err == nil {
			if err := deviceError(env, dev["path"]); err != nil {
				return err
			}
		}
	}
	if c["rootfs"] == "" {
		return died("missing 'rootfs' configuration")
	}
	for _, k := range sortedKeys(c) {
		if !inFamily(k, "net") {
			continue
		}
		if err := netConfigError(version, env, k, c[k]); err != nil {
			return err
		}
	}
	return nil
}

func netConfigError(version int, env *Env, name, value string) *Error {
	net, err := lxcNetProps.parse("", value)
	if err != nil {
		return codeError(err)
	}
	if err := mtuError(env, name, net); err != nil {
		return err
	}
	return slaacError(version, name, net, "")
}

// slaacError refuses addresses by router advertisement on an interface that
// the host configures. stop is how PVE ends the text: it has it twice.
func slaacError(version int, name string, net values, stop string) *Error {
	if version < 9 || net.on("link_down") || !net.on("host-managed") || net["ip6"] != "auto" {
		return nil
	}
	return died("%s: SLAAC is not supported for host-managed network configuration%s", name, stop)
}
