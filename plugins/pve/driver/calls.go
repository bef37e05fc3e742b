// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"sync"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// keptCalls bounds how many ended attempts are remembered. The host asks twice
// about an attempt only within moments.
const keptCalls = 4096

// attempt names one sending of an action.
type attempt struct {
	op string
	n  int
}

// call is what became of an attempt in this process.
type call struct {
	handled chan struct{} // closed when handle is set
	done    chan struct{} // closed when the call that sends has returned

	// handle is written before handled is closed, the others before done.
	handle  string
	outcome plugin.Outcome
	err     error
}

// calls remembers attempts so that none is carried out twice.
type calls struct {
	mu    sync.Mutex // guards what follows
	known map[attempt]*call
	order []attempt // ended ones, oldest first
}

func newCalls() *calls { return &calls{known: make(map[attempt]*call)} }

// claim returns the call of an attempt, and whether it is the caller's to make.
func (c *calls) claim(a attempt) (*call, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.known[a]; ok {
		return old, false
	}
	k := &call{handled: make(chan struct{}), done: make(chan struct{})}
	c.known[a] = k
	return k, true
}

// started records the handle of a call; only its owner may call it, once.
func (k *call) started(handle string) {
	k.handle = handle
	close(k.handled)
}

// end records how a call ended and forgets the oldest ones.
func (c *calls) end(a attempt, k *call, o plugin.Outcome, err error) {
	k.outcome, k.err = o, err
	close(k.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = append(c.order, a)
	for len(c.order) > keptCalls {
		delete(c.known, c.order[0])
		c.order = c.order[1:]
	}
}

// join waits for somebody else's call of the same attempt: for its handle, or
// else for its end.
func (k *call) join(ctx context.Context) (handle string, o plugin.Outcome, err error) {
	select {
	case <-k.handled:
		return k.handle, plugin.Outcome{}, nil
	case <-k.done:
	case <-ctx.Done():
		return "", plugin.Outcome{}, context.Cause(ctx)
	}
	select { // both may have happened
	case <-k.handled:
		return k.handle, plugin.Outcome{}, nil
	default:
		return "", k.outcome, k.err
	}
}
