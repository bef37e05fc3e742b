// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

const (
	day = 24 * time.Hour
	// wantUnplugged leads to a request, and so does what a person asks for.
	wantUnplugged = "[guest.105]\nkind = \"lxc\"\ndelete = [\"mp0\"]\n"
)

func (r *rig) mount() {
	r.world.Change(105, func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" })
}

// wantAbandoned: the op has ended, and says why.
func (r *rig) wantAbandoned(id, why string) {
	r.t.Helper()
	if got := r.op(id); got.State != op.Abandoned || !strings.Contains(got.Message, why) {
		r.t.Errorf("the op is %s: %q", got.State, got.Message)
	}
}

// TestUnsignedRequestEnds: what somebody asked for and nobody signs ends, a
// while after its request did, across a restart too.
func TestUnsignedRequestEnds(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := askRollback(r)
		after(6 * day)
		if got := r.op(o.ID).State; got != op.Awaiting {
			t.Fatalf("after six days it is %s", got)
		}
		r.stop()
		r.start(Enforce)
		after(2 * day)
		r.wantAbandoned(o.ID, "not signed and done by 2000-01-01T01:00:00Z, when its request ran out; ask again")
		if err := r.approve(p, o, alice); !errors.Is(err, ErrNoOp) {
			t.Errorf("an approval for it: %v", err)
		}
		r.wantApplied()
	})
}

// TestUnsignedRequestThatStays: what a document wants, and what cannot be told to
// be too old.
func TestUnsignedRequestThatStays(t *testing.T) {
	for name, set := range map[string]func(r *rig, p *people) op.Op{
		"a document wants it": func(r *rig, _ *people) op.Op {
			r.mount()
			r.mustDesire(wantUnplugged)
			after(time.Minute)
			return r.led.Waiting(105)[0]
		},
		"it has a new request": func(r *rig, p *people) op.Op {
			o := askRollback(r)
			after(6 * day)
			if err := r.approve(p, o, alice); err == nil || !strings.Contains(err.Error(), "new request") {
				r.t.Fatalf("an expired request: %v", err)
			}
			return o
		},
		"nobody keeps the clock": func(r *rig, _ *people) op.Op {
			r.eng.opt.Clock = func(context.Context) bool { return false }
			return askRollback(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				o := set(r, p)
				after(6*day + 12*time.Hour)
				if name != "it has a new request" {
					after(7 * day)
				}
				if got := r.op(o.ID); got.State != op.Awaiting {
					t.Errorf("the op is %s: %s", got.State, got.Message)
				}
			})
		})
	}
}

// TestRequestThatNoDocumentWants ends, but not before the documents are known.
func TestRequestThatNoDocumentWants(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		r.mount()
		r.mustDesire(wantUnplugged)
		after(time.Minute)
		o := r.led.Waiting(105)[0]
		r.stop()
		clear(cache)
		r.start(Enforce)
		after(unheardFor / 2)
		if got := r.op(o.ID).State; got != op.Awaiting {
			t.Errorf("no provider has spoken and it is %s", got)
		}
		r.mustDesire("")
		after(6 * time.Minute)
		r.wantAbandoned(o.ID, "no longer wanted")
	})
}

// TestTooManyRequests: a script that asks in circles is told so.
func TestTooManyRequests(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		for range maxUnsigned {
			askRollback(r)
		}
		_, err := r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.Rollback, Params: map[string]string{"name": "before"}, By: "operator (uid 0)"})
		if !errors.Is(err, ErrOrder) || !strings.Contains(err.Error(), "felhom-agent reject") {
			t.Errorf("one more: %v", err)
		}
		if o := r.ask(plugin.TakeSnapshot, map[string]string{"name": "now"}); r.op(o.ID).State != op.Succeeded {
			t.Error("what needs no signature is refused too")
		}
		r.must(r.eng.Reject(r.t.Context(), r.led.Waiting(guest.VMID(105))[0].ID, "bob"))
		askRollback(r)
	})
}

// TestApprovedTooLongAgo: an approval that could not be used in time keeps its op
// no longer than none.
func TestApprovedTooLongAgo(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := askRollback(r)
		r.must(r.eng.Pause(r.t.Context(), 105, "bob"))
		r.must(r.approve(p, o, alice))
		after(8 * day)
		r.wantAbandoned(o.ID, "ask again")
		r.must(r.eng.Resume(r.t.Context(), 105, "bob"))
		after(time.Minute)
		r.wantApplied()
	})
}
