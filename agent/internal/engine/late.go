// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
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
	before := slices.ContainsFunc(e.late.ops, func(l op.Op) bool { return l.Guest.VMID == o.Guest.VMID })
	if !before {
		t, err := e.queue.Submit(o.Guest.VMID, request{id: o.ID})
		if err == nil {
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
