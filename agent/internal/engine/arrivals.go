// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"sync"
)

// arrivals are the hook events that are just being taken in. One event may
// arrive twice at once: its helper did not wait for a slow disk, and the spool
// has it while the first copy is still being synced. The second waits for what
// becomes of the first.
type arrivals struct {
	mu sync.Mutex
	at map[string]chan struct{} // by id, closed when its turn is over
}

// enter waits until no event with this id is being taken in. It fails only
// when ctx ends before.
func (a *arrivals) enter(ctx context.Context, id string) (leave func(), err error) {
	for {
		turn, before := a.take(id)
		if before == nil {
			return func() { a.leave(id, turn) }, nil
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take begins a turn, or returns the one that is under way.
func (a *arrivals) take(id string) (turn, before chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if before = a.at[id]; before != nil {
		return nil, before
	}
	if a.at == nil {
		a.at = map[string]chan struct{}{}
	}
	turn = make(chan struct{})
	a.at[id] = turn
	return turn, nil
}

func (a *arrivals) leave(id string, turn chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.at, id)
	close(turn)
}
