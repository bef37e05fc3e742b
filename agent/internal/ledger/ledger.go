// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// How much history the state keeps; older history is in the journal only.
const (
	keepEnded  = 500
	keepEvents = 4096
	keepRecent = 1024
	keepKeys   = 10_000
)

// Guest is what is remembered of one guest.
type Guest struct {
	ID          guest.ID  `json:"guest"`
	Incarnation string    `json:"incarnation,omitempty"`
	FirstSeen   time.Time `json:"first_seen,omitzero"`
	// Revision is that of its present desire, accepted at Since.
	Revision string    `json:"revision,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	// Settled is the revision at which it was last found as wanted.
	Settled string `json:"settled,omitempty"`
	// Held is why its run state is left alone although it is not as wanted.
	Held     string    `json:"held,omitempty"`
	HeldAt   time.Time `json:"held_at,omitzero"`
	Released time.Time `json:"released,omitzero"`
	Paused   bool      `json:"paused,omitempty"`
	// Phase is the last hook phase seen, at PhaseAt by the host's clock. Of this
	// and what follows PhaseEvent and its like are the ids of the hook events.
	Phase      guest.Phase `json:"phase,omitempty"`
	PhaseAt    time.Time   `json:"phase_at,omitzero"`
	PhaseEvent string      `json:"phase_event,omitempty"`
	// StartedAt is when a hook of its last start ran.
	StartedAt    time.Time `json:"started_at,omitzero"`
	StartedEvent string    `json:"started_event,omitempty"`
	// StopAsked is when somebody asked for the stop that is under way or was
	// the last: the time of its pre-stop. Zero after a start, and when the
	// guest went down by itself.
	StopAsked time.Time `json:"stop_asked,omitzero"`
	StopEvent string    `json:"stop_event,omitempty"`
	// ForceStop is set once a clean shutdown of ours failed.
	ForceStop bool `json:"force_stop,omitempty"`
	// HARequested is the run state requested from the HA stack at HARevision.
	HARequested guest.RunState      `json:"ha_requested,omitempty"`
	HARevision  string              `json:"ha_revision,omitempty"`
	SetAside    map[string]SetAside `json:"set_aside,omitempty"`

	// Evidence is what tells that it is the same guest; Explained are the
	// parts of it that ops of ours may have changed since.
	Evidence  *identity.Evidence `json:"evidence,omitempty"`
	Explained []string           `json:"explained,omitempty"`
	// Verdict is the last one on whether it is the same; "" is as Same.
	Verdict    identity.Verdict     `json:"verdict,omitempty"`
	VerdictWhy []string             `json:"verdict_why,omitempty"`
	Continuity *identity.Continuity `json:"continuity,omitempty"`
	// Looked is when Evidence was seen, by the node's clock.
	Looked time.Time `json:"looked,omitzero"`
	// Lost says why the guest is not made although it is not here: it was.
	Lost string `json:"lost,omitempty"`
	// Removed is the op of ours that destroyed it; HalfMade the one that was
	// to make it and did not succeed: what is there is its work at best.
	Removed    string      `json:"removed,omitempty"`
	HalfMade   string      `json:"half_made,omitempty"`
	Quarantine *Quarantine `json:"quarantine,omitempty"`
}

type state struct {
	Guests  map[guest.VMID]*Guest `json:"guests"`
	Ops     map[string]*op.Op     `json:"ops"`
	Ended   []string              `json:"ended"` // ids of ended ops, oldest first
	Desired map[string]*Desired   `json:"desired"`
	Events  []string              `json:"events"` // ids of accepted events, oldest first
	Keys    []Key                 `json:"keys"`   // idempotency keys, oldest first
	Paused  bool                  `json:"paused,omitempty"`
	Boot    string                `json:"boot,omitempty"`
	// Approvals are by op, Permits by hash; Nonces are the used ones, oldest
	// first.
	Approvals map[string]*Approval `json:"approvals,omitempty"`
	Permits   map[string]*Permit   `json:"permits,omitempty"`
	Nonces    []string             `json:"nonces,omitempty"`
	// Began is when the agent's present run began.
	Began time.Time `json:"began,omitzero"`
	// Whole is from when on all ended ops are remembered, zero if all are.
	Whole time.Time `json:"whole,omitzero"`
}

func newState() state {
	return state{
		Guests: map[guest.VMID]*Guest{}, Ops: map[string]*op.Op{}, Desired: map[string]*Desired{},
		Approvals: map[string]*Approval{}, Permits: map[string]*Permit{},
	}
}

// Entry is a record with its place in the journal.
type Entry struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Record Record    `json:"record"`
}

// Ledger is the state. It is safe for concurrent use; what it hands out are
// copies.
type Ledger struct {
	mu      sync.RWMutex
	s       state
	seen    map[string]bool
	recent  []Entry
	changed chan struct{}
}

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{s: newState(), seen: map[string]bool{}, changed: make(chan struct{})}
}

// Snapshot is the state as JSON.
func (l *Ledger) Snapshot() ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return json.Marshal(l.s)
}

// Restore replaces the state by a snapshot.
func (l *Ledger) Restore(b []byte) error {
	s := newState()
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("restore ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s = s
	l.seen = map[string]bool{}
	for _, id := range s.Events {
		l.seen[id] = true
	}
	return nil
}

// Apply folds one journal entry.
func (l *Ledger) Apply(e journal.Entry) error {
	r, err := Decode(e.Payload)
	if err != nil {
		return fmt.Errorf("journal entry %d: %w", e.Seq, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.apply(r, e.Time); err != nil {
		return fmt.Errorf("journal entry %d: %w", e.Seq, err)
	}
	l.recent = append(l.recent, Entry{Seq: e.Seq, Time: e.Time, Record: r})
	if n := len(l.recent) - keepRecent; n > 0 {
		l.recent = slices.Delete(l.recent, 0, n)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *Ledger) apply(r Record, at time.Time) error {
	switch r.Type {
	case TypeAgent:
		l.boot(r.Agent.Boot)
		if r.Agent.What == Started {
			l.s.Began = at
		}
	case TypeEvent:
		l.event(r.Event)
	case TypeDesired:
		l.desired(r.Desired, at)
	case TypeOp:
		return l.op(r.Op)
	case TypeStep:
		return l.step(r.Step, at)
	case TypeKey:
		l.s.Keys = append(l.s.Keys, *r.Key)
		if n := len(l.s.Keys) - keepKeys; n > 0 {
			l.s.Keys = slices.Delete(l.s.Keys, 0, n)
		}
	case TypeSeen:
		g := l.guest(r.Seen.Guest.VMID)
		if g.Incarnation != "" {
			break // two looked at the same time: the first one's word counts
		}
		g.ID, g.Incarnation, g.FirstSeen = r.Seen.Guest, r.Seen.Incarnation, at
		g.Evidence, g.Looked, g.Explained = r.Seen.Evidence, r.Seen.Looked, nil
		g.Verdict, g.Continuity, g.Lost, g.Removed = "", nil, "", ""
	case TypeSettled:
		g := l.guest(r.Settled.VMID)
		g.Settled = r.Settled.Revision
		g.SetAside = nil
	case TypeHeld:
		l.held(r.Held, at)
	case TypeReleased:
		g := l.guest(r.Released.VMID)
		g.Released, g.Held = at, ""
		g.stopAsked(moment{})
	case TypePaused:
		if r.Paused.VMID == 0 {
			l.s.Paused = r.Paused.On
		} else {
			l.guest(r.Paused.VMID).Paused = r.Paused.On
		}
	case TypeSetAside:
		g := l.guest(r.SetAside.VMID)
		if g.SetAside == nil {
			g.SetAside = map[string]SetAside{}
		}
		g.SetAside[r.SetAside.Key] = *r.SetAside
	default:
		l.applyGate(r, at)
	}
	// A type this version does not know is kept in the journal and ignored.
	return nil
}

// boot notes the host's boot id. After a boot no guest is in transition any
// more, and nobody asked for the stops that the host's going down brought.
func (l *Ledger) boot(id string) {
	if id == "" || id == l.s.Boot {
		return
	}
	if l.s.Boot != "" {
		for _, g := range l.s.Guests {
			g.phase("", moment{})
			g.started(moment{})
			g.stopAsked(moment{})
		}
	}
	l.s.Boot = id
}

func (l *Ledger) guest(v guest.VMID) *Guest {
	g := l.s.Guests[v]
	if g == nil {
		g = &Guest{ID: guest.ID{VMID: v}}
		l.s.Guests[v] = g
	}
	return g
}

func (l *Ledger) event(ev *hook.Event) {
	if l.seen[ev.ID] {
		return
	}
	l.seen[ev.ID] = true
	l.s.Events = append(l.s.Events, ev.ID)
	if len(l.s.Events) > keepEvents {
		delete(l.seen, l.s.Events[0])
		l.s.Events = slices.Delete(l.s.Events, 0, 1)
	}
	l.guest(ev.VMID).event(ev.Phase, moment{time.Unix(0, ev.Time), ev.ID})
}

// held notes a hold's beginning or end. With its end the stop that it was
// about is over too, even if no hook told of the start.
func (l *Ledger) held(h *Held, at time.Time) {
	g := l.guest(h.VMID)
	if h.Why == "" && g.StopAsked.Before(g.HeldAt) {
		g.stopAsked(moment{})
	}
	g.Held, g.HeldAt = h.Why, at
}

func (l *Ledger) desired(d *Desired, at time.Time) {
	if old := l.s.Desired[d.Provider]; old != nil {
		for v := range old.Guests {
			if _, still := d.Guests[v]; !still && l.s.Guests[v] != nil {
				l.s.Guests[v].Revision = ""
			}
		}
	}
	l.s.Desired[d.Provider] = d
	for v, rev := range d.Guests {
		if g := l.guest(v); g.Revision != rev {
			g.Revision, g.Since, g.SetAside = rev, at, nil
			g.ForceStop, g.HARequested, g.Held = false, "", ""
		}
	}
}

// Check says why a record about an op would break its life. Who journals such
// records checks them first, and lets nobody move the op in between: what is
// wrong in the journal is wrong for good.
func (l *Ledger) Check(r Record) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case r.Op != nil:
		now := op.State("")
		if o := l.s.Ops[r.Op.ID]; o != nil {
			now = o.State
		}
		if !now.Can(r.Op.State) {
			return fmt.Errorf("op %s is %q by now and cannot become %q", r.Op.ID, now, r.Op.State)
		}
	case r.Step != nil:
		o := l.s.Ops[r.Step.ID]
		if o == nil {
			return fmt.Errorf("op %s is not known", r.Step.ID)
		}
		if r.Step.From != "" && o.State != r.Step.From || !o.State.Can(r.Step.State) {
			return fmt.Errorf("op %s is %q by now and cannot become %q", o.ID, o.State, r.Step.State)
		}
	case r.Quarantine != nil && r.Quarantine.Over == "":
		if o := l.s.Ops[r.Quarantine.Op]; o == nil || o.State != op.Granted && o.State != op.Retried {
			return fmt.Errorf("op %s is not granted any more: no quarantine for it", r.Quarantine.Op)
		}
	}
	return nil
}

func (l *Ledger) op(o *op.Op) error {
	old := l.s.Ops[o.ID]
	if old != nil {
		moved := *old
		if err := moved.Move(o.State); err != nil {
			return err
		}
	} else if !op.State("").Can(o.State) {
		return fmt.Errorf("op %s begins in state %q", o.ID, o.State)
	}
	c := *o
	l.s.Ops[o.ID] = &c
	if old != nil && old.Request != o.Request {
		delete(l.s.Approvals, o.ID) // it was for another text
	}
	l.consume(o, old)
	if o.State == op.Intent && len(o.Explains) > 0 {
		g := l.guest(o.Guest.VMID)
		g.Explained = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(g.Explained), o.Explains...))))
	}
	return nil
}

func (l *Ledger) step(st *Step, at time.Time) error {
	o := l.s.Ops[st.ID]
	if o == nil {
		return fmt.Errorf("op %s is not known", st.ID)
	}
	if err := o.Move(st.State); err != nil {
		return err
	}
	o.Handle = cmp.Or(st.Handle, o.Handle)
	o.Message = cmp.Or(st.Message, o.Message)
	if st.Undo != nil {
		o.Undo = st.Undo
	}
	if st.Made != nil {
		o.Made = st.Made
	}
	if o.State.Ended() {
		o.Ended = at
		l.ended(o)
	}
	return nil
}

// ended draws the conclusions of an op's end and forgets the oldest.
func (l *Ledger) ended(o *op.Op) {
	g := l.guest(o.Guest.VMID)
	switch {
	case o.Kind == plugin.Shutdown && o.State == op.Failed:
		g.ForceStop = true
	case o.State == op.Succeeded && o.Params["ha"] != "":
		g.HARequested, g.HARevision = guest.RunState(o.Params["ha"]), o.Revision
	case o.State == op.Succeeded:
		g.ForceStop = false
	}
	l.endedGate(o)
	l.s.Ended = append(l.s.Ended, o.ID)
	if len(l.s.Ended) > keepEnded {
		l.forgetOldest()
	}
}

// forgetOldest forgets the op that ended first, but for the steps of an op that
// has not ended.
func (l *Ledger) forgetOldest() {
	i := slices.IndexFunc(l.s.Ended, func(id string) bool {
		o := l.s.Ops[id]
		return o == nil || o.Parent == "" || l.s.Ops[o.Parent] == nil || l.s.Ops[o.Parent].State.Ended()
	})
	if i < 0 {
		return
	}
	if o := l.s.Ops[l.s.Ended[i]]; o != nil && o.Ended.After(l.s.Whole) {
		l.s.Whole = o.Ended
	}
	delete(l.s.Ops, l.s.Ended[i])
	l.s.Ended = slices.Delete(l.s.Ended, i, i+1)
}
