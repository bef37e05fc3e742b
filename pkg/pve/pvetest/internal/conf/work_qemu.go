// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// numeric is a number as Perl reads it; what is none is 0.
func numeric(s string) float64 {
	f, _ := strconv.ParseFloat(strings.TrimPrefix(s, "+"), 64)
	return f
}

// work is what a POST does in its task.
func (w *qemuWrite) work() *Error {
	w.bootOrder = bootOrderOf(w.g.Current.Values["boot"])
	for _, k := range w.deletes {
		if err := w.delete(k); err != nil {
			return err
		}
	}
	for _, k := range sortedKeys(w.params) {
		w.modified[k] = true
		if v, ok := w.g.Pending.Values[k]; ok && v == w.params[k] {
			continue
		}
		if err := w.set(k, w.params[k]); err != nil {
			return err
		}
		delete(w.g.Delete, k)
		if err := w.write(); err != nil {
			return err
		}
	}
	if w.g.dropUnchanged() {
		if err := w.write(); err != nil {
			return err
		}
	}
	if len(w.g.Pending.Values) == 0 && len(w.g.Delete) == 0 {
		return nil
	}
	return w.applyChanges()
}

func (w *qemuWrite) applyChanges() *Error {
	if w.g.Running {
		w.hotplug()
	} else {
		w.apply()
	}
	if err := w.write(); err != nil {
		return err
	}
	if len(w.errs) > 0 {
		return paramError(w.errs)
	}
	return nil
}

// write stores the draft, unless a value in it is one PVE cannot write.
func (w *qemuWrite) write() *Error {
	for _, s := range []Section{w.g.Current, w.g.Pending} {
		for _, k := range sortedKeys(s.Values) {
			if err := writeError(k, s.Values[k]); err != nil {
				return err
			}
		}
	}
	w.written = w.g.settle()
	w.g = w.written.draft()
	return nil
}

// writeError is PVE's complaint about a value it will not write.
func writeError(name, value string) *Error {
	k := qemuKeys[name]
	if k == nil || name == "description" {
		return nil
	}
	text := ""
	switch {
	case strings.ContainsAny(value, "\n\r"):
		text = "property contains a line feed"
	case k.typ != tString:
		if _, ok := k.readValue(value); !ok {
			text = "type check ('" + k.typ.String() + "') failed - got '" + value + "'"
		}
	default:
		if err := k.formatErr("", value); err != nil {
			text = err.Error()
		}
	}
	if text == "" {
		return nil
	}
	return died("unable to parse value of '%s' - %s", name, text)
}

func bootOrderOf(boot string) []string {
	v, err := bootProps.parse("", boot)
	if err != nil {
		return nil
	}
	return splitList(v["order"])
}

func printBootOrder(order []string) string {
	if len(order) == 0 {
		return ""
	}
	return "order=" + strings.Join(order, ";")
}

// delete marks a key for deletion; a few go at once.
func (w *qemuWrite) delete(name string) *Error {
	cur, set := w.g.Current.Values[name]
	pend, pending := w.g.Pending.Values[name]
	if !set && !pending {
		w.log = append(w.log, "cannot delete '"+name+"' - not set in current configuration!")
		return nil
	}
	w.modified[name] = true
	value := cur
	if !set {
		value = pend
	}
	delete(w.g.Pending.Values, name)
	if i := slices.Index(w.bootOrder, name); i >= 0 {
		w.bootOrder = slices.Delete(w.bootOrder, i, i+1)
		w.setBoot()
	}
	if err := w.mayDelete(name, value, pending); err != nil {
		return err
	}
	switch {
	case inFamily(name, "unused") || name == "vmstate":
		return w.deleteVolume(name, value)
	case name == "tags":
		delete(w.g.Current.Values, name)
	default:
		w.g.deleteLater(name, w.force)
	}
	return w.write()
}

func (w *qemuWrite) setBoot() {
	w.g.Pending.Set("boot", printBootOrder(w.bootOrder))
	w.modified["boot"] = true
}

