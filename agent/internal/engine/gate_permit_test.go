// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestPermits: each row changes one thing of a permit under which a rollback of
// guest 105 is done at once.
func TestPermits(t *testing.T) {
	scope := func(s gate.Scope) func(*gate.Permit) {
		return func(p *gate.Permit) { p.Scopes = []gate.Scope{s} }
	}
	for _, tt := range []struct {
		name   string
		permit func(*gate.Permit)
		then   func(r *rig, p *people)
		want   op.State
	}{
		{"good", func(*gate.Permit) {}, nil, op.Succeeded},
		{"by tag", scope(gate.Scope{Tag: "web"}), nil, op.Succeeded},
		{"another tag", scope(gate.Scope{Tag: "ci"}), nil, op.Awaiting},
		{"other guests", scope(gate.Scope{First: 106, Last: 200}), nil, op.Awaiting},
		{"another action", func(p *gate.Permit) { p.Actions = []string{"restore"} }, nil, op.Awaiting},
		{"another asker", func(p *gate.Permit) { p.Asker = "ci@example.com" }, nil, op.Awaiting},
		{"another host", func(p *gate.Permit) { p.Host = "pve2" }, nil, op.Awaiting},
		{"window not begun", func(p *gate.Permit) { p.NotBefore = p.NotBefore.Add(time.Hour) }, nil, op.Awaiting},
		{"window over", func(p *gate.Permit) { p.NotAfter = p.NotBefore.Add(time.Minute) }, func(*rig, *people) { time.Sleep(2 * time.Minute) }, op.Awaiting},
		{"withdrawn", func(*gate.Permit) {}, func(r *rig, _ *people) {
			if err := r.eng.WithdrawPermit(r.t.Context(), "test", "bob"); err != nil {
				r.t.Error(err)
			}
		}, op.Awaiting},
		{"signer revoked", func(*gate.Permit) {}, func(_ *rig, p *people) { p.revoked = p.pub(alice) }, op.Awaiting},
		{"guest paused", func(*gate.Permit) {}, func(r *rig, _ *people) {
			if err := r.eng.Pause(r.t.Context(), 105, "bob"); err != nil {
				r.t.Error(err)
			}
		}, op.Awaiting},
		{"used up", func(p *gate.Permit) { p.Count = 1 }, func(r *rig, _ *people) { askRollback(r) }, op.Awaiting},
		{"used up before a restart", func(p *gate.Permit) { p.Count = 1 }, func(r *rig, _ *people) {
			askRollback(r)
			r.stop()
			r.start(Enforce)
			after(time.Second)
		}, op.Awaiting},
		{"one use left after a restart", func(*gate.Permit) {}, func(r *rig, _ *people) {
			askRollback(r)
			r.stop()
			r.start(Enforce)
			after(time.Second)
		}, op.Succeeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.must(r.allow(p, tt.permit, alice))
				if tt.then != nil {
					tt.then(r, p)
				}
				had := len(r.applied())
				o := askRollback(r)
				after(time.Minute)
				if got := r.op(o.ID); got.State != tt.want || (len(r.applied()) > had) != (tt.want == op.Succeeded) {
					t.Errorf("the op is %s (%s), sent %q", got.State, got.Message, r.applied()[had:])
				}
				if tt.want == op.Succeeded {
					return
				}
				p.revoked = ""
				if tt.name == "guest paused" { // the end of the pause does it
					r.must(r.eng.Resume(r.t.Context(), 105, "bob"))
					after(time.Minute)
					if got := r.op(o.ID); got.State != op.Succeeded {
						t.Errorf("after the pause the op is %s (%s)", got.State, got.Message)
					}
					return
				}
				if err := r.approve(p, r.op(o.ID), bob); err != nil { // a signature of its own does it
					t.Error(err)
				}
			})
		})
	}
}

