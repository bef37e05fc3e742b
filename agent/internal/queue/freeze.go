// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// NodeOptions say how many keys may want a change within Window before all are held: more than MaxKeys, or more than
// Percent of all keys there are. 0 is no such rule. The percentage does not count up to Floor keys, for on a small node
// one key is a large part.
type NodeOptions struct {
	MaxKeys, Percent, Floor int
	Window                  time.Duration
}

// Freeze says why everything is held.
type Freeze[K comparable] struct {
	Since time.Time
	// Keys want a change, in the order in which they did; Total is how many keys there were.
	Keys  []K
	Total int
	// Reason is the rule, in words.
	Reason string
}

// NodeBreaker holds everything when too many keys want a change at once, which is more often a mistake in what is
// desired than a wish. It stays so until it is released. The first adoption of a node is no mistake; the caller does not
// ask then.
type NodeBreaker[K comparable] struct {
	o NodeOptions
	// mu guards what follows.
	mu sync.Mutex
	// wanted is when each key last wanted a change, exempt until when a key does not count.
	wanted, exempt map[K]time.Time
	order          []K
	frozen         bool
	freeze         Freeze[K]
}

// NewNodeBreaker makes one that is not frozen.
func NewNodeBreaker[K comparable](o NodeOptions) (*NodeBreaker[K], error) {
	if o.MaxKeys < 0 || o.Percent < 0 || o.Percent > 100 || o.Floor < 0 || o.Window <= 0 {
		return nil, fmt.Errorf("node breaker: %d keys, %d %%, floor %d, within %s: out of range", o.MaxKeys, o.Percent, o.Floor, o.Window)
	}
	return &NodeBreaker[K]{o: o, wanted: map[K]time.Time{}, exempt: map[K]time.Time{}}, nil
}

// Want says that a key, of total there are, wants a change now, and returns whether it may. Once it may not, no key may
// until Release; what wants a change meanwhile joins the list.
func (b *NodeBreaker[K]) Want(key K, total int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.frozen {
		if !slices.Contains(b.freeze.Keys, key) {
			b.freeze.Keys = append(b.freeze.Keys, key)
		}
		return false
	}
	b.expire(now)
	if _, ok := b.exempt[key]; ok {
		return true
	}
	if _, known := b.wanted[key]; !known {
		b.order = append(b.order, key)
	}
	b.wanted[key] = now
	if reason := b.tooMany(len(b.order), total); reason != "" {
		b.frozen = true
		b.freeze = Freeze[K]{Since: now, Keys: slices.Clone(b.order), Total: total, Reason: reason}
	}
	return !b.frozen
}

// expire forgets what is older than the window.
func (b *NodeBreaker[K]) expire(now time.Time) {
	b.order = slices.DeleteFunc(b.order, func(k K) bool {
		old := now.Sub(b.wanted[k]) >= b.o.Window
		if old {
			delete(b.wanted, k)
		}
		return old
	})
	for k, until := range b.exempt {
		if !now.Before(until) {
			delete(b.exempt, k)
		}
	}
}

func (b *NodeBreaker[K]) tooMany(n, total int) string {
	switch {
	case b.o.MaxKeys > 0 && n > b.o.MaxKeys:
		return fmt.Sprintf("%d of %d want a change within %s, at most %d may", n, total, b.o.Window, b.o.MaxKeys)
	case b.o.Percent > 0 && n > b.o.Floor && n*100 > b.o.Percent*total:
		return fmt.Sprintf("%d of %d want a change within %s, at most %d %% may", n, total, b.o.Window, b.o.Percent)
	}
	return ""
}

// Frozen tells whether everything is held, and why.
func (b *NodeBreaker[K]) Frozen() (Freeze[K], bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.freeze
	f.Keys = slices.Clone(f.Keys)
	return f, b.frozen
}

// Release lets the keys of the freeze change: they do not count for one window from now on. It returns the freeze, and
// whether there was one.
func (b *NodeBreaker[K]) Release() (Freeze[K], bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, was := b.freeze, b.frozen
	until := time.Now().Add(b.o.Window)
	for _, k := range f.Keys {
		b.exempt[k] = until
	}
	clear(b.wanted)
	b.order, b.frozen, b.freeze = nil, false, Freeze[K]{}
	return f, was
}

// Restore freezes as Frozen said before a restart.
func (b *NodeBreaker[K]) Restore(f Freeze[K]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen, b.freeze = true, f
	b.freeze.Keys = slices.Clone(f.Keys)
}
