// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Confirm is how often a set that has not changed is given again. It tells the
// core that the source was heard, which its maximum age is measured from, and
// offers again what was rejected: the reason may have been the core's own.
const Confirm = time.Minute

// Feed gives snapshots to the core: what is news, and now and then what is not.
// It is for one goroutine.
type Feed struct {
	Emit func(plugin.Snapshot) error

	good     plugin.Snapshot // the last one
	any      bool            // something was given
	failing  string          // the error that was given last, "" if it was none
	failures int             // in a row
	at       time.Time       // when something was given last
}

// Good gives a snapshot.
func (f *Feed) Good(s plugin.Snapshot) {
	f.failures = 0
	if f.any && f.failing == "" && f.good.Revision == s.Revision && time.Since(f.at) < Confirm {
		return
	}
	f.good, f.failing = s, ""
	f.give(s)
}

// Same says that the source was heard and has nothing new.
func (f *Feed) Same() {
	if f.good.Revision != "" {
		f.Good(f.good)
	}
}

// Bad says that the source could not be read. A first failure may be a
// hiccup, and is told only where nothing was given before.
func (f *Feed) Bad(err error) {
	f.failures++
	if f.any && (f.failures < 2 || f.failing == err.Error() && time.Since(f.at) < Confirm) {
		return
	}
	f.failing = err.Error()
	f.give(plugin.Snapshot{Err: err.Error()})
}

// give offers a snapshot. What the core says to it is in the core's log; what
// it rejected is offered again after Confirm.
func (f *Feed) give(s plugin.Snapshot) {
	f.any, f.at = true, time.Now()
	_ = f.Emit(s)
}

// Failures is how often in a row the source could not be read.
func (f *Feed) Failures() int { return f.failures }

// Backoff is how long to wait after so many failures in a row: doubled each
// time up to longest, and spread over its second half, so that the agents of a
// fleet do not all come at once when their source is back.
func Backoff(failures int, longest time.Duration) time.Duration {
	d := time.Second << min(max(failures-1, 0), 20)
	d = min(d, longest)
	return d/2 + rand.N(d/2+1)
}

// Sleep waits, or returns early with false when ctx ends.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
