// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"container/heap"
	"slices"
	"time"
)

// maxReasons bounds what a look remembers of why it was asked for.
const maxReasons = 8

// lane is the work of one key. The queue's lock guards it.
type lane[K comparable] struct {
	q     *Queue[K]
	key   K
	items []*Ticket

	// look: one is due now, asked for since. lookAt is when one was asked for, retryAt when the backoff ends.
	look            bool
	reasons         []string
	since           time.Time
	lookAt, retryAt time.Time
	failures        int

	// stop cancels what is at work now, nil if nothing is; current is its ticket, nil for a look.
	stop    func(cause error)
	current *Ticket
	started time.Time

	isReady    bool
	alarmAt    time.Time
	alarmIndex int
}

// want notes a look that is due now, and tells whether none was.
func (l *lane[K]) want(reason string, now time.Time) bool {
	if reason != "" && len(l.reasons) < maxReasons && !slices.Contains(l.reasons, reason) {
		l.reasons = append(l.reasons, reason)
	}
	if l.look {
		return false
	}
	l.look, l.since = true, now
	return true
}

// insert puts a ticket in its place: at the end, or, if urgent, behind what is under way and other urgent ones.
func (l *lane[K]) insert(t *Ticket) {
	i := len(l.items)
	if t.urgent {
		for i > 0 && !l.items[i-1].urgent && !l.underWay(l.items[i-1]) {
			i--
		}
	}
	l.items = slices.Insert(l.items, i, t)
}

// underWay: it is at work, or waits with something outside going on.
func (l *lane[K]) underWay(t *Ticket) bool {
	return t == l.current || t.attempts > 0 && !t.idle
}

func (l *lane[K]) remove(t *Ticket) {
	if i := slices.Index(l.items, t); i >= 0 {
		l.items = slices.Delete(l.items, i, i+1)
	}
}

// head is the item that goes next. A waiting one that has nothing under way lets the first urgent one pass.
func (l *lane[K]) head() *Ticket {
	if len(l.items) == 0 {
		return nil
	}
	first := l.items[0]
	if first.idle && !first.urgent {
		for i, t := range l.items {
			if t.urgent && (t.attempts == 0 || !t.idle) {
				l.items = slices.Insert(slices.Delete(l.items, i, i+1), 0, t)
				return t
			}
		}
	}
	return first
}

// next tells whether the lane has work now, else when it will have (zero: nothing is set).
func (l *lane[K]) next(now time.Time) (ready bool, at time.Time) {
	if t := l.head(); t != nil {
		return !t.notBefore.After(now), t.notBefore
	}
	if l.look {
		return true, time.Time{}
	}
	at = earlier(l.lookAt, l.retryAt)
	return !at.IsZero() && !at.After(now), at
}

// empty: there is nothing to remember of the lane.
func (l *lane[K]) empty() bool {
	return len(l.items) == 0 && !l.look && l.lookAt.IsZero() && l.retryAt.IsZero() && l.stop == nil && !l.isReady
}

// earlier is the earlier of two times, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// alarms are the lanes that wait for a time, the earliest first.
type alarms[K comparable] []*lane[K]

func (a alarms[K]) Len() int           { return len(a) }
func (a alarms[K]) Less(i, k int) bool { return a[i].alarmAt.Before(a[k].alarmAt) }

func (a alarms[K]) Swap(i, k int) {
	a[i], a[k] = a[k], a[i]
	a[i].alarmIndex, a[k].alarmIndex = i, k
}

// Push is heap.Interface's.
func (a *alarms[K]) Push(x any) {
	l := x.(*lane[K])
	l.alarmIndex = len(*a)
	*a = append(*a, l)
}

// Pop is heap.Interface's.
func (a *alarms[K]) Pop() any {
	last := len(*a) - 1
	l := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	l.alarmIndex = -1
	return l
}

// set makes a lane's alarm ring at a time; zero takes it off.
func (a *alarms[K]) set(l *lane[K], at time.Time) {
	l.alarmAt = at
	switch {
	case at.IsZero() && l.alarmIndex >= 0:
		heap.Remove(a, l.alarmIndex)
	case !at.IsZero() && l.alarmIndex >= 0:
		heap.Fix(a, l.alarmIndex)
	case !at.IsZero():
		heap.Push(a, l)
	}
}

func (a alarms[K]) isFirst(l *lane[K]) bool { return len(a) > 0 && a[0] == l }

// fifo is a queue of elements that reuses its memory.
type fifo[T any] struct {
	in   []T
	from int
}

func (f *fifo[T]) push(v T) { f.in = append(f.in, v) }

func (f *fifo[T]) len() int { return len(f.in) - f.from }

func (f *fifo[T]) pop() T {
	var zero T
	v := f.in[f.from]
	f.in[f.from] = zero
	f.from++
	if f.from*2 >= len(f.in) {
		n := copy(f.in, f.in[f.from:])
		clear(f.in[n:])
		f.in, f.from = f.in[:n], 0
	}
	return v
}

// first is the element that pop would return.
func (f *fifo[T]) first() T { return f.in[f.from] }
