// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package reporter

import (
	"cmp"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// scan goes through the journal and keeps what a source is to be told.
type scan struct {
	told, at uint64 // the source knows up to told; at is the last one looked at
	looked   int
	size     int // of the outcomes, about
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

func (s *scan) full() bool {
	return len(s.outcomes) >= maxOutcomes || s.size >= maxOutcomesSize || s.looked >= maxScan
}

// begin begins another round over the journal.
func (s *scan) begin() {
	if len(s.outcomes) == 0 {
		s.looked = 0
	}
}

// said begins the next report.
func (s *scan) said() { s.told, s.looked, s.size, s.outcomes = s.at, 0, 0, nil }

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
	message = clip(message, maxMessage)
	s.size += jsonSize(message) + outcomeSize
	s.outcomes = append(s.outcomes, plugin.ReportOutcome{
		Seq: e.Seq, Time: e.Time, Op: id, Guest: g, Kind: o.Kind, State: string(state),
		Asker: clip(o.Asker, maxText), Reason: clip(o.Reason, maxText), Handle: clip(handle, 2*maxText), Message: message,
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
			b.Outcomes[i].Kind, b.Outcomes[i].Asker, b.Outcomes[i].Reason = full.Kind, clip(full.Asker, maxText), clip(full.Reason, maxText)
			if o.Handle == "" {
				b.Outcomes[i].Handle = clip(full.Handle, 2*maxText)
			}
		}
	}
	for _, p := range st.Providers {
		if p.Name == t.name {
			b.Revision, b.Serial, b.NotAfter, b.Error = p.Revision, p.Serial, p.NotAfter, clip(p.Err, maxMessage)
		}
	}
	b.Guests, b.More = guestsOf(t.name, st.Guests)
	return b
}

// guestsOf is how the guests of a provider stand, and how many were left out.
func guestsOf(provider string, all []engine.View) (told []plugin.ReportGuest, more int) {
	size := 0
	for _, v := range all {
		switch {
		case v.Doc.Provider != provider:
		case len(told) >= maxGuests || size >= maxGuestsSize:
			more++
		default:
			g := plugin.ReportGuest{
				Guest: v.ID, Name: clip(v.Name, maxText), State: v.State, Run: v.Run, Note: clip(cmp.Or(v.Note, v.Err), 4*maxText), Seen: v.At,
			}
			size += jsonSize(g.Name) + jsonSize(g.Note) + maxText
			told = append(told, g)
		}
	}
	return told, more
}

// clip cuts a text to so many bytes of JSON.
func clip(s string, most int) string {
	const mark = "..."
	n, cut := 0, 0
	for i, r := range s {
		if n <= most-len(mark) {
			cut = i
		}
		if n += runeSize(r); n > most {
			return s[:cut] + mark
		}
	}
	return s
}

func jsonSize(s string) (n int) {
	for _, r := range s {
		n += runeSize(r)
	}
	return n
}

// runeSize is how many bytes encoding/json makes of a rune, at most.
func runeSize(r rune) int {
	switch {
	case r < ' ', r == '<', r == '>', r == '&', r == 0x7f, r == '\u2028', r == '\u2029', r == utf8.RuneError:
		return 6
	case r == '"', r == '\\':
		return 2
	}
	return utf8.RuneLen(r)
}
