// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"slices"
	"time"
)

// Mutation is one change that took effect on the node: what was asked of it
// and executed, by whom. What happened inside a guest is listed with the user
// "guest".
type Mutation struct {
	Seq  int       `json:"seq"`
	Time time.Time `json:"time"` // node clock
	// Kind and VMID name the guest; VMID is 0 for what concerns none.
	Kind string `json:"kind,omitempty"`
	VMID int    `json:"vmid,omitempty"`
	// What happened: start, stop, shutdown, reboot, config, create, destroy,
	// poweroff, crash, ...
	What string `json:"what"`
	User string `json:"user"`           // full auth id
	UPID string `json:"upid,omitempty"` // of the task, if there was one
	// Detail is the config keys of a write, sorted and joined by commas, or
	// what was odd about the rest.
	Detail string `json:"detail,omitempty"`
}

// Record returns every mutation executed so far, oldest first.
func (s *Sim) Record() []Mutation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.record)
}

func (s *Sim) note(m Mutation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteLocked(m)
}

func (s *Sim) noteLocked(m Mutation) {
	m.Seq, m.Time = len(s.record)+1, s.now()
	s.record = append(s.record, m)
	s.log.Info("mutation", "what", m.What, "vmid", m.VMID, "user", m.User, "upid", m.UPID, "detail", m.Detail)
}

// noteDetail records what a task does to a guest, at the moment it does it.
// A start that changes nothing (the guest already runs, or the order is lost
// on a unit that is still closing) is recorded too, with that detail.
func (t *task) noteDetail(g *guestState, what, detail string) {
	t.sim.note(Mutation{Kind: string(g.kind), VMID: g.vmid, What: what, User: t.user, UPID: t.upid, Detail: detail})
}
