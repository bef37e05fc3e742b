// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package reporter

import (
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// scan goes through the journal and keeps what a source is to be told.
type scan struct {
	told, at uint64 // the source knows up to told; at is the last one looked at
	looked   int
	outcomes []plugin.ReportOutcome
	provider string
	owned    map[guest.VMID]bool // at the entry that was looked at last
	// begun are the unfinished ops of guests that were the provider's when they
	// began; each is told of even if the guest is not its any more at the end.
	begun map[string]op.Op
}

func newScan(provider string, seq uint64, owned map[guest.VMID]bool) scan {
	return scan{provider: provider, told: seq, at: seq, owned: owned, begun: map[string]op.Op{}}
}

// recall goes on from a mark.
func (s *scan) recall(m Mark) {
	if m.Owned != nil {
		s.owned = map[guest.VMID]bool{}
	}
	for _, v := range m.Owned {
		s.owned[v] = true
	}
	for _, id := range m.Begun {
		s.begun[id] = op.Op{ID: id}
	}
}

// mark is where everything was told.
func (s *scan) mark() Mark {
	m := Mark{Seq: s.told, Owned: []guest.VMID{}, Begun: slices.Sorted(maps.Keys(s.begun))}
	m.Owned = append(m.Owned, slices.Sorted(maps.Keys(s.owned))...)
	return m
}

func (s *scan) full() bool { return len(s.outcomes) >= maxOutcomes || s.looked >= maxScan }

// begin begins another round over the journal.
func (s *scan) begin() {
	if len(s.outcomes) == 0 {
		s.looked = 0
	}
}

// said begins the next report.
func (s *scan) said() { s.told, s.looked, s.outcomes = s.at, 0, nil }

// take looks at one entry.
func (s *scan) take(e ledger.Entry) {
	s.at = e.Seq
	s.looked++
	switch r := e.Record; r.Type {
	case ledger.TypeDesired:
		if r.Desired.Provider == s.provider {
			s.owned = owners(r.Desired)
		}
	case ledger.TypeOp:
		if s.owned[r.Op.Guest.VMID] {
			s.begun[r.Op.ID] = *r.Op
		}
		s.ended(e, r.Op.ID, r.Op.Guest, r.Op.State, r.Op.Handle, r.Op.Message)
	case ledger.TypeStep:
		s.ended(e, r.Step.ID, r.Step.Guest, r.Step.State, r.Step.Handle, r.Step.Message)
	}
}

func owners(d *ledger.Desired) map[guest.VMID]bool {
	owned := map[guest.VMID]bool{}
	for v := range d.Guests {
		owned[v] = true
	}
	return owned
}

// ended keeps an outcome. Unknown is one: the source should know that it is
// not known.
func (s *scan) ended(e ledger.Entry, id string, g guest.ID, state op.State, handle, message string) {
	o, ours := s.begun[id]
	if !(state.Ended() || state == op.Unknown) || !(ours || s.owned[g.VMID]) {
		return
	}
	if state.Ended() {
		delete(s.begun, id)
	}
	if handle == "" {
		handle = o.Handle
	}
	s.outcomes = append(s.outcomes, plugin.ReportOutcome{
		Seq: e.Seq, Time: e.Time, Op: id, Guest: g, Kind: o.Kind, State: string(state),
		Asker: o.Asker, Reason: o.Reason, Handle: handle, Message: message,
	})
}

// body is the report of this moment.
func (t *teller) body() plugin.ReportBody {
	st, head := t.opt.Status(), t.opt.Head()
	b := plugin.ReportBody{
		Host: t.opt.Host, Provider: t.name, Version: t.opt.Version, Time: time.Now().UTC(), Mode: string(st.Mode),
		Head: plugin.Head{Seq: head.Seq, Hash: head.Hash}, From: t.scan.told, To: t.scan.at, Lost: t.lost, Outcomes: t.scan.outcomes,
	}
	for i, o := range b.Outcomes {
		if full, ok := t.opt.Op(o.Op); ok {
			b.Outcomes[i].Kind, b.Outcomes[i].Asker, b.Outcomes[i].Reason = full.Kind, full.Asker, full.Reason
			if o.Handle == "" {
				b.Outcomes[i].Handle = full.Handle
			}
		}
	}
	for _, p := range st.Providers {
		if p.Name == t.name {
			b.Revision, b.Serial, b.NotAfter, b.Error = p.Revision, p.Serial, p.NotAfter, p.Err
		}
	}
	for _, v := range st.Guests {
		switch {
		case v.Doc.Provider != t.name:
		case len(b.Guests) >= maxGuests:
			b.More++
		default:
			note := v.Note
			if note == "" {
				note = v.Err
			}
			b.Guests = append(b.Guests, plugin.ReportGuest{Guest: v.ID, Name: v.Name, State: v.State, Run: v.Run, Note: note, Seen: v.At})
		}
	}
	return b
}
