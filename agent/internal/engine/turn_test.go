// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// An op may wait long for its turn, as while others' backups run. What forbids
// it meanwhile holds.

// take takes all slots of a name, as ops of other guests would.
func (r *rig) take(name string) (free func()) {
	r.t.Helper()
	var all []func()
	for range settings(Enforce).Limits[name] {
		release, err := r.eng.slots.Acquire(r.t.Context(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, release)
	}
	return func() {
		for _, f := range all {
			f()
		}
	}
}

// TestTurnOfAnApprovedOp: each row does something while an approved rollback
// waits for its turn.
func TestTurnOfAnApprovedOp(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(r *rig, p *people)
		sent bool
	}{
		{"nothing", func(*rig, *people) { after(10 * time.Minute) }, true},
		{"its time is over", func(*rig, *people) { after(2 * time.Hour) }, false},
		{"the guest is paused", func(r *rig, _ *people) { r.must(r.eng.Pause(r.t.Context(), 105, "bob")) }, false},
		{"the host is paused", func(r *rig, _ *people) { r.must(r.eng.Pause(r.t.Context(), 0, "bob")) }, false},
		{"its signer is revoked", func(_ *rig, p *people) { p.spoil(func(p *people) { p.revoked = p.pub(alice) }) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				o := askRollback(r)
				free := r.take(SlotOther)
				_ = r.approveNoWait(p, o, alice)
				after(10 * time.Second)
				tt.then(r, p)
				after(10 * time.Second)
				free()
				after(time.Minute)
				if got := len(r.applied()) > 0; got != tt.sent {
					t.Errorf("sent: %v; the op is %s: %s", got, r.op(o.ID).State, r.op(o.ID).Message)
				}
			})
		})
	}
}

// TestTurnUnderAPermit: the same under a standing permit.
func TestTurnUnderAPermit(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(r *rig)
	}{
		{"it is withdrawn", func(r *rig) { r.must(r.eng.WithdrawPermit(r.t.Context(), "test", "bob")) }},
		{"its window is over", func(*rig) { after(25 * time.Hour) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.must(r.allow(p, func(*gate.Permit) {}, alice))
				free := r.take(SlotOther)
				go askRollback(r)
				after(10 * time.Second)
				tt.then(r)
				free()
				after(time.Minute)
				r.wantApplied()
			})
		})
	}
}

// TestPermitForOneOp: two guests' ops may not both go under the last use of a
// permit.
func TestPermitForOneOp(t *testing.T) {
	for _, waits := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			r.world.Put(plugintest.Guest{
				ID: guest.ID{Kind: guest.LXC, VMID: 106}, Run: guest.Running, Config: guest.Config{"rootfs": "local:106/vm-106-disk-0.raw,size=8G"},
				Snapshots: []plugin.SnapshotInfo{{Name: "before", Time: time.Now().Add(-time.Hour)}},
			})
			var ids []string
			for _, id := range []guest.VMID{105, 106} {
				got, err := r.eng.Ask(r.t.Context(), Order{Guest: id, Action: plugin.Rollback, Params: map[string]string{"name": "before"}, By: "operator (uid 0)"})
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, got.Ops[0].ID)
			}
			free := func() {}
			if waits {
				free = r.take(SlotOther)
			}
			r.must(r.allow(p, func(p *gate.Permit) { p.Count, p.Scopes[0].Last = 1, 106 }, alice))
			after(10 * time.Second)
			free()
			after(time.Minute)
			if n := len(r.applied()); n != 1 {
				t.Errorf("%d ops went under a permit for one: %s, %s", n, r.op(ids[0]).State, r.op(ids[1]).State)
			}
		})
	}
}

// TestTurnOfAQuarantine: what takes a destroy back also holds for the step of
// it that waits for its turn.
func TestTurnOfAQuarantine(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(r *rig, id string)
	}{
		{"rejected", func(r *rig, id string) { go func() { _ = r.eng.Reject(r.t.Context(), id, "bob") }() }},
		{"paused", func(r *rig, _ string) { r.must(r.eng.Pause(r.t.Context(), 105, "bob")) }},
		{"another guest", func(r *rig, _ string) {
			r.world.Remove(105)
			r.put(105, guest.Running, guest.Config{"hostname": "new", "rootfs": "local:105/vm-105-disk-7.raw,size=1G"})
			r.foreignTask(105, "vzcreate")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				o := r.askDestroy()
				free := r.take(SlotStartStop)
				r.must(r.approve(p, o, alice))
				after(10 * time.Second)
				tt.then(r, o.ID)
				after(10 * time.Second)
				free()
				after(time.Minute)
				r.wantApplied()
			})
		})
	}
}

