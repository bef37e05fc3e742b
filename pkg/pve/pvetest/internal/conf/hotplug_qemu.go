// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// apply carries out all pending changes of a stopped virtual machine.
func (w *qemuWrite) apply() {
	for _, k := range sortedKeys(w.g.Delete) {
		if v, ok := w.g.Current.Values[k]; ok && isDrive(k) {
			w.detach(k, v)
		}
		w.g.dropKey(k)
	}
	w.g.dropUnchanged()
	cloudInit := ""
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if isDrive(k) {
			if old, ok := w.g.Current.Values[k]; ok {
				w.keepUnused(k, old)
			}
			if d, err := parseDrive(k, w.g.Pending.Values[k]); err == nil && isCloudInit(d) {
				cloudInit = d["file"]
			}
		}
		w.g.applyKey(k)
	}
	if cloudInit != "" {
		w.generate(cloudInit)
	}
}

// generate makes the cloud-init image, which may just have been freed because
// its drive was written anew.
func (w *qemuWrite) generate(volid string) {
	delete(w.g.Special, "cloudinit")
	if w.exists(volid) {
		return
	}
	info, err := w.Env.volumeInfo(volid)
	if err == nil {
		w.effects = append(w.effects, Effect{Op: Allocate, Volume: volid, Size: cloudInitSize, Format: info.format})
	}
}

// detach takes a disk off; forced, its volume is freed.
func (w *qemuWrite) detach(name, value string) {
	d, err := parseDrive(name, value)
	if err != nil {
		return
	}
	if !w.g.Delete[name] || isCDROM(d) && !isCloudInit(d) {
		w.keepUnused(name, value)
		return
	}
	if info, err := w.Env.volumeInfo(d["file"]); err == nil && info.owner == w.g.VMID {
		w.effects = append(w.effects, Effect{Op: Free, Volume: d["file"]})
	}
}

// hotplug applies to a running virtual machine what can be applied at once. A
// failure stops only its own key.
func (w *qemuWrite) hotplug() {
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if isFast(qemuKeys, k) {
			w.recordCloudInit(k, w.g.Pending.Values[k], true)
			w.g.applyKey(k)
		}
	}
	for _, k := range sortedKeys(w.g.Delete) {
		if w.modified[k] && w.plugged(k, w.unplug(k)) {
			w.recordCloudInit(k, "", false)
			w.g.dropKey(k)
		}
	}
	later := ""
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if !w.modified[k] {
			continue
		}
		if d, err := parseDrive(k, w.g.Pending.Values[k]); isPlainDrive(k) && err == nil && isCloudInit(d) {
			later = k // made when everything else is in place
			continue
		}
		if w.plugged(k, w.plug(k)) {
			w.recordCloudInit(k, w.g.Pending.Values[k], true)
			w.g.applyKey(k)
		}
	}
	if later != "" && w.plugged(later, w.changeDisk(later, w.g.Pending.Values[later])) {
		w.g.applyKey(later)
	}
	if w.g.hotplugOn("cloudinit") && w.g.cloudInitDrive() != "" {
		delete(w.g.Special, "cloudinit")
	}
}

// plugged records a key's failure and reports whether there was none.
func (w *qemuWrite) plugged(name string, err error) bool {
	if err != nil && !errors.Is(err, errSkip) {
		w.errs[name] = "hotplug problem - " + err.Error() + "\n"
	}
	return err == nil
}

func (w *qemuWrite) unplug(name string) error {
	cur := w.g.Current.Values[name]
	on := true
	switch {
	case name == "hotplug":
		on = !strings.Contains(cur, "cpu") && !strings.Contains(cur, "memory")
	case name == "tablet":
		on = w.g.hotplugOn("usb")
	case inFamily(name, "usb"):
		on = w.usbHotplug()
	case name == "vcpus":
		on = w.g.hotplugOn("cpu")
	case name == "balloon":
		on = cur != "0"
	case isFast(qemuKeys, name), name == "cpuunits", name == "cpulimit":
	case inFamily(name, "net"):
		on = w.g.hotplugOn("network")
	case isDrive(name):
		return w.unplugDisk(name, cur)
	case name == "memory":
		on = w.g.hotplugOn("memory")
	default:
		on = false
	}
	if !on {
		return errSkip
	}
	return nil
}

func (w *qemuWrite) unplugDisk(name, value string) error {
	family, _, _ := indexOf(name)
	if !w.g.hotplugOn("disk") || family != "scsi" && family != "virtio" {
		return errSkip
	}
	if slices.Contains(w.bootDisks(), name) {
		return fmt.Errorf("can't unplug bootdisk '%s'", name)
	}
	w.detach(name, value)
	return nil
}

// bootDisks are the disks the running guest was told to boot from.
func (w *qemuWrite) bootDisks() []string {
	v, err := bootProps.parse("", w.g.Current.Values["boot"])
	if err != nil || len(v) == 0 || v["legacy"] != "" {
		return []string{w.g.Current.Values["bootdisk"]}
	}
	return splitList(v["order"])
}

// usbHotplug needs a machine that is not older than 7.1, and a system that
// can do it.
func (w *qemuWrite) usbHotplug() bool {
	os := w.g.Current.Values["ostype"]
	return w.g.hotplugOn("usb") && (os == "l26" || os == "win8" || os == "win10" || os == "win11")
}

