// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func askRollback(r *rig) op.Op { return r.ask(plugin.Rollback, map[string]string{"name": "before"}) }

// lockedFor lets each op's first attempt meet a lock.
func lockedFor(d time.Duration) func(plugin.Action) plugintest.Behaviour {
	return func(a plugin.Action) plugintest.Behaviour {
		if a.Attempt == 1 {
			return plugintest.Behaviour{Outcome: &plugin.Outcome{Status: plugin.Retry, RetryAfter: d, Reason: "lock", Message: "CT is locked"}}
		}
		return plugintest.Behaviour{}
	}
}

// TestRetryUnderTheSameApproval: an attempt that met a lock has spent the
// nonce; the second attempt of that op, and of no other, goes under it.
func TestRetryUnderTheSameApproval(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Script(lockedFor(time.Minute))
		o := askRollback(r)
		r.must(r.approve(p, o, alice))
		after(5 * time.Minute)
		r.wantApplied("105 rollback", "105 rollback")
		if got := r.op(o.ID); got.State != op.Succeeded || got.Attempt != 2 || r.world.Effects(o.ID) != 1 {
			t.Errorf("the op is %s after %d attempts", got.State, got.Attempt)
		}
	})
}

// TestRetryAfterARestart: the same, with the agent gone in between.
func TestRetryAfterARestart(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Script(lockedFor(10 * time.Minute))
		o := askRollback(r)
		_ = r.approveNoWait(p, o, alice)
		r.stop()
		if got := r.op(o.ID).State; got != op.Retried {
			t.Fatalf("the op is %s", got)
		}
		r.start(Enforce)
		after(5 * time.Minute)
		if got := r.op(o.ID); got.State != op.Succeeded || r.world.Effects(o.ID) != 1 {
			t.Errorf("the op is %s", got.State)
		}
	})
}

// TestSpentApproval: when the second attempt comes too late for the approval
// the op ends, and there is a new request for the same.
func TestSpentApproval(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Script(lockedFor(2 * time.Hour))
		o := askRollback(r)
		_ = r.approveNoWait(p, o, alice)
		after(2*time.Hour + 10*time.Minute)
		r.wantApplied("105 rollback")
		if got := r.op(o.ID); got.State != op.Abandoned || !strings.Contains(got.Message, "spent, ask again") {
			t.Errorf("the op is %s: %q", got.State, got.Message)
		}
		waiting := r.led.Waiting(105)
		if len(waiting) != 1 || waiting[0].Kind != plugin.Rollback {
			t.Fatalf("waiting: %+v", waiting)
		}
		r.always(plugintest.Behaviour{})
		r.must(r.approve(p, waiting[0], alice))
		r.wantApplied("105 rollback", "105 rollback")
	})
}

// TestLostReplies: an approved op whose reply is lost is not sent again.
func TestLostReplies(t *testing.T) {
	for _, kind := range []plugin.ActionKind{plugin.Rollback, plugin.Destroy, plugin.SetConfig} {
		t.Run(string(kind), func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				sent := 0
				r.world.Script(func(a plugin.Action) plugintest.Behaviour {
					if a.Kind != kind || a.Set["onboot"] != "" || a.Set["protection"] == "1" {
						return plugintest.Behaviour{}
					}
					sent++
					return plugintest.Behaviour{Lose: true, Task: 5 * time.Second}
				})
				var o op.Op
				switch kind {
				case plugin.Rollback:
					o = askRollback(r)
				case plugin.Destroy:
					o = r.askDestroy()
				case plugin.SetConfig:
					r.world.Change(105, func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" })
					r.mustDesire("[guest.105]\nkind = \"lxc\"\ndelete = [\"mp0\"]\n")
					after(time.Minute)
					o = r.led.Waiting(105)[0]
				}
				_ = r.approveNoWait(p, o, alice)
				after(3 * time.Hour)
				if got := r.op(o.ID); got.State != op.Succeeded || sent != 1 || r.world.Effects(o.ID) != 1 {
					t.Errorf("the %s is %s (%s), sent %d times", kind, got.State, got.Message, sent)
				}
			})
		})
	}
}

// TestBadApprovalDoesNoHarm: what is refused at the door takes nothing from an
// approval that was taken, and a text of somewhere else gets no new request.
func TestBadApprovalDoesNoHarm(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
		o := askRollback(r)
		_ = r.approveNoWait(p, o, alice)
		if _, ok := r.led.Approval(o.ID); !ok {
			t.Fatal("the approval was not taken")
		}
		stale := strings.Replace(o.Request, "not-before: 2000", "not-before: 1999", 1)
		stale = strings.Replace(stale, "not-after: 2000", "not-after: 1999", 1)
		for _, text := range []string{o.Request, stale, ""} {
			if _, err := r.eng.Approve(r.t.Context(), o.ID, text, nil, "mallory"); err == nil {
				t.Error("taken")
			}
		}
		if got := r.op(o.ID).Request; got != o.Request {
			t.Error("somebody's text made the op have a new request")
		}
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
		after(time.Minute)
		r.wantApplied("105 rollback")
	})
}

// allow signs a permit and hands it in.
func (r *rig) allow(p *people, change func(*gate.Permit), who ...string) error {
	r.t.Helper()
	text := permitText(r, change)
	_, err := r.eng.Permit(r.t.Context(), text, p.signed(text, who...), "operator (uid 0)")
	return err
}

// TestRetryUnderAPermit counts as one use.
func TestRetryUnderAPermit(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.must(r.allow(p, func(p *gate.Permit) { p.Count = 1 }, alice))
		r.world.Script(lockedFor(time.Minute))
		o := askRollback(r)
		after(5 * time.Minute)
		if got := r.op(o.ID); got.State != op.Succeeded || got.Attempt != 2 {
			t.Errorf("the op is %s (%s) after %d attempts", got.State, got.Message, got.Attempt)
		}
		if got := r.led.Permits()[0].Used; got != 1 {
			t.Errorf("the permit was used %d times", got)
		}
		if second := askRollback(r); second.State != op.Awaiting {
			t.Errorf("the second op is %s under a permit for one", second.State)
		}
	})
}

// TestApprovedOpWaitsForAReadableGuest, but not for ever.
func TestApprovedOpWaitsForAReadableGuest(t *testing.T) {
	for _, forGood := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			o := askRollback(r)
			r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "connection reset" })
			_ = r.approveNoWait(p, o, alice)
			after(10 * time.Minute)
			r.wantApplied()
			if !forGood {
				r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "" })
				after(time.Minute)
				r.wantApplied("105 rollback")
				return
			}
			after(2 * time.Hour)
			if got := r.op(o.ID); got.State != op.Abandoned || !strings.Contains(got.Message, "its config") {
				t.Errorf("the op is %s: %s", got.State, got.Message)
			}
			r.wantApplied()
		})
	}
}
