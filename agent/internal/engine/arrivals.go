// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"sync"

	"github.com/felhom/felhom-agent/pkg/hook"
)

// arrivals are the hook events that are just being taken in. One event may
// arrive twice at once: its helper told of it, and the spool has it while the
// first copy is still being synced. The second waits for what becomes of the
// first.
type arrivals struct {
	mu sync.Mutex
	at map[string]chan struct{} // by id, closed when its turn is over
}

// enter waits until none of these events is being taken in, and holds none up
// meanwhile. It fails only when ctx ends before.
func (a *arrivals) enter(ctx context.Context, events []hook.Event) (leave func(), err error) {
	for {
		turn, before := a.take(events)
		if before == nil {
			return func() { a.leave(events, turn) }, nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take begins a turn of all of them, or returns one that is under way.
func (a *arrivals) take(events []hook.Event) (turn, before chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ev := range events {
		if before = a.at[ev.ID]; before != nil {
			return nil, before
		}
	}
	if a.at == nil {
		a.at = map[string]chan struct{}{}
	}
	turn = make(chan struct{})
	for _, ev := range events {
		a.at[ev.ID] = turn
	}
	return turn, nil
}

func (a *arrivals) leave(events []hook.Event, turn chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ev := range events {
		delete(a.at, ev.ID)
	}
	close(turn)
}
