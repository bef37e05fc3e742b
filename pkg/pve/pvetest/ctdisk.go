// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// newDisk is a volume to be made for a container.
type newDisk struct {
	key     string
	storage string
	size    int64
	rest    string // further properties: ",mp=/data,backup=1"
}

// newDisks are the volumes a create asks for, rootfs first; without any, a
// root of 4 GiB.
func (n *ctCreation) newDisks() []newDisk {
	var out []newDisk
	keys := slices.Sorted(maps.Keys(n.params))
	if v, ok := n.params["rootfs"]; ok {
		out = append(out, n.parseDisk("rootfs", v))
	} else if !n.restore {
		out = append(out, newDisk{key: "rootfs", storage: n.storage, size: 4 << 30})
	}
	for _, k := range keys {
		if isMP(k) && isNewVolume(n.params[k]) {
			out = append(out, n.parseDisk(k, n.params[k]))
		}
	}
	return out
}

// isNewVolume tells STORAGE:SIZE from a volume that exists and from a path.
func isNewVolume(v string) bool {
	first, _, _ := strings.Cut(v, ",")
	_, size, ok := strings.Cut(strings.TrimPrefix(first, "volume="), ":")
	_, err := strconv.ParseFloat(size, 64)
	return ok && err == nil
}

func (n *ctCreation) parseDisk(key, v string) newDisk {
	first, rest, more := strings.Cut(v, ",")
	d := newDisk{key: key, storage: n.storage}
	store, size, ok := strings.Cut(strings.TrimPrefix(first, "volume="), ":")
	if !ok {
		size = first
	} else {
		d.storage = store
	}
	if f, err := strconv.ParseFloat(size, 64); err == nil {
		d.size = int64(f * (1 << 30))
	}
	if more {
		d.rest = "," + rest
	}
	return d
}

// makeDisks allocates and formats volumes and enters them in the config.
func (n *ctCreation) makeDisks(t *task, cfg *conf.Guest, disks []newDisk) (*conf.Guest, error) {
	s := t.sim
	for _, d := range disks {
		if !t.wait(s.scaled(100 * time.Millisecond)) {
			return nil, errInterrupted
		}
		volid, err := s.allocate(d.storage, n.vmid, d.size)
		if err != nil {
			return nil, err
		}
		t.say(s.formatLog(volid, d.size))
		key, val := d.key, volid+d.rest+",size="+sizeText(d.size)
		cfg = cfg.Edit(func(c *conf.Guest) { c.Current.Set(key, val) })
	}
	return cfg, nil
}

// allocate makes a raw volume under the lowest free number.
func (s *Sim) allocate(store string, vmid int, size int64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.storage(store) == nil {
		return "", die("storage '%s' does not exist", store)
	}
	for i := 0; ; i++ {
		volid := fmt.Sprintf("%s:%d/vm-%d-disk-%d.raw", store, vmid, vmid, i)
		if s.volume(volid) == nil {
			s.putVolume(volid, size, "raw", vmid)
			return volid, nil
		}
	}
}

// volumePath is where a volume lies on the host.
func (s *Sim) volumePath(volid string) string {
	store, name, _ := strings.Cut(volid, ":")
	s.mu.Lock()
	defer s.mu.Unlock()
	base := "/var/lib/vz"
	if st := s.storage(store); st != nil {
		base = st.Path
	}
	kind, file, _ := strings.Cut(name, "/")
	switch kind {
	case "vztmpl":
		return filepath.Join(base, "template/cache", file)
	case "iso":
		return filepath.Join(base, "template/iso", file)
	case "backup":
		return filepath.Join(base, "dump", file)
	}
	return filepath.Join(base, "images", name)
}

// formatLog is what making a raw image with a file system prints.
func (s *Sim) formatLog(volid string, size int64) string {
	blocks := size / 4096
	var b strings.Builder
	fmt.Fprintf(&b, "Formatting '%s', fmt=raw size=%d preallocation=off\n", s.volumePath(volid), size)
	fmt.Fprintf(&b, "Creating filesystem with %d 4k blocks and %d inodes\n", blocks, blocks/4)
	fmt.Fprintf(&b, "Filesystem UUID: %s\n", s.newUUID())
	fmt.Fprintf(&b, "Superblock backups stored on blocks: \n\t%s\n", superblocks(blocks))
	return b.String()
}

// superblocks lists the first blocks of the groups with a superblock copy.
func superblocks(blocks int64) string {
	groups := ceilDiv(blocks, 32768)
	at := map[int64]bool{}
	if groups > 1 {
		at[1] = true
	}
	for _, base := range []int64{3, 5, 7} {
		for p := base; p < groups; p *= base {
			at[p] = true
		}
	}
	var out []string
	for _, g := range slices.Sorted(maps.Keys(at)) {
		out = append(out, strconv.FormatInt(g*32768, 10))
	}
	return strings.Join(out, ", ")
}

func (s *Sim) newUUID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uuidLocked()
}

func (s *Sim) uuidLocked() string {
	a, b := s.rnd.Uint64(), s.rnd.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", uint32(a), uint16(a>>32), uint16(a>>48)&0xfff, uint16(b)&0x3fff|0x8000, b>>16)
}

