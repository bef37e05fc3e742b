// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"strconv"
)

// errSkip leaves a change pending.
var errSkip = errors.New("skip")

// hotplug applies to a running container what can be applied at once. A
// failure stops only its own key.
func (w *lxcWrite) hotplug() {
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if w.modified[k] && isFast(lxcKeys, k) {
			w.g.applyKey(k)
		}
	}
	for _, k := range sortedKeys(w.g.Delete) {
		if w.modified[k] && w.failed(k, w.unplug(k)) {
			w.g.dropKey(k)
		}
	}
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if w.modified[k] && w.failed(k, w.plug(k)) {
			w.g.applyKey(k)
		}
	}
}

func isFast(t table, name string) bool { return t[name] != nil && t[name].fast }

// failed records a key's failure and reports whether there was none.
func (w *lxcWrite) failed(name string, err error) (ok bool) {
	if err != nil && !errors.Is(err, errSkip) {
		w.errs[name] = "unable to hotplug " + name + ": " + err.Error() + "\n"
	}
	return err == nil
}

// applyKey makes a pending value the current one.
func (g *Guest) applyKey(name string) {
	g.Current.Set(name, g.Pending.Values[name])
	delete(g.Pending.Values, name)
}

// dropKey carries out a pending deletion.
func (g *Guest) dropKey(name string) {
	delete(g.Current.Values, name)
	delete(g.Delete, name)
}

func (w *lxcWrite) unplug(name string) error {
	switch {
	case isFast(lxcKeys, name), name == "swap", name == "cpulimit", name == "cpuunits":
		return nil
	case inFamily(name, "unused"):
		w.freeUnused(name)
		return nil
	case inFamily(name, "net") && len(name) == len("netN"):
		return nil // from net10 on PVE leaves it pending
	}
	return errSkip
}

// freeUnused deletes the volume of an unusedN, unless it is used after all or
// belongs to another guest.
func (w *lxcWrite) freeUnused(name string) {
	volid := w.g.Current.Values[name]
	info, err := w.Env.volumeInfo(volid)
	if w.g.isUsed(volid) || err != nil || info.owner != w.g.VMID {
		return
	}
	w.effects = append(w.effects, Effect{Op: Free, Volume: volid})
}

func (w *lxcWrite) plug(name string) error {
	value := w.g.Pending.Values[name]
	switch {
	case name == "cpulimit":
		return w.plugCPULimit(value)
	case name == "cpuunits" || name == "memory" || name == "swap":
		return nil
	case inFamily(name, "net"):
		return w.plugNet(name, value)
	case inFamily(name, "mp"):
		return w.plugMount(name)
	case inFamily(name, "dev") && w.Version >= 9 && w.g.Current.Values[name] == "":
		return profileError(w.Env)
	}
	return errSkip
}

// profileError is why nothing can be mounted into a running container.
func profileError(env *Env) error {
	if env.Host.NoAppArmor {
		return errors.New("failed to change apparmor profile: Invalid argument")
	}
	return nil
}

// plugCPULimit fails for zero: PVE writes a quota of 0, which no kernel takes.
func (w *lxcWrite) plugCPULimit(value string) error {
	if f, err := strconv.ParseFloat(value, 64); err != nil || int(100000*f) > 0 {
		return nil
	}
	file := fmt.Sprintf("/sys/fs/cgroup//lxc/%d/cpu.max", w.g.VMID)
	if w.Env.Host.CgroupV1 {
		file = fmt.Sprintf("/sys/fs/cgroup/cpu//lxc/%d/cpu.cfs_quota_us", w.g.VMID)
	}
	return fmt.Errorf("closing file '%s' failed - Invalid argument", file)
}

func (w *lxcWrite) plugNet(name, value string) error {
	net, err := completeNet(w.Env, value)
	if err != nil {
		return err
	}
	w.g.Pending.Set(name, lxcNetProps.print(net))
	old, err := parseNet(w.g.Current.Values[name])
	if err != nil {
		return err
	}
	if old == nil || old["hwaddr"] != net["hwaddr"] || old["name"] != net["name"] {
		return w.replugNet(name, old, net)
	}
	if err := w.changeNet(name, old, net); err != nil {
		return err
	}
	w.write()
	return nil
}

