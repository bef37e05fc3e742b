// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestNoLaneWaitsWhileItMayRun puts work in by ones and bursts while handlers take long and short: whenever everything
// rests, each lane with work is at work, or Parallel of them are.
func TestNoLaneWaitsWhileItMayRun(t *testing.T) {
	for _, parallel := range []int{0, 1, 7} {
		random := rand.New(rand.NewPCG(1, 1))
		handle := func(_ context.Context, _ int, it Item) Result {
			time.Sleep(it.Value.(time.Duration))
			return Result{}
		}
		bubble(t, Options[int]{Handle: handle, Parallel: parallel, Bound: 1 << 20}, func(t *testing.T, q *Queue[int]) {
			for range 300 {
				for range 1 + random.IntN(6) {
					mustSubmit(t, q, random.IntN(20), time.Duration(1+random.IntN(100))*time.Millisecond)
				}
				time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
				synctest.Wait()
				if s := q.Stats(); s.Active != s.Lanes && s.Active != parallel {
					t.Errorf("parallel %d: %+v", parallel, s)
					return
				}
			}
			time.Sleep(time.Hour)
		})
	}
}

// TestWorkersAndLanesAreForgotten: what a burst needed is not kept for ever.
func TestWorkersAndLanesAreForgotten(t *testing.T) {
	handle := func(context.Context, int, Item) Result { time.Sleep(time.Second); return Result{} }
	bubble(t, Options[int]{Handle: handle, Bound: 1 << 20}, func(t *testing.T, q *Queue[int]) {
		for k := range 5000 {
			mustSubmit(t, q, k, nil)
		}
		synctest.Wait()
		if s := q.Stats(); s.Active != 5000 {
			t.Errorf("%d of 5000 lanes are at work", s.Active)
		}
		time.Sleep(2 * time.Second)
		for k := range 10_000 {
			q.Look(5000+k, "")
			time.Sleep(2 * time.Second)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.waiting > maxWaiting || q.coming != 0 {
			t.Errorf("%d workers wait, %d are coming", q.waiting, q.coming)
		}
		if len(q.lanes) > 2*minPrune {
			t.Errorf("%d lanes are kept that hold nothing", len(q.lanes))
		}
	})
}
