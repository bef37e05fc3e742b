// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// storageState is one storage with its volumes by id. The Sim's mu guards it.
type storageState struct {
	Storage
	volumes map[string]*volumeState
	// began is the space the volumes took at first: Used has it in it.
	began int64
}

type volumeState struct {
	Volume
	protected bool
	used      int64
	backup    string // config in a backup
	made      int64  // size its file system was made with; 0 = as it is
	fs        int64  // size its file system was made or grown to; 0 = Size
	parent    string // image it is a linked clone of, relative to its directory
}

func (s *Sim) initStorages() {
	for _, st := range s.opt.Storages {
		s.storages = append(s.storages, newStorageState(st))
	}
}

func newStorageState(st Storage) *storageState {
	state := &storageState{Storage: st, volumes: map[string]*volumeState{}}
	for _, v := range st.Volumes {
		state.volumes[v.VolID] = &volumeState{Volume: v, used: v.Size}
	}
	return state
}

// taken is the space that the volumes take. Needs mu.
func (st *storageState) taken() int64 {
	var n int64
	for _, v := range st.volumes {
		n += either3(v.used, v.Size)
	}
	return n
}

// grown is how much more is in use than at first. Needs mu.
func (st *storageState) grown() int64 { return st.taken() - st.began }

// avail is what is left of the space. Needs mu.
func (st *storageState) avail() int64 { return max(0, st.Avail-st.grown()) }

// storage finds a storage by id. Needs mu.
func (s *Sim) storage(id string) *storageState {
	for _, st := range s.storages {
		if st.ID == id {
			return st
		}
	}
	return nil
}

// volume finds a volume by its id. Needs mu.
func (s *Sim) volume(volid string) *volumeState {
	store, _, _ := strings.Cut(volid, ":")
	if st := s.storage(store); st != nil {
		return st.volumes[volid]
	}
	return nil
}

// putVolume adds or resizes a volume of a guest. Needs mu.
func (s *Sim) putVolume(volid string, size int64, format string, vmid int) {
	store, _, _ := strings.Cut(volid, ":")
	st := s.storage(store)
	if st == nil {
		return
	}
	if v := st.volumes[volid]; v != nil {
		v.Size = size
		return
	}
	content := "images"
	if g := s.guests[vmid]; g != nil && g.kind == "lxc" {
		content = "rootdir"
	}
	st.volumes[volid] = &volumeState{
		Volume: Volume{VolID: volid, Content: content, Format: format, Size: size, CTime: s.now().Unix(), VMID: vmid},
		used:   size / 32,
	}
}

func (s *Sim) dropVolume(volid string) {
	store, _, _ := strings.Cut(volid, ":")
	if st := s.storage(store); st != nil {
		delete(st.volumes, volid)
	}
}

// addVolumesLocked makes the volumes that a guest's config names.
func (s *Sim) addVolumesLocked(g *guestState) {
	for key, v := range g.conf.Current.Values {
		if !isDiskKey(key) {
			continue
		}
		volid, size := diskOf(v)
		if !strings.Contains(volid, ":") || strings.HasPrefix(volid, "/") {
			continue
		}
		if s.volume(volid) == nil {
			s.putVolume(volid, size, formatOf(volid), g.vmid)
		}
	}
}

func isDiskKey(key string) bool {
	for _, p := range []string{"rootfs", "mp", "unused", "scsi", "virtio", "ide", "sata", "efidisk", "tpmstate"} {
		rest, ok := strings.CutPrefix(key, p)
		if _, err := strconv.Atoi(rest); ok && (err == nil || key == "rootfs") {
			return true
		}
	}
	return false
}

// diskOf reads volume id and size of a disk's property string.
func diskOf(v string) (volid string, size int64) {
	for part := range strings.SplitSeq(v, ",") {
		k, val, ok := strings.Cut(part, "=")
		switch {
		case !ok:
			volid = part
		case k == "volume" || k == "file":
			volid = val
		case k == "size":
			size = parseSize(val)
		}
	}
	return volid, size
}

func parseSize(s string) int64 {
	mult := int64(1)
	if i := strings.IndexAny(s, "KMGT"); i >= 0 {
		mult = map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}[s[i]]
		s = s[:i]
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return int64(f * float64(mult))
}

func formatOf(volid string) string {
	switch ext := filepath.Ext(volid); ext {
	case ".raw", ".qcow2", ".vmdk":
		return ext[1:]
	}
	if strings.Contains(volid, "subvol-") {
		return "subvol"
	}
	return "raw"
}

// hasBridge reports whether the node has a bridge.
func (s *Sim) hasBridge(name string) bool { return slices.Contains(s.opt.Bridges, name) }

// storageRow is one storage in nodes/{node}/storage.
func (st *storageState) row() map[string]any {
	m := st.status()
	m["storage"] = st.ID
	m["used_fraction"] = fraction(st.Used+st.grown(), st.Total)
	return m
}

func (st *storageState) status() map[string]any {
	return map[string]any{
		"type": st.Type, "content": strings.Join(st.Content, ","), "enabled": 1,
		"active": 1, "shared": b2i(st.Shared), "total": st.Total,
		"used": st.Used + st.grown(), "avail": st.avail(),
	}
}

func fraction(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// contentRow is one volume in a content list.
func (v *volumeState) contentRow() map[string]any {
	m := map[string]any{"volid": v.VolID, "content": v.Content, "format": v.Format, "size": v.Size, "ctime": v.CTime}
	switch v.Content {
	case "images", "rootdir":
		m["vmid"], m["parent"], m["used"] = v.VMID, nil, v.used
		if v.parent != "" {
			m["parent"] = v.parent
		}
	case "backup":
		m["vmid"] = v.VMID
		if strings.Contains(v.VolID, "vzdump-lxc-") {
			m["subtype"] = "lxc"
		} else {
			m["subtype"] = "qemu"
		}
		if first, _, _ := strings.Cut(v.Notes, "\n"); first != "" {
			m["notes"] = first
		}
		if v.protected {
			m["protected"] = 1
		}
	}
	return m
}

func (st *storageState) sorted() []*volumeState {
	out := make([]*volumeState, 0, len(st.volumes))
	for _, id := range slices.Sorted(maps.Keys(st.volumes)) {
		out = append(out, st.volumes[id])
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// seen reports whether the caller may see a volume in a content list.
func (c *call) seesVolume(v *volumeState) bool {
	if v.Hidden {
		return false
	}
	store, _, _ := strings.Cut(v.VolID, ":")
	switch v.Content {
	case "vztmpl", "iso", "snippets", "import":
		return c.mayLocked("/storage/"+store, "Datastore.AllocateSpace", "Datastore.Audit")
	case "backup":
		return c.mayLocked("/storage/"+store, "Datastore.Allocate") ||
			v.VMID != 0 && c.mayLocked(fmt.Sprintf("/vms/%d", v.VMID), "VM.Backup") &&
				c.mayLocked("/storage/"+store, "Datastore.AllocateSpace")
	}
	return v.VMID == 0 || c.mayLocked(fmt.Sprintf("/vms/%d", v.VMID), "VM.Config.Disk", "VM.Backup") ||
		c.mayLocked("/storage/"+store, "Datastore.Allocate")
}

// listedFor reports whether a list of one guest's volumes has the volume:
// snippets are in every list.
func (v *volumeState) listedFor(vmid int) bool { return v.VMID == vmid || v.Content == "snippets" }
