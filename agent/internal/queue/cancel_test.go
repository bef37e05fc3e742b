// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errUser = errors.New("alice said so")

func TestCancelBeforeStart(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Second)}, func(t *testing.T, q *Queue[int]) {
		first := mustSubmit(t, q, 1, "a")
		second := mustSubmit(t, q, 1, "b")
		third := mustSubmit(t, q, 1, "c")
		synctest.Wait()
		if !second.Cancel(errUser) || second.Cancel(errUser) {
			t.Error("it was not taken out, or twice")
		}
		if _, err := second.Wait(t.Context()); !errors.Is(err, ErrCancelled) || !errors.Is(err, errUser) {
			t.Error(err)
		}
		if _, err := third.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		got.want(t, "0s 1: a", "1s 1: c")
		if first.Cancel(errUser) {
			t.Error("a finished item was taken out")
		}
	})
}

func TestCancelBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options[int]{Handle: takes(&log{}, 0)})
		ticket := mustSubmit(t, q, 1, "a")
		ticket.Cancel(errUser)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = q.Run(ctx)
		if _, ok := q.Lane(1); ok {
			t.Error("the lane is kept")
		}
	})
}

func TestCancelWhileAtWork(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Minute)}, func(t *testing.T, q *Queue[int]) {
		ticket := mustSubmit(t, q, 1, "a")
		next := mustSubmit(t, q, 1, "b")
		time.Sleep(time.Second)
		if ticket.Cancel(errUser) {
			t.Error("a started item was taken out")
		}
		if _, err := ticket.Wait(t.Context()); !errors.Is(err, errUser) || errors.Is(err, ErrCancelled) {
			t.Error(err)
		}
		if _, err := next.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		got.want(t, "0s 1: a", "1s 1: a: alice said so", "1s 1: b")
	})
}

// waits returns a handler whose items wait for 10 s between attempts until they are cancelled, and then need one more
// attempt to end.
func waits(got *log, idle bool) func(context.Context, int, Item) Result {
	return func(ctx context.Context, k int, i Item) Result {
		got.add("%d: %v, attempt %d, cancelled %v, context %v", k, i.Value, i.Attempt, i.Cancelled, context.Cause(ctx))
		switch {
		case i.Value == "quick" || i.Look || i.Cancelled != nil && ctx.Err() == nil:
			return Result{}
		case ctx.Err() != nil:
			return Result{Again: time.Second}
		}
		return Result{Again: 10 * time.Second, Idle: idle}
	}
}

// TestCancelWhileItWaits wakes it with a cancelled context once; after that it has a context to end its work with.
func TestCancelWhileItWaits(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: waits(&got, false)}, func(t *testing.T, q *Queue[int]) {
		ticket := mustSubmit(t, q, 1, "a")
		time.Sleep(3 * time.Second)
		ticket.Cancel(errUser)
		if _, err := ticket.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		got.want(t, "0s 1: a, attempt 1, cancelled <nil>, context <nil>",
			"3s 1: a, attempt 2, cancelled alice said so, context alice said so",
			"4s 1: a, attempt 3, cancelled alice said so, context <nil>")
	})
}

// TestWokenLetsUrgentPass: waking an idle item does not change who goes first, so the two may come in either order.
func TestWokenLetsUrgentPass(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: waits(&got, true), Parallel: 1}, func(t *testing.T, q *Queue[int]) {
		ticket := mustSubmit(t, q, 1, "a")
		time.Sleep(time.Second)
		q.mu.Lock() // what follows happens before the lane is looked at
		ticket.wake(errUser)
		q.mu.Unlock()
		if _, err := q.SubmitUrgent(1, "quick", false); err != nil {
			t.Fatal(err)
		}
		if _, err := ticket.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		got.want(t, "0s 1: a, attempt 1, cancelled <nil>, context <nil>", "1s 1: quick, attempt 1, cancelled <nil>, context <nil>",
			"1s 1: a, attempt 2, cancelled alice said so, context alice said so",
			"2s 1: a, attempt 3, cancelled alice said so, context <nil>")
	})
}

