// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package mainlog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// The rate of the main log: a burst, and so many lines a second after it. Half
// of the burst is kept for warnings and errors, so that a flood of chatter
// does not push out what matters.
const (
	burst   = 2000
	perSec  = 20
	reserve = burst / 2
)

// Bound lets through what a rate allows, and reports how much it dropped.
func Bound(next slog.Handler) slog.Handler {
	return &bounded{next: next, b: &bucket{tokens: burst, at: time.Now()}}
}

type bounded struct {
	next slog.Handler
	b    *bucket // shared by all handlers made from one
}

// bucket is what is left of the rate.
type bucket struct {
	mu      sync.Mutex // guards what follows
	tokens  float64
	at      time.Time
	dropped int
}

// take says whether a line may go, and how many were dropped before it.
func (b *bucket) take(l slog.Level) (ok bool, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(burst, b.tokens+perSec*now.Sub(b.at).Seconds())
	b.at = now
	least := 1.0
	if l < slog.LevelWarn {
		least += reserve
	}
	if b.tokens < least {
		b.dropped++
		return false, 0
	}
	b.tokens--
	dropped, b.dropped = b.dropped, 0
	return true, dropped
}

// Enabled implements slog.Handler.
func (h *bounded) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *bounded) Handle(ctx context.Context, r slog.Record) error {
	ok, dropped := h.b.take(r.Level)
	if !ok {
		return nil
	}
	if dropped > 0 {
		note := slog.NewRecord(r.Time, slog.LevelWarn, "the log was too fast, lines are missing", 0)
		note.AddAttrs(slog.Int("dropped_lines", dropped))
		if err := h.next.Handle(ctx, note); err != nil {
			return err
		}
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *bounded) WithAttrs(a []slog.Attr) slog.Handler { return &bounded{h.next.WithAttrs(a), h.b} }

// WithGroup implements slog.Handler.
func (h *bounded) WithGroup(name string) slog.Handler { return &bounded{h.next.WithGroup(name), h.b} }
