// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// filter picks the records to show, such that what is picked tells a story.
type filter struct {
	guest guest.VMID
	op    string
	since time.Time
	// open is set while an op that is shown is in flight: what the agent itself
	// went through then belongs to the story.
	open bool
	// up is the agent's last start that no stop followed.
	up *ledger.Agent
	// wants is what each provider's documents last said of the guest, by hash.
	wants map[string]string
}

// takes tells whether a record is to be shown, and what to add to it.
func (fl *filter) takes(en journal.Entry, r ledger.Record) (takes bool, note string) {
	all := fl.guest == 0 && fl.op == ""
	late := !en.Time.Before(fl.since)
	switch r.Type {
	case ledger.TypeAgent:
		note = fl.agent(r.Agent)
		return late && (all || fl.open), note
	case ledger.TypeDesired:
		return late && (all || fl.desired(r.Desired)), ""
	}
	takes = late && (fl.guest == 0 || r.VMID() == fl.guest) && (fl.op == "" || strings.HasPrefix(r.OpID(), fl.op))
	switch {
	case takes && r.Type == ledger.TypeOp:
		fl.open = r.Op.State.InFlight()
	case takes && r.Type == ledger.TypeStep:
		fl.open = !r.Step.State.Ended()
	}
	return takes, ""
}

// agent says how the agent before ended, if it was not in order.
func (fl *filter) agent(a *ledger.Agent) (note string) {
	before := fl.up
	fl.up = nil
	if a.What != ledger.Started {
		return ""
	}
	fl.up = a
	switch {
	case before == nil:
		return ""
	case before.Boot != a.Boot:
		return "the one before did not stop in order, and the host was booted since"
	}
	return "the one before did not stop in order: it was killed, or it crashed"
}

// desired tells whether an accepted set says something new of the guest.
func (fl *filter) desired(d *ledger.Desired) bool {
	if fl.guest == 0 {
		return false
	}
	if fl.wants == nil {
		fl.wants = map[string]string{}
	}
	was := fl.wants[d.Provider]
	fl.wants[d.Provider] = d.Guests[fl.guest]
	return fl.wants[d.Provider] != was
}
