// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"time"
)

// Ticket stands for a submitted item. Its methods may be called from any goroutine.
type Ticket struct {
	// ID is unique in its queue and grows with submit order.
	ID uint64

	value         any
	urgent, abort bool
	since         time.Time
	lane          interface {
		cancel(*Ticket, error) bool
		begun(*Ticket) bool
	}
	done chan struct{}

	// The queue's lock guards what follows; result and err are settled before done is closed.
	attempts  int
	notBefore time.Time
	// idle: it waits and nothing of it is under way.
	idle bool
	// cause is why it is to be cancelled; pending: the next attempt's context is cancelled with it.
	cause    error
	pending  bool
	finished bool
	result   any
	err      error
}

// Done is closed when the item is finished, cancelled or given up.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Wait returns the item's result and error, or ctx's cause if that ends first; the item goes on then.
func (t *Ticket) Wait(ctx context.Context) (any, error) {
	select {
	case <-t.done:
		return t.result, t.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Begun tells whether the item was started at least once, or will not be.
func (t *Ticket) Begun() bool { return t.lane.begun(t) }

// Cancel takes the item out if it did not start, and tells whether it did so. A started one has its context cancelled
// with the cause, or is woken up with such a context if it waits; how it ends is its handler's decision.
func (t *Ticket) Cancel(cause error) (removed bool) { return t.lane.cancel(t, cause) }

// wake ends the pause of a started item, for one attempt under a cancelled context. It does not change who goes first:
// an urgent item that may pass it still does.
func (t *Ticket) wake(cause error) {
	if t.attempts > 0 {
		t.cause, t.pending, t.notBefore = cause, true, time.Time{}
	}
}