// replugNet removes an interface, if there is one, and adds it anew. The
// config is written in between, without the key.
func (w *lxcWrite) replugNet(name string, old, net values) error {
	if old != nil {
		delete(w.g.Current.Values, name)
		w.write()
	}
	iface := fmt.Sprintf("veth%d%s", w.g.VMID, "i"+name[len("net"):])
	if net["bridge"] == "" {
		return errors.New("unable to get bridge setting")
	}
	b, ok := w.Env.Bridges[net["bridge"]]
	if !ok {
		return fmt.Errorf("bridge '%s' does not exist", net["bridge"])
	}
	if !net.on("link_down") {
		if err := tapError(w.Env, b, iface, net); err != nil {
			return err
		}
	}
	if w.interfaceTaken(name, net["name"]) {
		return fmt.Errorf("command 'lxc-device -n %d add %sp %s' failed: exit code 1", w.g.VMID, iface, net["name"])
	}
	w.g.Current.Set(name, lxcNetProps.print(net))
	w.write()
	return nil
}

func (w *lxcWrite) interfaceTaken(name, iface string) bool {
	for k, v := range w.g.Current.Values {
		if k == name || !inFamily(k, "net") {
			continue
		}
		if other, err := lxcNetProps.parse("", v); err == nil && other["name"] == iface {
			return true
		}
	}
	return false
}

// changeNet plugs an interface elsewhere if where it is plugged changes.
func (w *lxcWrite) changeNet(name string, old, net values) error {
	iface := fmt.Sprintf("veth%di%s", w.g.VMID, name[len("net"):])
	moved := old["bridge"] != net["bridge"] || !sameNumber(old["tag"], net["tag"]) ||
		!sameNumber(old["firewall"], net["firewall"]) || old.on("link_down") != net.on("link_down")
	var err error
	switch {
	case moved && !net.on("link_down"):
		b, ok := w.Env.Bridges[net["bridge"]]
		if !ok {
			return fmt.Errorf("interface %s does not exist\n", net["bridge"])
		}
		if err = tapError(w.Env, b, iface, net); err != nil {
			return fmt.Errorf("%w\n", err) // PVE adds a newline to one that is there
		}
	case !moved && old["rate"] != net["rate"] && net["rate"] != "":
		err = policeError(w.Env, iface, net["rate"])
	}
	return err
}

// sameNumber compares two numbers, of which either may be absent.
func sameNumber(a, b string) bool {
	if a == "" || b == "" {
		return a == b
	}
	x, _ := strconv.ParseFloat(a, 64)
	y, _ := strconv.ParseFloat(b, 64)
	return x == y
}

// tapError is why an interface cannot be plugged into a bridge.
func tapError(env *Env, b Bridge, iface string, net values) error {
	if !b.VLANAware {
		if net["trunks"] != "" {
			return fmt.Errorf("vlan aware feature need to be enabled to use trunks at /usr/share/perl5/PVE/Network.pm line %d.", trunksLine)
		}
		if net["tag"] != "" && b.NoPort {
			return fmt.Errorf("no physical interface on bridge '%s'", net["bridge"])
		}
	}
	if net["rate"] == "" {
		return nil
	}
	return policeError(env, iface, net["rate"])
}

// trunksLine is the source line Perl names in that message (pve-common 8.3.8).
const trunksLine = 541

func policeError(env *Env, iface, rate string) error {
	f, err := strconv.ParseFloat(rate, 64)
	if err != nil || f == 0 || !env.Host.NoPolicing {
		return nil
	}
	return fmt.Errorf("command '/sbin/tc filter add dev %s parent ffff: prio 50 basic police rate %dbps burst 1048576b mtu 64kb drop' failed: exit code 2",
		iface, int64(f*1024*1024))
}

// parseNet parses a value that may be absent.
func parseNet(value string) (values, error) {
	if value == "" {
		return nil, nil
	}
	return lxcNetProps.parse("", value)
}

// completeNet parses an interface and adds what PVE adds: its type and, if it
// has none, a hardware address.
func completeNet(env *Env, value string) (values, error) {
	net, err := lxcNetProps.parse("", value)
	if err != nil {
		return nil, err
	}
	net["type"] = "veth"
	if net["hwaddr"] == "" {
		net["hwaddr"] = env.mac()
	}
	return net, nil
}
