// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// TestStory: the journal of an op during which the agent died tells who wanted it, why, what happened and how it ended,
// and nothing of other guests or other starts of the agent.
func TestStory(t *testing.T) {
	id, other := guest.ID{Kind: guest.LXC, VMID: 105}, guest.ID{Kind: guest.LXC, VMID: 106}
	agent := func(what, boot string) ledger.Record {
		return ledger.Record{Type: ledger.TypeAgent, Agent: &ledger.Agent{What: what, Version: "1", Mode: "enforce", Boot: boot}}
	}
	wants := func(rev string) ledger.Record {
		return ledger.Record{Type: ledger.TypeDesired, Desired: &ledger.Desired{
			Provider: "local", Revision: "set-" + rev, Guests: map[guest.VMID]string{105: rev, 106: "x"},
		}}
	}
	intent := func(g guest.ID, opID string) ledger.Record {
		return ledger.Record{Type: ledger.TypeOp, Op: &op.Op{
			ID: opID, Guest: g, Kind: plugin.Start, Asker: op.Reconciler, Reason: "run stopped -> running", State: op.Intent, Attempt: 1,
		}}
	}
	step := func(g guest.ID, opID string, s op.State, handle, msg string) ledger.Record {
		return ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: opID, Guest: g, State: s, Handle: handle, Message: msg}}
	}
	records := []ledger.Record{
		agent(ledger.Started, "a"), agent(ledger.Stopped, "a"), agent(ledger.Started, "a"),
		wants("one"), wants("one"), wants("two"),
		intent(other, "op0"), intent(id, "op1"),
		agent(ledger.Started, "a"),
		step(id, "op1", op.Started, "UPID:x:", "found again: task vzstart of ours"),
		agent(ledger.Started, "b"),
		step(id, "op1", op.Succeeded, "", "found again by its UPID: OK"),
		agent(ledger.Stopped, "b"),
	}
	var out bytes.Buffer
	e := &env{stdout: &out}
	fl := &filter{guest: 105}
	begin := time.Date(2026, 11, 29, 12, 0, 0, 0, time.Local)
	for i, r := range records {
		p, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := show(e, false, fl, journal.Entry{Seq: uint64(i + 1), Time: begin.Add(time.Duration(i) * time.Second), Payload: p}); err != nil {
			t.Fatal(err)
		}
	}
	want := `2026-11-29 12:00:03.000      4     -  desired state of local accepted, 2 guests, revision set-one
2026-11-29 12:00:05.000      6     -  desired state of local accepted, 2 guests, revision set-two
2026-11-29 12:00:07.000      8   105  op op1 intent: start, asked by reconciler: run stopped -> running
2026-11-29 12:00:08.000      9     -  agent 1 started, mode enforce (the one before did not stop in order: it was killed, or it crashed)
2026-11-29 12:00:09.000     10   105  op op1 started as UPID:x:: found again: task vzstart of ours
2026-11-29 12:00:10.000     11     -  agent 1 started, mode enforce (the one before did not stop in order, and the host was booted since)
2026-11-29 12:00:11.000     12   105  op op1 succeeded: found again by its UPID: OK
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("want, got:\n%s", diff)
	}
}
