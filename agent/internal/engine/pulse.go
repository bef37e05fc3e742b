// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// resyncStuck is how long one observation of the node may take before the
// resync loop counts as hung. A node under load answers each of its few calls
// within 35 s, or the call ends with an error.
const resyncStuck = 5 * time.Minute

// awake is since when the resync loop is at work, 0 while it waits.
type awake struct{ since atomic.Int64 }

func (a *awake) begin() { a.since.Store(time.Now().UnixNano()) }
func (a *awake) end()   { a.since.Store(0) }

// Pulse returns when the engine has proved that it works: the queue has taken
// a turn, the engine's own lock is free, and the resync loop is waiting or has
// not been at work for too long. It says nothing of single guests, one of
// which may be stuck, nor of PVE, which may be away.
func (e *Engine) Pulse(ctx context.Context) error {
	if err := e.queue.Pulse(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	resync := e.set.Resync // any use: what counts is that the lock is free
	e.mu.Unlock()
	if since := e.awake.since.Load(); since != 0 {
		if took := time.Since(time.Unix(0, since)); took > resyncStuck {
			return fmt.Errorf("the resync, due every %s, has been at work for %s", resync, took.Round(time.Second))
		}
	}
	return nil
}
