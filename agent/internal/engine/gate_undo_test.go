// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// carried carries out what a document wants and returns the last op; then the
// document is taken away, so that nobody wants it any more.
func (r *rig) carried(doc string) op.Op {
	r.t.Helper()
	r.mustDesire(doc)
	after(time.Minute)
	r.mustDesire("")
	ops := r.led.OpsOf(105)
	last := ops[0]
	for _, o := range ops {
		if o.ID > last.ID {
			last = o
		}
	}
	if last.State != op.Succeeded {
		r.t.Fatalf("op %s is %s: %s", last.ID, last.State, last.Message)
	}
	return last
}

func TestUndoOfBenignOps(t *testing.T) {
	for _, tt := range []struct {
		name, doc string
		is        func(g plugintest.Guest) bool
	}{
		{"set_config", "[guest.105]\nkind = \"lxc\"\ncores = 4\ntags = [\"zoo\", \"b\"]\n", func(g plugintest.Guest) bool {
			_, set := g.Config["cores"]
			return !set && g.Config["tags"] == "web"
		}},
		{"shutdown", "[guest.105]\nkind = \"lxc\"\nrun = \"stopped\"\n", func(g plugintest.Guest) bool { return g.Run == guest.Running }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, _ *people) {
				o := r.carried(tt.doc)
				got, err := r.eng.Undo(r.t.Context(), o.ID, "operator")
				if err != nil || len(got.Ops) != 1 || got.Ops[0].State != op.Succeeded {
					t.Fatalf("undo: %+v, %v", got.Ops, err)
				}
				if g, _ := r.world.Guest(105); !tt.is(g) {
					t.Errorf("after undo: %s %v", g.Run, g.Config)
				}
				back, err := r.eng.Undo(r.t.Context(), got.Ops[0].ID, "operator")
				if err != nil || back.Ops[0].State != op.Succeeded {
					t.Errorf("undo of the undo: %v", err)
				}
				if g, _ := r.world.Guest(105); tt.is(g) {
					t.Errorf("after undo of the undo: %s %v", g.Run, g.Config)
				}
			})
		})
	}
}

// TestUndoThatIsRefused: nothing is sent.
func TestUndoThatIsRefused(t *testing.T) {
	cores := "[guest.105]\nkind = \"lxc\"\ncores = 4\n"
	for _, tt := range []struct {
		name, doc, want string
		then            func(g *plugintest.Guest)
	}{
		{"changed since", cores, "cores was changed since", func(g *plugintest.Guest) { g.Config["cores"] = "8" }},
		{"config not readable", cores, "could not be read", func(g *plugintest.Guest) { g.ConfigErr = "connection reset" }},
		{"protection put on", "[guest.105]\nkind = \"lxc\"\n[guest.105.config]\nprotection = \"1\"\n", "protection back is irreversible", nil},
		{"stopped already", "[guest.105]\nkind = \"lxc\"\nrun = \"stopped\"\n", "no inverse", func(g *plugintest.Guest) { g.Run = guest.Running }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, _ *people) {
				o := r.carried(tt.doc)
				if tt.then != nil {
					r.world.Change(105, tt.then)
				}
				had := len(r.applied())
				_, err := r.eng.Undo(r.t.Context(), o.ID, "operator")
				if !errors.Is(err, ErrOrder) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("undo: %v", err)
				}
				if sent := r.applied()[had:]; len(sent) != 0 {
					t.Errorf("sent %q", sent)
				}
			})
		})
	}
}

// TestUndoDoesNotTrustTheExecutor: what it recorded as the inverse is held
// against what the op did.
func TestUndoDoesNotTrustTheExecutor(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		r.world.Change(105, func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" })
		o := r.carried("[guest.105]\nkind = \"lxc\"\ncores = 4\n")
		o.Undo = &plugin.Action{Kind: plugin.SetConfig, Delete: []string{"cores", "mp0"}}
		s, err := r.eng.inspect(r.t.Context(), 105)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := r.eng.inverse(s, o); !errors.Is(err, ErrOrder) {
			t.Errorf("taken: %+v", a)
		}
	})
}

// TestAskedTwiceUnderOneKey: an order that waits for a signature is answered at
// once the second time too.
func TestAskedTwiceUnderOneKey(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		q := Order{Guest: 105, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}, Key: "k", By: "hub"}
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		defer cancel()
		first, err := r.eng.Ask(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.eng.Ask(ctx, q)
		if err != nil || !again.Already || again.Ops[0].ID != first.Ops[0].ID {
			t.Errorf("again: %+v, %v", again, err)
		}
	})
}

// TestSnapshotOfAGuestUnderHA goes to PVE as any other: only starting and
// stopping is the HA stack's.
func TestSnapshotOfAGuestUnderHA(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		r.world.Change(105, func(g *plugintest.Guest) { g.HA = plugin.HA{Managed: true, State: "started"} })
		if o := r.ask(plugin.TakeSnapshot, map[string]string{"name": "now"}); o.State != op.Succeeded || o.Params["ha"] != "" {
			t.Errorf("the snapshot is %s: %s", o.State, o.Message)
		}
		if _, err := r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}}); err == nil || !strings.Contains(err.Error(), "HA") {
			t.Errorf("a destroy under HA: %v", err)
		}
	})
}

// TestNothingIsAskedOfAGuestInTheMaking: neither an accept nor an approval is
// worth anything while somebody restores over it.
func TestNothingIsAskedOfAGuestInTheMaking(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		r.put(106, guest.Stopped, guest.Config{"rootfs": "local:106/vm-106-disk-0.raw,size=8G"})
		r.world.AddTask(106, plugin.Task{UPID: "UPID:x", Type: "vzrestore", ID: "106", User: "root@pam"})
		if err := r.eng.Accept(r.t.Context(), 106, "bob"); !errors.Is(err, ErrOrder) {
			t.Errorf("accepted: %v", err)
		}
		_, err := r.eng.Ask(r.t.Context(), Order{Guest: 106, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}})
		if !errors.Is(err, ErrOrder) {
			t.Errorf("asked: %v", err)
		}
	})
}

// TestPartOfADestroyIsDoneAgainByTheDestroy: a step of a quarantine that met a
// lock is no op that would go on by itself.
func TestPartOfADestroyIsDoneAgainByTheDestroy(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		met := false
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Kind != plugin.Shutdown || met {
				return plugintest.Behaviour{}
			}
			met = true
			return lockedFor(time.Minute)(a)
		})
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(5 * time.Second)
		for _, part := range r.led.OpsOf(105) {
			if part.Parent != "" && !part.State.Ended() {
				t.Errorf("%s is %s", part.Kind, part.State)
			}
		}
		after(3 * time.Hour)
		r.wantApplied("105 shutdown", "105 shutdown", "105 set_config", "105 destroy")
	})
}

// TestAskedAtOnceUnderOneKey: two requests under one key that come at the same
// time are one order.
func TestAskedAtOnceUnderOneKey(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		q := Order{Guest: 105, Action: plugin.TakeSnapshot, Params: map[string]string{"name": "now"}, Key: "k", By: "hub"}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := r.eng.Ask(r.t.Context(), q)
				if err != nil || len(got.Ops) != 1 || got.Ops[0].State != op.Succeeded {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		all.Wait()
		r.wantApplied("105 snapshot")
	})
}
