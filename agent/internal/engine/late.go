// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/queue"
)

// retryFull is how soon ops that found the queue full are tried again.
const retryFull = 10 * time.Second

// late are ops that are on disk and found no place in a full queue. They keep
// their order.
type late struct {
	mu  sync.Mutex // guards what follows, and the order of what is submitted
	ops []op.Op
	// placed are the tickets of this kind, by op, as long as they may not have
	// begun. An op is not queued again while it is sure to be looked at.
	placed map[string]*queue.Ticket
}

// submitOrder puts an op that is on disk on its guest's lane. If the queue is
// full it gets its place once there is room, and the ticket is nil.
func (e *Engine) submitOrder(o op.Op) *queue.Ticket {
	e.late.mu.Lock()
	defer e.late.mu.Unlock()
	if slices.ContainsFunc(e.late.ops, func(l op.Op) bool { return l.ID == o.ID }) {
		return nil
	}
	return e.submitLocked(o)
}

func (e *Engine) submitLocked(o op.Op) *queue.Ticket {
	if t := e.late.placed[o.ID]; t != nil && !t.Begun() {
		return t
	}
	before := slices.ContainsFunc(e.late.ops, func(l op.Op) bool { return l.Guest.VMID == o.Guest.VMID })
	if !before {
		t, err := e.queue.Submit(o.Guest.VMID, request{id: o.ID})
		if err == nil {
			e.late.place(o.ID, t)
			return t
		}
		e.log.Warn("cannot take up an op", "guest", o.Guest.String(), "op", o.ID, "err", err)
		if !errors.Is(err, queue.ErrFull) {
			return nil // the next start does it again
		}
	}
	if len(e.late.ops) == 0 {
		time.AfterFunc(retryFull, e.submitLate)
	}
	e.late.ops = append(e.late.ops, o)
	return nil
}

func (l *late) place(id string, t *queue.Ticket) {
	maps.DeleteFunc(l.placed, func(_ string, t *queue.Ticket) bool { return t.Begun() })
	if l.placed == nil {
		l.placed = map[string]*queue.Ticket{}
	}
	l.placed[id] = t
}

// submitLate tries again what found no place.
func (e *Engine) submitLate() {
	e.late.mu.Lock()
	defer e.late.mu.Unlock()
	ops := e.late.ops
	e.late.ops = nil
	for _, o := range ops {
		e.submitLocked(o)
	}
}
