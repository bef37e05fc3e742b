// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/queue"
)

// TestTortureQueue has many users submit, look and cancel at once, in real time, and checks the history that the queue
// tells: a key's work never overlaps and keeps its submit order (queue.CheckHistory), and every ticket ended once.
func TestTortureQueue(t *testing.T) {
	rounds := size(20, 50, 3000)
	seed := seedOf(t)
	var v Verdict
	for i := range rounds {
		v.Add(fmt.Sprintf("FELHOM_SEED=%d", seed+uint64(i)), queueRound(t, seed+uint64(i)))
	}
	report(t, Row{Scenario: "queue/histories", Rounds: rounds}, v)
}

func queueRound(t *testing.T, seed uint64) (v Verdict) {
	var events []queue.Event[int] // appended to under the queue's lock
	random := rand.New(rand.NewPCG(seed, 99))
	var handled sync.Mutex
	q := queue.New(queue.Options[int]{
		Bound: 500, Parallel: 1 + random.IntN(4), MinBackoff: time.Microsecond, MaxBackoff: 100 * time.Microsecond,
		History: func(e queue.Event[int]) { events = append(events, e) },
		Handle: func(_ context.Context, _ int, it queue.Item) (r queue.Result) {
			handled.Lock()
			n := random.IntN(8)
			handled.Unlock()
			switch {
			case it.Look && n == 0:
				r.Err = errors.New("no")
			case !it.Look && n < 2 && it.Attempt < 4:
				r.Again, r.Idle = time.Duration(n+1)*20*time.Microsecond, n == 0
			}
			return r
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var run, users sync.WaitGroup
	run.Go(func() { _ = q.Run(ctx) })
	for u := range uint64(6) {
		users.Go(func() { queueUser(t, q, rand.New(rand.NewPCG(seed, u))) })
	}
	users.Wait()
	if err := q.Drain(t.Context()); err != nil {
		v.Jam("drain: %v", err)
	}
	run.Wait()
	cancel()
	if err := queue.CheckHistory(events); err != nil {
		v.Double("%v", err)
	}
	ends := map[uint64]int{}
	for _, e := range events {
		switch {
		case e.Look:
		case e.Kind == queue.Submitted:
			ends[e.ID] = 0
		case e.Kind == queue.Finished, e.Kind == queue.Cancelled:
			ends[e.ID]++
		}
	}
	for id, n := range ends {
		switch {
		case n == 0:
			v.Lose("item %d never ended", id)
		case n > 1:
			v.Double("item %d ended %d times", id, n)
		}
	}
	return v
}

func queueUser(t *testing.T, q *queue.Queue[int], random *rand.Rand) {
	var tickets []*queue.Ticket
	for range 40 {
		key := random.IntN(4)
		switch n := random.IntN(10); {
		case n < 2:
			q.Look(key, "x")
		case n < 3 && len(tickets) > 0:
			tickets[random.IntN(len(tickets))].Cancel(errors.New("cancelled"))
		default:
			submit := q.Submit
			if n == 9 {
				submit = func(k int, v any) (*queue.Ticket, error) { return q.SubmitUrgent(k, v, random.IntN(2) == 0) }
			}
			if ticket, err := submit(key, n); err == nil {
				tickets = append(tickets, ticket)
			}
		}
	}
	for _, ticket := range tickets {
		_, _ = ticket.Wait(t.Context())
	}
}
