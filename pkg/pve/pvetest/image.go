// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// imageLog is what making an image file prints; backing is the image it is a
// linked clone of, or "".
func imageLog(path, format string, size int64, backing string) string {
	switch {
	case format != "qcow2":
		return fmt.Sprintf("Formatting '%s', fmt=%s size=%d preallocation=off\n", path, format, size)
	case backing != "":
		return fmt.Sprintf("Formatting '%s', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=%d "+
			"backing_file=%s backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16\n", path, size, backing)
	}
	return fmt.Sprintf("Formatting '%s', fmt=qcow2 cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib "+
		"size=%d lazy_refcounts=off refcount_bits=16\n", path, size)
}

// freeImage is the id of a new image of a guest: the lowest number that no
// image of the guest on the storage has, whatever its format. Needs mu.
func (s *Sim) freeImage(store string, vmid int, format string) string {
	st := s.storage(store)
	for i := 0; ; i++ {
		if st != nil && st.hasDisk(vmid, i) {
			continue
		}
		name := fmt.Sprintf("vm-%d-disk-%d", vmid, i)
		if st != nil && st.Type != "dir" {
			return store + ":" + name
		}
		return fmt.Sprintf("%s:%d/%s.%s", store, vmid, name, format)
	}
}

var diskNumberRE = regexp.MustCompile(`(?:vm|base|subvol|basevol)-(\d+)-disk-(\d+)(?:\.\w+)?$`)

func (st *storageState) hasDisk(vmid, n int) bool {
	for id := range st.volumes {
		if m := diskNumberRE.FindStringSubmatch(id); m != nil && m[1] == itoa(vmid) && m[2] == itoa(n) {
			return true
		}
	}
	return false
}

// imageName is a volume's name on its storage.
func imageName(volid string) string {
	_, name, _ := strings.Cut(volid, ":")
	return name
}

func storageOf(volid string) string {
	store, _, _ := strings.Cut(volid, ":")
	return store
}

// withVolume is a disk's property string with another volume in it.
func withVolume(value, volid string) string {
	first, rest, more := strings.Cut(value, ",")
	if k, _, ok := strings.Cut(first, "="); ok {
		volid = k + "=" + volid
	}
	if !more {
		return volid
	}
	return volid + "," + rest
}

// disksOf are the keys of a config that hold a disk, sorted; unused ones
// only if asked for.
func disksOf(sec conf.Section, unused bool) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(sec.Values)) {
		if isDiskKey(k) && (unused || !strings.HasPrefix(k, "unused")) {
			out = append(out, k)
		}
	}
	return out
}

func isCDROM(value string) bool { return strings.Contains(value, "media=cdrom") }

var cloudInitRE = regexp.MustCompile(`vm-\d+-cloudinit(\.\w+)?$`)

func isCloudInit(volid string) bool { return cloudInitRE.MatchString(volid) }

// dropGuestVolumes removes the volumes a config names (in snapshots too) and,
// if asked, every other one of the guest; what cannot go is told to say.
func (s *Sim) dropGuestVolumes(g *guestState, unreferenced bool, say func(string)) {
	named := map[string]bool{}
	for _, sec := range allSections(g.conf) {
		for _, k := range disksOf(sec, true) {
			volid, _ := diskOf(sec.Values[k])
			named[volid] = true
		}
		if v := sec.Values["vmstate"]; v != "" {
			named[v] = true
		}
	}
	for _, st := range s.storages {
		for _, v := range st.sorted() {
			if v.VMID != g.vmid || v.Content == "backup" || !unreferenced && !named[v.VolID] {
				continue
			}
			if s.hasClones(v.VolID) {
				say(fmt.Sprintf("Could not remove disk '%s', check manually: base volume '%s' is still in use by linked clones\n", v.VolID, imageName(v.VolID)))
				continue
			}
			delete(st.volumes, v.VolID)
		}
	}
}

func allSections(g *conf.Guest) []conf.Section {
	out := []conf.Section{g.Current, g.Pending}
	for _, k := range slices.Sorted(maps.Keys(g.Snapshots)) {
		out = append(out, g.Snapshots[k])
	}
	return out
}

// hasClones reports whether a base volume has linked clones. Needs mu.
func (s *Sim) hasClones(volid string) bool {
	st := s.storage(storageOf(volid))
	if st == nil {
		return false
	}
	for id := range st.volumes {
		if strings.HasPrefix(id, volid+"/") {
			return true
		}
	}
	return false
}

var macRE = regexp.MustCompile(`([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}`)

// newMAC is a fresh hardware address. Needs mu.
func (s *Sim) newMAC() string {
	r := s.rnd.Uint64()
	return fmt.Sprintf("BC:24:11:%02X:%02X:%02X", byte(r), byte(r>>8), byte(r>>16))
}

// freshIdentity gives a copied config what must not be the same twice:
// hardware addresses and, for a virtual machine, its uuids. Needs mu.
func (s *Sim) freshIdentity(kind guest.Kind, c *conf.Guest) {
	for k, v := range c.Current.Values {
		if strings.HasPrefix(k, "net") {
			c.Current.Set(k, macRE.ReplaceAllStringFunc(v, func(string) string { return s.newMAC() }))
		}
	}
	if kind != guest.QEMU {
		return
	}
	if v, ok := c.Current.Get("smbios1"); ok {
		c.Current.Set("smbios1", uuidRE.ReplaceAllStringFunc(v, func(string) string { return s.uuidLocked() }))
	}
	if v, ok := c.Current.Get("vmgenid"); ok && v != "0" {
		c.Current.Set("vmgenid", s.uuidLocked())
	}
}

var uuidRE = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
