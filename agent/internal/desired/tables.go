// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// config reads the config keys that have no field of their own.
func (r *guestReader) config(m field) {
	members, _ := m.members()
	for _, f := range members {
		if own(f.name) {
			f.fail("has a field of its own", "", "write "+f.name+" beside kind")
			continue
		}
		if !r.writable(f) {
			continue
		}
		value, ok := plain(f, !r.secret(f.name))
		if ok && growable(r.g.Kind, f.name) && hasPart(value, "size") {
			f.fail("holds a size", "", "write "+f.name+" with its size below disk")
			continue
		}
		if ok {
			r.put(f, value)
		}
	}
}

// writable reports whether the agent may ever write a key.
func (r *guestReader) writable(f field) bool {
	if why := neverKey(f.name); why != "" {
		f.fail("may never be set or deleted", "", why)
		return false
	}
	if !r.known(f) {
		return false
	}
	form, _ := r.forms.Form(r.g.Kind, f.name)
	if form.Class == guest.Never {
		f.fail("may never be set or deleted through the API", "", form.Note)
		return false
	}
	return true
}

// neverKey says why a key is none of a document's business, whatever the table
// says.
func neverKey(key string) string {
	switch key {
	case "lock":
		return "a lock is PVE's own, and one set by mistake locks everybody out"
	case "template":
		return "remove it; a guest is turned into a template by hand"
	case "hookscript":
		return "remove it; PVE takes it from root only, by felhom-agent hook install"
	case "digest":
		return "remove it; it is the checksum of the config and no setting"
	}
	return ""
}

// hasPart reports whether a property string has a part of that name.
func hasPart(value, name string) bool {
	return slices.ContainsFunc(strings.Split(value, ","), func(p string) bool {
		return strings.HasPrefix(strings.TrimSpace(p), name+"=")
	})
}

var (
	lxcDisk  = regexp.MustCompile(`^(rootfs|mp[0-9]{1,4})$`)
	qemuDisk = regexp.MustCompile(`^(ide|sata|scsi|virtio)[0-9]{1,4}$`)
)

// growable reports whether a key is a volume that can be grown.
func growable(kind guest.Kind, key string) bool {
	if kind == guest.LXC {
		return lxcDisk.MatchString(key)
	}
	return qemuDisk.MatchString(key)
}

// maxDisk bounds a wanted size: 1 PiB, far above and far from overflowing.
const maxDisk = 1 << 50

// disk reads wanted sizes of volumes.
func (r *guestReader) disk(m field) {
	members, _ := m.members()
	for _, f := range members {
		if !growable(r.g.Kind, f.name) {
			f.fail("is not a volume that can be grown", volumes(r.g.Kind), "")
			continue
		}
		if size, ok := diskSize(f); ok && r.known(f) {
			if r.g.Disks == nil {
				r.g.Disks = map[string]int64{}
			}
			r.g.Disks[f.name] = size
			r.disks[f.name] = f
		}
	}
}

func volumes(kind guest.Kind) string {
	if kind == guest.LXC {
		return "want rootfs or mpN"
	}
	return "want ideN, sataN, scsiN or virtioN"
}

// diskSize reads a size in bytes. PVE takes a size in KiB at the finest.
func diskSize(f field) (int64, bool) {
	const want = `want a size with its unit, as in "16GiB"`
	if n, ok := f.val.(int64); ok {
		f.fail(fmt.Sprintf("%d has no unit", n), want, fmt.Sprintf("if GiB is meant write \"%dGiB\"", n))
		return 0, false
	}
	s, ok := f.textLine()
	if !ok {
		return 0, false
	}
	size, err := guest.ParseSize(s)
	switch {
	case err != nil:
		f.fail(amountError(err), want, "")
	case strings.Trim(s, "0123456789.") == "":
		f.fail(quote(s)+" has no unit", want, "")
	case size <= 0 || size > maxDisk || size%1024 != 0:
		f.fail(quote(s)+" is out of range", "want whole KiB, more than none and at most 1024TiB", "")
	default:
		return size, true
	}
	return 0, false
}

// deletions reads the config keys that shall be absent.
func (r *guestReader) deletions(m field) {
	items, _ := m.words(false)
	for _, item := range items {
		if item.name == "" || !r.writable(item) {
			continue
		}
		for _, other := range []map[string]field{r.set, r.disks} {
			if f, ok := other[item.name]; ok {
				item.fail(fmt.Sprintf("%s is also set on line %d", item.name, f.line), "", "remove one of the two")
			}
		}
		r.g.Delete = append(r.g.Delete, item.name)
	}
	slices.Sort(r.g.Delete)
}

