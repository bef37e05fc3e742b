// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// span is one submitted item as those outside of the queue saw it, by a clock that only counts: when Submit was called
// and returned, and each time its handler began and ended.
type span struct {
	key              int
	urgent           bool
	called, returned int64
	runs             [][2]int64
	// ended is when the ticket was done, cancelled whether it was taken out.
	ended     int64
	cancelled bool
}

// checkSpans tells whether there is an order of submits that explains what was seen: runs of one key never overlap, and
// of two ordinary items of a key, if one's Submit returned before the other's was called, it also ran first. With a
// queue's atomic Submit that is what linearizability comes to.
func checkSpans(spans []*span) error {
	byKey := map[int][]*span{}
	for _, s := range spans {
		byKey[s.key] = append(byKey[s.key], s)
	}
	for key, of := range byKey {
		if err := checkKey(of); err != nil {
			return fmt.Errorf("key %d: %w", key, err)
		}
	}
	return nil
}

func checkKey(spans []*span) error {
	var runs [][2]int64
	var plain []*span
	for _, s := range spans {
		runs = append(runs, s.runs...)
		if len(s.runs) > 0 && s.runs[0][0] < s.called {
			return errors.New("it ran before it was submitted")
		}
		if s.cancelled != (len(s.runs) == 0) {
			return fmt.Errorf("cancelled %v, yet it ran %d times", s.cancelled, len(s.runs))
		}
		if !s.urgent && !s.cancelled {
			plain = append(plain, s)
		}
	}
	slices.SortFunc(runs, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	for i := 1; i < len(runs); i++ {
		if runs[i][0] < runs[i-1][1] {
			return fmt.Errorf("runs %v and %v overlap", runs[i-1], runs[i])
		}
	}
	for _, a := range plain {
		for _, b := range plain {
			if a.returned < b.called && a.runs[0][0] > b.runs[0][0] {
				return fmt.Errorf("submitted at %d before %d, ran at %d after %d", a.returned, b.called, a.runs[0][0], b.runs[0][0])
			}
		}
	}
	return nil
}

// TestConcurrentHistories has many submitters, lookers and cancellers at once, in real time, and checks what the queue
// says of itself and what those outside of it saw.
func TestConcurrentHistories(t *testing.T) {
	rounds := 5
	for range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { concurrentRound(t, seed) })
	}
}

// world is what a round's goroutines share.
type world struct {
	q       *Queue[int]
	clock   atomic.Int64
	atWork  [4]atomic.Int32
	overlap atomic.Bool
	mu      sync.Mutex
	spans   []*span
}