// sizeText prints a size as PVE does: the largest unit that divides it.
func sizeText(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 40, "T"}, {1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// putKeys writes the config keys of a create as a write by root would, minus
// the volumes that are made already.
func (n *ctCreation) putKeys(s *Sim, cfg *conf.Guest, params map[string]string) (*conf.Guest, error) {
	keys := map[string]string{}
	for k, v := range params {
		switch {
		case k == "rootfs", k == "unprivileged", isMP(k) && isNewVolume(v):
		default:
			keys[k] = v
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(keys) == 0 {
		return cfg, nil
	}
	req := s.confRequest("root@pam", keys, false)
	for br := range bridgesOf(keys) {
		req.Env.Bridges[br] = conf.Bridge{} // a create does not look at them
	}
	res := cfg.Put(req)
	if res.Err != nil {
		return nil, fromConf(res.Err)
	}
	return res.Guest, nil
}

func bridgesOf(keys map[string]string) map[string]bool {
	out := map[string]bool{}
	for k, v := range keys {
		if !strings.HasPrefix(k, "net") {
			continue
		}
		for part := range strings.SplitSeq(v, ",") {
			if br, ok := strings.CutPrefix(part, "bridge="); ok {
				out[br] = true
			}
		}
	}
	return out
}

// fillRestore makes the volumes of a backed-up config and merges it with what
// the call gives.
func (n *ctCreation) fillRestore(t *task) (*conf.Guest, error) {
	s := t.sim
	t.say(fmt.Sprintf("recovering backed-up configuration from '%s'\n", n.archive))
	if !t.wait(s.scaled(200 * time.Millisecond)) {
		return nil, errInterrupted
	}
	s.mu.Lock()
	v := s.volume(n.archive)
	s.mu.Unlock()
	if v == nil || v.backup == "" {
		return nil, fmt.Errorf("volume '%s' does not exist", n.archive)
	}
	saved, err := conf.Parse(guest.LXC, guest.VMID(n.vmid), v.backup)
	if err != nil {
		return nil, err
	}
	if saved, err = n.restoredRights(s, saved); err != nil {
		return nil, err
	}
	if err := s.mayPlug(n.user, saved.Current); err != nil {
		return nil, err
	}
	cfg, err := n.makeDisks(t, saved, n.restoredDisks(saved))
	if err != nil {
		return nil, err
	}
	if !t.wait(s.scaled(300 * time.Millisecond)) {
		return nil, errInterrupted
	}
	t.say(fmt.Sprintf("restoring '%s' now..\n", n.archive))
	t.say(fmt.Sprintf("extracting archive '%s'\n", s.volumePath(n.archive)))
	t.say(bytesRead(either3(v.Unpacked, 2*v.Size)))
	t.say("merging backed-up and given configuration..\n")
	params := maps.Clone(n.params)
	delete(params, "rootfs")
	delete(params, "unprivileged")
	if n.unique {
		n.freshNets(cfg, params)
	}
	return n.putKeys(s, cfg, params)
}

// restoredRights gives the backed-up config the "unprivileged" of the call;
// from PVE 9 on a privileged container takes more than a role for guests.
func (n *ctCreation) restoredRights(s *Sim, saved *conf.Guest) (*conf.Guest, error) {
	if v, ok := n.params["unprivileged"]; ok {
		saved = saved.Edit(func(c *conf.Guest) {
			if delete(c.Current.Values, "unprivileged"); v == "1" {
				c.Current.Set("unprivileged", v)
			}
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, _ := saved.Current.Get("unprivileged")
	if s.major >= 9 && v != "1" && n.user != acl.Root && !s.acl.Perms(n.user, "/").Has("Sys.Modify") {
		return nil, errors.New("403 Permission check failed (/, Sys.Modify)")
	}
	return saved, nil
}

// restoredDisks are the volumes of the saved config, on the storage the call
// names or their own.
func (n *ctCreation) restoredDisks(saved *conf.Guest) []newDisk {
	var out []newDisk
	given := n.newDisks()
	for _, k := range slices.Sorted(maps.Keys(saved.Current.Values)) {
		if k != "rootfs" && !isMP(k) {
			continue
		}
		volid, size := diskOf(saved.Current.Values[k])
		store, _, _ := strings.Cut(volid, ":")
		d := newDisk{key: k, storage: store, size: size, rest: otherProps(saved.Current.Values[k])}
		for _, g := range given {
			if g.key == k {
				d.storage, d.size = g.storage, g.size
			}
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b newDisk) int {
		return b2i(a.key != "rootfs") - b2i(b.key != "rootfs")
	})
	return out
}

// otherProps are a disk's properties but the volume and its size.
func otherProps(v string) string {
	out := ""
	for i, part := range strings.Split(v, ",") {
		if i > 0 && !strings.HasPrefix(part, "size=") {
			out += "," + part
		}
	}
	return out
}

// freshNets asks for new hardware addresses: a net that is written without
// one gets one.
func (n *ctCreation) freshNets(cfg *conf.Guest, params map[string]string) {
	for k, v := range cfg.Current.Values {
		if !strings.HasPrefix(k, "net") || params[k] != "" {
			continue
		}
		var parts []string
		for part := range strings.SplitSeq(v, ",") {
			if !strings.HasPrefix(part, "hwaddr=") {
				parts = append(parts, part)
			}
		}
		params[k] = strings.Join(parts, ",")
	}
}
