// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxHinted is how many guests a hint may name before it means all of them.
const maxHinted = 4096

// follow keeps a watch established until ctx ends. watch runs one stream and
// calls alive for each message of it. A stream that delivered something
// begins the backoff anew.
func (s *slot) follow(ctx context.Context, what string, watch func(alive func()) error) {
	for failures := 0; ; {
		err := watch(func() { failures = 0 })
		if ctx.Err() != nil {
			return
		}
		delay := doubled(s.opts.BackoffMin, s.opts.BackoffMax, failures)
		failures++
		s.log.Warn("watch ended", "watch", what, "error", err, "retry_in", delay)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (s *slot) followSnapshots(ctx context.Context, p *instance) {
	provider := p.client.Provider()
	s.follow(ctx, "provider", func(alive func()) error {
		return provider.Watch(ctx, func(snap plugin.Snapshot) error {
			alive()
			if s.opts.OnSnapshot == nil {
				return nil
			}
			return s.opts.OnSnapshot(ctx, s.spec.Name, snap)
		})
	})
}

// followHints follows an observer. What happened while no stream was
// established is not known, so each one begins with a hint about everything.
func (s *slot) followHints(ctx context.Context, p *instance) {
	observer := p.client.Observer()
	s.follow(ctx, "observer", func(alive func()) error {
		s.hint(ctx, plugin.Hint{All: true, Reason: "the watch of plugin " + s.spec.Name + " begins"})
		return observer.Watch(ctx, func(h plugin.Hint) error {
			alive()
			if len(h.Guests) > maxHinted {
				h = plugin.Hint{All: true, Reason: h.Reason}
			}
			s.hint(ctx, h)
			return nil
		})
	})
}

func (s *slot) hint(ctx context.Context, h plugin.Hint) {
	if s.opts.OnHint != nil {
		s.opts.OnHint(ctx, s.spec.Name, h)
	}
}
