// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestOrderIsForTheGuestThatWasThere: what is benign is not done on another
// guest either, though that one was accepted meanwhile.
func TestOrderIsForTheGuestThatWasThere(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.mustDesire("[guest.105]\nkind = \"lxc\"\nrun = \"running\"\n")
		after(time.Minute)
		free := r.take(SlotOther)
		go func() {
			_, _ = r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.TakeSnapshot, Params: map[string]string{"name": "one"}, By: "operator (uid 0)"})
		}()
		after(10 * time.Second)
		r.world.Remove(105)
		r.put(105, guest.Running, guest.Config{"hostname": "new", "rootfs": "local:105/vm-105-disk-7.raw,size=1G"})
		r.foreignTask(105, "vzcreate")
		after(10 * time.Second)
		r.must(r.eng.Accept(r.t.Context(), 105, "bob"))
		after(10 * time.Second)
		free()
		after(time.Minute)
		r.wantApplied()
	})
}

// vendor serves a vendor's kind that may be declared benign.
type vendor struct {
	exec   plugin.Executor
	benign atomic.Bool
	gone   atomic.Bool
}

func (v *vendor) Executor(k plugin.ActionKind) (plugin.Executor, error) {
	if v.gone.Load() {
		return nil, fmt.Errorf("%w: no plugin serves action %q", plugin.ErrUnsupported, k)
	}
	return v.exec, nil
}
func (v *vendor) Benign(plugin.ActionKind) bool { return v.benign.Load() }

const vendorsKind plugin.ActionKind = "acme.scrub"

// TestKindThatIsNotBenignAnyMore: a vendor's kind was benign when it was asked
// for and is not when it is to be done: that needs a signature.
func TestKindThatIsNotBenignAnyMore(t *testing.T) {
	for _, waits := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			v := &vendor{exec: r.world.Executor()}
			v.benign.Store(true)
			r.eng.opt.Executors = v
			free := func() {}
			if waits {
				free = r.take(SlotOther)
			} else {
				r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
			}
			go func() {
				_, _ = r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: vendorsKind, By: "operator (uid 0)"})
			}()
			after(10 * time.Second)
			v.benign.Store(false)
			r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
			free()
			after(time.Minute)
			r.wantApplied()
			for _, o := range r.led.Ops() {
				if !o.State.Ended() {
					t.Errorf("op %s is %s", o.ID, o.State)
				}
			}
		})
	}
}

// vanishing is a plugin that is taken away once it was asked for something.
type vanishing struct {
	v      *vendor
	handle bool
}

func (x vanishing) Describe(context.Context) (plugin.Info, error) { return plugin.Info{}, nil }

func (x vanishing) Apply(_ context.Context, _ plugin.Action, _ string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	x.v.gone.Store(true)
	if x.handle {
		if err := emit(plugin.Progress{Handle: "job 1"}); err != nil {
			return plugin.Outcome{}, err
		}
	}
	return plugin.Outcome{}, plugin.ErrShutdown
}

func (x vanishing) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{}, plugin.ErrShutdown
}

// TestPluginThatIsGone: an op whose plugin was taken away in the middle of it
// does not hold its guest for good.
func TestPluginThatIsGone(t *testing.T) {
	for _, handle := range []bool{false, true} {
		gateBubble(t, func(r *rig, p *people) {
			v := &vendor{exec: r.world.Executor()}
			v.benign.Store(true)
			r.eng.opt.Executors = v
			v.exec = vanishing{v, handle}
			go func() {
				_, _ = r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: vendorsKind, By: "operator (uid 0)"})
			}()
			after(30 * time.Minute)
			o := r.led.Ops()[0]
			if o.State != op.Abandoned || (o.Handle != "") != handle || !strings.Contains(o.Message, "only its plugin could tell") {
				t.Errorf("op %s is %s: %s", o.ID, o.State, o.Message)
			}
		})
	}
}
