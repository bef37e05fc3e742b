// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// moveRoutes move a guest's volumes to another storage or another guest.
func moveRoutes() []route {
	common := []schema.Param{
		{Name: "storage"},
		{Name: "delete", Type: schema.Boolean},
		{Name: "digest", MaxLen: 40},
		{Name: "target-digest", MaxLen: 40},
		{Name: "bwlimit", Type: schema.Number, Min: schema.F(0)},
		{Name: "target-vmid", Type: schema.Integer, Min: schema.F(100), Max: schema.F(999999999)},
	}
	ct := append(slices.Clone(common), schema.Param{Name: "volume", Required: true}, schema.Param{Name: "target-volume"})
	vm := append(slices.Clone(common), schema.Param{Name: "disk", Required: true}, schema.Param{Name: "target-disk"},
		schema.Param{Name: "format", Enum: []string{"raw", "qcow2", "vmdk"}})
	return []route{
		{method: "POST", path: "/nodes/{node}/lxc/{vmid}/move_volume", protected: true, perm: guestPerm("VM.Config.Disk"), params: ct, run: moveVolume},
		{method: "POST", path: "/nodes/{node}/qemu/{vmid}/move_disk", protected: true, perm: guestPerm("VM.Config.Disk"), params: vm, run: moveVolume},
	}
}

// moveJob is one volume to be moved.
type moveJob struct {
	kind            guest.Kind
	from, to        int
	disk, target    string
	storage, format string
	drop            bool // the source afterwards
}

// moveVolume is POST .../move_volume and .../move_disk.
func moveVolume(c *call) (any, error) {
	kind := c.kind()
	disk, target := pick(kind, "volume", "disk"), pick(kind, "target-volume", "target-disk")
	j := &moveJob{
		kind: kind, from: c.vmid(), to: c.in.Int("target-vmid", 0), disk: c.in.Get(disk), target: either2(c.in.Get(target), c.in.Get(disk)),
		storage: c.in.Get("storage"), format: c.in.Get("format"), drop: c.in.Bool("delete"),
	}
	typ := pick(kind, "move_volume", "qmmove")
	if err := j.admit(c); err != nil {
		return nil, err
	}
	if j.to == 0 {
		return c.guestTask(typ, c.sim.locked(kind, j.from, j.move))
	}
	return c.sim.fork(typ, fmt.Sprintf("%d-%s>%d-%s", j.from, j.disk, j.to, j.target), c.authid, c.sim.locked(kind, j.from, j.reassign))
}

func (j *moveJob) admit(c *call) error {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(j.kind, j.from)
	if err != nil {
		return err
	}
	switch {
	case j.to != 0 && j.storage != "":
		return badParam("storage", "cannot use 'storage' and 'target-vmid' together")
	case j.to == 0 && j.storage == "":
		return die("either target-vmid or storage must be given")
	case j.storage != "" && !c.mayLocked("/storage/"+j.storage, "Datastore.AllocateSpace"):
		return denied("/storage/%s, Datastore.AllocateSpace", j.storage)
	case j.to != 0 && !c.mayLocked("/vms/"+itoa(j.to), "VM.Config.Disk"):
		return denied("/vms/%d, VM.Config.Disk", j.to)
	}
	if err := g.checkLock(); err != nil {
		return err
	}
	if j.to != 0 {
		return j.admitTarget(s, g)
	}
	if g.value(j.disk) == "" {
		return die("%s '%s' does not exist", pick(j.kind, "volume", "disk"), j.disk)
	}
	return nil
}

// admitTarget checks a reassignment. Needs mu.
func (j *moveJob) admitTarget(s *Sim, g *guestState) error {
	other, err := s.findLocked(j.kind, j.to)
	switch {
	case err != nil:
		return err
	case g.value(j.disk) == "":
		return die("%s '%s' for %s '%d' does not exist", pick(j.kind, "volume", "Disk"), j.disk, pick(j.kind, "container", "VM"), j.from)
	case other.value(j.target) != "":
		return die("target %s '%s' is already in use", pick(j.kind, "volume", "disk"), j.target)
	}
	return other.checkLock()
}

// move copies a volume to another storage or format.
func (j *moveJob) move(t *task, g *guestState) error {
	s := t.sim
	s.mu.Lock()
	value, st := g.value(j.disk), s.storage(j.storage)
	s.mu.Unlock()
	volid, size := diskOf(value)
	want := pick(j.kind, "rootdir", "images")
	switch {
	case st == nil:
		return die("storage '%s' does not exist", j.storage)
	case !slices.Contains(st.Content, want):
		return die("content type '%s' is not available or configured on storage '%s'", want, j.storage)
	}
	var fresh string
	var err error
	if j.kind == guest.LXC {
		fresh, err = t.copyFiles(j.disk, volid, j.storage, j.from, size)
	} else {
		fresh, err = t.copyDrive(copyDrive{key: j.disk, volid: volid, size: size, owner: j.from, store: j.storage, format: j.format})
	}
	if err != nil {
		return die("storage migration failed: %s", err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.drop {
		s.dropVolume(volid)
	}
	s.confEdit(g, func(c *conf.Guest) {
		c.Current.Set(j.disk, withVolume(value, fresh))
		if !j.drop {
			addUnused(c, volid)
		}
	})
	s.noteLocked(Mutation{Kind: string(j.kind), VMID: j.from, What: "move", User: t.user, UPID: t.upid, Detail: j.disk})
	return nil
}

// addUnused keeps a volume under the lowest free key.
func addUnused(c *conf.Guest, volid string) {
	for i := range 256 {
		k := "unused" + itoa(i)
		if _, used := c.Current.Get(k); !used {
			c.Current.Set(k, volid)
			return
		}
	}
}

// reassign gives a volume to another guest.
func (j *moveJob) reassign(t *task, g *guestState) error {
	s := t.sim
	unlock, err := s.lockGuest(t.ctx, j.kind, j.to, t.say)
	if err != nil {
		return err
	}
	defer unlock()
	other, err := s.find(j.kind, j.to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value := g.value(j.disk)
	volid, size := diskOf(value)
	v := s.volume(volid)
	if v == nil {
		return die("volume '%s' does not exist", volid)
	}
	fresh := s.renameVolume(volid, s.freeImage(storageOf(volid), j.to, v.Format), j.to)
	newValue := withVolume(value, fresh)
	if size == 0 && !strings.HasPrefix(j.target, "unused") {
		newValue += ",size=" + sizeText(v.Size)
	}
	j.sayReassign(t, fresh)
	s.confEdit(g, func(c *conf.Guest) { delete(c.Current.Values, j.disk) })
	s.confEdit(other, func(c *conf.Guest) { c.Current.Set(j.target, newValue) })
	s.noteLocked(Mutation{Kind: string(j.kind), VMID: j.from, What: "reassign", User: t.user, UPID: t.upid, Detail: j.disk})
	return nil
}

func (j *moveJob) sayReassign(t *task, fresh string) {
	noun, owner := pick(j.kind, "volume", "disk"), pick(j.kind, "container", "VM")
	t.say(fmt.Sprintf("moving %s '%s' from %s '%d' to '%d'\n", noun, j.disk, owner, j.from, j.to))
	t.say(fmt.Sprintf("removing %s '%s' from %s '%d' config\n", noun, j.disk, owner, j.from))
	if j.kind == guest.LXC {
		t.say(fmt.Sprintf("target container '%d' updated with '%s'\n", j.to, j.target))
		return
	}
	t.say(fmt.Sprintf("update VM %d: -%s %s\n", j.to, j.target, fresh))
}
