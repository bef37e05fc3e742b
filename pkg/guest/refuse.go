// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// protectionClass makes taking protection away irreversible.
func protectionClass(e Edit) Class {
	if e.is("protection") {
		return Irreversible
	}
	return Benign
}

// refuseDelete is for keys that a container cannot be without.
func refuseDelete(e Edit) string {
	if e.Delete {
		return e.Key + " cannot be deleted: the container cannot be without it"
	}
	return ""
}

// refuseLongName keeps to what a kernel takes as a host name.
func refuseLongName(e Edit) string {
	if n := utf8.RuneCountInString(e.To); n > 64 {
		return fmt.Sprintf("a host name of %d characters: above 64 the stop of a running container hangs", n)
	}
	return ""
}

func noDots(s string) error {
	if dotsPattern.MatchString(s) {
		return fmt.Errorf("%q holds . or .. as a step", s)
	}
	return nil
}

// rootFeatures reports whether an edit of features touches more than nesting,
// or the container is privileged: PVE then refuses it to every token.
func rootFeatures(e Edit) bool {
	if !e.is("unprivileged") {
		return true
	}
	from, _ := lxcFeatures.Parse(e.From)
	to, _ := lxcFeatures.Parse(e.To)
	for _, f := range lxcFeatures.Fields {
		a, _ := get(from, f.Name)
		b, _ := get(to, f.Name)
		if f.Name != "nesting" && f.Value.Normal(a) != f.Value.Normal(b) {
			return true
		}
	}
	return false
}

func featuresClass(e Edit) Class {
	if rootFeatures(e) {
		return Never
	}
	return Benign
}

func featuresEffect(e Edit) Effect {
	if rootFeatures(e) {
		return NeedsRoot
	}
	return Restart
}

func featuresPrivilege(e Edit) string {
	if rootFeatures(e) {
		return rootOnly
	}
	return "VM.Allocate"
}

func featuresRefusal(e Edit) string {
	switch {
	case !e.is("unprivileged"):
		return "features of a privileged container are for root@pam alone"
	case rootFeatures(e):
		return "of features only nesting may be changed by a token, the others are for root@pam alone"
	}
	return ""
}

// lxcNetEffect: a running container takes every interface at once, but lets go
// only of the first ten.
func lxcNetEffect(e Edit) Effect {
	if _, n, _ := splitIndex(e.Key); e.Delete && n > 9 {
		return Restart
	}
	return Live
}

// nameTaken refuses an interface whose name inside the container another has:
// the container could not start with both.
func nameTaken(e Edit) string {
	mine := interfaceName(e.To)
	for key, value := range e.Actual {
		base, _, _ := splitIndex(key)
		_, changed := e.Desired[key]
		if base == "net" && key != e.Key && !changed && !e.deletes(key) && !e.Delete && interfaceName(value) == mine {
			return fmt.Sprintf("%s is the name of %s already", mine, key)
		}
	}
	return ""
}

func interfaceName(s string) string {
	props, _ := lxcNet.Parse(s)
	name, _ := get(props, "name")
	return name
}

// lxcVolumeRefusal is volumeRefusal with what containers add to it.
func lxcVolumeRefusal(e Edit) string {
	to := lxcMP.volumeOf(e.To)
	switch {
	case e.Key == "rootfs" && e.Delete:
		return refuseDelete(e)
	case e.is("protection"):
		return "protection is on: PVE changes no volume of a protected container"
	case e.Key == "rootfs" && isOrder(to):
		return fmt.Sprintf("PVE would store %q literally and the container would not start", to)
	}
	if why := volumeRefusal(e); why != "" || e.Key == "rootfs" || e.Delete {
		return why
	}
	return mountTaken(e)
}

// mountTaken refuses a mount point that hides another, or the whole container.
func mountTaken(e Edit) string {
	mine := mountPath(e.To)
	if mine == "/" {
		return "mp=/ would hide the root file system"
	}
	for key, value := range e.Actual {
		if base, _, _ := splitIndex(key); base != "mp" || key == e.Key || e.deletes(key) {
			continue
		}
		if _, changed := e.Desired[key]; !changed && mountPath(value) == mine {
			return fmt.Sprintf("%s is the mount point of %s already", mine, key)
		}
	}
	return ""
}

func mountPath(s string) string {
	props, _ := lxcMP.Parse(s)
	mp, _ := get(props, "mp")
	return path.Clean("/" + mp)
}

func unusedRefusal(e Edit) string {
	switch {
	case e.is("protection"):
		return "protection is on: PVE removes no volume of a protected guest"
	case e.Delete && detaches(e):
		return "a volume is detached in the same write and may take this place: delete it once that is done"
	case !e.Delete:
		return "unused volumes are PVE's own list: attach the volume, or delete the key to destroy it"
	}
	return ""
}

// detaches reports whether the same write makes an unused volume.
func detaches(e Edit) bool {
	for _, key := range e.Del {
		base, _, _ := splitIndex(key)
		if _, ok := volumeProps(e.Facts.Kind, key); ok && base != "unused" && e.Actual[key] != "" {
			return true
		}
	}
	return false
}

