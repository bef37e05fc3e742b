// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// lrmEvery is the period of the node's HA resource manager.
const lrmEvery = 10 * time.Second

// haState is what the HA manager knows of a guest. The Sim's mu guards it.
type haState struct {
	requested string        // started, stopped, disabled, ignored
	state     string        // started, stopped, request_stop, error, ...
	hard      bool          // a stop asks for no shutdown
	timeout   time.Duration // of a requested shutdown
	failed    int           // starts in a row
	busy      bool          // a task of the resource manager runs
}

var haStates = []string{"started", "stopped", "enabled", "disabled", "ignored"}

// managed reports whether HA decides about the guest's run state.
func (h *haState) managed() bool { return h != nil && h.requested != "ignored" }

// row is the guest's "ha" in its status.
func (h *haState) row() map[string]any {
	if !h.managed() {
		return map[string]any{"managed": 0}
	}
	return map[string]any{"managed": 1, "state": h.state}
}

// SetHA puts a guest under the HA manager with a requested state (started,
// stopped, disabled or ignored), or takes it out with "". The node's resource
// manager acts within ten seconds, as root@pam.
func (s *Sim) SetHA(vmid int, requested string) error {
	if requested != "" && !slices.Contains(haStates, requested) {
		return fmt.Errorf("pvetest: HA state %q is none of %s", requested, strings.Join(haStates, ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	s.requestLocked(g, requested)
	return nil
}

func (s *Sim) requestLocked(g *guestState, requested string) {
	if requested == "" {
		g.ha = nil
		return
	}
	if requested == "enabled" {
		requested = "started"
	}
	if g.ha == nil {
		g.ha = &haState{state: "queued"}
	}
	h := g.ha
	h.requested, h.hard, h.timeout, h.failed = requested, false, time.Minute, 0
	if h.state != "error" || requested == "disabled" {
		h.state = h.aim(g.up)
	}
}

// aim is the state on the way to what is requested.
func (h *haState) aim(up bool) string {
	switch {
	case h.requested == "ignored":
		return "ignored"
	case h.requested == "started":
		return pickBool(up, "started", "starting")
	case up:
		return "request_stop"
	}
	return h.requested
}

func pickBool(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// lrm is the node's HA resource manager: it brings managed guests to their
// requested state, also when they left it by themselves.
func (s *Sim) lrm() {
	for sleep(s.ctx, lrmEvery) {
		s.mu.Lock()
		var due []*guestState
		for _, g := range s.guests {
			if g.ha.managed() && !g.ha.busy && g.ha.state != "error" && !s.noQuorum {
				due = append(due, g)
			}
		}
		slices.SortFunc(due, func(a, b *guestState) int { return a.vmid - b.vmid })
		s.mu.Unlock()
		for _, g := range due {
			s.lrmGuest(g)
		}
	}
}

func (s *Sim) lrmGuest(g *guestState) {
	s.mu.Lock()
	h := g.ha
	if h == nil {
		s.mu.Unlock()
		return
	}
	want := h.requested == "started"
	if h.state = h.aim(g.up); want == g.up {
		h.failed = 0
		s.mu.Unlock()
		return
	}
	h.busy = true
	how := stopHow{what: "shutdown", hard: h.hard, timeout: h.timeout, force: true}
	s.mu.Unlock()
	typ, do := s.haWork(g, want, how)
	_, err := s.fork(typ, itoa(g.vmid), acl.Root, func(t *task) error {
		t.say("task started by HA resource agent\n")
		err := do(t)
		s.lrmDone(g, h, err)
		return err
	})
	if err != nil {
		s.lrmDone(g, h, err)
	}
}

// haWork is the task that brings a guest up or down.
func (s *Sim) haWork(g *guestState, start bool, how stopHow) (string, work) {
	verb, vm := "shutdown", g.kind == guest.QEMU
	switch {
	case start && vm:
		return "qmstart", s.vmStartTask(g.vmid)
	case start:
		return "vzstart", s.ctStartTask(g.vmid)
	case how.hard:
		verb, how.what = "stop", "stop"
	}
	if vm {
		return "qm" + verb, s.vmStopTask(g.vmid, how)
	}
	return "vz" + verb, s.ctStopTask(g.vmid, how)
}

// lrmDone notes how it went: a start may fail once and is tried again, then
// the guest is in error (there is no other node to go to).
func (s *Sim) lrmDone(g *guestState, h *haState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.busy = false
	switch {
	case err == nil:
		h.state = h.aim(g.up)
	case h.requested == "started":
		if h.failed++; h.failed > 1 {
			h.state = "error"
		}
	}
}

// haPower answers a start or stop of a managed guest with the task that only
// passes on the request; ok is false for other guests.
func (c *call) haPower(start, hard bool) (upid any, ok bool, err error) {
	s := c.sim
	s.mu.Lock()
	g := s.guests[c.vmid()]
	mine := g != nil && g.kind == c.kind() && g.ha.managed()
	s.mu.Unlock()
	if !mine {
		return nil, false, nil
	}
	typ, verb := "hastop", "stop"
	if start {
		typ, verb = "hastart", "start"
	}
	timeout := c.timeout(time.Minute)
	upid, err = c.guestTask(typ, func(t *task) error {
		if !t.wait(s.scaled(300 * time.Millisecond)) {
			return errInterrupted
		}
		t.say(fmt.Sprintf("Requesting HA %s for %s %d\n", verb, pick(g.kind, "CT", "VM"), g.vmid))
		s.mu.Lock()
		defer s.mu.Unlock()
		if g.ha == nil {
			return nil
		}
		s.requestLocked(g, pickBool(start, "started", "stopped"))
		g.ha.hard, g.ha.timeout = hard, timeout
		s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "ha-" + verb, User: t.user, UPID: t.upid})
		return nil
	})
	return upid, true, err
}

// sid is a guest's name in HA.
func (g *guestState) sid() string { return fmt.Sprintf("%s:%d", pick(g.kind, "ct", "vm"), g.vmid) }

func haRoutes() []route {
	state := schema.Param{Name: "state", Enum: haStates}
	return []route{
		{method: "GET", path: "/cluster/ha/resources", perm: rootPerm("Sys.Audit"), run: haResources, params: []schema.Param{{Name: "type"}}},
		{method: "POST", path: "/cluster/ha/resources", protected: true, perm: rootPerm("Sys.Console"), run: haAdd, params: []schema.Param{
			{Name: "sid", Required: true},
			state,
			{Name: "comment"},
			{Name: "group"},
			{Name: "max_restart", Type: schema.Integer},
			{Name: "max_relocate", Type: schema.Integer},
		}},
		{method: "GET", path: "/cluster/ha/resources/{sid}", perm: rootPerm("Sys.Audit"), run: haGet},
		{method: "PUT", path: "/cluster/ha/resources/{sid}", protected: true, perm: rootPerm("Sys.Console"), run: haPut, params: []schema.Param{
			state, {Name: "comment"}, {Name: "digest", MaxLen: 64},
		}},
		{method: "DELETE", path: "/cluster/ha/resources/{sid}", protected: true, perm: rootPerm("Sys.Console"), run: haDelete},
		{method: "GET", path: "/cluster/ha/status/current", perm: rootPerm("Sys.Audit"), run: haStatus},
	}
}

func (g *guestState) haConfig() map[string]any {
	return map[string]any{"sid": g.sid(), "type": pick(g.kind, "ct", "vm"), "state": g.ha.requested, "digest": digestOf(g.sid() + g.ha.requested)}
}

// haGuests are the guests in HA. Needs mu.
func (s *Sim) haGuests() []*guestState {
	var out []*guestState
	for _, g := range s.guests {
		if g.ha != nil {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *guestState) int { return a.vmid - b.vmid })
	return out
}

func haResources(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, g := range s.haGuests() {
		if t := c.in.Get("type"); t == "" || t == pick(g.kind, "ct", "vm") {
			out = append(out, g.haConfig())
		}
	}
	return out, nil
}

// haGuestLocked finds the guest of a resource id: ct:101, vm:101 or 101.
func (s *Sim) haGuestLocked(sid string) (*guestState, error) {
	for _, g := range s.guests {
		if g.sid() == sid || itoa(g.vmid) == sid {
			return g, nil
		}
	}
	return nil, die("no such resource '%s'", sid)
}

func (c *call) haChange(sid string, f func(*guestState) error) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.haGuestLocked(sid)
	if err != nil {
		return nil, err
	}
	return nil, f(g)
}

func haAdd(c *call) (any, error) {
	return c.haChange(c.in.Get("sid"), func(g *guestState) error {
		if g.ha != nil {
			return die("resource ID '%s' already defined", g.sid())
		}
		c.sim.requestLocked(g, either2(c.in.Get("state"), "started"))
		return nil
	})
}

func haPut(c *call) (any, error) {
	return c.haChange(c.path["sid"], func(g *guestState) error {
		if g.ha == nil {
			return die("no such resource '%s'", c.path["sid"])
		}
		if st := c.in.Get("state"); st != "" {
			c.sim.requestLocked(g, st)
		}
		return nil
	})
}

func haDelete(c *call) (any, error) {
	return c.haChange(c.path["sid"], func(g *guestState) error {
		if g.ha == nil {
			return die("cannot delete service '%s', not HA managed!", g.sid())
		}
		g.ha = nil
		return nil
	})
}

func haGet(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.haGuestLocked(c.path["sid"])
	if err == nil && g.ha == nil {
		err = die("no such resource '%s'", c.path["sid"])
	}
	if err != nil {
		return nil, err
	}
	return g.haConfig(), nil
}

// haStatus is the manager's view: quorum, and with resources its master, the
// node's resource manager and each service.
func haStatus(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	node, list := s.opt.Node, s.haGuests()
	quorum := map[string]any{"id": "quorum", "type": "quorum", "node": node, "quorate": b2i(!s.noQuorum), "status": pickBool(s.noQuorum, "No quorum on node '"+node+"'!", "OK")}
	out := []any{quorum}
	state := pickBool(len(list) > 0, "armed", "standby")
	if s.major >= 9 {
		out = append(out, map[string]any{
			"id": "fencing", "type": "fencing", "node": node, "armed-state": state,
			"status": pickBool(len(list) > 0, "armed (CRM watchdog active)", "standby (CRM watchdog standby)"),
		})
	}
	if len(list) == 0 {
		return out, nil
	}
	active := fmt.Sprintf("%s (active, %s)", node, s.now().UTC().Format(time.ANSIC))
	out = append(out, map[string]any{"id": "master", "type": "master", "node": node, "status": active, "timestamp": s.now().Unix()},
		map[string]any{"id": "lrm:" + node, "type": "lrm", "node": node, "status": active, "timestamp": s.now().Unix()})
	for _, g := range list {
		out = append(out, map[string]any{
			"id": "service:" + g.sid(), "type": "service", "sid": g.sid(), "node": node,
			"state": g.ha.state, "request_state": g.ha.requested, "crm_state": g.ha.state, "status": fmt.Sprintf("%s (%s, %s)", g.sid(), node, g.ha.state),
		})
	}
	return out, nil
}
