// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
)

// After a boot: the first status broadcast, and the start of guests.
const (
	statsAfterBoot  = 30 * time.Second
	guestsAfterBoot = 10 * time.Second
)

// KillTasks kills every running task that a daemon forked, as a restart of
// pvedaemon can: the log ends where it is ("unexpected status"), and what
// the task would have cleaned up stays, a config lock too.
func (s *Sim) KillTasks() {
	for _, t := range s.running(func(t *task) bool { return !t.cli }) {
		t.kill()
	}
}

func (s *Sim) running(take func(*task) bool) []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*task
	for _, t := range s.tasks.active {
		if t.endedAt() == 0 && take(t) {
			out = append(out, t)
		}
	}
	return out
}

// Crashed loses the node's power and boots it again at once: every guest is
// gone without a hook, tasks are killed, the list of active tasks is new,
// and guests with onboot are started by a task startall of root@pam. Until the
// first status broadcast the cluster knows no guest's state.
func (s *Sim) Crashed() {
	for _, t := range s.running(func(*task) bool { return true }) {
		t.kill()
	}
	s.mu.Lock()
	for _, g := range s.guests {
		g.run++
		g.resets = time.Time{}
		s.sinkLocked(g)
		g.unitGoneLocked()
	}
	s.boot = s.now()
	s.statFrom = s.boot.Add(statsAfterBoot)
	s.versions.start = s.boot.Unix()
	s.tasks.active = nil
	s.mu.Unlock()
	s.spawn(func() {
		if !sleep(s.ctx, guestsAfterBoot) {
			return
		}
		if _, err := s.fork("startall", "", acl.Root, func(t *task) error { return t.startAll(nil, false) }); err != nil {
			s.log.Info("boot", "error", err.Error())
		}
	})
}

// place is where a guest is that left this node.
type place struct {
	kind guest.Kind
	node string
	name string
}

// Move puts a guest on another node of the cluster, as a migration or HA
// would: here its config is gone, the cluster's lists name it there.
func (s *Sim) Move(vmid int, node string) error {
	if !nodeRE.MatchString(node) || node == s.opt.Node {
		return fmt.Errorf("pvetest: %q is no other node", node)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	if s.elsewhere == nil {
		s.elsewhere = map[int]place{}
	}
	s.elsewhere[vmid] = place{kind: g.kind, node: node, name: g.name()}
	g.run++
	g.up = false
	g.unitGoneLocked()
	delete(s.guests, vmid)
	s.forgetLocked(g)
	return nil
}

// elsewhereRows are the guests of other nodes in cluster/resources.
func (c *call) elsewhereRows() []any {
	var rows []any
	for id, p := range c.sim.elsewhere {
		if c.mayLocked("/vms/"+itoa(id), "VM.Audit") {
			rows = append(rows, map[string]any{
				"id": fmt.Sprintf("%s/%d", p.kind, id), "vmid": id, "type": string(p.kind), "node": p.node, "name": p.name, "status": "running", "template": 0,
			})
		}
	}
	return rows
}

// taken is PVE's refusal of a VMID that a guest of the cluster has.
func (s *Sim) takenLocked(vmid int) error {
	if g := s.guests[vmid]; g != nil {
		return die("%s %d already exists on node '%s'", pick(g.kind, "CT", "VM"), vmid, s.opt.Node)
	}
	if p, ok := s.elsewhere[vmid]; ok {
		return die("%s %d already exists on node '%s'", pick(p.kind, "CT", "VM"), vmid, p.node)
	}
	return nil
}

// otherNode is the answer of a call about a node that guests moved to: it is
// known and cannot be reached.
func (s *Sim) otherNode(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.elsewhere {
		if p.node == name {
			return &apiError{status: 595, reason: "No route to host", bare: true}
		}
	}
	return nil
}

// Deny takes privileges away from everybody but root@pam, whatever their
// roles say; it replaces what it denied before.
func (s *Sim) Deny(privs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acl.Denied = map[string]bool{}
	for _, p := range privs {
		s.acl.Denied[p] = true
	}
}
