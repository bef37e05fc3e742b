// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// BreakerOptions say when one key is to be left alone.
type BreakerOptions struct {
	// Max is how many times may be counted within Window; one more opens the breaker.
	Max    int
	Window time.Duration
	// Quiet is how long nothing must be counted for an open breaker to close by itself; 0 is never.
	Quiet time.Duration
}

// Trip is an open breaker.
type Trip[K comparable] struct {
	Key K
	// Since is when it opened, Last the last time something was counted, Count how often within the window that opened
	// it and since.
	Since, Last time.Time
	Count       int
	// Until is when it closes if it stays quiet; zero is never.
	Until time.Time
}

// Breaker opens for a key that something happens to too often, such as starts of a guest that crashes each time. It only
// counts and tells; whoever asks must leave the key alone.
type Breaker[K comparable] struct {
	o BreakerOptions
	// mu guards what follows.
	mu   sync.Mutex
	keys map[K]*tally
	// pruneAt is the number of keys at which old ones are looked for.
	pruneAt int
}

// tally is what was counted of a key: the times within the window while it is closed.
type tally struct {
	times       []time.Time
	since, last time.Time
	count       int
}

func (t *tally) open() bool { return !t.since.IsZero() }

// NewBreaker makes a breaker that is closed for all keys.
func NewBreaker[K comparable](o BreakerOptions) (*Breaker[K], error) {
	if o.Max < 1 || o.Window <= 0 || o.Quiet < 0 {
		return nil, fmt.Errorf("breaker: max %d within %s, quiet %s: out of range", o.Max, o.Window, o.Quiet)
	}
	return &Breaker[K]{o: o, keys: map[K]*tally{}, pruneAt: 64}, nil
}

// Count counts once for a key, and tells whether that opened the breaker.
func (b *Breaker[K]) Count(key K) (trip Trip[K], opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	t := b.tallyLocked(key, now)
	t.last = now
	t.count++
	if t.open() {
		return b.trip(key, t), false
	}
	t.times = append(b.recent(t.times, now), now)
	t.count = len(t.times)
	if t.count <= b.o.Max {
		return Trip[K]{}, false
	}
	t.since, t.times = now, nil
	return b.trip(key, t), true
}

// tallyLocked finds or makes a key's tally, after closing it if it has been quiet.
func (b *Breaker[K]) tallyLocked(key K, now time.Time) *tally {
	if len(b.keys) >= b.pruneAt {
		for k, t := range b.keys {
			if b.over(t, now) {
				delete(b.keys, k)
			}
		}
		b.pruneAt = max(64, 2*len(b.keys))
	}
	t := b.keys[key]
	if t == nil || b.over(t, now) {
		t = &tally{}
		b.keys[key] = t
	}
	return t
}

// over: nothing of it counts any more.
func (b *Breaker[K]) over(t *tally, now time.Time) bool {
	if t.open() {
		return b.o.Quiet > 0 && now.Sub(t.last) >= b.o.Quiet
	}
	return now.Sub(t.last) >= b.o.Window
}

func (b *Breaker[K]) recent(times []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(times, func(t time.Time) bool { return now.Sub(t) >= b.o.Window })
}

func (b *Breaker[K]) trip(key K, t *tally) Trip[K] {
	trip := Trip[K]{Key: key, Since: t.since, Last: t.last, Count: t.count}
	if b.o.Quiet > 0 {
		trip.Until = t.last.Add(b.o.Quiet)
	}
	return trip
}

// Open tells whether the key is to be left alone, and since when.
func (b *Breaker[K]) Open(key K) (Trip[K], bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.keys[key]
	if t == nil || !t.open() || b.over(t, time.Now()) {
		return Trip[K]{}, false
	}
	return b.trip(key, t), true
}

// Release closes the breaker for a key and forgets what was counted. It tells whether it was open.
func (b *Breaker[K]) Release(key K) bool {
	_, open := b.Open(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keys, key)
	return open
}

// Trips are the open ones, the oldest first.
func (b *Breaker[K]) Trips() []Trip[K] {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var out []Trip[K]
	for key, t := range b.keys {
		if t.open() && !b.over(t, now) {
			out = append(out, b.trip(key, t))
		}
	}
	slices.SortFunc(out, func(a, b Trip[K]) int { return a.Since.Compare(b.Since) })
	return out
}

// Restore opens the breaker for what Trips said before a restart.
func (b *Breaker[K]) Restore(trips []Trip[K]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range trips {
		b.keys[t.Key] = &tally{since: t.Since, last: t.Last, count: t.Count}
	}
}
