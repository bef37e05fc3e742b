// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
)

// errNoTurn is why a pulse failed.
var errNoTurn = errors.New("queue: Run took no turn")

// Pulse returns when Run has gone through its loop once more: nobody keeps the
// queue's lock, and work that is due is handed out. It fails when ctx ends
// first, or Run has ended. Where somebody keeps the lock it does not return.
func (q *Queue[K]) Pulse(ctx context.Context) error {
	turn := make(chan struct{})
	q.mu.Lock()
	q.pulses = append(q.pulses, turn)
	q.mu.Unlock()
	q.wakeRun()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return errors.Join(errNoTurn, context.Cause(ctx))
	}
}

// beatLocked answers those who wait for a turn.
func (q *Queue[K]) beatLocked() {
	for _, turn := range q.pulses {
		close(turn)
	}
	q.pulses = nil
}
