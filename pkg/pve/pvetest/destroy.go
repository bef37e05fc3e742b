// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// tombstoneTime is how long a guest whose volumes are gone still has a config
// that says no more than that.
const tombstoneTime = 20 * time.Millisecond

// mayGo refuses to destroy what is protected or, unless it is purged from
// there, managed by HA or replicated. Needs mu.
func (s *Sim) mayGo(g *guestState, purge bool) error {
	what := pick(g.kind, "CT", "VM")
	job := s.replicationOf(g.vmid)
	switch {
	case g.value("protection") == "1":
		return die("can't remove %s %d - protection mode enabled", what, g.vmid)
	case g.ha != nil && !purge:
		return die("unable to remove %s %d - used in HA resources and purge parameter not set.", what, g.vmid)
	case job != "" && !purge:
		return die("There is a replication job '%s' for guest '%d' - Please remove that first.", job, g.vmid)
	}
	return nil
}

// destroy removes a stopped guest: its volumes first, then what the node
// knows of it. A task that is killed in between leaves the lock "destroyed".
func (t *task) destroy(g *guestState, purge, unref bool) error {
	s := t.sim
	if !t.wait(s.scaled(pick(g.kind, 80*time.Millisecond, 30*time.Millisecond))) {
		return errInterrupted
	}
	s.mu.Lock()
	s.dropGuestVolumes(g, unref, t.say)
	s.setConfLocked(g, conf.New(g.kind, guest.VMID(g.vmid), map[string]string{"lock": "destroyed"}))
	s.mu.Unlock()
	if !t.wait(s.scaled(tombstoneTime)) {
		return errInterrupted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetGuest(g)
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "destroy", User: t.user, UPID: t.upid})
	if purge {
		s.purgeJobs(g.vmid)
		t.say(fmt.Sprintf("purging %s %d from related configurations..\n", pick(g.kind, "CT", "VM"), g.vmid))
	}
	return nil
}

// forgetGuest takes a guest away whose volumes are dealt with. Needs mu.
func (s *Sim) forgetGuest(g *guestState) {
	g.run++
	g.up = false
	g.unitGoneLocked()
	delete(s.guests, g.vmid)
	s.acl.ForgetGuest(g.vmid)
	s.forgetLocked(g)
}
