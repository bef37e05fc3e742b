// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"regexp"
	"strings"
)

// Volume is what a disk or mount point lies on. It is a volume that exists
// ("local:801/vm-801-disk-0.raw"), an order for a new one ("local:8", 8 GiB, or
// "local:cloudinit"), a path of the host, or for a drive "none" and "cdrom". An
// order is fulfilled by any volume of the same storage: how large it is, is not
// a matter of the config.
type Volume struct{}

var (
	orderPattern = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9._-]*):([0-9]+(?:\.[0-9]+)?)$`)
	dotsPattern  = regexp.MustCompile(`(^|/)\.\.?(/|$)`)
)

// order splits "local:8" into storage and GiB.
func order(s string) (storage, gib string, ok bool) {
	m := orderPattern.FindStringSubmatch(s)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// isOrder reports whether writing s makes PVE allocate a volume.
func isOrder(s string) bool {
	_, _, ok := order(s)
	return ok || strings.HasSuffix(s, ":cloudinit")
}

// isVolume reports whether s names a volume that exists.
func isVolume(s string) bool { return strings.Contains(s, ":") && !isPath(s) && !isOrder(s) }

func isPath(s string) bool { return strings.HasPrefix(s, "/") }

// Name implements Value.
func (Volume) Name() string { return "volume" }

// Rule implements Value.
func (Volume) Rule() string { return "as text; STORAGE:GIB is any volume of that storage" }

// Check implements Value.
func (Volume) Check(s string) error {
	switch {
	case dotsPattern.MatchString(s):
		return fmt.Errorf("%q holds . or .. as a step of a path", s)
	case s == "none", s == "cdrom", isPath(s):
		return nil
	}
	return volumeID.Check(s)
}

// Normal implements Value.
func (Volume) Normal(s string) string { return s }

// Complete implements Completer.
func (Volume) Complete(desired, actual string) string {
	storage, _, sized := order(desired)
	if !sized {
		storage = strings.TrimSuffix(desired, ":cloudinit")
	}
	cloudinit := strings.Contains(actual, "cloudinit")
	if isOrder(desired) && isVolume(actual) && sized != cloudinit && strings.HasPrefix(actual, storage+":") {
		return actual
	}
	return desired
}

// volumeOf is the volume that a property string of p names.
func (p Props) volumeOf(s string) string {
	props, _ := p.Parse(s)
	v, _ := get(props, p.Default)
	return v
}

// volumeProps is the property string of a key that holds a volume.
func volumeProps(kind Kind, key string) (p Props, ok bool) {
	base, _, indexed := splitIndex(key)
	switch {
	case kind == LXC && key == "rootfs":
		return lxcRootfs, true
	case !indexed:
		return Props{}, false
	case kind == LXC && base == "mp":
		return lxcMP, true
	case kind == LXC && base == "unused":
		return lxcUnused, true
	case kind == QEMU && base == "unused":
		return qemuUnused, true
	case kind == QEMU:
		p, ok = qemuDrives[base]
	}
	return p, ok
}

// DiskSize reads the size in bytes that a volume's property string tells:
// "size=8G" of a volume that exists, or the GiB of an order for a new one. ok
// is false for a key that holds no volume and for a volume without a size.
func DiskSize(kind Kind, key, value string) (bytes int64, ok bool) {
	p, isVolumeKey := volumeProps(kind, key)
	props, err := p.Parse(value)
	if !isVolumeKey || err != nil {
		return 0, false
	}
	volume, _ := get(props, p.Default)
	if _, gib, isOrder := order(volume); isOrder {
		n, err := scaledRound(gib, "G")
		return n, err == nil
	}
	size, _ := get(props, "size")
	n, err := ParseSize(size)
	return n, err == nil
}

// isCDROM reports whether a drive is a CD-ROM: it holds no data of the guest.
func isCDROM(props []Prop) bool {
	media, _ := get(props, "media")
	file, _ := get(props, "file")
	return (media == "cdrom" || file == "none" || file == "cdrom") && !isCloudInit(file)
}

func isCloudInit(file string) bool {
	return strings.HasSuffix(file, ":cloudinit") || strings.Contains(file, "-cloudinit")
}

// addMedia adds what PVE adds to a drive that can only be a CD-ROM.
func addMedia(props []Prop) []Prop {
	file, _ := get(props, "file")
	if _, ok := get(props, "media"); ok || file != "none" && file != "cdrom" && !isCloudInit(file) {
		return props
	}
	return append(props, Prop{Name: "media", Value: "cdrom"})
}

// volumeClass is the class of an edit of a key that holds a volume: only a new
// volume in a free place is additive. Whatever touches a volume that is there,
// or brings in one that exists and may be another guest's, may lose data. A
// CD-ROM is no such volume.
func volumeClass(e Edit) Class {
	p, _ := volumeProps(e.Facts.Kind, e.Key)
	from, _ := p.Parse(e.From)
	to, _ := p.Parse(e.To)
	file, _ := get(to, p.Default)
	switch {
	case isPath(file):
		return Never
	case (!e.HasFrom || isCDROM(from)) && (e.Delete || isCDROM(to)):
		return Benign
	case !e.HasFrom && isOrder(file):
		return Additive
	}
	return Irreversible
}

// volumePrivilege is what a token needs for an edit of a volume key.
func volumePrivilege(e Edit) string {
	p, _ := volumeProps(e.Facts.Kind, e.Key)
	s := e.To
	if e.Delete {
		s = e.From
	}
	props, _ := p.Parse(s)
	file, _ := get(props, p.Default)
	switch {
	case isPath(file):
		return rootOnly
	case isCDROM(props):
		return "VM.Config.CDROM"
	case isCloudInit(file) && isOrder(file):
		return "VM.Config.Cloudinit, VM.Config.CDROM, Datastore.AllocateSpace"
	case isCloudInit(file):
		return "VM.Config.Cloudinit, VM.Config.CDROM"
	case isOrder(file):
		return "VM.Config.Disk, Datastore.AllocateSpace"
	}
	return "VM.Config.Disk"
}

// volumeRefusal says why a volume edit would be refused by PVE or do harm.
func volumeRefusal(e Edit) string {
	p, _ := volumeProps(e.Facts.Kind, e.Key)
	from, to := p.volumeOf(e.From), p.volumeOf(e.To)
	switch {
	case isPath(to):
		return "a path of the host as a volume is for root@pam alone"
	case e.Delete:
		return ""
	case isOrder(to) && isVolume(from):
		return fmt.Sprintf("%s would get a new, empty volume in place of %s: a volume is moved, not ordered anew", e.Key, from)
	}
	return inUse(e, to)
}

// inUse refuses a volume that another key of the guest has already: PVE would
// let two devices write to it.
func inUse(e Edit, volume string) string {
	if !isVolume(volume) || volume == "" {
		return ""
	}
	for key, value := range e.Actual {
		p, ok := volumeProps(e.Facts.Kind, key)
		base, _, _ := splitIndex(key)
		if ok && base != "unused" && key != e.Key && p.volumeOf(value) == volume && !e.deletes(key) && !cdromValue(p, value) {
			return fmt.Sprintf("%s is the volume of %s already", volume, key)
		}
	}
	return ""
}

func cdromValue(p Props, value string) bool {
	props, _ := p.Parse(value)
	return isCDROM(props)
}
