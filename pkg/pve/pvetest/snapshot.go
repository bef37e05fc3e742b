// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// snapshotRoutes are snapshots of both kinds.
func snapshotRoutes() []route {
	name := schema.Param{Name: "snapname", Required: true, MaxLen: 40, Format: configIDFormat}
	var out []route
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		list := "/nodes/{node}/" + string(kind) + "/{vmid}/snapshot"
		one := list + "/{snapname}"
		create := []schema.Param{name, {Name: "description"}}
		if kind == guest.QEMU {
			create = append(create, schema.Param{Name: "vmstate", Type: schema.Boolean})
		}
		out = append(out,
			route{method: "POST", path: list, protected: true, perm: guestPerm("VM.Snapshot"), params: create, run: createSnapshot},
			route{method: "GET", path: one, perm: guestPerm("VM.Audit"), run: snapshotIndex},
			route{
				method: "DELETE", path: one, protected: true, perm: guestPerm("VM.Snapshot"), run: deleteSnapshot,
				params: []schema.Param{{Name: "force", Type: schema.Boolean}},
			},
			route{method: "GET", path: one + "/config", perm: guestPerm("VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"), run: snapshotConfig},
			route{
				method: "PUT", path: one + "/config", protected: true, perm: guestPerm("VM.Snapshot"), run: editSnapshot,
				params: []schema.Param{{Name: "description"}},
			},
			route{
				method: "POST", path: one + "/rollback", protected: true, perm: guestPerm("VM.Snapshot", "VM.Snapshot.Rollback"), run: rollback,
				params: []schema.Param{{Name: "start", Type: schema.Boolean}},
			},
		)
	}
	return out
}

var configIDRE = regexp.MustCompile(`^(?i)[a-z][a-z0-9_-]+$`)

func configIDFormat(s string) string {
	if configIDRE.MatchString(s) {
		return ""
	}
	return fmt.Sprintf("invalid configuration ID '%s'", s)
}

func snapshotIndex(*call) (any, error) {
	return []any{map[string]any{"cmd": "rollback"}, map[string]any{"cmd": "config"}}, nil
}

func taskPrefix(kind guest.Kind) string { return pick(kind, "vz", "qm") }

// createSnapshot is POST .../snapshot.
func createSnapshot(c *call) (any, error) {
	name, kind := c.in.Get("snapname"), c.kind()
	if name == "current" || name == pick(kind, "vzdump", "pending") {
		return nil, die("unable to use snapshot name '%s' (reserved name)", name)
	}
	snap := &snapshotJob{name: name, description: c.in.Get("description"), vmstate: c.in.Bool("vmstate")}
	return c.guestTask(taskPrefix(kind)+"snapshot", c.sim.locked(kind, c.vmid(), snap.create))
}

// locked runs f on a guest under its lock, as part of a task.
func (s *Sim) locked(kind guest.Kind, vmid int, f func(*task, *guestState) error) work {
	return func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, kind, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		g, err := s.find(kind, vmid)
		if err != nil {
			return err
		}
		return f(t, g)
	}
}

// snapshotJob is one snapshot to be made.
type snapshotJob struct {
	name, description string
	vmstate           bool
}

func (j *snapshotJob) create(t *task, g *guestState) error {
	s := t.sim
	if err := j.prepare(s, g); err != nil {
		return err
	}
	s.mu.Lock()
	up := g.up
	s.mu.Unlock()
	if up && g.kind == guest.QEMU {
		if err := j.freeze(t, g); err != nil {
			j.abandon(s, g)
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range disksOf(g.conf.Current, false) {
		v := g.value(k)
		if volid, _ := diskOf(v); g.kind == guest.QEMU && !isCDROM(v) {
			t.say(fmt.Sprintf("snapshotting 'drive-%s' (%s)\n", k, volid))
		}
	}
	s.confEdit(g, func(c *conf.Guest) {
		delete(c.Current.Values, "lock")
		delete(c.Snapshots[j.name].Values, "snapstate")
		c.Current.Set("parent", j.name)
	})
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "snapshot", User: t.user, UPID: t.upid, Detail: j.name})
	return nil
}

