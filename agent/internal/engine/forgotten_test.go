// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestUndoerThatDoesNotWait: whoever says undo may be gone before the guest is
// what it was; it becomes so all the same.
func TestUndoerThatDoesNotWait(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		if err := r.approve(p, o, alice); err != nil {
			t.Fatal(err)
		}
		after(30 * time.Minute)
		unblock := r.blockReads(4)
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		if _, err := r.eng.Undo(ctx, o.ID, "bob"); err == nil {
			t.Error("the guest cannot be what it was yet")
		}
		unblock()
		after(time.Hour)
		r.wantFormer()
	})
}

// blockReads takes the slots for reads.
func (r *rig) blockReads(n int) (free func()) {
	r.t.Helper()
	var all []func()
	for range n {
		release, err := r.eng.slots.Acquire(r.t.Context(), SlotReads)
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

const wantTwo = wantRunning + "[guest.102]\nkind = \"lxc\"\nrun = \"running\"\ncores = 4\n"

// TestFullQueueLeavesNothingBehind: of a request that is not taken whole
// nothing is left to be carried out at some later time.
func TestFullQueueLeavesNothingBehind(t *testing.T) {
	bubble(t, func(r *rig) {
		r.queue = 2
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.put(102, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantTwo)
		after(time.Minute)
		if _, err := r.eng.Apply(r.t.Context(), Asked{By: "operator (uid 0)"}); !errors.Is(err, queue.ErrFull) {
			t.Errorf("apply: %v", err)
		}
		after(time.Minute)
		for _, o := range r.led.Ops() {
			if !o.State.Ended() {
				t.Errorf("op %s of guest %s, a %s, is %s", o.ID, o.Guest, o.Kind, o.State)
			}
		}
	})
}

// TestFullQueueForgetsNothing: what was asked for and finds the queue full when
// it is taken up again gets its place once there is room, in order.
func TestFullQueueForgetsNothing(t *testing.T) {
	bubble(t, func(r *rig) {
		r.queue = 1
		r.world.Script(func(a plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: time.Minute} })
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.put(102, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Observe)
		r.mustDesire(wantTwo)
		after(time.Minute)
		r.stop()
		var recs []ledger.Record
		for i, id := range []guest.VMID{101, 102, 101, 102} {
			o := crashed(plugin.SetConfig)
			o.ID, o.Asker, o.State, o.Attempt, o.Guest.VMID = "o"+string(rune('1'+i)), op.Operator, op.Planned, 0, id
			o.Set = map[string]string{"cores": "4"}
			if i > 1 {
				o.Kind, o.Set = plugin.Start, nil
			}
			recs = append(recs, ledger.Record{Type: ledger.TypeOp, Op: o})
		}
		r.seed(recs...)
		r.start(Observe)
		defer r.stop()
		after(time.Hour)
		r.wantApplied("101 set_config", "102 set_config", "101 start", "102 start")
	})
}
