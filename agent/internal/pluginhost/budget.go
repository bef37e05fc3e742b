// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import "time"

// budget counts the recent failures of one plugin.
type budget struct {
	max      int
	window   time.Duration
	min, cap time.Duration
	recent   []time.Time
}

func newBudget(o Options, own Budget) *budget {
	b := &budget{max: o.Restart.Restarts, window: o.Restart.Window, min: o.BackoffMin, cap: o.BackoffMax}
	if own.Restarts > 0 {
		b.max = own.Restarts
	}
	if own.Window > 0 {
		b.window = own.Window
	}
	return b
}

// failed counts one more failure. It returns how long to wait before the next
// try, or false if there is none left.
func (b *budget) failed(now time.Time) (time.Duration, bool) {
	keep := b.recent[:0]
	for _, t := range b.recent {
		if now.Sub(t) < b.window {
			keep = append(keep, t)
		}
	}
	b.recent = append(keep, now)
	if len(b.recent) > b.max {
		return 0, false
	}
	return doubled(b.min, b.cap, len(b.recent)-1), true
}

func (b *budget) reset() { b.recent = nil }

// doubled is first, doubled n times, but never more than top.
func doubled(first, top time.Duration, n int) time.Duration {
	d := first
	for range n {
		if d >= top/2 {
			return top
		}
		d *= 2
	}
	return min(d, top)
}