// TestTurnOfALook: the same for what the agent does by itself.
func TestTurnOfALook(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(r *rig)
		sent bool
	}{
		{"nothing", func(*rig) {}, true},
		{"the guest is paused", func(r *rig) { r.must(r.eng.Pause(r.t.Context(), 101, "bob")) }, false},
		{"the host is paused", func(r *rig) { r.must(r.eng.Pause(r.t.Context(), 0, "bob")) }, false},
		{"mode observe", func(r *rig) { r.must(r.eng.Reload(settings(Observe))) }, false},
		{"wanted stopped", func(r *rig) { r.mustDesire("[guest.101]\nkind = \"lxc\"\nrun = \"stopped\"\n") }, false},
		{"not wanted", func(r *rig) { r.mustDesire("") }, false},
		{"locked", func(r *rig) { r.world.Change(101, func(g *plugintest.Guest) { g.Lock = "backup" }) }, false},
		{"another guest", func(r *rig) {
			r.world.Remove(101)
			r.put(101, guest.Stopped, guest.Config{"hostname": "new", "cores": "4", "rootfs": "local:101/vm-101-disk-7.raw,size=1G"})
			r.foreignTask(101, "vzcreate")
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.put(101, guest.Running, guest.Config{"hostname": "old", "cores": "4", "rootfs": "local:101/vm-101-disk-0.raw,size=8G"})
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wantRunning)
				after(time.Minute)
				free := r.take(SlotStartStop)
				r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
				r.eng.Hint(t.Context(), plugin.Hint{Guests: []guest.VMID{101}})
				after(10 * time.Second)
				tt.then(r)
				after(10 * time.Second)
				free()
				after(time.Minute)
				if got := len(r.applied()) > 0; got != tt.sent {
					t.Errorf("sent: %v, %s", r.applied(), r.why(101))
				}
			})
		})
	}
}

// TestTurnOfWhatWasApplied: an op that was asked for is for the guest that was
// there then.
func TestTurnOfWhatWasApplied(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"hostname": "old", "cores": "4", "rootfs": "local:101/vm-101-disk-0.raw,size=8G"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		free := r.take(SlotStartStop)
		go func() { _, _ = r.eng.Apply(r.t.Context(), Asked{By: "operator (uid 0)"}) }()
		after(10 * time.Second)
		r.world.Remove(101)
		r.put(101, guest.Stopped, guest.Config{"hostname": "new", "cores": "4", "rootfs": "local:101/vm-101-disk-7.raw,size=1G"})
		r.foreignTask(101, "vzcreate")
		after(10 * time.Second)
		free()
		after(time.Minute)
		r.wantApplied()
	})
}

// TestTurnOfADeletion: who signed it must still be one who may when it is sent.
func TestTurnOfADeletion(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(30 * time.Minute)
		free := r.take(SlotOther)
		after(40 * time.Minute)
		p.spoil(func(p *people) { p.revoked = p.pub(alice) })
		free()
		after(10 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
	})
}

// TestQuarantineIsAsLongAsItWasSigned: new settings make it no shorter.
func TestQuarantineIsAsLongAsItWasSigned(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
		_ = r.approveNoWait(p, o, alice)
		after(50 * time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
		after(5 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		set := settings(Enforce)
		r.change(&set)
		set.Gate.Quarantine = time.Minute
		r.must(r.eng.Reload(set))
		after(30 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		after(time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
	})
}

// TestSignersThatCannotBeReadForAMoment: an approval that was taken outlives it.
func TestSignersThatCannotBeReadForAMoment(t *testing.T) {
	for _, retried := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			o := askRollback(r)
			if retried {
				r.world.Script(lockedFor(5 * time.Minute))
			} else {
				r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
			}
			_ = r.approveNoWait(p, o, alice)
			p.spoil(func(p *people) { p.broken = errors.New("input/output error") })
			r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
			had := len(r.applied())
			after(10 * time.Minute)
			if n := len(r.applied()); n > had {
				t.Error("sent although nobody knows who may sign")
			}
			p.spoil(func(p *people) { p.broken = nil })
			after(time.Minute)
			if got := r.op(o.ID); got.State != op.Succeeded {
				t.Errorf("the op is %s: %s", got.State, got.Message)
			}
		})
	}
}
