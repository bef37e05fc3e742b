// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// window is the time in which a request that was sent may take effect, in the
// wall clock's present terms. How long ago the sending was is taken from the
// monotonic clock: somebody may have set the wall clock since.
type window struct {
	sent, until time.Time
	// doubtful: the wall clock was set back since, and nobody knows by how
	// much: a task that is not found proves nothing.
	doubtful bool
}

// sends notes that a request about the guest goes out now.
func (e *Engine) sends(id guest.VMID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sentAt[id] = time.Now()
}

// windowOf is the window of an op that was sent. Of a request that an earlier
// process sent it is only known that it went out before this one began.
func (e *Engine) windowOf(o *op.Op) window {
	e.mu.Lock()
	at, ours := e.sentAt[o.Guest.VMID]
	e.mu.Unlock()
	if !ours {
		at = e.began
	}
	ago, now := time.Since(at), e.opt.Wall()
	w := window{sent: o.Sent, until: now.Add(inFlight - ago)}
	if by := now.Add(-ago); by.Before(o.Sent) {
		w.sent, w.doubtful = by, !ours
	}
	return w
}