func concurrentRound(t *testing.T, seed uint64) {
	w := &world{}
	var events []Event[int]
	w.q = New(Options[int]{
		Handle: w.handle, Bound: 200, Parallel: 3, MinBackoff: time.Microsecond, MaxBackoff: time.Millisecond,
		History: func(e Event[int]) { events = append(events, e) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var run, users sync.WaitGroup
	run.Go(func() { _ = w.q.Run(ctx) })
	for user := range uint64(8) {
		users.Go(func() { w.use(t.Context(), rand.New(rand.NewPCG(seed, user))) })
	}
	users.Wait()
	if err := w.q.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	run.Wait()
	cancel()
	if w.overlap.Load() {
		t.Error("two pieces of work of one key at once")
	}
	if err := errors.Join(CheckHistory(events), checkSpans(w.spans)); err != nil {
		t.Error(err)
	}
	if len(w.spans) < 100 {
		t.Errorf("only %d items", len(w.spans))
	}
}

func (w *world) handle(_ context.Context, key int, item Item) Result {
	begin := w.clock.Add(1)
	if w.atWork[key].Add(1) > 1 {
		w.overlap.Store(true)
	}
	var r Result
	if item.Look {
		if begin%5 == 0 {
			r.Err = errors.New("no")
		}
	} else {
		s := item.Value.(*span)
		if begin%4 == 0 && len(s.runs) < 3 {
			r.Again, r.Idle = time.Duration(begin%3+1)*50*time.Microsecond, begin%8 == 0
		}
		s.runs = append(s.runs, [2]int64{begin, w.clock.Add(1)})
	}
	w.atWork[key].Add(-1)
	return r
}

// use submits, looks and cancels at random.
func (w *world) use(ctx context.Context, random *rand.Rand) {
	var tickets []*Ticket
	var spans []*span
	for range 60 {
		key := random.IntN(len(w.atWork))
		switch n := random.IntN(10); {
		case n < 2:
			w.q.Look(key, "x")
		case n < 3:
			w.q.LookAfter(key, time.Duration(random.IntN(100))*time.Microsecond)
		case n < 4 && len(tickets) > 0:
			i := random.IntN(len(tickets))
			if tickets[i].Cancel(errors.New("cancelled")) {
				spans[i].cancelled = true
			}
		default:
			s := &span{key: key, urgent: n == 9, called: w.clock.Add(1)}
			ticket, err := w.submit(s, random.IntN(2) == 0)
			if err != nil {
				continue
			}
			s.returned = w.clock.Add(1)
			tickets, spans = append(tickets, ticket), append(spans, s)
		}
	}
	for i, ticket := range tickets {
		_, err := ticket.Wait(ctx)
		if spans[i].ended = w.clock.Add(1); err != nil && !errors.Is(err, ErrCancelled) {
			spans[i].runs = nil // which the check below does not accept
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spans = append(w.spans, spans...)
}

func (w *world) submit(s *span, abort bool) (*Ticket, error) {
	if s.urgent {
		return w.q.SubmitUrgent(s.key, s, abort)
	}
	return w.q.Submit(s.key, s)
}

// TestCheckersSeeWhatIsWrong feeds both checkers histories that must not be.
func TestCheckersSeeWhatIsWrong(t *testing.T) {
	e := func(kind EventKind, id uint64) Event[int] {
		return Event[int]{Kind: kind, Key: 1, ID: id, Look: id == 0}
	}
	urgent := func(e Event[int]) Event[int] { e.Urgent = true; return e }
	idle := func(e Event[int]) Event[int] { e.Idle = true; return e }
	for want, events := range map[string][]Event[int]{
		"":                        {e(Submitted, 1), e(Started, 1), e(Paused, 1), e(Started, 1), e(Finished, 1), e(Started, 0), e(Finished, 0)},
		"is at work":              {e(Submitted, 1), e(Submitted, 2), e(Started, 1), e(Started, 2)},
		"a look) of the key":      {e(Started, 0), e(Submitted, 2), e(Started, 2)},
		"item 1 (submitted) goes": {e(Submitted, 1), e(Submitted, 2), e(Started, 2)},
		"item 1 (paused) goes":    {e(Submitted, 1), e(Started, 1), e(Paused, 1), e(Submitted, 2), e(Started, 2)},
		"item 1 (paused) goes first": {
			e(Submitted, 1), e(Started, 1), e(Paused, 1), urgent(e(Submitted, 2)),
			urgent(e(Started, 2)),
		},
		"item 2 (submitted) goes": {e(Submitted, 1), urgent(e(Submitted, 2)), e(Started, 1)},
		"item 2 (submitted) goes first": {
			e(Submitted, 1), e(Started, 1), idle(e(Paused, 1)), urgent(e(Submitted, 2)),
			e(Started, 1),
		},
		"item 1 waits":                {e(Submitted, 1), e(Started, 0)},
		"never submitted":             {e(Started, 1)},
		"not at work":                 {e(Submitted, 1), e(Finished, 1)},
		"it is at work, has ended or": {e(Submitted, 1), e(Started, 1), e(Cancelled, 1)},
	} {
		err := CheckHistory(events)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for want, spans := range map[string][]*span{
		"overlap":          {{called: 1, returned: 2, runs: [][2]int64{{5, 8}}}, {called: 3, returned: 4, runs: [][2]int64{{7, 9}}}},
		"ran at 8 after 6": {{called: 1, returned: 2, runs: [][2]int64{{8, 9}}}, {called: 3, returned: 4, runs: [][2]int64{{6, 7}}}},
		"before it was":    {{called: 3, returned: 4, runs: [][2]int64{{1, 2}}}},
		"cancelled true":   {{called: 1, returned: 2, runs: [][2]int64{{5, 8}}, cancelled: true}},
	} {
		if err := checkSpans(spans); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
