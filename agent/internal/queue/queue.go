// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package queue runs work in lanes, one per key: what has the same key runs one after another in submit order, what
// has different keys runs in parallel.
//
// There are two kinds of work. A submitted item carries a value, has a [Ticket], and keeps its place. A look carries
// nothing but its key; looks collapse, so that any number of reasons to look at a key cost one look.
//
// Guarantees: never two pieces of work of one key at once, whoever asked. Items of a key start in submit order, but for
// [Queue.SubmitUrgent]. A look that is asked for while one runs causes exactly one more. An item whose [Result] says
// Again stays at the head of its lane and holds nothing while it waits. Lanes that are ready take turns. Every ticket
// ends. Items go before looks; a look that is due is held back by items only as long as there are some.
//
// How much may go on at once outside (calls, tasks) is not the lanes' business but a [Limiter]'s.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
)

var (
	// ErrFull: as many items wait as the bound allows. Nothing was queued.
	ErrFull = errors.New("queue is full")
	// ErrClosed: the queue is draining or has ended; the item was not queued, or was not finished.
	ErrClosed = errors.New("queue is closed")
	// ErrCancelled: the item was taken out before it started.
	ErrCancelled = errors.New("cancelled before it started")
	// ErrPreempted is the cause when an urgent item aborts the one before it.
	ErrPreempted = errors.New("aborted for an urgent item")
	// ErrDeadline is the cause when Drain's deadline comes before the work's end.
	ErrDeadline = errors.New("cut short by shutdown")
)

// Item is one piece of work as its handler sees it.
type Item struct {
	// ID is the ticket's, 0 for a look.
	ID uint64
	// Look: nothing was submitted, the key is to be looked at. Reasons say why, the first few of them.
	Look    bool
	Reasons []string
	// Value is what was submitted.
	Value any
	// Attempt counts from 1; it grows with each Again of an item, and with each error in a row of a look.
	Attempt int
	// Since is when the item was submitted, or the look asked for.
	Since time.Time
	// Cancelled is the cause if the item's cancellation was asked for. The context of the attempt that was running
	// then, or else of the next one, is cancelled; later ones are not, so that a handler can see the work to its end.
	Cancelled error
}

// Result is what a handler made of a piece of work.
type Result struct {
	// Again above 0: not finished, come back after that time. An item keeps its place at the head of its lane. For a
	// look it sets the next one, instead of the backoff if there was an error.
	Again time.Duration
	// Idle, with Again: nothing of the item is under way, so an urgent item may go first.
	Idle bool
	// Err fails an item that does not say Again. A look that failed is repeated with growing backoff.
	Err error
	// Done is the item's result for whoever waits on its ticket.
	Done any
}

// Options say what a queue does and how much it holds. A zero number means its default.
type Options[K comparable] struct {
	// Handle does one piece of work. Its context ends with Run's, or with the item's cancellation; the cause tells.
	Handle func(ctx context.Context, key K, item Item) Result
	// Bound is how many items there may be that are not finished, in all lanes together. Default 1000.
	Bound int
	// LaneBound is the same for one lane; 0 is no bound of its own.
	LaneBound int
	// Parallel is how many lanes may be at work at once; 0 is no limit.
	Parallel int
	// MinBackoff is the wait after the first error of a look, doubled with each further one up to MaxBackoff. Defaults
	// 1 s and 5 min.
	MinBackoff, MaxBackoff time.Duration
	// Logger is told of failed looks and aborts; nil tells nobody.
	Logger *slog.Logger
	// History, if set, is called with each step of each piece of work, in the one order in which they happened, under
	// the queue's lock.
	History func(Event[K])
}

// DefaultOptions are the defaults around a handler.
func DefaultOptions[K comparable](handle func(context.Context, K, Item) Result) Options[K] {
	o := Options[K]{Handle: handle}
	o.setDefaults()
	return o
}

