// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Run hands out work until ctx ends or Drain was called, then waits for what is at work. Items that are not finished end
// with ErrClosed. It returns nil after Drain, else ctx's cause. It may be called once.
func (q *Queue[K]) Run(ctx context.Context) error {
	q.mu.Lock()
	if q.running {
		q.mu.Unlock()
		return errors.New("queue: Run was called twice")
	}
	q.running = true
	q.mu.Unlock()
	var workers sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		starts, wait, over := q.dispatch()
		for _, l := range starts {
			workers.Go(func() { q.work(ctx, l) })
		}
		if over {
			workers.Wait()
			return nil
		}
		timer.Reset(wait)
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	q.close()
	workers.Wait()
	return context.Cause(ctx)
}

// dispatch returns the lanes to be started now and how long nothing else is due. It is over when the queue is closed
// and nothing is at work.
func (q *Queue[K]) dispatch() (starts []*lane[K], wait time.Duration, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.beatLocked()
	now := time.Now()
	for len(q.alarm) > 0 && !q.alarm[0].alarmAt.After(now) {
		l := q.alarm[0]
		q.alarm.set(l, time.Time{})
		q.scheduleLocked(l)
	}
	for q.ready.len() > 0 && (q.o.Parallel <= 0 || q.active < q.o.Parallel) {
		q.active++
		starts = append(starts, q.ready.pop())
	}
	wait = time.Hour
	if len(q.alarm) > 0 {
		wait = q.alarm[0].alarmAt.Sub(now)
	}
	return starts, wait, q.closed && q.active == 0
}

// work does what is due in a lane, one piece, and goes on with the lane that is ready longest, until there is none.
func (q *Queue[K]) work(ctx context.Context, l *lane[K]) {
	for l != nil {
		itemCtx, stop := context.WithCancelCause(ctx)
		item, ok := q.begin(l, stop)
		if ok {
			q.end(l, q.o.Handle(itemCtx, l.key, item))
		}
		stop(nil)
		l = q.another()
	}
}

// begin takes the next piece of work of a ready lane; there is none if it was cancelled meanwhile.
func (q *Queue[K]) begin(l *lane[K], stop context.CancelCauseFunc) (Item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.isReady = false
	now := time.Now()
	if ready, _ := l.next(now); !ready || q.closed {
		q.scheduleLocked(l)
		return Item{}, false
	}
	l.stop, l.started = stop, now
	if t := l.head(); t != nil {
		return q.beginItem(l, t), true
	}
	return q.beginLook(l, now), true
}

func (q *Queue[K]) beginItem(l *lane[K], t *Ticket) Item {
	t.attempts++
	t.notBefore, t.idle = time.Time{}, false
	l.current = t
	if t.pending {
		t.pending = false
		l.stop(t.cause)
	}
	q.note(Event[K]{Kind: Started, Key: l.key, ID: t.ID, Urgent: t.urgent})
	return Item{ID: t.ID, Value: t.value, Attempt: t.attempts, Since: t.since, Cancelled: t.cause}
}

// beginLook takes the look, and with it whatever made it due.
func (q *Queue[K]) beginLook(l *lane[K], now time.Time) Item {
	item := Item{Look: true, Reasons: l.reasons, Attempt: l.failures + 1, Since: l.since}
	if !l.look {
		item.Since = earlier(l.lookAt, l.retryAt)
	}
	l.look, l.reasons = false, nil
	if !l.lookAt.After(now) {
		l.lookAt = time.Time{}
	}
	if !l.retryAt.After(now) {
		l.retryAt = time.Time{}
	}
	q.note(Event[K]{Kind: Started, Key: l.key, Look: true})
	return item
}

// end notes what became of a lane's work and schedules the lane anew.
func (q *Queue[K]) end(l *lane[K], r Result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t, now := l.current, time.Now()
	l.stop, l.current = nil, nil
	switch {
	case t == nil:
		q.endLook(l, r, now)
	case r.Again > 0 && !q.closed:
		t.notBefore, t.idle = now.Add(r.Again), r.Idle
		q.note(Event[K]{Kind: Paused, Key: l.key, ID: t.ID, Urgent: t.urgent, Idle: t.idle})
	default:
		l.remove(t)
		if r.Again > 0 {
			r.Err = errors.Join(ErrClosed, r.Err)
		}
		q.finishLocked(l, t, Finished, r.Done, r.Err)
	}
	q.scheduleLocked(l)
}

func (q *Queue[K]) endLook(l *lane[K], r Result, now time.Time) {
	q.note(Event[K]{Kind: Finished, Key: l.key, Look: true})
	q.stats.looks++
	if r.Err == nil {
		l.failures, l.retryAt = 0, time.Time{}
	} else {
		l.failures++
		q.stats.failedLooks++
	}
	switch {
	case r.Again > 0:
		l.lookAt = earlier(l.lookAt, now.Add(r.Again))
	case r.Err != nil:
		wait := q.backoff(l.failures)
		l.retryAt = now.Add(wait)
		q.o.Logger.Debug("look failed", "key", l.key, "failures", l.failures, "again_in", wait, "err", r.Err)
	}
}

// backoff is the wait after the given number of errors in a row.
func (q *Queue[K]) backoff(failures int) time.Duration {
	wait := q.o.MinBackoff
	for i := 1; i < failures && wait < q.o.MaxBackoff; i++ {
		wait *= 2
	}
	return min(wait, q.o.MaxBackoff)
}

// finishLocked ends a ticket, after its work or without it.
func (q *Queue[K]) finishLocked(l *lane[K], t *Ticket, kind EventKind, result any, err error) {
	q.note(Event[K]{Kind: kind, Key: l.key, ID: t.ID, Urgent: t.urgent})
	t.result, t.err, t.finished = result, err, true
	q.unfinished--
	q.stats.finished++
	close(t.done)
}

// another returns the lane that is ready longest, or nil and the worker ends.
func (q *Queue[K]) another() *lane[K] {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ready.len() > 0 && (q.o.Parallel <= 0 || q.active <= q.o.Parallel) {
		return q.ready.pop()
	}
	q.active--
	if q.closed && q.active == 0 {
		close(q.idle)
		q.wakeRun()
	}
	return nil
}

// Drain takes no more work, lets what is at work end, and gives up the rest: their tickets end with ErrClosed, looks are
// dropped. When ctx ends first, what is at work is cancelled with ErrDeadline and the error says how much it was. Run
// ends when the last of it has returned.
func (q *Queue[K]) Drain(ctx context.Context) error {
	q.close()
	select {
	case <-q.idle:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, l := range q.lanes {
		if l.stop != nil {
			n++
			l.stop(ErrDeadline)
			if l.current != nil {
				l.current.cause = ErrDeadline
			}
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("drain: %d lanes were at work: %w: %w", n, ErrDeadline, context.Cause(ctx))
}

// close refuses new work and ends all tickets that are not at work.
func (q *Queue[K]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for q.ready.len() > 0 {
		q.ready.pop().isReady = false
	}
	q.alarm = nil
	for _, l := range q.lanes {
		q.emptyLocked(l)
	}
	if q.active == 0 {
		close(q.idle)
	}
	q.wakeRun()
}

func (q *Queue[K]) emptyLocked(l *lane[K]) {
	for _, t := range l.items {
		if t != l.current {
			q.finishLocked(l, t, Cancelled, nil, ErrClosed)
		}
	}
	l.items, l.alarmIndex = nil, -1
	l.look, l.lookAt, l.retryAt = false, time.Time{}, time.Time{}
}
