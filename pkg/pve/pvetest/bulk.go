// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// bulkRoutes start and stop the node's guests together.
func bulkRoutes() []route {
	vms := schema.Param{Name: "vms"}
	return []route{
		{method: "POST", path: "/nodes/{node}/startall", protected: true, perm: bulkPerm, run: startAllCall, params: []schema.Param{
			vms, {Name: "force", Type: schema.Boolean},
		}},
		{method: "POST", path: "/nodes/{node}/stopall", protected: true, perm: bulkPerm, run: stopAllCall, params: []schema.Param{
			vms,
			{Name: "force-stop", Type: schema.Boolean},
			{Name: "timeout", Type: schema.Integer, Min: schema.F(0), Max: schema.F(7200)},
			{Name: "max-workers", Type: schema.Integer, Min: schema.F(1), Max: schema.F(64)},
		}},
	}
}

// bulkPerm asks for VM.PowerMgmt on every guest that is named, or on all.
func bulkPerm(c *call) error {
	if c.may("/", "VM.PowerMgmt") {
		return nil
	}
	ids := splitList(c.in.Get("vms"))
	if len(ids) == 0 {
		return denied("/, VM.PowerMgmt")
	}
	for _, id := range ids {
		if err := c.need("/vms/"+id, "VM.PowerMgmt"); err != nil {
			return err
		}
	}
	return nil
}

// inBulk is a guest in a bulk action.
type inBulk struct {
	g        *guestState
	order    int
	up, down time.Duration
}

// startupOf reads a guest's startup key; without an order it comes last.
func startupOf(g *guestState) inBulk {
	b := inBulk{g: g, order: 1 << 30, down: 3 * time.Minute}
	for part := range strings.SplitSeq(g.value("startup"), ",") {
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			k, v = "order", part
		}
		n, err := strconv.Atoi(v)
		if err != nil {
			continue
		}
		switch k {
		case "order":
			b.order = n
		case "up":
			b.up = time.Duration(n) * time.Second
		case "down":
			b.down = time.Duration(n) * time.Second
		}
	}
	return b
}

// bulkLocked lists the guests of a bulk action in their order, HA's left out.
func (s *Sim) bulkLocked(only []string, take func(*guestState) bool) []inBulk {
	var out []inBulk
	for _, g := range s.sortedGuests() {
		if len(only) > 0 && !slices.Contains(only, itoa(g.vmid)) || g.ha.managed() || !take(g) {
			continue
		}
		out = append(out, startupOf(g))
	}
	slices.SortStableFunc(out, func(a, b inBulk) int { return cmp.Compare(a.order, b.order) })
	return out
}

func startAllCall(c *call) (any, error) {
	only, force, user := splitList(c.in.Get("vms")), c.in.Bool("force"), c.authid
	return c.sim.fork("startall", "", user, func(t *task) error { return t.startAll(only, force) })
}

// startAll starts the guests with onboot, or those that are named, one after
// the other in their order.
func (t *task) startAll(only []string, force bool) error {
	s := t.sim
	if !force {
		if err := t.waitQuorum(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	list := s.bulkLocked(only, func(g *guestState) bool {
		return !g.conf.Template() && (len(only) > 0 || force || g.value("onboot") == "1")
	})
	for _, b := range list {
		if b.g.conf.Lock() == "backup" {
			s.setConfLocked(b.g, b.g.conf.Edit(func(c *conf.Guest) { delete(c.Current.Values, "lock") }))
			t.say(fmt.Sprintf("removed left over backup lock from '%d'!\n", b.g.vmid))
		}
	}
	s.mu.Unlock()
	for i, b := range list {
		if s.isUp(b.g) {
			continue
		}
		typ, do := s.haWork(b.g, true, stopHow{})
		t.say(fmt.Sprintf("Starting %s %d\n", pick(b.g.kind, "CT", "VM"), b.g.vmid))
		if err := t.child(typ, b.g.vmid, do); err != nil {
			t.say(fmt.Sprintf("Starting %s %d failed: %s\n", pick(b.g.kind, "CT", "VM"), b.g.vmid, strings.TrimSpace(err.Error())))
			if cancelled(t.ctx) {
				return errInterrupted
			}
		} else if i < len(list)-1 && !t.wait(b.up) {
			return errInterrupted
		}
	}
	return nil
}

// waitQuorum waits until the node may write, as it does after a boot.
func (t *task) waitQuorum() error {
	for said := false; t.sim.quorumLost(); said = true {
		if !said {
			t.say("waiting for quorum ...\n")
		}
		if !t.wait(time.Second) {
			return errInterrupted
		}
	}
	return nil
}

// child runs a task of the same user and waits for its end.
func (t *task) child(typ string, vmid int, do work) error {
	upid, err := t.sim.fork(typ, itoa(vmid), t.user, do)
	if err != nil {
		return err
	}
	_, err = t.sim.WaitTask(t.ctx, upid)
	return err
}

func stopAllCall(c *call) (any, error) {
	only, user, workers := splitList(c.in.Get("vms")), c.authid, c.in.Int("max-workers", 4)
	how := stopHow{what: "shutdown", force: !c.in.Has("force-stop") || c.in.Bool("force-stop")}
	if c.in.Has("timeout") {
		how.timeout = c.timeout(3 * time.Minute)
	}
	return c.sim.fork("stopall", "", user, func(t *task) error { return t.stopAll(only, how, workers) })
}

// stopAll shuts guests down in the reverse of their order: those of one order
// together, a few at a time, then those of the next.
func (t *task) stopAll(only []string, how stopHow, workers int) error {
	s := t.sim
	s.mu.Lock()
	list := s.bulkLocked(only, func(g *guestState) bool { return g.up || g.kind == guest.QEMU && len(only) > 0 })
	s.mu.Unlock()
	slices.Reverse(list)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].order == list[0].order {
			n++
		}
		if err := t.stopGroup(list[:n], how, workers); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func (t *task) stopGroup(group []inBulk, how stopHow, workers int) error {
	slots := make(chan struct{}, workers)
	done := make(chan struct{}, len(group))
	for _, b := range group {
		select {
		case slots <- struct{}{}:
		case <-t.ctx.Done():
			return errInterrupted
		}
		h := how
		h.timeout = either(h.timeout, b.down)
		t.say(fmt.Sprintf("Stopping %s %d (timeout = %d seconds)\n", pick(b.g.kind, "CT", "VM"), b.g.vmid, int(h.timeout.Seconds())))
		typ, do := t.sim.haWork(b.g, false, h)
		t.sim.spawn(func() {
			if err := t.child(typ, b.g.vmid, do); err != nil {
				t.sim.log.Info("stopall", "vmid", b.g.vmid, "error", strings.TrimSpace(err.Error()))
			}
			<-slots
			done <- struct{}{}
		})
	}
	for range group {
		select {
		case <-done:
		case <-t.ctx.Done():
			return errInterrupted
		}
	}
	return nil
}
