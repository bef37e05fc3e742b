// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// TestWindowWhenTheClockIsSet: what is left of a sending's window is what has really passed, and the search for its task
// begins early enough, wherever the wall clock went.
func TestWindowWhenTheClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{0, time.Hour, 5 * time.Second, -5 * time.Second, -time.Hour} {
		for _, restarted := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				set := time.Duration(0)
				wall := func() time.Time { return time.Now().Round(0).Add(set) }
				engine := func() *Engine {
					return &Engine{opt: Options{Wall: wall}, sentAt: map[guest.VMID]time.Time{}, began: time.Now()}
				}
				e := engine()
				o := op.Op{Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Sent: wall()}
				e.sends(101)
				time.Sleep(time.Second)
				since := 11 * time.Second
				if restarted { // it is only known that it was before this
					e = engine()
					since = 10 * time.Second
				}
				set = step
				time.Sleep(10 * time.Second)
				w := e.windowOf(&o)
				if left := w.until.Sub(wall()); left != inFlight-since {
					t.Errorf("set by %v, restarted %v: %v are left of the window after %v", step, restarted, left, since)
				}
				if first := wall().Add(-since); w.sent.After(first) || w.sent.After(o.Sent) {
					t.Errorf("set by %v, restarted %v: searched from %v, sent %v, which is now %v", step, restarted, w.sent, o.Sent, first)
				}
				if doubtful := restarted && step < -time.Second; w.doubtful != doubtful {
					t.Errorf("set by %v, restarted %v: doubtful %v", step, restarted, w.doubtful)
				}
			})
		}
	}
}
