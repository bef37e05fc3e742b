// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"sync"
)

// errStopping is why nothing is begun any more.
var errStopping = errors.New("the agent is stopping")

// sending counts the ops between intent and handle. While the agent is being
// stopped no new one begins, and those that are there get a moment to learn
// their handle: without one the next start would have to find out.
type sending struct {
	mu      sync.Mutex // guards what follows
	count   int
	closed  bool
	drained chan struct{} // closed when closed and count is 0
}

func newSending() *sending { return &sending{drained: make(chan struct{})} }

// begin counts one more, or says that it is too late. end may be called more
// than once.
func (s *sending) begin() (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.count++
	return sync.OnceFunc(s.end), true
}

func (s *sending) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	s.checkLocked()
}

func (s *sending) checkLocked() {
	if s.closed && s.count == 0 {
		close(s.drained)
	}
}

// drain lets nothing begin any more and waits until nothing is under way, or
// ctx ends.
func (s *sending) drain(ctx context.Context) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.checkLocked()
	}
	s.mu.Unlock()
	select {
	case <-s.drained:
	case <-ctx.Done():
	}
}
