// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// log collects lines from many goroutines, each with the seconds since the bubble's beginning.
type log struct {
	mu    sync.Mutex
	begin time.Time
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begin.IsZero() {
		l.begin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where synctest's time begins
	}
	l.lines = append(l.lines, fmt.Sprintf("%gs ", time.Since(l.begin).Seconds())+fmt.Sprintf(format, args...))
}

func (l *log) want(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(want, l.lines); diff != "" {
		t.Errorf("want, got:\n%s", diff)
	}
	l.lines = nil
}

// bubble runs a queue in a synctest bubble for as long as use takes, and checks its history.
func bubble(t *testing.T, o Options[int], use func(t *testing.T, q *Queue[int])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var events []Event[int]
		o.History = func(e Event[int]) { events = append(events, e) }
		ctx, cancel := context.WithCancel(t.Context())
		q := New(o)
		var run sync.WaitGroup
		run.Go(func() {
			if err := q.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		use(t, q)
		cancel()
		run.Wait()
		if err := CheckHistory(events); err != nil {
			t.Error(err)
		}
		if s := q.Stats(); s.Items != 0 || s.Active != 0 || s.Submitted != s.Finished {
			t.Errorf("left behind: %+v", s)
		}
	})
}

func mustSubmit(t *testing.T, q *Queue[int], key int, value any) *Ticket {
	t.Helper()
	ticket, err := q.Submit(key, value)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

// takes returns a handler that logs each piece of work and takes so long for it.
func takes(got *log, d time.Duration) func(context.Context, int, Item) Result {
	return func(ctx context.Context, key int, item Item) Result {
		if item.Look {
			got.add("%d: look %s", key, strings.Join(item.Reasons, ","))
		} else {
			got.add("%d: %v", key, item.Value)
		}
		select {
		case <-time.After(d):
			return Result{Done: item.Value}
		case <-ctx.Done():
			got.add("%d: %v: %v", key, item.Value, context.Cause(ctx))
			return Result{Err: context.Cause(ctx)}
		}
	}
}

func TestOneKeyInOrderOthersInParallel(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second)}, func(t *testing.T, q *Queue[int]) {
		begin := time.Now()
		var tickets []*Ticket
		for i := range 3 {
			for k := range 100 {
				tickets = append(tickets, mustSubmit(t, q, k, i))
			}
		}
		for i, ticket := range tickets {
			if got, err := ticket.Wait(t.Context()); err != nil || got != i/100 {
				t.Errorf("ticket %d: %v, %v", i, got, err)
			}
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("100 lanes of 3 items took %s, want 3s", took)
		}
	})
}

func TestParallelLimitIsFair(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second), Parallel: 1}, func(t *testing.T, q *Queue[int]) {
		for i := range 3 {
			mustSubmit(t, q, 1, i)
		}
		mustSubmit(t, q, 2, "x")
		q.Look(3, "why")
		time.Sleep(10 * time.Second)
		got.want(t, "0s 1: 0", "1s 2: x", "2s 3: look why", "3s 1: 1", "4s 1: 2")
	})
}

func TestLooksCollapse(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second)}, func(t *testing.T, q *Queue[int]) {
		q.Look(1, "a")
		synctest.Wait() // it runs
		for range 5 {
			q.Look(1, "b")
			q.Look(1, "c")
		}
		time.Sleep(10 * time.Second)
		got.want(t, "0s 1: look a", "1s 1: look b,c")
		for range 20 {
			q.Look(1, fmt.Sprint("reason ", q.Stats().Looks, time.Now().UnixNano()))
		}
		if s, ok := q.Lane(1); !ok || !s.Look {
			t.Errorf("%+v, %v", s, ok)
		}
		time.Sleep(10 * time.Second)
		if _, ok := q.Lane(1); ok {
			t.Error("a lane without work is kept")
		}
	})
}

func TestLookAfterCountsTheEarliest(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second)}, func(t *testing.T, q *Queue[int]) {
		q.LookAfter(1, 10*time.Second)
		q.LookAfter(1, 5*time.Second)
		q.LookAfter(1, 20*time.Second)
		q.LookAfter(2, 5*time.Minute)
		q.Look(1, "now") // does not replace the later one
		time.Sleep(time.Minute)
		got.want(t, "0s 1: look now", "5s 1: look ")
		q.LookAfter(1, -time.Second)
		time.Sleep(time.Second)
		got.want(t, "60s 1: look ")
		for _, after := range []int{20, 5, 30} {
			q.LookAfter(3, time.Duration(after)*time.Second)
			q.LookAfter(4, 10*time.Second)
		}
		time.Sleep(time.Minute)
		got.want(t, "66s 3: look ", "71s 4: look ")
	})
}

func TestItemsGoBeforeLooks(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second)}, func(t *testing.T, q *Queue[int]) {
		mustSubmit(t, q, 1, "a")
		synctest.Wait()
		q.Look(1, "x")
		mustSubmit(t, q, 1, "b")
		time.Sleep(time.Minute)
		got.want(t, "0s 1: a", "1s 1: b", "2s 1: look x")
	})
}

