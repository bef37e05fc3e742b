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
		r.must(r.approve(p, o, alice))
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

// TestApprovedBeforeARestart: what a document wants and was approved goes on
// when what held it back is over: a provider that has not spoken, an expired
// set.
func TestApprovedBeforeARestart(t *testing.T) {
	for _, retried := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			r.world.Change(105, func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" })
			r.mustDesire("[guest.105]\nkind = \"lxc\"\ndelete = [\"mp0\"]\n")
			after(time.Minute)
			o := r.led.Waiting(105)[0]
			if retried {
				r.world.Script(lockedFor(10 * time.Minute))
			} else {
				r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
			}
			_ = r.approveNoWait(p, o, alice)
			r.stop()
			r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
			set := r.change
			r.change = func(s *Settings) { set(s); s.Required["hub"] = true }
			r.start(Enforce)
			after(20 * time.Minute)
			if got := r.op(o.ID); got.State != op.Succeeded || r.world.Effects(o.ID) != 1 {
				t.Errorf("the op is %s: %s", got.State, got.Message)
			}
			if w := r.led.Waiting(105); len(w) > 0 {
				t.Errorf("a second op waits for the same: %s", w[0].ID)
			}
		})
	}
}

// TestRequestOutlivesWeather: a request that waits for a signature stays what it
// is while the guest is locked, in transition, or cannot be read.
func TestRequestOutlivesWeather(t *testing.T) {
	for name, weather := range map[string]func(*plugintest.Guest){
		"lock":       func(g *plugintest.Guest) { g.Lock = "backup" },
		"unreadable": func(g *plugintest.Guest) { g.ConfigErr = "connection reset" },
	} {
		t.Run(name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.world.Change(105, func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" })
				r.mustDesire("[guest.105]\nkind = \"lxc\"\ndelete = [\"mp0\"]\n")
				after(time.Minute)
				o := r.led.Waiting(105)[0]
				r.world.Change(105, weather)
				after(10 * time.Minute)
				r.world.Change(105, func(g *plugintest.Guest) { g.Lock, g.ConfigErr = "", "" })
				after(time.Minute)
				if got := r.op(o.ID); got.State != op.Awaiting {
					t.Fatalf("the op is %s: %s", got.State, got.Message)
				}
				r.must(r.approve(p, o, alice))
				r.wantApplied("105 set_config")
			})
		})
	}
}

// TestAskedForBeforeTheFirstWord: what was asked for before a restart is not
// given up because the desired state is not there yet.
func TestAskedForBeforeTheFirstWord(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.start(Observe)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.stop()
		o := crashed(plugin.Start)
		o.Asker, o.State, o.Attempt = op.Operator, op.Planned, 0
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: o})
		clear(cache) // or it cannot be read
		r.start(Observe)
		defer r.stop()
		after(5 * time.Second)
		r.mustDesire(wantRunning)
		after(time.Minute)
		if got := r.op(o.ID); got.State != op.Succeeded {
			t.Errorf("the op is %s: %s", got.State, got.Message)
		}
	})
}

// TestAskedForInBadWeather: a step of what was applied waits for a lock, a
// moment's transition, and a config that cannot be read.
func TestAskedForInBadWeather(t *testing.T) {
	for name, weather := range map[string]func(*plugintest.Guest){
		"lock":       func(g *plugintest.Guest) { g.Lock = "backup" },
		"unreadable": func(g *plugintest.Guest) { g.ConfigErr = "connection reset" },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.put(101, guest.Running, guest.Config{"cores": "2"})
				r.start(Observe)
				r.mustDesire(wantRunning)
				after(time.Minute)
				r.stop()
				o := crashed(plugin.SetConfig)
				o.Asker, o.State, o.Attempt, o.Set = op.Operator, op.Planned, 0, map[string]string{"cores": "4"}
				r.seed(ledger.Record{Type: ledger.TypeOp, Op: o})
				r.world.Change(101, weather)
				r.start(Observe)
				defer r.stop()
				after(time.Minute)
				r.world.Change(101, func(g *plugintest.Guest) { g.Lock, g.ConfigErr = "", "" })
				after(time.Minute)
				if got := r.op(o.ID); got.State != op.Succeeded {
					t.Errorf("the op is %s: %s", got.State, got.Message)
				}
			})
		})
	}
}

// TestAskedForAndNotSent: what somebody asked for and a crash, or a plugin that
// was away, kept from being sent, is sent.
func TestAskedForAndNotSent(t *testing.T) {
	t.Run("crash", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.put(101, guest.Stopped, guest.Config{"cores": "4"})
			r.start(Observe)
			r.mustDesire(wantRunning)
			r.stop()
			o := crashed(plugin.Start)
			o.Asker = op.Operator
			r.seed(ledger.Record{Type: ledger.TypeOp, Op: o})
			r.start(Observe)
			defer r.stop()
			after(5 * time.Minute)
			if got := r.op(o.ID); got.State != op.Succeeded || r.world.Effects(o.ID) != 1 {
				t.Errorf("the op is %s: %s", got.State, got.Message)
			}
		})
	})
	t.Run("away", func(t *testing.T) {
		bubble(t, func(r *rig) {
			began, tries := time.Now(), 0
			r.world.Script(func(plugin.Action) plugintest.Behaviour {
				if time.Since(began) < 10*time.Minute {
					tries++
					return plugintest.Behaviour{Err: plugin.ErrNotSent}
				}
				return plugintest.Behaviour{}
			})
			r.put(101, guest.Stopped, guest.Config{"cores": "4"})
			r.start(Observe)
			defer r.stop()
			r.mustDesire(wantRunning)
			after(time.Minute)
			got, err := r.eng.Apply(r.t.Context(), Asked{By: "operator (uid 0)"})
			if err != nil || got.Ops[0].State != op.Succeeded {
				t.Errorf("%+v, %v", got.Ops, err)
			}
			if tries > 100 {
				t.Errorf("%d intents were written meanwhile", tries)
			}
		})
	})
}

// TestRetriedAndNobodyToCarryItOut: what no plugin serves any more ends also
// after a first attempt.
func TestRetriedAndNobodyToCarryItOut(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		v := &vendor{exec: r.world.Executor()}
		r.eng.opt.Executors = v
		r.world.Script(lockedFor(time.Minute))
		go func() {
			_, _ = r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.TakeSnapshot, Params: map[string]string{"name": "one"}, By: "operator (uid 0)"})
		}()
		after(10 * time.Second)
		v.gone.Store(true)
		after(10 * time.Minute)
		for _, o := range r.led.Ops() {
			if o.State != op.Abandoned {
				t.Errorf("the op is %s", o.State)
			}
		}
	})
}

// TestTakenUpOftenIsQueuedOnce: resuming and reloading while an op waits does
// not fill the queue with it.
func TestTakenUpOftenIsQueuedOnce(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
		go func() {
			_, _ = r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.TakeSnapshot, Params: map[string]string{"name": "one"}, By: "operator (uid 0)"})
		}()
		after(10 * time.Second)
		for range 200 {
			r.must(r.eng.Resume(r.t.Context(), 0, "bob"))
			after(10 * time.Second)
		}
		if _, err := r.eng.queue.Submit(999, request{id: "none"}); err != nil {
			t.Error(err)
		}
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
		after(time.Minute)
		r.wantApplied("105 snapshot")
	})
}
