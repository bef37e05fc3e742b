// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newLimiter(t *testing.T, sizes map[string]int) *Limiter {
	t.Helper()
	l, err := NewLimiter(sizes)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustAcquire(t *testing.T, l *Limiter, name string) (release func()) {
	t.Helper()
	release, err := l.Acquire(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func wantSlots(t *testing.T, l *Limiter, name string, want SlotStats) {
	t.Helper()
	if diff := cmp.Diff(want, l.Stats()[name]); diff != "" {
		t.Error(diff)
	}
}

func TestLimiterIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got log
		l := newLimiter(t, map[string]int{"calls": 2, "backup": 1})
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				release := mustAcquire(t, l, "calls")
				got.add("%d", i)
				time.Sleep(time.Duration(10+i) * time.Second)
				release()
				release() // does nothing
			})
			time.Sleep(time.Millisecond)
		}
		wantSlots(t, l, "calls", SlotStats{Size: 2, InUse: 2, Waiting: 4})
		mustAcquire(t, l, "backup")() // the other name's are free
		all.Wait()
		got.want(t, "0s 0", "0.001s 1", "10s 2", "11.001s 3", "22s 4", "24.001s 5")
		wantSlots(t, l, "calls", SlotStats{Size: 2})
	})
}

func TestLimiterGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, map[string]int{"calls": 1})
		release := mustAcquire(t, l, "calls")
		tired := errors.New("tired")
		var all sync.WaitGroup
		all.Go(func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, tired)
			defer cancel()
			if _, err := l.Acquire(ctx, "calls"); !errors.Is(err, tired) {
				t.Error(err)
			}
		})
		time.Sleep(time.Millisecond)
		all.Go(func() { mustAcquire(t, l, "calls")() })
		time.Sleep(2 * time.Second)
		wantSlots(t, l, "calls", SlotStats{Size: 1, InUse: 1, Waiting: 1})
		release()
		all.Wait()
		wantSlots(t, l, "calls", SlotStats{Size: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(tired)
		if _, err := l.Acquire(ctx, "calls"); !errors.Is(err, tired) {
			t.Errorf("a free slot for a context that has ended: %v", err)
		}
	})
}

func TestLimiterResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, map[string]int{"calls": 1})
		first := mustAcquire(t, l, "calls")
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				release := mustAcquire(t, l, "calls")
				time.Sleep(10 * time.Second)
				release()
			})
		}
		synctest.Wait()
		if err := l.Resize(map[string]int{"calls": 3, "new": 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantSlots(t, l, "calls", SlotStats{Size: 3, InUse: 3})
		mustAcquire(t, l, "new")()
		if err := l.Resize(map[string]int{"calls": 1}); err != nil {
			t.Fatal(err)
		}
		var late atomic.Bool
		all.Go(func() {
			mustAcquire(t, l, "calls")()
			late.Store(true)
		})
		first()
		time.Sleep(time.Second)
		wantSlots(t, l, "calls", SlotStats{Size: 1, InUse: 2, Waiting: 1})
		if late.Load() {
			t.Error("a slot was given although more than the new size are in use")
		}
		all.Wait()
	})
}

func TestLimiterRefusals(t *testing.T) {
	if _, err := NewLimiter(map[string]int{"calls": 0}); err == nil {
		t.Error("a limit of 0 is accepted")
	}
	l := newLimiter(t, map[string]int{"calls": 2})
	if err := l.Resize(map[string]int{"calls": 3, "other": -1}); err == nil {
		t.Error("a negative limit is accepted")
	}
	wantSlots(t, l, "calls", SlotStats{Size: 2})
	if _, err := l.Acquire(t.Context(), "cals"); !errors.Is(err, ErrNoLimit) {
		t.Error(err)
	}
}

// TestLimiterUnderLoad never gives out more than there are, whoever gives up meanwhile.
func TestLimiterUnderLoad(t *testing.T) {
	l := newLimiter(t, map[string]int{"calls": 3})
	var inUse, most atomic.Int64
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+(n*i)%50)*time.Microsecond)
				release, err := l.Acquire(ctx, "calls")
				cancel()
				if err != nil {
					continue
				}
				now := inUse.Add(1)
				for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
				}
				inUse.Add(-1)
				release()
			}
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d in use", most.Load())
	}
	wantSlots(t, l, "calls", SlotStats{Size: 3})
}