func TestBackoffOfLooks(t *testing.T) {
	var got log
	var failing atomic.Bool
	failing.Store(true)
	o := Options[int]{MinBackoff: time.Second, MaxBackoff: 5 * time.Second, Handle: func(_ context.Context, k int, i Item) Result {
		got.add("%d: look %d", k, i.Attempt)
		if failing.Load() {
			return Result{Err: errors.New("no")}
		}
		return Result{}
	}}
	bubble(t, o, func(t *testing.T, q *Queue[int]) {
		q.LookAfter(1, 24*time.Hour) // which keeps the lane
		q.Look(1, "")
		time.Sleep(13 * time.Second)
		got.want(t, "0s 1: look 1", "1s 1: look 2", "3s 1: look 3", "7s 1: look 4", "12s 1: look 5")
		q.Look(1, "something new is known") // goes at once, and the backoff goes on from there
		time.Sleep(6 * time.Second)
		got.want(t, "13s 1: look 6", "18s 1: look 7")
		failing.Store(false)
		q.Look(1, "")
		time.Sleep(time.Minute) // success ends the backoff
		failing.Store(true)
		q.Look(1, "")
		time.Sleep(1500 * time.Millisecond)
		got.want(t, "19s 1: look 8", "79s 1: look 1", "80s 1: look 2")
		if s, _ := q.Lane(1); s.Failures != 2 || s.NextLook.IsZero() {
			t.Errorf("%+v", s)
		}
		if s := q.Stats(); s.Looks != 10 || s.FailedLooks != 9 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLookThatSaysAgain(t *testing.T) {
	var got log
	results := []Result{{Again: 10 * time.Second}, {Again: time.Second, Err: errors.New("no")}, {}}
	o := Options[int]{MinBackoff: time.Hour, Handle: func(context.Context, int, Item) Result {
		got.add("look")
		r := results[0]
		results = results[1:]
		return r
	}}
	bubble(t, o, func(t *testing.T, q *Queue[int]) {
		q.Look(1, "")
		time.Sleep(24 * time.Hour)
		got.want(t, "0s look", "10s look", "11s look")
	})
}

// TestAgainKeepsItsPlace: the lane waits at its head and holds nothing, so that others go on under Parallel: 1.
func TestAgainKeepsItsPlace(t *testing.T) {
	var got log
	o := Options[int]{Parallel: 1, Handle: func(_ context.Context, k int, i Item) Result {
		got.add("%d: %v, attempt %d", k, i.Value, i.Attempt)
		if i.Value == "slow" && i.Attempt < 3 {
			return Result{Again: 10 * time.Second, Err: errors.New("guest is locked")}
		}
		return Result{Done: i.Attempt}
	}}
	bubble(t, o, func(t *testing.T, q *Queue[int]) {
		slow := mustSubmit(t, q, 1, "slow")
		mustSubmit(t, q, 1, "next")
		q.Look(1, "not while an item waits")
		mustSubmit(t, q, 2, "other")
		time.Sleep(15 * time.Second)
		if s, _ := q.Lane(1); s.Items != 2 || s.WaitsUntil.IsZero() || !s.Busy.IsZero() || q.Stats().Active != 0 {
			t.Errorf("while it waits: %+v", s)
		}
		time.Sleep(15 * time.Second)
		got.want(t, "0s 1: slow, attempt 1", "0s 2: other, attempt 1", "10s 1: slow, attempt 2", "20s 1: slow, attempt 3",
			"20s 1: next, attempt 1", "20s 1: <nil>, attempt 1")
		if result, err := slow.Wait(t.Context()); result != 3 || err != nil {
			t.Errorf("%v, %v", result, err)
		}
	})
}

func TestItemThatFails(t *testing.T) {
	no := errors.New("no")
	o := Options[int]{Handle: func(context.Context, int, Item) Result { return Result{Err: no, Done: "half"} }}
	bubble(t, o, func(t *testing.T, q *Queue[int]) {
		if result, err := mustSubmit(t, q, 1, "x").Wait(t.Context()); !errors.Is(err, no) || result != "half" {
			t.Errorf("%v, %v", result, err)
		}
	})
}

func TestBounds(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second), Bound: 4, LaneBound: 2}, func(t *testing.T, q *Queue[int]) {
		first := mustSubmit(t, q, 1, "a")
		synctest.Wait()
		mustSubmit(t, q, 1, "b")
		if _, err := q.Submit(1, "c"); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "this lane") {
			t.Errorf("past the lane's bound: %v", err)
		}
		mustSubmit(t, q, 2, "d")
		mustSubmit(t, q, 3, "e")
		if _, err := q.SubmitUrgent(4, "f", false); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "4 items") {
			t.Errorf("past the bound: %v", err)
		}
		q.Look(4, "looks are not bounded")
		if _, err := first.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		mustSubmit(t, q, 1, "g")
		if s := q.Stats(); s.Refused != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
	})
}

func TestWaitGivesUp(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Minute)}, func(t *testing.T, q *Queue[int]) {
		ticket := mustSubmit(t, q, 1, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ticket.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if result, err := ticket.Wait(t.Context()); result != "a" || err != nil {
			t.Errorf("it did not go on: %v, %v", result, err)
		}
	})
}

func TestRunTwice(t *testing.T) {
	bubble(t, Options[int]{Handle: takes(&log{}, 0)}, func(t *testing.T, q *Queue[int]) {
		synctest.Wait()
		if err := q.Run(t.Context()); err == nil {
			t.Error("a second Run works")
		}
	})
}

func TestWorkBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got log
		o := DefaultOptions(takes(&got, 0))
		o.Parallel = 1
		q := New(o)
		mustSubmit(t, q, 1, "a")
		q.Look(1, "b")
		q.LookAfter(2, time.Second)
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := q.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		got.want(t, "60s 1: a", "60s 2: look ", "60s 1: look b")
	})
}