// TestPermitsThatAreNotTaken: for backups there is none, and the policy of the
// approvals holds for permits.
func TestPermitsThatAreNotTaken(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		for _, a := range []string{"delete_backup", "acme.prune", "acme.DeleteBackups"} {
			text := strings.Replace(permitText(r, func(*gate.Permit) {}), "action: rollback", "action: "+a, 1)
			if _, err := r.eng.Permit(r.t.Context(), text, nil, "mallory"); gate.ReasonOf(err) != gate.ErrPermitBackup {
				t.Errorf("%s: %v", a, err)
			}
		}
		if err := r.allow(p, func(*gate.Permit) {}, "mallory"); err == nil {
			t.Error("mallory's permit was taken")
		}
		if err := r.allow(p, func(p *gate.Permit) { p.Actions = []string{"delete_volume"} }, alice); err == nil {
			if o := r.ask(plugin.DeleteVolume, map[string]string{"volume": "local:backup/vzdump-lxc-105.tar"}); o.State != op.Awaiting {
				t.Errorf("a volume, which may be a backup, was deleted under a permit: %s", o.State)
			}
		}
		set := settings(Enforce)
		r.change(&set)
		set.Gate.Policy.Classes = map[guest.Class]gate.Rule{guest.Irreversible: {Threshold: 1, FourEyes: true}}
		r.must(r.eng.Reload(set))
		if err := r.allow(p, func(p *gate.Permit) { p.Asker = alice }, alice); gate.ReasonOf(err) != gate.ErrAsker {
			t.Errorf("alice permits herself: %v", err)
		}
		r.wantApplied()
	})
}

// TestReplacedWhileWaitingForItsTurn: the op has its approval and waits for
// another guest's task to end; meanwhile its guest is made anew, to the byte.
func TestReplacedWhileWaitingForItsTurn(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		for _, kind := range []plugin.ActionKind{plugin.Rollback, plugin.Destroy} {
			gateBubble(t, func(r *rig, p *people) {
				long := map[plugin.ActionKind]time.Duration{plugin.TakeSnapshot: 30 * time.Minute}
				r.world.Script(func(a plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: long[a.Kind]} })
				o := askRollback(r)
				wait := time.Duration(0)
				if kind == plugin.Destroy {
					o, wait = r.askDestroy(), 50*time.Minute
				}
				if wait > 0 {
					r.must(r.approve(p, o, alice))
					after(wait)
				}
				for id := guest.VMID(106); id < 108; id++ { // as many as may run at once
					r.put(id, guest.Stopped, maps.Clone(doomed))
					go func() {
						_, err := r.eng.Ask(r.t.Context(), Order{Guest: id, Action: plugin.TakeSnapshot, Params: map[string]string{"name": "s"}, By: "operator"})
						if err != nil && !errors.Is(err, r.t.Context().Err()) {
							t.Error(err)
						}
					}()
				}
				after(time.Second)
				if wait == 0 {
					_ = r.approveNoWait(p, o, alice)
				}
				after(15 * time.Minute)
				if replaced {
					r.foreignTask(105, "vzdestroy")
					time.Sleep(2 * time.Second)
					r.foreignTask(105, "vzcreate")
				}
				after(2 * time.Hour)
				if got := r.op(o.ID); (got.State == op.Succeeded) == replaced || (r.world.Effects(o.ID) == 0) != replaced {
					t.Errorf("%s, replaced: %v: it is %s (%s)", kind, replaced, got.State, got.Message)
				}
			})
		}
	}
}

// TestTimeForTheDeletionIsOver: the guest stays, in quarantine until undo.
func TestTimeForTheDeletionIsOver(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(30 * time.Minute)
		r.must(r.eng.Pause(r.t.Context(), 0, "bob"))
		after(24 * time.Hour)
		r.must(r.eng.Resume(r.t.Context(), 0, "bob"))
		after(24 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config")
		if got := r.op(o.ID); got.State != op.Abandoned || !strings.Contains(got.Message, "ask again") {
			t.Errorf("the destroy is %s: %s", got.State, got.Message)
		}
		if _, err := r.eng.Undo(r.t.Context(), o.ID, "bob"); err != nil {
			t.Error(err)
		}
		after(time.Minute)
		r.wantFormer()
	})
}