// prepare checks and enters the snapshot in the config, locked.
func (j *snapshotJob) prepare(s *Sim, g *guestState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.conf.Template() {
		return die("you can't take a snapshot if it's a template")
	}
	if err := g.checkLock(); err != nil {
		return err
	}
	if !s.canSnapshot(g) {
		return die("snapshot feature is not available")
	}
	if _, ok := g.conf.Snapshots[j.name]; ok {
		return die("snapshot name '%s' already used", j.name)
	}
	now := strconv.FormatInt(s.now().Unix(), 10)
	s.confEdit(g, func(c *conf.Guest) {
		sec := snapshotOf(c.Current)
		sec.Set("snaptime", now)
		sec.Set("snapstate", "prepare")
		if j.description != "" {
			sec.Set("description", j.description)
		}
		if c.Snapshots == nil {
			c.Snapshots = map[string]conf.Section{}
		}
		c.Snapshots[j.name] = sec
		c.Current.Set("lock", "snapshot")
	})
	return nil
}

// snapshotOf is what a snapshot keeps of a config.
func snapshotOf(cur conf.Section) conf.Section {
	sec := conf.Section{Values: map[string]string{}, Raw: cur.Raw}
	for k, v := range cur.Values {
		if !notInSnapshot(k) {
			sec.Values[k] = v
		}
	}
	return sec
}

func notInSnapshot(key string) bool {
	switch key {
	case "lock", "description", "snapstate", "snaptime", "vmstate", "digest":
		return true
	}
	return strings.HasPrefix(key, "unused")
}

// freeze saves the memory of a running machine, or only stops its disks; a
// QEMU without PVE's patches knows neither.
func (j *snapshotJob) freeze(t *task, g *guestState) error {
	s := t.sim
	if j.vmstate {
		s.mu.Lock()
		size := 2*s.maxMem(g) + 500<<20 // memory that changes while it is written
		volid := fmt.Sprintf("local:%d/vm-%d-state-%s.raw", g.vmid, g.vmid, j.name)
		s.putVolume(volid, size, "raw", g.vmid)
		s.confEdit(g, func(c *conf.Guest) {
			sec := c.Snapshots[j.name]
			sec.Set("vmstate", volid)
		})
		s.mu.Unlock()
		t.say(imageLog(s.volumePath(volid), "raw", size, ""))
	}
	if !s.opt.Lacks.QEMUPatches {
		if !t.wait(s.scaled(200 * time.Millisecond)) {
			return errInterrupted
		}
		return nil
	}
	t.say(fmt.Sprintf("VM %d qmp command 'savevm-end' failed - The command savevm-end has not been found\n", g.vmid))
	t.say("snapshot create failed: starting cleanup\n")
	return die("VM %d qmp command 'savevm-start' failed - The command savevm-start has not been found\n", g.vmid)
}

// abandon takes a snapshot that failed out of the config.
func (j *snapshotJob) abandon(s *Sim, g *guestState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := g.conf.Snapshots[j.name].Values["vmstate"]; v != "" {
		s.dropVolume(v)
	}
	s.confEdit(g, func(c *conf.Guest) {
		delete(c.Snapshots, j.name)
		delete(c.Current.Values, "lock")
	})
}

// canSnapshot reports whether every volume of a guest can be snapshotted.
// Needs mu.
func (s *Sim) canSnapshot(g *guestState) bool {
	for _, k := range disksOf(g.conf.Current, false) {
		v := g.value(k)
		volid, _ := diskOf(v)
		if g.kind == guest.QEMU && isCDROM(v) {
			continue
		}
		if !s.volumeFeature(volid, g.kind) {
			return false
		}
	}
	return true
}

// volumeFeature reports whether a volume has snapshots: on directory storage
// only qcow2 images of virtual machines have.
func (s *Sim) volumeFeature(volid string, kind guest.Kind) bool {
	st := s.storage(storageOf(volid))
	if st == nil {
		return false
	}
	switch st.Type {
	case "zfspool", "lvmthin", "rbd", "btrfs":
		return true
	}
	return kind == guest.QEMU && formatOf(volid) == "qcow2"
}

// deleteSnapshot is DELETE .../snapshot/{snapname}.
func deleteSnapshot(c *call) (any, error) {
	s, name, kind := c.sim, c.path["snapname"], c.kind()
	return c.guestTask(taskPrefix(kind)+"delsnapshot", s.locked(kind, c.vmid(), func(t *task, g *guestState) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		sec, ok := g.conf.Snapshots[name]
		if !ok {
			return die("snapshot '%s' does not exist", name)
		}
		if err := g.checkLock("snapshot-delete"); err != nil {
			return err
		}
		if v := sec.Values["vmstate"]; v != "" {
			s.dropVolume(v)
		}
		parent := sec.Values["parent"]
		s.confEdit(g, func(c *conf.Guest) {
			delete(c.Snapshots, name)
			reparent(c.Current, name, parent)
			for _, k := range slices.Sorted(maps.Keys(c.Snapshots)) {
				reparent(c.Snapshots[k], name, parent)
			}
		})
		s.noteLocked(Mutation{Kind: string(kind), VMID: g.vmid, What: "delsnapshot", User: t.user, UPID: t.upid, Detail: name})
		return nil
	}))
}