// provisionKeys are the keys of a provision table.
var provisionKeys = []string{"template", "backup", "clone", "storage", "config"}

// provision reads how the guest is made when it is not there.
func (r *guestReader) provision(m field) {
	members, ok := m.members()
	if !ok {
		return
	}
	r.g.Provision = &Provision{}
	var ways []string
	for _, f := range members {
		switch f.name {
		case "template", "backup", "clone":
			ways = append(ways, f.name)
		}
		r.provisionField(f)
	}
	if len(ways) != 1 {
		m.fail(fmt.Sprintf("has %d ways to make the guest", len(ways)), "want exactly one of template, backup and clone", "")
	}
}

func (r *guestReader) provisionField(f field) {
	p := r.g.Provision
	switch f.name {
	case "template":
		p.Template = r.template(f)
	case "backup":
		p.Backup = r.backup(f)
	case "clone":
		p.Clone = r.clone(f)
	case "storage":
		p.Storage = storage(f)
	case "config":
		r.provisionConfig(f)
	default:
		f.unknown(provisionKeys)
	}
}

var (
	storagePattern  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,99}$`)
	templatePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*:vztmpl/[^/\s,]+$`)
	backupPattern   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*:backup/[^\s,]+$`)
)

func volumeID(f field, pattern *regexp.Regexp, example string) string {
	s, ok := f.textLine()
	if ok && (!pattern.MatchString(s) || len(s) > 1024 || strings.Contains(s, "..")) {
		f.fail(quote(s)+" is not such a volume", "want STORAGE:PATH, as in "+example, "")
	}
	return s
}

func storage(f field) string {
	s, ok := f.textLine()
	if ok && !storagePattern.MatchString(s) {
		f.fail(quote(s)+" is not the name of a storage", "want letters, digits, - _ and .", "")
	}
	return s
}

// otherBackup is how the volume of a backup of the other kind is named.
var otherBackup = map[guest.Kind]*regexp.Regexp{
	guest.LXC:  regexp.MustCompile(`/vzdump-qemu-|/vm/`),
	guest.QEMU: regexp.MustCompile(`/vzdump-lxc-|/vzdump-openvz-|/ct/`),
}

func (r *guestReader) backup(f field) string {
	s := volumeID(f, backupPattern, `"local:backup/vzdump-lxc-101-2027_01_01-00_00_00.tar.zst"`)
	if otherBackup[r.g.Kind].MatchString(s) {
		f.fail(quote(s)+" is not a backup of kind "+string(r.g.Kind), "", "")
	}
	return s
}

func (r *guestReader) template(f field) string {
	if r.g.Kind != guest.LXC {
		f.fail("is for containers only", "", "use clone or backup")
		return ""
	}
	return volumeID(f, templatePattern, `"local:vztmpl/debian-12.tar.zst"`)
}

func (r *guestReader) clone(f field) guest.VMID {
	n, ok := f.whole(int64(guest.MinVMID), int64(guest.MaxVMID))
	if ok && guest.VMID(n) == r.g.VMID {
		f.fail("is the guest itself", "want the VMID of another guest", "")
	}
	return guest.VMID(n)
}

// provisionConfig reads what creation needs besides the guest's own config.
func (r *guestReader) provisionConfig(m field) {
	members, _ := m.members()
	for _, f := range members {
		if other, ok := r.set[f.name]; ok {
			f.fail(fmt.Sprintf("is also set on line %d", other.line), "", "remove it here: creation uses the guest's own config too")
			continue
		}
		if !r.creatable(f) {
			continue
		}
		value, ok := plain(f, !r.secret(f.name))
		if !ok {
			continue
		}
		if wrong, want := r.check(f.name, value); wrong != "" {
			f.fail(wrong, want, "")
			continue
		}
		if r.g.Provision.Config == nil {
			r.g.Provision.Config = guest.Config{}
		}
		r.g.Provision.Config[f.name] = value
	}
}

// creatable reports whether a key may be given at creation. Some that are never
// written later are a matter of creation.
func (r *guestReader) creatable(f field) bool {
	switch f.name {
	case "unprivileged", "ostype", "arch":
		return r.known(f)
	}
	if own(f.name) {
		f.fail("has a field of its own", "", "write "+f.name+" beside kind")
		return false
	}
	return r.writable(f)
}

// trimIndex is the name a person would write for a row of the table: "net0"
// for "net[n]".
func trimIndex(key string) string { return strings.ReplaceAll(key, "[n]", "0") }

// soundsSecret reports whether a key's name is that of a secret. It is for
// messages about files that cannot be read, where no table helps.
func soundsSecret(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc([]string{"pass", "secret", "key", "token", "env"}, func(s string) bool {
		return strings.Contains(key, s)
	})
}