func (w *qemuWrite) mayDelete(name, value string, pending bool) *Error {
	switch {
	case inFamily(name, "unused"):
		if err := w.g.protected("can't remove unused disk '" + value + "'"); err != nil {
			return err
		}
		return w.Caller.need(w.g.path(), privDisk)
	case name == "vmstate":
		return w.g.protected("can't remove vmstate '" + value + "'")
	case isDrive(name):
		if err := w.g.protected("can't remove drive '" + name + "'"); err != nil {
			return err
		}
		if err := w.mayAttach(name, value); err != nil {
			return err
		}
		if pending {
			w.keepUnused(name, value)
		}
		return nil
	case name == "tags":
		return w.g.mayTag(w.Caller, w.Env, value, "")
	case inFamily(name, "net"):
		return w.mayNet(w.g.Current.Values[name])
	}
	return w.mayDevice(name, value, "delete")
}

// deleteVolume frees a volume that is this guest's own and forgets its key.
func (w *qemuWrite) deleteVolume(name, volid string) *Error {
	if info, err := w.Env.volumeInfo(volid); err == nil && info.owner == w.g.VMID {
		id, _, _ := splitVolume(volid)
		if err := w.Caller.need("/storage/"+id, "Datastore.AllocateSpace"); err != nil {
			return err
		}
		if w.g.isUsed(volid) {
			return died("unable to delete '%s' - volume is still in use (snapshot?)", volid)
		}
		w.effects = append(w.effects, Effect{Op: Free, Volume: volid})
	}
	delete(w.g.Current.Values, name)
	return w.write()
}

// keepUnused makes a detached disk of this guest's own an unused one; a
// cloud-init drive is freed.
func (w *qemuWrite) keepUnused(name, value string) {
	d, err := parseDrive(name, value)
	if err != nil {
		return
	}
	switch {
	case isCloudInit(d):
		w.effects = append(w.effects, Effect{Op: Free, Volume: d["file"]})
		delete(w.g.Special, "cloudinit")
	case !isCDROM(d):
		if info, err := w.Env.volumeInfo(d["file"]); err == nil && info.owner == w.g.VMID {
			w.g.addUnused(d["file"])
		}
	}
}

// set puts a value among the pending ones.
func (w *qemuWrite) set(name, value string) *Error {
	cur := w.g.Current.Values[name]
	switch {
	case isDrive(name):
		return w.setDrive(name, value)
	case inFamily(name, "serial"):
		if cur != "" && cur != "socket" {
			value = cur + " " + value // a real device on either side is root's
		}
		if err := w.mayDevice(name, value, "modify"); err != nil {
			return err
		}
		value = w.params[name]
	case name == "vga":
		if err := clipboardError(value); err != nil {
			return err
		}
	case name == "tags":
		if err := w.g.mayTag(w.Caller, w.Env, cur, value); err != nil {
			return err
		}
		value = uniqueTags(w.Env.Datacenter, value)
	case inFamily(name, "net"):
		if err := w.mayNet(cur); err != nil {
			return err
		}
	case name == "machine":
		if err := viommuError(value); err != nil {
			return err
		}
	case name == "ostype":
		w.pinMachine(value)
	case name == "cipassword":
		w.g.Current.Set(name, w.password(value))
		return nil
	case name == "boot":
		return w.setBootOrder(value)
	default:
		if err := w.mayReplace(name, cur, value); err != nil {
			return err
		}
	}
	w.g.Pending.Set(name, value)
	return nil
}

// mayReplace asks for the old device and for the new one.
func (w *qemuWrite) mayReplace(name, old, value string) *Error {
	if old != "" {
		if err := w.mayDevice(name, old, "set"); err != nil {
			return err
		}
	}
	return w.mayDevice(name, value, "set")
}

func clipboardError(value string) *Error {
	v, err := vgaProps.parse("", value)
	if err != nil || v["clipboard"] != "vnc" || v["type"] == "" {
		return nil
	}
	for _, ok := range []string{"std", "cirrus", "vmware", "virtio", "qxl"} {
		if strings.HasPrefix(v["type"], ok) {
			return nil
		}
	}
	return died("vga type %s is not compatible with VNC clipboard", v["type"])
}