func (o *Options[K]) setDefaults() {
	if o.Handle == nil {
		panic("queue: Options.Handle is nil")
	}
	if o.Bound == 0 {
		o.Bound = 1000
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 5 * time.Minute
	}
	o.MaxBackoff = max(o.MaxBackoff, o.MinBackoff)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// minPrune is how many lanes are kept without a look at whether they hold anything.
const minPrune = 256

// Queue holds lanes. Work may be put in before Run; it waits.
type Queue[K comparable] struct {
	o Options[K]
	// wake tells Run that the earliest alarm changed.
	wake chan struct{}

	// mu guards what follows.
	mu sync.Mutex
	// spawn starts a worker, nil before Run. coming counts the workers that will take a lane next, waiting those that
	// wait until they are called.
	spawn           func()
	coming, waiting int
	called          sync.Cond
	// lanes are all that hold work, and some that did. At pruneAt of them those are looked for.
	lanes   map[K]*lane[K]
	pruneAt int
	ready   fifo[*lane[K]]
	alarm   alarms[K]
	// active counts lanes at work, unfinished the items.
	active, unfinished int
	nextID             uint64
	closed             bool
	// idle is closed when the queue is closed and nothing is at work.
	idle  chan struct{}
	stats counters
	// pulses are those who wait for Run's next turn.
	pulses []chan struct{}
}

// New makes a queue. It panics without a handler.
func New[K comparable](o Options[K]) *Queue[K] {
	o.setDefaults()
	q := &Queue[K]{o: o, wake: make(chan struct{}, 1), lanes: map[K]*lane[K]{}, pruneAt: minPrune, idle: make(chan struct{})}
	q.called.L = &q.mu
	return q
}

// Submit puts a value at the end of its lane. The error is ErrFull or ErrClosed.
func (q *Queue[K]) Submit(key K, value any) (*Ticket, error) {
	return q.submit(key, &Ticket{value: value})
}

// SubmitUrgent puts a value ahead of the items of its lane that did not start, behind earlier urgent ones. What is
// under way is finished first, unless abort is set: then its context is cancelled with ErrPreempted.
func (q *Queue[K]) SubmitUrgent(key K, value any, abort bool) (*Ticket, error) {
	return q.submit(key, &Ticket{value: value, urgent: true, abort: abort})
}

func (q *Queue[K]) submit(key K, t *Ticket) (*Ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed
	}
	if err := q.roomLocked(key); err != nil {
		q.stats.refused++
		return nil, err
	}
	l := q.laneLocked(key)
	q.nextID++
	now := time.Now()
	t.ID, t.since, t.done, t.lane = q.nextID, now, make(chan struct{}), l
	q.unfinished++
	q.stats.submitted++
	l.insert(t)
	q.note(Event[K]{Kind: Submitted, Key: key, ID: t.ID, Urgent: t.urgent})
	if t.abort {
		q.abortLocked(l, t)
	}
	q.scheduleLocked(l, now)
	return t, nil
}

func (q *Queue[K]) roomLocked(key K) error {
	if q.unfinished >= q.o.Bound {
		return fmt.Errorf("%w: %d items are not finished, which is the bound", ErrFull, q.unfinished)
	}
	if l := q.lanes[key]; l != nil && q.o.LaneBound > 0 && len(l.items) >= q.o.LaneBound {
		return fmt.Errorf("%w: %d items of this lane are not finished, which is the bound", ErrFull, len(l.items))
	}
	return nil
}

// abortLocked cancels what is under way before the urgent ticket t.
func (q *Queue[K]) abortLocked(l *lane[K], t *Ticket) {
	if l.stop != nil {
		l.stop(ErrPreempted)
		if l.current != nil {
			l.current.cause = ErrPreempted
		}
		return
	}
	if head := l.items[0]; head != t && !head.urgent {
		head.wake(ErrPreempted)
	}
}

// cancel takes a ticket out, or cancels the context it works under.
func (l *lane[K]) cancel(t *Ticket, cause error) (removed bool) {
	q := l.q
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case t.finished:
		return false
	case t.attempts == 0:
		l.remove(t)
		q.finishLocked(l, t, Cancelled, nil, fmt.Errorf("%w: %w", ErrCancelled, cause))
		q.scheduleLocked(l, time.Now())
		return true
	case l.current == t:
		t.cause = cause
		l.stop(cause)
	default:
		t.wake(cause)
		q.scheduleLocked(l, time.Now())
	}
	return false
}

func (l *lane[K]) begun(t *Ticket) bool {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	return t.finished || t.attempts > 0
}

// Look asks that a key be looked at as soon as its lane is free. A look that is waiting already takes the reason too; a
// backoff does not hold it, for something new is known.
func (q *Queue[K]) Look(key K, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	l := q.laneLocked(key)
	now := time.Now()
	if l.want(reason, now) {
		q.scheduleLocked(l, now)
	}
}

// LookAfter asks for a look when d has passed. Of several the earliest counts.
func (q *Queue[K]) LookAfter(key K, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	l := q.laneLocked(key)
	now := time.Now()
	l.lookAt = earlier(l.lookAt, now.Add(d))
	q.scheduleLocked(l, now)
}

func (q *Queue[K]) laneLocked(key K) *lane[K] {
	l := q.lanes[key]
	if l == nil {
		q.pruneLocked()
		l = &lane[K]{q: q, key: key, alarmIndex: -1}
		q.lanes[key] = l
	}
	return l
}

// pruneLocked forgets lanes that hold nothing, once they may be half of all.
func (q *Queue[K]) pruneLocked() {
	if len(q.lanes) < q.pruneAt {
		return
	}
	maps.DeleteFunc(q.lanes, func(_ K, l *lane[K]) bool { return l.empty() })
	q.pruneAt = max(minPrune, 2*len(q.lanes))
}

// scheduleLocked puts a lane where its state says: among the ready ones, on the alarm, or nowhere.
func (q *Queue[K]) scheduleLocked(l *lane[K], now time.Time) {
	if l.stop != nil || l.isReady {
		return // looked at again when it is done
	}
	ready, at := l.next(now)
	switch {
	case q.closed:
		at = time.Time{}
	case ready:
		at = time.Time{}
		l.isReady = true
		q.ready.push(l)
		q.callWorkerLocked()
	}
	q.alarm.set(l, at)
	if q.alarm.isFirst(l) {
		q.wakeRun()
	}
}

func (q *Queue[K]) wakeRun() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