func TestUrgent(t *testing.T) {
	submitUrgent := func(t *testing.T, q *Queue[int], value any, abort bool) {
		t.Helper()
		if _, err := q.SubmitUrgent(1, value, abort); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		handle func(got *log) func(context.Context, int, Item) Result
		use    func(t *testing.T, q *Queue[int])
		want   []string
	}{
		"goes ahead of what did not start": {
			func(got *log) func(context.Context, int, Item) Result { return takes(got, 10*time.Second) },
			func(t *testing.T, q *Queue[int]) {
				mustSubmit(t, q, 1, "a")
				mustSubmit(t, q, 1, "b")
				time.Sleep(time.Second)
				submitUrgent(t, q, "first urgent", false)
				submitUrgent(t, q, "second urgent", false)
			},
			[]string{"0s 1: a", "10s 1: first urgent", "20s 1: second urgent", "30s 1: b"},
		},
		"aborts what is at work": {
			func(got *log) func(context.Context, int, Item) Result { return takes(got, 10*time.Second) },
			func(t *testing.T, q *Queue[int]) {
				mustSubmit(t, q, 1, "a")
				mustSubmit(t, q, 1, "b")
				time.Sleep(time.Second)
				submitUrgent(t, q, "urgent", true)
			},
			[]string{"0s 1: a", "1s 1: a: aborted for an urgent item", "1s 1: urgent", "11s 1: b"},
		},
		"waits for one that waits with something under way": {
			func(got *log) func(context.Context, int, Item) Result { return waits(got, false) },
			func(t *testing.T, q *Queue[int]) {
				mustSubmit(t, q, 1, "a")
				time.Sleep(time.Second)
				submitUrgent(t, q, "quick", false)
				time.Sleep(18 * time.Second)
				q.cancelAll(errUser)
			},
			[]string{
				"0s 1: a, attempt 1, cancelled <nil>, context <nil>", "10s 1: a, attempt 2, cancelled <nil>, context <nil>",
				"19s 1: a, attempt 3, cancelled alice said so, context alice said so",
				"20s 1: a, attempt 4, cancelled alice said so, context <nil>",
				"20s 1: quick, attempt 1, cancelled <nil>, context <nil>",
			},
		},
		"aborts one that waits": {
			func(got *log) func(context.Context, int, Item) Result { return waits(got, false) },
			func(t *testing.T, q *Queue[int]) {
				mustSubmit(t, q, 1, "a")
				time.Sleep(time.Second)
				submitUrgent(t, q, "quick", true)
			},
			[]string{
				"0s 1: a, attempt 1, cancelled <nil>, context <nil>",
				"1s 1: a, attempt 2, cancelled aborted for an urgent item, context aborted for an urgent item",
				"2s 1: a, attempt 3, cancelled aborted for an urgent item, context <nil>",
				"2s 1: quick, attempt 1, cancelled <nil>, context <nil>",
			},
		},
		"passes one that waits with nothing under way": {
			func(got *log) func(context.Context, int, Item) Result { return waits(got, true) },
			func(t *testing.T, q *Queue[int]) {
				mustSubmit(t, q, 1, "a")
				time.Sleep(time.Second)
				submitUrgent(t, q, "quick", false)
				time.Sleep(time.Second)
				q.cancelAll(errUser)
			},
			[]string{
				"0s 1: a, attempt 1, cancelled <nil>, context <nil>", "1s 1: quick, attempt 1, cancelled <nil>, context <nil>",
				"2s 1: a, attempt 2, cancelled alice said so, context alice said so",
				"3s 1: a, attempt 3, cancelled alice said so, context <nil>",
			},
		},
		"waits for an earlier urgent one, idle or not": {
			func(got *log) func(context.Context, int, Item) Result { return waits(got, true) },
			func(t *testing.T, q *Queue[int]) {
				submitUrgent(t, q, "a", false)
				time.Sleep(time.Second)
				submitUrgent(t, q, "quick", true)
				time.Sleep(time.Second)
				q.cancelAll(errUser)
			},
			[]string{
				"0s 1: a, attempt 1, cancelled <nil>, context <nil>",
				"2s 1: a, attempt 2, cancelled alice said so, context alice said so",
				"3s 1: a, attempt 3, cancelled alice said so, context <nil>",
				"3s 1: quick, attempt 1, cancelled <nil>, context <nil>",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got log
			bubble(t, Options[int]{Handle: c.handle(&got)}, func(t *testing.T, q *Queue[int]) {
				c.use(t, q)
				time.Sleep(time.Hour)
				got.want(t, c.want...)
			})
		})
	}
}

// cancelAll cancels the started items of all lanes.
func (q *Queue[K]) cancelAll(cause error) {
	q.mu.Lock()
	var tickets []*Ticket
	for _, l := range q.lanes {
		for _, t := range l.items {
			if t.attempts > 0 {
				tickets = append(tickets, t)
			}
		}
	}
	q.mu.Unlock()
	for _, t := range tickets {
		t.Cancel(cause)
	}
}