func (w *qemuWrite) plug(name string) error {
	value := w.g.Pending.Values[name]
	on := true
	switch {
	case name == "hotplug":
		on = w.mayChangeHotplug(value)
	case name == "tablet":
		on = w.g.hotplugOn("usb")
	case inFamily(name, "usb"):
		on = w.usbHotplug()
	case name == "vcpus":
		on = w.g.hotplugOn("cpu")
	case name == "balloon":
		on = (w.g.Current.Values[name] != "0") == truthy(value)
	case inFamily(name, "net"):
		return w.changeNet(name, value)
	case isPlainDrive(name):
		return w.changeDisk(name, value)
	case name == "memory":
		on = w.g.hotplugOn("memory")
	case name == "cpuunits" || name == "cpulimit":
	case name == "agent":
		on = sameAgent(w.g.Current.Values[name], value)
	default:
		on = false
	}
	if !on {
		return errSkip
	}
	return nil
}

// mayChangeHotplug: neither memory nor cpu can be switched on or off live.
func (w *qemuWrite) mayChangeHotplug(value string) bool {
	cur := w.g.Current.Values["hotplug"]
	for _, f := range []string{"memory", "cpu"} {
		if strings.Contains(value, f) || strings.Contains(cur, f) {
			return false
		}
	}
	return true
}

// sameAgent reports whether two agent settings differ at most in what needs
// no restart.
func sameAgent(cur, value string) bool {
	if cur == "" {
		return false
	}
	parse := func(s string) values {
		v, err := agentProps.parse("", s)
		if err != nil || !v.on("enabled") {
			return values{}
		}
		delete(v, "fstrim_cloned_disks")
		return v
	}
	a, b := parse(cur), parse(value)
	for _, k := range []string{"enabled", "freeze-fs", "freeze-fs-on-backup", "type"} {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}

// changeNet plugs an interface elsewhere, or takes it out and adds it anew.
func (w *qemuWrite) changeNet(name, value string) error {
	net, err := qemuNetProps.parse("", value)
	if err != nil {
		return err
	}
	iface := fmt.Sprintf("tap%di%s", w.g.VMID, name[len("net"):])
	if old, err := qemuNetProps.parse("", w.g.Current.Values[name]); err == nil && sameCard(old, net) {
		return w.moveNet(iface, old, net)
	}
	if !w.g.hotplugOn("network") {
		return errSkip
	}
	if net["bridge"] == "" {
		return nil
	}
	b, ok := w.Env.Bridges[net["bridge"]]
	status := 0
	switch {
	case !ok:
		status = 2 << 8 // the script dies of "no such file"
	case tapError(w.Env, b, iface, net) != nil:
		status = 255 << 8 // of anything else
	default:
		return nil
	}
	return fmt.Errorf("VM %d qmp command 'netdev_add' failed - network script /usr/libexec/qemu-server/pve-bridge-hotplug failed with status %d", w.g.VMID, status)
}

// sameCard reports whether a change leaves the card itself alone.
func sameCard(old, net values) bool {
	return old["model"] == net["model"] && old["macaddr"] == net["macaddr"] && sameNumber(old["queues"], net["queues"]) &&
		sameNumber(old["mtu"], net["mtu"]) && net["bridge"] != "" && old["bridge"] != ""
}

func (w *qemuWrite) moveNet(iface string, old, net values) error {
	moved := old["bridge"] != net["bridge"] || !sameNumber(old["tag"], net["tag"]) || old["trunks"] != net["trunks"] ||
		!sameNumber(old["firewall"], net["firewall"])
	if !moved {
		if sameNumber(old["rate"], net["rate"]) {
			return nil
		}
		return policeError(w.Env, iface, net["rate"])
	}
	b, ok := w.Env.Bridges[net["bridge"]]
	if !ok {
		return fmt.Errorf("interface %s does not exist", net["bridge"])
	}
	return tapError(w.Env, b, iface, net)
}

// recordCloudInit notes in the special section what the cloud-init drive of a
// running guest does not know yet: the old value of a key that was changed or
// removed, or the name of one that was added.
func (w *qemuWrite) recordCloudInit(name, value string, set bool) {
	k := qemuKeys[name]
	if name != "name" && !inFamily(name, "net") && (k == nil || k.priv != cloudinitAny) {
		return
	}
	s := w.g.Special["cloudinit"]
	if s.Values == nil {
		s.Values = make(map[string]string)
	}
	added := make(map[string]bool)
	for _, a := range splitList(s.Values["added"]) {
		added[a] = true
	}
	delete(s.Values, "added")
	old, had := w.g.Current.Values[name]
	recorded, known := s.Values[name]
	switch {
	case set && known:
		if value == recorded {
			delete(s.Values, name)
			delete(added, name)
		}
	case added[name]:
		if !set {
			delete(added, name)
		}
	case set && !had:
		added[name] = true
	case had && !known:
		s.Values[name] = old
	}
	if len(added) > 0 {
		s.Values["added"] = strings.Join(sortedKeys(added), ",")
	}
	putSection(&w.g.Special, "cloudinit", s)
}
