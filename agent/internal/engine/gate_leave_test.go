// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// wantFormer: the guest is what it was before its quarantine.
func (r *rig) wantFormer() {
	r.t.Helper()
	g, _ := r.world.Guest(105)
	if g.Config["onboot"] != "1" || g.Config["protection"] != "" || g.Config["tags"] != "web" || g.Run != guest.Running {
		r.t.Errorf("the guest is %s, %v", g.Run, g.Config)
	}
	if r.led.Guest(105).Quarantine != nil {
		r.t.Error("the journal has it in quarantine still")
	}
}

// TestUndoWhileTheQuarantineBegins: the shutdown that is under way ends first,
// and is taken back too.
func TestUndoWhileTheQuarantineBegins(t *testing.T) {
	for _, reject := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			r.world.Script(func(a plugin.Action) plugintest.Behaviour {
				if a.Kind == plugin.Shutdown {
					return plugintest.Behaviour{Task: 30 * time.Second}
				}
				return plugintest.Behaviour{}
			})
			o := r.askDestroy()
			r.must(r.approve(p, o, alice))
			after(10 * time.Second)
			if reject {
				r.must(r.eng.Reject(r.t.Context(), o.ID, "bob"))
			} else if _, err := r.eng.Undo(r.t.Context(), o.ID, "bob"); err != nil {
				t.Error(err)
			}
			after(3 * time.Hour)
			r.wantApplied("105 shutdown", "105 start")
			r.wantFormer()
		})
	}
}

// TestUndoOfAGuestThatCannotBeRead changes nothing that is not known, and can
// be said again, after a restart too.
func TestUndoOfAGuestThatCannotBeRead(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "connection reset" })
		if _, err := r.eng.Undo(r.t.Context(), o.ID, "bob"); err == nil {
			t.Error("it was restored without being read")
		}
		if got := r.op(o.ID).State; got != op.Abandoned {
			t.Errorf("the destroy is %s", got)
		}
		r.stop()
		r.start(Enforce)
		r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "" })
		after(time.Minute)
		if _, err := r.eng.Undo(r.t.Context(), o.ID, "bob"); err != nil {
			t.Error(err)
		}
		after(3 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 set_config", "105 start")
		r.wantFormer()
	})
}

// TestUndoIsTooLateOnceTheDeletionIsSent.
func TestUndoIsTooLateOnceTheDeletionIsSent(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Kind == plugin.Destroy {
				return plugintest.Behaviour{Task: 10 * time.Minute}
			}
			return plugintest.Behaviour{}
		})
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		for d := time.Duration(0); r.op(o.ID).State != op.Started && d < 3*time.Hour; d += time.Minute {
			after(time.Minute)
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		defer cancel()
		if _, err := r.eng.Undo(ctx, o.ID, "bob"); err == nil {
			t.Error("undone")
		}
		after(time.Hour)
		if got := r.op(o.ID).State; got != op.Succeeded {
			t.Errorf("the destroy is %s", got)
		}
	})
}

// TestPauseHoldsADestroyBack: of the host, and of the guest.
func TestPauseHoldsADestroyBack(t *testing.T) {
	for _, id := range []guest.VMID{0, 105} {
		gateBubble(t, func(r *rig, p *people) {
			o := r.askDestroy()
			r.must(r.approve(p, o, alice))
			after(30 * time.Minute)
			r.must(r.eng.Pause(r.t.Context(), id, "bob"))
			after(45 * time.Minute)
			r.wantApplied("105 shutdown", "105 set_config")
			r.must(r.eng.Resume(r.t.Context(), id, "bob"))
			after(10 * time.Minute)
			r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
		})
	}
}

// TestApprovedWhilePaused: an approval is taken and kept; what it allows waits.
func TestApprovedWhilePaused(t *testing.T) {
	for _, id := range []guest.VMID{0, 105} {
		gateBubble(t, func(r *rig, p *people) {
			o := askRollback(r)
			r.must(r.eng.Pause(r.t.Context(), id, "bob"))
			if err := r.approveNoWait(p, o, alice); err != nil {
				t.Errorf("approve: %v", err)
			}
			after(10 * time.Minute)
			r.wantApplied()
			r.must(r.eng.Resume(r.t.Context(), id, "bob"))
			after(10 * time.Minute)
			r.wantApplied("105 rollback")
		})
	}
}

// TestFirstSeenTwice: a look and an order see the guest for the first time at
// once. It gets one incarnation, and what was bound to it stays so.
func TestFirstSeenTwice(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		s, err := r.eng.inspect(r.t.Context(), 105)
		if err != nil {
			t.Fatal(err)
		}
		o := askRollback(r)
		r.must(r.eng.note(r.t.Context(), s))
		r.must(r.approve(p, o, alice))
		r.wantApplied("105 rollback")
	})
}

// TestNoDeletionWithoutAJournal, nor of a guest that the HA stack took over.
func TestNoDeletionWithoutAJournal(t *testing.T) {
	p := newPeople(t)
	synctest.Test(t, func(t *testing.T) {
		clear(cache)
		r := newRig(t)
		gateRig(r, p)
		r.must(r.approve(p, r.askDestroy(), alice))
		after(30 * time.Minute)
		r.must(r.jrn.Close())
		after(3 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config")
		r.cancel()
		<-r.done
	})
}

func TestNoDeletionUnderHA(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(30 * time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) { g.HA = plugin.HA{Managed: true, State: "stopped"} })
		after(3 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config")
		if got := r.op(o.ID); got.State != op.Refused || !strings.Contains(got.Message, "HA") {
			t.Errorf("the destroy is %s: %s", got.State, got.Message)
		}
	})
}

// TestNobodyToCarryItOut: an order that no plugin serves ends with that word.
func TestNobodyToCarryItOut(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.eng.opt.Executors = noExecutor{}
		o := r.ask(plugin.TakeSnapshot, map[string]string{"name": "one"})
		if got := r.op(o.ID); got.State != op.Abandoned || !strings.Contains(got.Message, "no plugin serves") {
			t.Errorf("the op is %s: %s", got.State, got.Message)
		}
	})
}

type noExecutor struct{}

func (noExecutor) Executor(k plugin.ActionKind) (plugin.Executor, error) {
	return nil, fmt.Errorf("%w: no plugin serves action %q", plugin.ErrUnsupported, k)
}