func TestUrgentAbortsALook(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, 10*time.Second), MinBackoff: time.Minute}, func(t *testing.T, q *Queue[int]) {
		q.Look(1, "x")
		time.Sleep(time.Second)
		if _, err := q.SubmitUrgent(1, "stop", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		got.want(t, "0s 1: look x", "1s 1: <nil>: aborted for an urgent item", "1s 1: stop", "61s 1: look ")
	})
}

func TestDrain(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, 10*time.Second)}, func(t *testing.T, q *Queue[int]) {
		first := mustSubmit(t, q, 1, "a")
		second := mustSubmit(t, q, 1, "b")
		q.Look(1, "x")
		q.LookAfter(2, 5*time.Second)
		time.Sleep(time.Second)
		begin := time.Now()
		if err := q.Drain(t.Context()); err != nil || time.Since(begin) != 9*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if _, err := first.Wait(t.Context()); err != nil {
			t.Errorf("what was at work: %v", err)
		}
		if _, err := second.Wait(t.Context()); !errors.Is(err, ErrClosed) || errors.Is(err, ErrCancelled) {
			t.Errorf("what waited: %v", err)
		}
		q.Look(1, "y")
		q.LookAfter(1, 0)
		if _, err := q.Submit(1, "c"); !errors.Is(err, ErrClosed) {
			t.Errorf("after Drain: %v", err)
		}
		time.Sleep(time.Minute)
		got.want(t, "0s 1: a")
		if err := q.Drain(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func TestDrainHasADeadline(t *testing.T) {
	var got log
	bubble(t, Options[int]{Handle: takes(&got, time.Hour)}, func(t *testing.T, q *Queue[int]) {
		ticket := mustSubmit(t, q, 1, "a")
		q.Look(2, "x")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := q.Drain(ctx); !errors.Is(err, ErrDeadline) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := ticket.Wait(t.Context()); !errors.Is(err, ErrDeadline) {
			t.Error(err)
		}
	})
}

// TestDrainGivesUpWhatWaits: an item between two attempts is not finished, and says so.
func TestDrainGivesUpWhatWaits(t *testing.T) {
	for _, drainAfter := range []time.Duration{time.Second, 10 * time.Second} { // while it waits, while it is at work
		o := Options[int]{Handle: func(context.Context, int, Item) Result {
			time.Sleep(5 * time.Second)
			return Result{Again: 4 * time.Second, Err: errUser}
		}}
		bubble(t, o, func(t *testing.T, q *Queue[int]) {
			ticket := mustSubmit(t, q, 1, "a")
			time.Sleep(5*time.Second + drainAfter)
			if err := q.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := ticket.Wait(t.Context()); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
}

func TestDrainBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options[int]{Handle: takes(&log{}, 0)})
		ticket := mustSubmit(t, q, 1, "a")
		if err := q.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := ticket.Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := q.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestEndOfRunCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("agent ends")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := false
		q := New(Options[int]{Handle: func(ctx context.Context, _ int, _ Item) Result {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
			return Result{Err: context.Cause(ctx)}
		}})
		ticket, waiting := mustSubmit(t, q, 1, "a"), mustSubmit(t, q, 1, "b")
		var run sync.WaitGroup
		run.Go(func() {
			if err := q.Run(ctx); !errors.Is(err, gone) || !ended {
				t.Errorf("%v, handler ended %v", err, ended)
			}
		})
		time.Sleep(time.Second)
		cancel(gone)
		run.Wait()
		if _, err := ticket.Wait(t.Context()); !errors.Is(err, gone) {
			t.Error(err)
		}
		if _, err := waiting.Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// TestUrgentOnesKeepTheirOrder where an idle one is passed by the first of them (found by TestConcurrentHistories).
func TestUrgentOnesKeepTheirOrder(t *testing.T) {
	waiting := &Ticket{ID: 1, attempts: 1}
	l := &lane[int]{items: []*Ticket{waiting}, current: waiting}
	l.insert(&Ticket{ID: 2, urgent: true})
	l.insert(&Ticket{ID: 3, urgent: true})
	l.insert(&Ticket{ID: 4})
	l.current, waiting.idle = nil, true
	var got []uint64
	for head := l.head(); head != nil; head = l.head() {
		if got = append(got, head.ID); len(got) == 1 {
			l.insert(&Ticket{ID: 5, urgent: true})
		}
		l.remove(head)
	}
	if want := []uint64{2, 3, 5, 1, 4}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