// unusedPrivilege: PVE asks nothing of whoever writes to its list.
func unusedPrivilege(e Edit) string {
	if e.Delete {
		return privDisk
	}
	return ""
}

func unusedEffect(e Edit) Effect {
	if e.Delete {
		return Live
	}
	return Restart
}

// balloonRefusal: memory and balloon are judged as both will be.
func balloonRefusal(e Edit) string {
	balloon, err := strconv.ParseInt(e.will("balloon"), 10, 64)
	if e.Delete || err != nil || e.deletes("balloon") {
		return ""
	}
	memory := int64(512)
	if props, _ := qemuMemory.Parse(e.will("memory")); !e.deletes("memory") && len(props) > 0 {
		memory, _ = strconv.ParseInt(props[0].Value, 10, 64)
	}
	if balloon > memory {
		return fmt.Sprintf("balloon %d is more than memory %d", balloon, memory)
	}
	return ""
}

// bootRefusal: PVE wants every device of the order to be there.
func bootRefusal(e Edit) string {
	props, _ := qemuBoot.Parse(e.To)
	devices, _ := get(props, "order")
	for _, dev := range strings.FieldsFunc(devices, func(r rune) bool { return r == ';' }) {
		if e.will(dev) == "" || e.deletes(dev) {
			return fmt.Sprintf("boot names %s, which the guest does not have", dev)
		}
	}
	return ""
}

// pinned keeps the machine version of a Windows guest: PVE pins it when the
// guest is made, and a desired type without a version is content with that.
func pinned(e Edit) string {
	to := qemuMachine.Complete(e.To, e.From)
	if !strings.HasPrefix(e.will("ostype"), "w") {
		return to
	}
	want, _ := qemuMachine.Parse(to)
	have, _ := qemuMachine.Parse(e.From)
	family := map[string]string{"pc": "pc-i440fx-", "q35": "pc-q35-"}
	for i, pr := range want {
		actual, _ := get(have, pr.Name)
		if f, ok := family[pr.Value]; pr.Name == "type" && ok && strings.HasPrefix(actual, f) {
			want[i].Value = actual
		}
	}
	return qemuMachine.Print(want)
}

// smbiosClass: the uuid is what a guest is known by, and what licences inside
// are bound to.
func smbiosClass(e Edit) Class {
	if e.HasFrom && smbiosUUID(e.From) != smbiosUUID(e.To) {
		return Irreversible
	}
	return Benign
}

func smbiosUUID(s string) string {
	props, _ := qemuSMBIOS.Parse(s)
	id, _ := get(props, "uuid")
	return uuid.Normal(id)
}

// realDevice reports whether a serial, usb or PCI value is hardware of the
// host itself, which PVE leaves to root@pam; a mapping is not.
func realDevice(key, s string) bool {
	base, _, _ := splitIndex(key)
	switch base {
	case "serial":
		return s != "" && s != "socket"
	case "usb":
		props, _ := qemuUSB.Parse(s)
		host, ok := get(props, "host")
		return ok && !strings.EqualFold(host, "spice")
	case "hostpci":
		props, _ := qemuPCI.Parse(s)
		_, host := get(props, "host")
		_, rom := get(props, "romfile")
		return host || rom
	}
	return false
}

func touchesDevice(e Edit) bool { return realDevice(e.Key, e.From) || realDevice(e.Key, e.To) }

func deviceClass(e Edit) Class {
	if touchesDevice(e) {
		return Never
	}
	return Benign
}

func devicePrivilege(e Edit) string {
	value := e.To
	if e.Delete {
		value = e.From
	}
	switch {
	case touchesDevice(e):
		return rootOnly
	case strings.Contains(value, "mapping="):
		return privHWType + ", Mapping.Use"
	}
	return privHWType
}

func deviceRefusal(e Edit) string {
	if touchesDevice(e) {
		return "a real device of the host is for root@pam alone; use a mapping"
	}
	return ""
}

func rngPrivilege(e Edit) string {
	if strings.Contains(e.To+e.From, "/dev/hwrng") {
		return privHWType + ", Mapping.Use"
	}
	return privHWType
}

// qemuDriveRefusal is volumeRefusal with what virtual machines add to it.
func qemuDriveRefusal(e Edit) string {
	from, _ := qemuDrives["scsi"].Parse(e.From)
	to, _ := qemuDrives["scsi"].Parse(e.To)
	switch {
	case e.is("protection") && e.Delete:
		return "protection is on: PVE removes no drive of a protected guest"
	case e.HasFrom && !e.Delete && isCDROM(addMedia(from)) != isCDROM(addMedia(to)):
		return e.Key + " cannot turn from a CD-ROM into a disk or back: use another key"
	}
	return volumeRefusal(e)
}

// secretRefusal keeps PVE's mask from being stored as the password.
func secretRefusal(e Edit) string {
	if isMask(e.To) {
		return "a value of stars alone is how PVE hides a password, not one"
	}
	return ""
}
