// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// vmCreation is a virtual machine to be created or restored.
type vmCreation struct {
	vmid     int
	user     string
	params   map[string]string
	archive  string
	pool     string
	start    bool
	replaces bool // restores over a guest that exists
}

// createVM is POST .../qemu. Everything but the VMID's being free is checked
// before the VMID is looked at.
func createVM(c *call) (any, error) {
	all, err := c.configParams()
	if err != nil {
		return nil, err
	}
	delete(all, "vmid")
	n := &vmCreation{
		vmid: c.in.Int("vmid", 0), user: c.authid, params: all, archive: all["archive"], pool: all["pool"], start: all["start"] == "1",
	}
	s := c.sim
	if err := n.admit(c); err != nil {
		return nil, err
	}
	if err := n.reserve(s, all["force"] == "1"); err != nil {
		return nil, err
	}
	if n.archive != "" {
		return s.fork("qmrestore", itoa(n.vmid), n.user, n.restore)
	}
	return s.fork("qmcreate", itoa(n.vmid), n.user, n.create)
}

func (n *vmCreation) admit(c *call) error {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noQuorum {
		return die("cluster not ready - no quorum?")
	}
	if n.pool != "" && s.acl.Pools[n.pool] == nil {
		return denied("pool '%s' does not exist", n.pool)
	}
	if n.archive != "" {
		return n.mayRestore(c)
	}
	if res := conf.CreateQEMU(n.request(s), guest.VMID(n.vmid), s.now().Unix()); res.Err != nil {
		return fromConf(res.Err)
	}
	return nil
}

// request is what package conf needs for a create: a pool lends its
// privileges to the guest that is to be in it. Needs mu.
func (n *vmCreation) request(s *Sim) conf.Request {
	req := s.confRequest(n.user, n.params, false)
	held := req.Caller.Allowed
	req.Caller.Allowed = func(p, priv string) bool {
		return held(p, priv) || n.pool != "" && p == "/vms/"+itoa(n.vmid) && s.acl.Perms(n.user, "/pool/"+n.pool).Has(priv)
	}
	return req
}

func (n *vmCreation) mayRestore(c *call) error {
	if err := conf.CheckParams(c.sim.major, guest.QEMU, conf.Create, n.params); err != nil {
		return fromConf(err)
	}
	g := c.sim.guests[n.vmid]
	over := g != nil && g.kind == guest.QEMU && n.params["force"] == "1"
	switch {
	case c.authid == acl.Root, c.mayLocked("/vms/"+itoa(n.vmid), "VM.Allocate"):
	case n.pool != "" && c.mayLocked("/pool/"+n.pool, "VM.Allocate"):
	case over && c.mayLocked("/vms/"+itoa(n.vmid), "VM.Backup"):
	default:
		return &apiError{status: 403, reason: "Permission check failed"}
	}
	if err := c.mayRestoreFrom(n.archive, n.vmid); err != nil {
		return err
	}
	if store := n.params["storage"]; store != "" && !c.mayLocked("/storage/"+store, "Datastore.AllocateSpace") {
		return denied("/storage/%s, Datastore.AllocateSpace", store)
	}
	return nil
}

// reserve puts the placeholder config into place.
func (n *vmCreation) reserve(s *Sim, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	verb := "create"
	if n.archive != "" {
		verb = "restore"
	}
	fail := func(why error) error { return die("unable to %s VM %d - %s", verb, n.vmid, why.Error()) }
	g := s.guests[n.vmid]
	if g == nil {
		s.touchLocked(s.newGuestLocked(guest.QEMU, n.vmid, conf.New(guest.QEMU, guest.VMID(n.vmid), map[string]string{"lock": "create"})))
		return nil
	}
	if g.kind != guest.QEMU || !force || n.archive == "" {
		return fail(die("%s %d already exists on node '%s'", pick(g.kind, "CT", "VM"), n.vmid, s.opt.Node))
	}
	if err := g.checkLock(); err != nil {
		return fail(err)
	}
	if g.value("protection") == "1" {
		return fail(die("can't remove VM %d - protection mode enabled", n.vmid))
	}
	n.replaces = true
	s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { c.Current.Set("lock", "create") }))
	return nil
}

// create is the work of qmcreate.
func (n *vmCreation) create(t *task) error {
	return t.sim.vmLocked(n.vmid, func(t *task, g *guestState) error {
		s := t.sim
		if !t.wait(s.scaled(20 * time.Millisecond)) {
			n.undo(s)
			return errInterrupted
		}
		s.mu.Lock()
		res := conf.CreateQEMU(n.request(s), guest.VMID(n.vmid), s.now().Unix())
		s.mu.Unlock()
		t.sayCreated(res)
		if res.Err != nil || res.TaskErr != "" {
			n.undo(s)
			return die("%s", createError(res))
		}
		n.finish(t, g, "create", res)
		return n.autostart(t)
	})(t)
}

