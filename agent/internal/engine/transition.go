// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	// quietAfterHook is how long a guest is left alone after its post-stop
	// hook: a start while the hook still runs, or before the guest's unit is
	// gone, is lost (design section 14.1; recorded: the unit ends some 100 ms
	// after post-stop began).
	quietAfterHook = time.Second
	// quietUnhooked is the same when no post-stop was seen: PVE says stopped
	// up to 1.4 s before post-stop runs.
	quietUnhooked = 2 * time.Second
	// transitionGrace is how long a hook's word counts when no task backs it.
	transitionGrace = 3 * time.Second
	// transitionMax is how long a hook's word counts at all when tasks cannot
	// be seen: PVE's own limit for a stop is two minutes.
	transitionMax = 2 * time.Minute
	// pollTransition is how often a guest in transition is looked at; the
	// hook at its end comes sooner.
	pollTransition = time.Second
)

// busy says why no call about the guest may go out now, and when to look
// again. From pre-start to post-start and from pre-stop until the stop has
// ended a guest is in transition, and so it is while somebody else's task
// about it runs.
func (e *Engine) busy(s *sighting, tasks bool) (why string, wait time.Duration) {
	if t := foreignTask(s.obs.Tasks, s.want.VMID); t != nil {
		return t.Type + " of " + t.User + " is running", pollTransition
	}
	now := time.Now()
	age := e.opt.Wall().Sub(s.led.PhaseAt)
	if age < -quietAfterHook { // the clock was set back since: nobody knows how old it is
		age = transitionMax
	}
	switch s.led.Phase {
	case guest.PreStart, guest.PreStop:
		limit := transitionMax
		if tasks {
			limit = transitionGrace
		}
		if age < limit {
			return "in transition (" + string(s.led.Phase) + " hook seen)", min(pollTransition, limit-age)
		}
	}
	return e.settling(s, now, age)
}

// settling holds everything back for a moment after the guest went down: a
// start would be lost, and a config write may be (its post-stop hook rewrites
// the config without the lock, proxmox.md 5.6).
func (e *Engine) settling(s *sighting, now time.Time, age time.Duration) (string, time.Duration) {
	left := quietAfterHook - age
	if s.led.Phase != guest.PostStop {
		left = quietUnhooked - now.Sub(e.wentDown(s, now))
	}
	if s.obs.State.Run == guest.Stopped && left > 0 {
		return "it has just stopped", left
	}
	return "", 0
}

// wentDown is when the guest, which was running before, was first seen
// stopped; long ago if it was never seen running.
func (e *Engine) wentDown(s *sighting, now time.Time) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := s.want.VMID
	switch before := e.ran[id]; {
	case s.obs.State.Run != guest.Stopped:
		e.ran[id] = s.obs.State.Run == guest.Running
		delete(e.stopped, id)
	case before:
		e.ran[id] = false
		e.stopped[id] = now
	}
	return e.stopped[id]
}
