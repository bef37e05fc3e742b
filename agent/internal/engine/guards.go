// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// guards stop the agent where going on would make things worse: a guest that
// keeps failing is left alone, and so is the whole node when much more would
// change at once than usual.
type guards struct {
	quiet time.Duration
	guest *queue.Breaker[guest.VMID]
	node  *queue.NodeBreaker[guest.VMID]
}

const (
	// nodeWindow is the time within which changes of many guests count as at
	// once.
	nodeWindow = time.Minute
	// nodeFloor is how many guests may always change at once: a share of very
	// few says nothing.
	nodeFloor = 5
)

func newGuards(s BreakerSettings) (guards, error) {
	g, err := queue.NewBreaker[guest.VMID](queue.BreakerOptions{
		Max: s.GuestFailures, Window: s.GuestQuiet, Quiet: s.GuestQuiet,
	})
	if err != nil {
		return guards{}, err
	}
	n, err := queue.NewNodeBreaker[guest.VMID](queue.NodeOptions{
		MaxKeys: s.NodeGuests, Percent: s.NodePercent, Floor: nodeFloor, Window: nodeWindow,
	})
	return guards{quiet: s.GuestQuiet, guest: g, node: n}, err
}

// reload puts new bounds in force. What is open or frozen stays so.
func (g *guards) reload(s BreakerSettings) error {
	fresh, err := newGuards(s)
	if err != nil {
		return err
	}
	fresh.guest.Restore(g.guest.Trips())
	if f, frozen := g.node.Frozen(); frozen {
		fresh.node.Restore(f)
	}
	*g = fresh
	return nil
}

// nodeState says why the whole node is left alone, or "".
func (g *guards) nodeState() string {
	f, frozen := g.node.Frozen()
	if !frozen {
		return ""
	}
	return "frozen since " + clock(f.Since) + ": " + f.Reason + " guests change; `felhom-agent plan` shows what, `felhom-agent resume` lets it happen"
}

// guestState says why a guest is left alone, or "".
func (g *guards) guestState(id guest.VMID) string {
	t, open := g.guest.Open(id)
	if !open {
		return ""
	}
	return fmt.Sprintf("left alone after %d failures, until it was quiet till %s; `felhom-agent resume %s` tries at once",
		t.Count, clock(t.Until), id)
}

// mayAct says why an op is not carried out although it is planned, and for how
// long where that is known. What was carried out and is planned again has
// achieved nothing, and a guest that has to be started again soon keeps going
// down: both count as a failure.
func (e *Engine) mayAct(s sighting, o *op.Op, a plan.Action) (why string, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, now := s.want.VMID, time.Now()
	if why := e.guards.guestState(id); why != "" {
		return why, 0
	}
	before := e.last[id]
	next := before.next(s, o, a)
	if why, wait := before.weather(next.print, now); wait > 0 {
		return why, wait
	}
	// The first adoption of a guest is no incident.
	if s.led.Settled != "" && !e.guards.node.Want(id, len(e.want)) {
		return e.guards.nodeState(), 0
	}
	soon := a.Kind == plugin.Start && !before.start.IsZero() && now.Sub(before.start) < e.guards.quiet
	if next.counted = before.print == next.print || soon; next.counted {
		e.guards.guest.Count(id)
		if why := e.guards.guestState(id); why != "" {
			return why, 0
		}
	}
	if a.Kind == plugin.Start {
		next.start = now
	}
	e.last[id] = next
	return "", 0
}

// failed counts a failure that an outcome told of. It is not counted again
// when the action is planned again.
func (e *Engine) failed(id guest.VMID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unprint(id)
	e.guards.guest.Count(id)
}

// converged notes that the guest is as wanted. Failures fade with time: a
// guest that crashes again and again is as wanted in between.
func (e *Engine) converged(id guest.VMID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unprint(id)
}

func (e *Engine) unprint(id guest.VMID) {
	if a, ok := e.last[id]; ok {
		a.print, a.vain = "", vain{}
		e.last[id] = a
	}
}

// release lets a guest, or the node when id is 0, be changed again.
func (e *Engine) release(id guest.VMID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id == 0 {
		e.guards.node.Release()
		e.twin = ""
		return
	}
	e.guards.guest.Release(id)
	delete(e.last, id)
}

func (e *Engine) lastConfig(id guest.VMID) guest.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last[id].config
}