func reparent(sec conf.Section, gone, parent string) {
	if sec.Values["parent"] != gone {
		return
	}
	if parent == "" {
		delete(sec.Values, "parent")
		return
	}
	sec.Values["parent"] = parent
}

// rollback is POST .../snapshot/{snapname}/rollback.
func rollback(c *call) (any, error) {
	s, name, kind, start := c.sim, c.path["snapname"], c.kind(), c.in.Bool("start")
	return c.guestTask(taskPrefix(kind)+"rollback", s.locked(kind, c.vmid(), func(t *task, g *guestState) error {
		if err := t.rollback(g, name); err != nil || !start {
			return err
		}
		if kind == guest.QEMU {
			return t.vmStart(g, "start")
		}
		return t.ctStart(g, "start")
	}))
}

func (t *task) rollback(g *guestState, name string) error {
	s := t.sim
	s.mu.Lock()
	sec, ok := g.conf.Snapshots[name]
	err := g.checkLock()
	can, up := s.canSnapshot(g), g.up
	s.mu.Unlock()
	switch {
	case !ok:
		return die("snapshot '%s' does not exist", name)
	case err != nil:
		return err
	case sec.Values["snapstate"] != "":
		return die("unable to rollback to incomplete snapshot (snapstate = %s)", sec.Values["snapstate"])
	case !can:
		return die("snapshot feature is not available")
	}
	if up {
		if err := t.stopFor(g, "rollback"); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confEdit(g, func(c *conf.Guest) { s.rollConfig(c, g.kind, name) })
	s.restoreSizes(g)
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "rollback", User: t.user, UPID: t.upid, Detail: name})
	return nil
}

// stopFor stops a guest hard on behalf of another operation that holds its
// lock.
func (t *task) stopFor(g *guestState, what string) error {
	how := stopHow{what: what, hard: true}
	if g.kind == guest.QEMU {
		return t.vmStop(g, how)
	}
	return t.ctStop(g, how)
}

// rollConfig puts a snapshot's settings in place. The description stays, and
// those unused disks that the snapshot does not use; what marks a machine as
// the same one is drawn anew.
func (s *Sim) rollConfig(c *conf.Guest, kind guest.Kind, name string) {
	old, snap := c.Current, c.Snapshots[name]
	c.Current = snapshotOf(snap)
	c.Current.Set("parent", name)
	if d, ok := old.Get("description"); ok {
		c.Current.Set("description", d)
	}
	used := map[string]bool{}
	for _, k := range disksOf(c.Current, false) {
		volid, _ := diskOf(c.Current.Values[k])
		used[volid] = true
	}
	for k, v := range old.Values {
		if strings.HasPrefix(k, "unused") && !used[v] {
			c.Current.Set(k, v)
		}
	}
	if v, ok := c.Current.Get("vmgenid"); ok && v != "0" && kind == guest.QEMU {
		c.Current.Set("vmgenid", s.uuidLocked())
	}
}

// restoreSizes gives the volumes the sizes the config says: they are what
// they were. Needs mu.
func (s *Sim) restoreSizes(g *guestState) {
	for _, k := range disksOf(g.conf.Current, false) {
		volid, size := diskOf(g.value(k))
		if v := s.volume(volid); v != nil && size > 0 {
			v.Size = size
		}
	}
}

// snapshotConfig shows a snapshot as it is in the file: nothing is masked.
func snapshotConfig(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	view, cerr := g.conf.SnapshotView(c.path["snapname"])
	if cerr != nil {
		return nil, fromConf(cerr)
	}
	delete(view, "digest")
	if v, ok := g.conf.Snapshots[c.path["snapname"]].Get("cipassword"); ok {
		view["cipassword"] = v
	}
	return view, nil
}

// editSnapshot changes a snapshot's description.
func editSnapshot(c *call) (any, error) {
	s := c.sim
	unlock, err := s.lockGuest(c.ctx, c.kind(), c.vmid(), nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	name := c.path["snapname"]
	if err := g.checkLock(); err != nil {
		return nil, err
	}
	if _, ok := g.conf.Snapshots[name]; !ok {
		return nil, die("snapshot '%s' does not exist", name)
	}
	if c.in.Has("description") {
		s.confEdit(g, func(d *conf.Guest) {
			sec := d.Snapshots[name]
			sec.Set("description", c.in.Get("description"))
		})
	}
	return nil, nil
}
