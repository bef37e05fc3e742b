// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"errors"
	"fmt"
)

// EventKind is a step in the life of a piece of work.
type EventKind int

// The steps. An item is Submitted, then Started and Paused any number of times, then Finished; or Cancelled while it
// was not at work. A look is Started and Finished.
const (
	Submitted EventKind = iota
	Started
	Paused
	Finished
	Cancelled
)

func (k EventKind) String() string {
	return [...]string{"submitted", "started", "paused", "finished", "cancelled"}[k]
}

// Event is one step, for Options.History.
type Event[K comparable] struct {
	Kind EventKind
	Key  K
	// ID is the ticket's, 0 for a look.
	ID uint64
	// Idle, of a pause: an urgent item may start before the paused one goes on.
	Look, Urgent, Idle bool
}

func (e Event[K]) String() string {
	what := fmt.Sprintf("item %d", e.ID)
	switch {
	case e.Look:
		what = "look"
	case e.Urgent:
		what = fmt.Sprintf("urgent item %d", e.ID)
	}
	return fmt.Sprintf("%v: %s %s", e.Key, what, e.Kind)
}

func (q *Queue[K]) note(e Event[K]) {
	if q.o.History != nil {
		q.o.History(e)
	}
}

// CheckHistory tells whether a history keeps what the package promises: work of a key never overlaps, items start in
// submit order, urgent ones among themselves too, nothing passes an item that is paused and not idle, no look starts
// before an item that waits, and each step follows from the one before. The history must begin with the queue's.
func CheckHistory[K comparable](events []Event[K]) error {
	lanes := map[K]*laneHistory{}
	for i, e := range events {
		l := lanes[e.Key]
		if l == nil {
			l = &laneHistory{state: map[uint64]EventKind{}, urgent: map[uint64]bool{}, idle: map[uint64]bool{}}
			lanes[e.Key] = l
		}
		if err := l.step(e.Kind, e.ID, e.Look, e.Urgent, e.Idle); err != nil {
			return fmt.Errorf("event %d, %s: %w", i, e, err)
		}
	}
	return nil
}

// laneHistory is one key's part of a history.
type laneHistory struct {
	busy bool
	// at is the item at work, 0 for a look.
	at uint64
	// waiting are the items that are not finished, in submit order; state is the last step of each.
	waiting      []uint64
	state        map[uint64]EventKind
	urgent, idle map[uint64]bool
}

func (l *laneHistory) step(kind EventKind, id uint64, look, urgent, idle bool) error {
	switch kind {
	case Submitted:
		l.waiting = append(l.waiting, id)
		l.state[id], l.urgent[id] = Submitted, urgent
		return nil
	case Started:
		return l.start(id, look)
	case Cancelled:
		if state, known := l.state[id]; !known || state != Submitted && state != Paused {
			return errors.New("it is at work, has ended or was never submitted")
		}
	default:
		if !l.busy || l.at != id {
			return errors.New("it is not at work")
		}
		l.busy = false
	}
	if look {
		return nil
	}
	l.state[id], l.idle[id] = kind, idle
	if kind != Paused {
		l.drop(id)
	}
	return nil
}

func (l *laneHistory) start(id uint64, look bool) error {
	switch {
	case l.busy:
		return fmt.Errorf("item %d (0: a look) of the key is at work", l.at)
	case look && len(l.waiting) > 0:
		return fmt.Errorf("item %d waits", l.waiting[0])
	}
	l.busy, l.at = true, id
	if look {
		return nil
	}
	if _, known := l.state[id]; !known {
		return errors.New("it was never submitted")
	}
	for _, other := range l.waiting {
		if other != id && l.blocks(other, id) {
			return fmt.Errorf("item %d (%s) goes first", other, l.state[other])
		}
	}
	l.state[id] = Started
	return nil
}

// blocks tells whether an item that is not finished must start, or go on, before another.
func (l *laneHistory) blocks(other, id uint64) bool {
	if l.state[other] == Paused {
		return !l.idle[other] || !l.urgent[id] || l.urgent[other]
	}
	begun := l.state[id] == Paused
	switch {
	case l.urgent[id] == l.urgent[other]:
		return other < id && !begun
	default:
		return l.urgent[other] && (!begun || l.idle[id])
	}
}

func (l *laneHistory) drop(id uint64) {
	for i, w := range l.waiting {
		if w == id {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return
		}
	}
}
