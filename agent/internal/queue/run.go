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

// maxWaiting bounds the workers that are kept for later.
const maxWaiting = 64

// Run hands out work until ctx ends or Drain was called, then waits for what is at work. Items that are not finished end
// with ErrClosed. It returns nil after Drain, else ctx's cause. It may be called once.
func (q *Queue[K]) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	if err := q.open(func() { workers.Go(func() { q.work(ctx) }) }); err != nil {
		return err
	}
	defer workers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-q.wake:
		case <-timer.C:
		case <-q.idle:
			return nil
		case <-ctx.Done():
			q.close()
			q.stopAll(context.Cause(ctx))
			return context.Cause(ctx)
		}
		timer.Reset(q.ring())
	}
}

// open takes the way to start a worker, and has workers for what is ready already.
func (q *Queue[K]) open(spawn func()) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.spawn != nil {
		return errors.New("queue: Run was called twice")
	}
	q.spawn = spawn
	for range q.ready.len() {
		q.callWorkerLocked()
	}
	return nil
}

// ring makes the lanes ready whose time has come, and returns how long it is until the next one's.
func (q *Queue[K]) ring() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.beatLocked()
	now := time.Now()
	for len(q.alarm) > 0 && !q.alarm[0].alarmAt.After(now) {
		l := q.alarm[0]
		q.alarm.set(l, time.Time{})
		q.scheduleLocked(l, now)
	}
	if len(q.alarm) > 0 {
		return q.alarm[0].alarmAt.Sub(now)
	}
	return time.Hour
}

// callWorkerLocked finds a worker for a lane that became ready: one that is coming anyway, one that waits, or a new one.
// So at any time as many are coming as lanes are ready, or there are all that may be.
func (q *Queue[K]) callWorkerLocked() {
	switch {
	case q.spawn == nil, q.coming >= q.ready.len():
		return
	case q.waiting > 0:
		q.waiting--
		q.called.Signal()
	case q.o.Parallel > 0 && q.coming+q.active >= q.o.Parallel:
		return
	default:
		q.spawn()
	}
	q.coming++
}

// work does one piece of work after another, each of the lane that is ready longest.
func (q *Queue[K]) work(ctx context.Context) {
	ctx = context.WithoutCancel(ctx) // Run stops what is at work when ctx ends: cheaper than a child of it each time
	var l *lane[K]
	var r Result
	for {
		itemCtx, stop := context.WithCancelCause(ctx)
		var item Item
		if l, item = q.turn(l, r, stop); l != nil {
			r = q.o.Handle(itemCtx, l.key, item)
		}
		stop(nil)
		if l == nil {
			return
		}
	}
}

// turn ends a worker's piece of work, if it had one, and waits for the next. There is none for it when the queue is
// closed, or enough others wait.
func (q *Queue[K]) turn(l *lane[K], r Result, stop context.CancelCauseFunc) (*lane[K], Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if l != nil {
		q.active--
		q.coming++
		q.endLocked(l, r, now)
	}
	for {
		for q.ready.len() > 0 {
			l := q.ready.pop()
			if item, ok := q.beginLocked(l, stop, now); ok {
				return l, item
			}
		}
		q.coming--
		if q.closed || q.waiting >= maxWaiting {
			return nil, Item{}
		}
		q.waiting++
		q.called.Wait() // whoever wakes it counts it as coming
		now = time.Now()
	}
}

// beginLocked takes the next piece of work of a ready lane; there is none if it was cancelled meanwhile.
func (q *Queue[K]) beginLocked(l *lane[K], stop context.CancelCauseFunc, now time.Time) (Item, bool) {
	l.isReady = false
	if ready, _ := l.next(now); !ready {
		q.scheduleLocked(l, now)
		return Item{}, false
	}
	q.coming--
	q.active++
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

// endLocked notes what became of a lane's work and schedules the lane anew.
func (q *Queue[K]) endLocked(l *lane[K], r Result, now time.Time) {
	t := l.current
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
	q.scheduleLocked(l, now)
	if q.closed && q.active == 0 {
		close(q.idle)
	}
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
	if n := q.stopAll(ErrDeadline); n > 0 {
		return fmt.Errorf("drain: %d lanes were at work: %w: %w", n, ErrDeadline, context.Cause(ctx))
	}
	return nil
}

// stopAll cancels what is at work, and tells how much it is.
func (q *Queue[K]) stopAll(cause error) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		if l.stop == nil {
			continue
		}
		n++
		l.stop(cause)
		if l.current != nil {
			l.current.cause = cause
		}
	}
	return n
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
	q.coming += q.waiting
	q.waiting = 0
	q.called.Broadcast()
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
