// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrNoLimit: there are no slots of that name.
var ErrNoLimit = errors.New("no limit of that name")

// Limiter hands out slots by name ("calls", "tasks.backup"): at most so many at once of each, first come first served.
// Whoever needs slots of two names must take them in one order everywhere, or two may wait for each other.
type Limiter struct {
	// mu guards what follows.
	mu    sync.Mutex
	slots map[string]*slots
}

// slots are those of one name.
type slots struct {
	size, inUse int
	waiting     fifo[*claim]
	waiters     int
}

// claim is an Acquire that waits. given is closed when it has its slot.
type claim struct {
	given   chan struct{}
	granted bool
	gone    bool
}

// NewLimiter makes slots of the given sizes, each at least 1.
func NewLimiter(sizes map[string]int) (*Limiter, error) {
	l := &Limiter{slots: map[string]*slots{}}
	return l, l.Resize(sizes)
}

// Resize changes the sizes. Names that are not mentioned stay as they are. Slots in use are not taken back: where a size
// shrinks below them, nobody gets one until enough are released. An invalid size changes nothing.
func (l *Limiter) Resize(sizes map[string]int) error {
	for name, size := range sizes {
		if size < 1 {
			return fmt.Errorf("limit %q is %d, want at least 1", name, size)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, size := range sizes {
		s := l.slots[name]
		if s == nil {
			s = &slots{}
			l.slots[name] = s
		}
		s.size = size
		s.grant()
	}
	return nil
}

// Acquire waits for a slot. release gives it back; calls after the first do nothing. The error is ErrNoLimit, or ctx's
// cause, and then there is nothing to release.
func (l *Limiter) Acquire(ctx context.Context, name string) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	s := l.slots[name]
	if s == nil {
		l.mu.Unlock()
		return nil, fmt.Errorf("%w: %q", ErrNoLimit, name)
	}
	c := &claim{given: make(chan struct{})}
	s.waiting.push(c)
	s.waiters++
	s.grant()
	l.mu.Unlock()
	select {
	case <-c.given:
	case <-ctx.Done():
		if l.giveUp(s, c) {
			return nil, context.Cause(ctx)
		}
	}
	return sync.OnceFunc(func() { l.release(s) }), nil
}

// giveUp withdraws a claim, unless it was granted meanwhile.
func (l *Limiter) giveUp(s *slots, c *claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.granted {
		return false
	}
	c.gone = true
	s.waiters--
	s.grant()
	return true
}

func (l *Limiter) release(s *slots) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.inUse--
	s.grant()
}

// grant gives free slots to those that wait longest, and forgets claims that were given up.
func (s *slots) grant() {
	for s.waiting.len() > 0 && (s.inUse < s.size || s.waiting.first().gone) {
		if c := s.waiting.pop(); !c.gone {
			c.granted = true
			s.inUse++
			s.waiters--
			close(c.given)
		}
	}
}

// SlotStats are the figures of one name.
type SlotStats struct{ Size, InUse, Waiting int }

// Stats returns the figures by name.
func (l *Limiter) Stats() map[string]SlotStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]SlotStats, len(l.slots))
	for name, s := range l.slots {
		out[name] = SlotStats{Size: s.size, InUse: s.inUse, Waiting: s.waiters}
	}
	return out
}
