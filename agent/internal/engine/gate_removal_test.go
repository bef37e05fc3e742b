// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestDestroyThatKeepsFailingEnds: a granted destroy whose steps achieve
// nothing ends, and the guest's lane is free again. One whose steps meet a lock
// each time ends with its own time.
func TestDestroyThatKeepsFailingEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		kind  plugin.ActionKind
		meets plugintest.Behaviour
		after time.Duration
		state op.State
		why   string
	}{
		{"shutdown without effect", plugin.Shutdown, plugintest.Behaviour{NoEffect: true}, 90 * time.Minute, op.Failed, "left alone after"},
		{"shutdown and lock", plugin.Shutdown, weathers["its lock is taken"], 190 * time.Minute, op.Abandoned, "ask again"},
		{"deletion and lock", plugin.Destroy, weathers["its lock is taken"], 190 * time.Minute, op.Abandoned, "ask again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.world.Script(func(a plugin.Action) plugintest.Behaviour {
					if a.Kind != tt.kind {
						return plugintest.Behaviour{}
					}
					return tt.meets
				})
				o := r.askDestroy()
				r.must(r.approve(p, o, alice))
				after(tt.after)
				if got := r.op(o.ID); got.State != tt.state || !strings.Contains(got.Message, tt.why) {
					t.Errorf("the destroy is %s: %s", got.State, got.Message)
				}
			})
		})
	}
}

// TestBackupThatIsNotToBeSeenEndsADestroy.
func TestBackupThatIsNotToBeSeenEndsADestroy(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.ask(plugin.Destroy, map[string]string{"backup": "pbs"})
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			return plugintest.Behaviour{NoEffect: a.Kind == plugin.Backup}
		})
		r.must(r.approve(p, o, alice))
		after(10 * time.Minute)
		if got := r.op(o.ID); got.State != op.Failed || !strings.Contains(got.Message, "not to be seen") {
			t.Errorf("the destroy is %s: %s", got.State, got.Message)
		}
	})
}

// TestWithdrawnPermitEndsADestroy: what was granted under a permit is not done
// once the permit is withdrawn.
func TestWithdrawnPermitEndsADestroy(t *testing.T) {
	for _, withdrawn := range []bool{false, true} {
		t.Run(fmt.Sprint(withdrawn), func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.must(r.allow(p, func(p *gate.Permit) { p.Actions = []string{"destroy"} }, alice))
				o := r.askDestroy()
				after(time.Minute)
				if got := r.op(o.ID); got.State != op.Granted {
					t.Fatalf("the destroy is %s: %s", got.State, got.Message)
				}
				if withdrawn {
					r.must(r.eng.WithdrawPermit(r.t.Context(), "test", "bob"))
				}
				after(90 * time.Minute)
				want := op.Succeeded
				if withdrawn {
					want = op.Refused
				}
				if got := r.op(o.ID); got.State != want || withdrawn && !strings.Contains(got.Message, "permit test was withdrawn") {
					t.Errorf("the destroy is %s: %s", got.State, got.Message)
				}
				if _, here := r.world.Guest(105); here != withdrawn {
					t.Errorf("the guest is there: %v", here)
				}
			})
		})
	}
}

// TestUndoneBeforeTheQuarantineBegins: a guest is not put in quarantine for an
// op that was undone while the guest was looked at.
func TestUndoneBeforeTheQuarantineBegins(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.ask(plugin.Destroy, map[string]string{"backup": "pbs"})
		defer r.take(SlotBackup)()
		r.must(r.approve(p, o, alice))
		after(5 * time.Second)
		o = r.op(o.ID)
		s, err := r.eng.inspect(r.t.Context(), 105)
		r.must(err)
		_, err = r.eng.Undo(r.t.Context(), o.ID, "bob")
		r.must(err)
		if o.State != op.Granted {
			t.Fatalf("it was %s", o.State)
		}
		r.eng.enterQuarantine(r.t.Context(), s, &o)
		if q := r.led.Guest(105).Quarantine; q != nil {
			t.Errorf("it is in quarantine for op %s, which is %s", q.Op, r.op(o.ID).State)
		}
	})
}