func createError(res conf.Result) string {
	if res.Err != nil {
		return res.Err.Message
	}
	return res.TaskErr
}

// sayCreated prints the log of a create: each volume's making precedes the
// line that says it is there.
func (t *task) sayCreated(res conf.Result) {
	left := res.Effects
	for _, line := range res.Log {
		if strings.Contains(line, ": successfully created disk '") && len(left) > 0 {
			t.say(imageLog(t.sim.volumePath(left[0].Volume), either2(left[0].Format, "raw"), left[0].Size, ""))
			left = left[1:]
		}
		t.say(line + "\n")
	}
}

func (n *vmCreation) undo(s *Sim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.guests[n.vmid]; g != nil {
		s.removeLocked(g)
	}
}

func (n *vmCreation) finish(t *task, g *guestState, what string, res conf.Result) {
	s := t.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	s.effectsLocked(g, res.Effects)
	s.setConfLocked(g, res.Guest)
	if p := s.acl.Pools[n.pool]; p != nil {
		p.VMs[n.vmid] = true
	}
	s.noteLocked(Mutation{Kind: "qemu", VMID: n.vmid, What: what, User: n.user, UPID: t.upid})
}

func (n *vmCreation) autostart(t *task) error {
	if !n.start {
		return nil
	}
	t.say("Execute autostart\n")
	_, err := t.sim.fork("qmstart", itoa(n.vmid), n.user, t.sim.vmStartTask(n.vmid))
	return err
}

// restore is the work of qmrestore. What fails leaves the half-made guest.
func (n *vmCreation) restore(t *task) error {
	return t.sim.vmLocked(n.vmid, func(t *task, g *guestState) error {
		s := t.sim
		s.mu.Lock()
		v := s.volume(n.archive)
		s.mu.Unlock()
		if v == nil || v.backup == "" {
			return die("unable to restore VM %d - volume '%s' does not exist", n.vmid, n.archive)
		}
		path := s.volumePath(n.archive)
		if !strings.Contains(path, "vzdump-qemu-") {
			for _, line := range conf.ForeignComplaints(guest.QEMU, v.backup) {
				t.say(fmt.Sprintf("vm %d - %s\n", n.vmid, line))
			}
			n.unlock(s, g)
			t.say(fmt.Sprintf("error before or during data restore, some or all disks were not completely restored. VM %d state is NOT cleaned up.\n", n.vmid))
			return die("ERROR: file '%s' does not look like a QemuServer vzdump backup", path)
		}
		res, err := n.unpack(t, v)
		if err != nil {
			return err
		}
		n.finish(t, g, "restore", res)
		return n.autostart(t)
	})(t)
}

func (n *vmCreation) unlock(s *Sim, g *guestState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { delete(c.Current.Values, "lock") }))
}

// unpack makes the volumes of a saved config.
func (n *vmCreation) unpack(t *task, v *volumeState) (conf.Result, error) {
	s := t.sim
	saved, err := conf.Parse(guest.QEMU, guest.VMID(n.vmid), v.backup)
	if err != nil {
		return conf.Result{}, err
	}
	if err := s.mayPlug(n.user, saved.Current); err != nil {
		return conf.Result{}, err
	}
	t.say(fmt.Sprintf("restore vma archive: vma extract -v -r /var/tmp/vzdumptmp%d.fifo %s /var/tmp/vzdumptmp%d\n", t.pid, s.volumePath(n.archive), t.pid))
	if !t.wait(s.scaled(300 * time.Millisecond)) {
		return conf.Result{}, errInterrupted
	}
	s.mu.Lock()
	old := s.guests[n.vmid]
	if n.replaces {
		s.dropGuestVolumes(old, false, func(string) {})
	}
	s.mu.Unlock()
	res := conf.Result{Guest: saved.Edit(func(c *conf.Guest) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n.params["unique"] == "1" {
			s.freshIdentity(guest.QEMU, c)
		}
		for _, k := range disksOf(c.Current, false) {
			n.restoreDisk(t, c, k)
		}
	})}
	return res, nil
}

// restoreDisk makes one volume of a saved config anew. Needs mu.
func (n *vmCreation) restoreDisk(t *task, c *conf.Guest, key string) {
	s := t.sim
	volid, size := diskOf(c.Current.Values[key])
	if isCDROM(c.Current.Values[key]) || !strings.Contains(volid, ":") {
		return
	}
	store, format := either2(n.params["storage"], storageOf(volid)), formatOf(volid)
	fresh := s.freeImage(store, n.vmid, format)
	s.putVolume(fresh, size, format, n.vmid)
	t.say(fmt.Sprintf("new volume ID is '%s'\n", fresh))
	c.Current.Set(key, withVolume(c.Current.Values[key], fresh))
}
