// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// Guest returns what is remembered of a guest; the zero Guest if nothing is.
func (l *Ledger) Guest(v guest.VMID) Guest {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.s.Guests[v]
	if g == nil {
		return Guest{ID: guest.ID{VMID: v}}
	}
	c := *g
	c.SetAside = maps.Clone(g.SetAside)
	return c
}

// Open returns the guest's op that has not ended, if there is one. Ops that
// only wait (planned, awaiting approval) are not open.
func (l *Ledger) Open(v guest.VMID) (op.Op, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, o := range l.s.Ops {
		if o.Guest.VMID == v && (o.State.InFlight() || o.State == op.Unknown) {
			return *o, true
		}
	}
	return op.Op{}, false
}

// Ops returns all ops that are remembered, oldest first.
func (l *Ledger) Ops() []op.Op {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]op.Op, 0, len(l.s.Ops))
	for _, o := range l.s.Ops {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b op.Op) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// OpsOf returns the remembered ops of one guest, in no order.
func (l *Ledger) OpsOf(v guest.VMID) []op.Op {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []op.Op
	for _, o := range l.s.Ops {
		if o.Guest.VMID == v {
			out = append(out, *o)
		}
	}
	return out
}

// Desired returns the last accepted snapshot of a provider, or nil.
func (l *Ledger) Desired(provider string) *Desired {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.Desired[provider] // never changed once stored
}

// Paused reports whether the operator paused the whole host.
func (l *Ledger) Paused() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.Paused
}

// Key returns what an idempotency key was used for.
func (l *Ledger) Key(key string) (Key, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := slices.IndexFunc(l.s.Keys, func(k Key) bool { return k.Key == key })
	if i < 0 {
		return Key{}, false
	}
	return l.s.Keys[i], true
}

// Began is when the agent's present run began, by its journal.
func (l *Ledger) Began() time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.Began
}

// Whole is from when on all ops that ended are remembered; zero if all are.
func (l *Ledger) Whole() time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.Whole
}

// SeenEvent reports whether an event id has been accepted.
func (l *Ledger) SeenEvent(id string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.seen[id]
}

// Since returns the entries after seq that are still in memory, and a channel
// that is closed at the next entry.
func (l *Ledger) Since(seq uint64) ([]Entry, <-chan struct{}) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i, _ := slices.BinarySearchFunc(l.recent, seq+1, func(e Entry, s uint64) int { return cmp.Compare(e.Seq, s) })
	return slices.Clone(l.recent[i:]), l.changed
}

// Op returns one op that is remembered.
func (l *Ledger) Op(id string) (op.Op, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	o := l.s.Ops[id]
	if o == nil {
		return op.Op{}, false
	}
	return *o, true
}
