// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import "time"

// counters count since New.
type counters struct {
	submitted, finished, refused, looks, failedLooks uint64
}

// Stats are a queue's figures at one moment. Counters count since New.
type Stats struct {
	// Lanes hold work of any kind; Active are at work now, Ready would be if there were no Parallel limit.
	Lanes, Active, Ready int
	// Items are the submitted ones that are not finished.
	Items int
	// Submitted, Finished and Refused count items, Looks and FailedLooks looks that were done.
	Submitted, Finished, Refused, Looks, FailedLooks uint64
}

// Stats returns the figures.
func (q *Queue[K]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	c, lanes := q.stats, 0
	for _, l := range q.lanes {
		if !l.empty() {
			lanes++
		}
	}
	return Stats{
		Lanes: lanes, Active: q.active, Ready: q.ready.len(), Items: q.unfinished,
		Submitted: c.submitted, Finished: c.finished, Refused: c.refused, Looks: c.looks, FailedLooks: c.failedLooks,
	}
}

// LaneStats are a lane's figures at one moment; times that are zero are not set.
type LaneStats struct {
	// Busy since that time with the item ID, 0 for a look.
	Busy time.Time
	ID   uint64
	// Items are not finished. WaitsUntil is when the first of them goes on.
	Items      int
	WaitsUntil time.Time
	// Look: one is due. NextLook is the time of one that is not due yet, Failures the errors in a row.
	Look     bool
	NextLook time.Time
	Failures int
}

// Lane returns the figures of one key, and whether there is a lane for it.
func (q *Queue[K]) Lane(key K) (LaneStats, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[key]
	if l == nil || l.empty() {
		return LaneStats{}, false
	}
	s := LaneStats{Items: len(l.items), Look: l.look, NextLook: earlier(l.lookAt, l.retryAt), Failures: l.failures}
	if l.stop != nil {
		s.Busy = l.started
		if l.current != nil {
			s.ID = l.current.ID
		}
	} else if len(l.items) > 0 {
		s.WaitsUntil = l.items[0].notBefore
	}
	return s, true
}