func viommuError(value string) *Error {
	v, err := machineProps.parse("", value)
	bits := v["aw-bits"]
	switch {
	case err != nil:
		return nil
	case v["viommu"] == "intel" && !strings.Contains(v["type"], "q35"):
		return died("to use Intel vIOMMU please set the machine type to q35")
	case v["viommu"] == "intel" && truthy(bits) && numeric(bits) != 39 && numeric(bits) != 48:
		return died("Intel vIOMMU supports only 39 or 48 bits as address width")
	case truthy(bits) && v["viommu"] == "":
		return died("cannot set aw-bits if no vIOMMU is configured")
	}
	return nil
}

// pinMachine fixes the machine version of a guest that becomes a Windows.
func (w *qemuWrite) pinMachine(ostype string) {
	_, given := w.params["machine"]
	if given || hasParam(w.g.Pending.Values, "machine") || w.modified["machine"] {
		return
	}
	if m := w.pinned(w.g.Current.Values["machine"], ostype); m != "" {
		w.g.Pending.Set("machine", m)
	}
}

// pinned is a machine with its version fixed, if the system is a Windows and
// it names none; "" if nothing is to be said.
func (w *qemuWrite) pinned(machine, ostype string) string {
	v, err := machineProps.parse("", machine)
	if err != nil {
		return ""
	}
	t := v["type"]
	if (t == "" || t == "pc" || t == "q35" || t == "virt") && isWindows(ostype) {
		v["type"] = map[string]string{"": "pc-i440fx-", "pc": "pc-i440fx-", "q35": "pc-q35-", "virt": "virt-"}[t] + w.Env.Host.machineVersion(w.Version)
		w.log = append(w.log, "pinning machine type to '"+v["type"]+"' for Windows guest OS")
	}
	return machineProps.print(v)
}

func isWindows(ostype string) bool {
	return strings.HasPrefix(ostype, "w") // wxp, w2k..., wvista, win...
}

// machineVersion is the newest machine version of the installed QEMU.
func (h Host) machineVersion(version int) string {
	parts := strings.SplitN(h.qemu(version), ".", 3)
	v := strings.Join(parts[:min(2, len(parts))], ".")
	return v + pveRevisions[v]
}

// pveRevisions are the newest revisions PVE made of QEMU's machine versions.
var pveRevisions = map[string]string{"4.1": "+pve2", "9.2": "+pve1", "10.0": "+pve1", "11.0": "+pve2"}

func (w *qemuWrite) setBootOrder(value string) *Error {
	w.g.Pending.Set("boot", value)
	v, err := bootProps.parse("", value)
	if err != nil {
		return codeError(err)
	}
	if !truthy(v["order"]) {
		return nil
	}
	devices := splitList(v["order"])
	for _, d := range devices {
		exists := truthy(w.g.Current.Values[d]) || truthy(w.g.Pending.Values[d]) || truthy(w.params[d])
		if !exists || slices.Contains(w.deletes, d) {
			return died("invalid bootorder: device '%s' does not exist'", d)
		}
	}
	w.g.Pending.Set("boot", printBootOrder(devices))
	if truthy(w.g.Current.Values["bootdisk"]) {
		w.g.deleteLater("bootdisk", false)
	}
	return nil
}

// password is what PVE stores of a cloud-init password: a hash, unless it is
// one or the guest is a Windows.
func (w *qemuWrite) password(clear string) string {
	if isWindows(w.g.Current.Values["ostype"]) || cryptRE.MatchString(clear) {
		return clear
	}
	return w.Env.crypt(clear)
}

// validSSHKeys looks at each line as ssh-keygen would.
func validSSHKeys(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if trimBlank(line) != "" && !validSSHKey(line) {
			return false
		}
	}
	return true
}

func validSSHKey(line string) bool {
	fields := strings.Fields(line)
	for i, f := range fields {
		if i+1 >= len(fields) || !sshTypes[f] {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(fields[i+1])
		return err == nil && sshBlobOK(f, raw)
	}
	return false
}
