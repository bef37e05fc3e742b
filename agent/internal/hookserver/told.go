// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"net/http"
	"time"

	"github.com/felhom/felhom-agent/pkg/hook"
)

const (
	// maxTold bounds what helpers tell of while the sink is busy. What is more
	// waits in the spool.
	maxTold = 1024
	// maxBatch bounds what the sink gets at once.
	maxBatch = 256
	// gatherTime is how long after a batch the next begins. Each costs a sync; at
	// a boot, when hundreds of guests start on processors that are all busy, that
	// would be a sync and some wake-ups for each hook.
	gatherTime = 10 * time.Millisecond
)

// tell leaves an event to gather. It answers for the helper that has spooled it
// and waits for nothing.
func (s *Server) tell(e hook.Event) (status int) {
	select {
	case s.told <- e:
		return http.StatusAccepted
	default:
		return http.StatusServiceUnavailable
	}
}

// gather hands over what helpers told of, the first at once and then in batches,
// until ctx ends. What the sink does not take is still in the spool, where the
// spool's reader finds it.
func (s *Server) gather(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.told:
			s.takeIn(ctx, s.batch(e))
		}
		if !pause(ctx, gatherTime) {
			return
		}
	}
}

// batch is first and what else has been told by now.
func (s *Server) batch(first hook.Event) []hook.Event {
	events := []hook.Event{first}
	for len(events) < maxBatch {
		select {
		case e := <-s.told:
			events = append(events, e)
		default:
			return events
		}
	}
	return events
}

func (s *Server) takeIn(ctx context.Context, events []hook.Event) {
	if err := s.opt.Sink.Events(ctx, events); err != nil {
		if ctx.Err() == nil {
			s.log.Error("hook socket: events not taken in, they stay in the spool", "events", len(events), "err", err)
		}
		return
	}
	for _, e := range events {
		s.log.Debug("hook event", "guest", e.VMID, "phase", e.Phase, "id", e.ID)
		s.unspool(e)
	}
}

// unspool saves the spool's reader the work.
func (s *Server) unspool(e hook.Event) {
	if s.opt.Spool == "" {
		return
	}
	if err := hook.Unspool(s.opt.Spool, e); err != nil {
		s.log.Warn("hook socket: an event that is taken in stays in the spool", "id", e.ID, "err", err)
	}
}
