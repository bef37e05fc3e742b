// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newBreaker(t *testing.T) *Breaker[int] {
	t.Helper()
	b, err := NewBreaker[int](BreakerOptions{Max: 3, Window: 10 * time.Minute, Quiet: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// crashLoop counts n times, a minute apart, and returns how often that opened the breaker.
func crashLoop(b *Breaker[int], key, n int) (opened int) {
	for range n {
		if _, o := b.Count(key); o {
			opened++
		}
		time.Sleep(time.Minute)
	}
	return opened
}

func TestBreakerOpensOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		begin := time.Now()
		if opened := crashLoop(b, 1, 3); opened != 0 {
			t.Error("it opened at the allowed number")
		}
		if opened := crashLoop(b, 1, 3); opened != 1 {
			t.Errorf("it opened %d times", opened)
		}
		trip, open := b.Open(1)
		at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
		want := Trip[int]{Key: 1, Since: at(3), Last: at(5), Count: 6, Until: at(65)}
		if diff := cmp.Diff(want, trip); diff != "" || !open {
			t.Error(diff)
		}
		if _, open := b.Open(2); open {
			t.Error("another key is open")
		}
	})
}

func TestBreakerForgetsWhatIsOlderThanTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		for range 100 {
			if _, opened := b.Count(1); opened {
				t.Fatal("3 within 10 minutes opened it")
			}
			time.Sleep(200 * time.Second)
		}
	})
}

func TestBreakerClosesWhenQuietOrReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		crashLoop(b, 1, 4)
		time.Sleep(50 * time.Minute)
		b.Count(1) // by a human's start: the quiet hour begins anew
		time.Sleep(59 * time.Minute)
		if _, open := b.Open(1); !open {
			t.Error("closed too early")
		}
		time.Sleep(time.Minute)
		if _, open := b.Open(1); open || len(b.Trips()) > 0 {
			t.Error("still open after a quiet hour")
		}
		if crashLoop(b, 1, 3) != 0 || crashLoop(b, 1, 1) != 1 {
			t.Error("it does not begin from nothing")
		}
		if !b.Release(1) || b.Release(1) {
			t.Error("release")
		}
		if crashLoop(b, 1, 3) != 0 {
			t.Error("it remembers what was released")
		}
	})
}

func TestBreakerSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		crashLoop(b, 2, 4)
		crashLoop(b, 1, 4)
		trips := b.Trips()
		if len(trips) != 2 || trips[0].Key != 2 {
			t.Fatalf("%+v", trips)
		}
		next := newBreaker(t)
		next.Restore(trips)
		if diff := cmp.Diff(trips, next.Trips()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour)
		if got := next.Trips(); len(got) > 0 {
			t.Errorf("still open: %+v", got)
		}
	})
}

func TestBreakerForgetsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t)
		for key := range 10_000 {
			b.Count(key)
			time.Sleep(time.Minute)
		}
		if len(b.keys) > 64 {
			t.Errorf("%d keys are kept", len(b.keys))
		}
	})
}

func TestBreakerThatNeverClosesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBreaker[int](BreakerOptions{Max: 1, Window: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		b.Count(1)
		b.Count(1)
		time.Sleep(1000 * time.Hour)
		if trip, open := b.Open(1); !open || !trip.Until.IsZero() {
			t.Errorf("%+v, %v", trip, open)
		}
	})
	for _, o := range []BreakerOptions{{}, {Max: 1}, {Max: 1, Window: 1, Quiet: -1}} {
		if _, err := NewBreaker[int](o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func newNode(t *testing.T, o NodeOptions) *NodeBreaker[int] {
	t.Helper()
	b, err := NewNodeBreaker[int](o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNodeBreakerRules(t *testing.T) {
	for name, c := range map[string]struct {
		o     NodeOptions
		total int
		// allowed is how many keys may change.
		allowed int
		reason  string
	}{
		"number":          {NodeOptions{MaxKeys: 5}, 100, 5, "6 of 100 want a change within 1h0m0s, at most 5 may"},
		"percent":         {NodeOptions{Percent: 20}, 50, 10, "at most 20 % may"},
		"percent, floor":  {NodeOptions{Percent: 20, Floor: 3}, 8, 3, "4 of 8"},
		"whichever first": {NodeOptions{MaxKeys: 30, Percent: 10}, 100, 10, "10 %"},
		"no rule":         {NodeOptions{}, 10, 20, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.o.Window = time.Hour
				b := newNode(t, c.o)
				n := 0
				for n < 20 && b.Want(n, c.total) {
					b.Want(n, c.total) // the same key counts once
					n++
				}
				f, frozen := b.Frozen()
				if n != c.allowed || frozen != (c.reason != "") || !strings.Contains(f.Reason, c.reason) {
					t.Errorf("%d may, frozen %v: %+v", n, frozen, f)
				}
				time.Sleep(1000 * time.Hour)
				if _, still := b.Frozen(); still != frozen {
					t.Error("it ended by itself")
				}
			})
		})
	}
}

func TestNodeBreakerForgetsWhatIsOlderThanTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, NodeOptions{MaxKeys: 3, Window: time.Hour})
		for key := range 1000 {
			if !b.Want(key, 1000) {
				t.Fatal("3 within an hour froze it")
			}
			time.Sleep(20 * time.Minute)
		}
		if len(b.wanted) > 4 || len(b.order) > 4 {
			t.Errorf("it keeps %d keys", len(b.wanted))
		}
	})
}

func TestNodeBreakerRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, NodeOptions{MaxKeys: 2, Window: time.Hour})
		for key := range 5 {
			if got := b.Want(key, 10); got != (key < 2) {
				t.Errorf("key %d: %v", key, got)
			}
			if key > 1 {
				b.Want(3, 10) // asks again
			}
		}
		f, was := b.Release()
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, f.Keys); diff != "" || !was {
			t.Errorf("%v, %s", was, diff)
		}
		for key := range 7 { // those of the freeze may now, and two more
			if !b.Want(key, 10) {
				t.Errorf("key %d may not", key)
			}
		}
		if b.Want(7, 10) {
			t.Error("a third one more may")
		}
		b.Release()
		time.Sleep(time.Hour)
		for key := range 3 { // the exemption has ended
			if got := b.Want(key, 10); got != (key < 2) {
				t.Errorf("an hour later, key %d: %v", key, got)
			}
		}
		if _, was := newNode(t, NodeOptions{Window: 1}).Release(); was {
			t.Error("released what was not frozen")
		}
	})
}

func TestNodeBreakerSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, NodeOptions{MaxKeys: 1, Window: time.Hour})
		b.Want(1, 10)
		b.Want(2, 10)
		f, _ := b.Frozen()
		next := newNode(t, NodeOptions{MaxKeys: 1, Window: time.Hour})
		next.Restore(f)
		if got, frozen := next.Frozen(); !frozen || cmp.Diff(f, got) != "" || next.Want(3, 10) {
			t.Errorf("%+v, %v", got, frozen)
		}
	})
	for _, o := range []NodeOptions{{}, {Window: 1, MaxKeys: -1}, {Window: 1, Percent: 101}, {Window: 1, Floor: -1}} {
		if _, err := NewNodeBreaker[int](o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
