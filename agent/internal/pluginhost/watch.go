// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxHinted is how many guests a hint may name before it means all of them.
const maxHinted = 4096

// pace bounds how fast a watch delivers: so many at once, and then one in each
// gap. The plugin waits, as its next message is not taken before. A set that is
// new is journalled, one that is refused is logged, and a hint has the node
// asked, so how often that happens is not the plugin's to say.
type pace struct {
	burst int
	gap   time.Duration
	due   time.Time
}

func snapshotPace() *pace { return &pace{burst: 20, gap: time.Second} }
func hintPace() *pace     { return &pace{burst: 200, gap: 100 * time.Millisecond} }

// wait returns when the next one may be taken, or when ctx ends.
func (p *pace) wait(ctx context.Context) {
	now := time.Now()
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(p.gap)
	over := p.due.Sub(now) - time.Duration(p.burst)*p.gap
	if over <= 0 {
		return
	}
	timer := time.NewTimer(over)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

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

// followSnapshots follows a provider. A watch that ended is told as a source
// that cannot be read: its set gets old, and the plugin runs.
func (s *slot) followSnapshots(ctx context.Context, p *instance) {
	provider, pace := p.client.Provider(), snapshotPace()
	s.follow(ctx, "provider", func(alive func()) error {
		err := provider.Watch(ctx, func(snap plugin.Snapshot) error {
			alive()
			pace.wait(ctx)
			return s.snapshot(ctx, snap)
		})
		if ctx.Err() == nil && !errors.Is(err, plugin.ErrShutdown) { // that is told as the plugin's state
			_ = s.snapshot(ctx, plugin.Snapshot{Err: fmt.Sprintf("the watch of plugin %s ended: %v", s.spec.Name, err)})
		}
		return err
	})
}

func (s *slot) snapshot(ctx context.Context, snap plugin.Snapshot) error {
	if s.opts.OnSnapshot == nil {
		return nil
	}
	return s.opts.OnSnapshot(ctx, s.spec.Name, snap)
}

// followHints follows an observer. What happened while no stream was
// established is not known, so each one begins with a hint about everything.
func (s *slot) followHints(ctx context.Context, p *instance) {
	observer, pace := p.client.Observer(), hintPace()
	s.follow(ctx, "observer", func(alive func()) error {
		s.hint(ctx, plugin.Hint{All: true, Reason: "the watch of plugin " + s.spec.Name + " begins"})
		return observer.Watch(ctx, func(h plugin.Hint) error {
			alive()
			pace.wait(ctx)
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
