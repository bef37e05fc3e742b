// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// The ways in which an attempt comes to nothing through no fault of the guest.
var weathers = map[string]plugintest.Behaviour{
	"its lock is taken": {Outcome: &plugin.Outcome{Status: plugin.Retry, RetryAfter: 10 * time.Second, Reason: "locked", Message: "got timeout"}},
	"at once, it says":  {Outcome: &plugin.Outcome{Status: plugin.Retry, RetryAfter: 1, Reason: "busy"}},
	"it was not sent":   {Err: fmt.Errorf("%w: connection refused", plugin.ErrNotSent)},
	"proven not sent":   {Err: fmt.Errorf("%w: no answer", plugin.ErrUnavailable)},
}

// hints lets hints about a guest come in each second, as PVE's own tasks make.
func (r *rig) hints(id guest.VMID, d time.Duration) {
	for range int(d / time.Second) {
		r.eng.Hint(r.t.Context(), plugin.Hint{Guests: []guest.VMID{id}, Reason: "a task"})
		after(time.Second)
	}
}

// TestWeatherIsNoFailure: an attempt that came to nothing is not counted as one
// that achieved nothing. The guest is tried again with growing delay, whatever
// hints come in, and soon after the weather is over.
func TestWeatherIsNoFailure(t *testing.T) {
	for name, weather := range weathers {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.put(101, guest.Stopped, guest.Config{"cores": "4"})
				r.always(weather)
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wantRunning)
				r.hints(101, 30*time.Minute)
				if n := len(r.applied()); n < 10 || n > 25 {
					t.Errorf("%d attempts in half an hour", n)
				}
				if v, err := r.eng.View(101); err != nil || strings.Contains(v.Note, "failures") {
					t.Errorf("%v: %s", err, v.Note)
				}
				r.always(plugintest.Behaviour{})
				after(4 * time.Minute)
				if got := r.state(101); got != StateConverged {
					t.Errorf("state = %s", got)
				}
			})
		})
	}
}

// TestWeatherHidesNoFailure: what achieves nothing is counted once each time,
// however often it met a lock in between.
func TestWeatherHidesNoFailure(t *testing.T) {
	bubble(t, func(r *rig) {
		n, done := 0, 0
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			if n++; n%3 != 0 {
				return weathers["at once, it says"]
			}
			done++
			return plugintest.Behaviour{NoEffect: true}
		})
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		if v, _ := r.eng.View(101); done != 6 || !strings.Contains(v.Note, "after 6 failures") {
			t.Errorf("tried %d times: %q", done, v.Note)
		}
	})
}

// TestWeatherKeepsNothingElseBack: what is wanted instead is tried at once.
func TestWeatherKeepsNothingElseBack(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "2"})
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Set["cores"] == "4" {
				return weathers["its lock is taken"]
			}
			return plugintest.Behaviour{}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(10 * time.Minute)
		r.mustDesire(strings.Replace(wantRunning, "cores = 4", "cores = 3", 1))
		after(time.Second)
		if got := r.state(101); got != StateConverged {
			t.Errorf("state = %s", got)
		}
	})
}

// TestWeatherIsForgotten: once somebody made the guest as it is wanted, the delay
// begins anew.
func TestWeatherIsForgotten(t *testing.T) {
	bubble(t, func(r *rig) {
		weather := func(plugin.Action) plugintest.Behaviour { return weathers["at once, it says"] }
		cores := func(n string) func(*plugintest.Guest) { return func(g *plugintest.Guest) { g.Config["cores"] = n } }
		r.world.Script(weather)
		r.put(101, guest.Running, guest.Config{"cores": "2"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(10 * time.Minute)
		r.world.Change(101, cores("4"))
		r.hints(101, time.Second)
		r.world.Change(101, cores("2"))
		r.hints(101, time.Second)
		r.always(plugintest.Behaviour{})
		r.hints(101, 2*time.Second)
		if got := r.state(101); got != StateConverged {
			t.Errorf("state = %s", got)
		}
	})
}

// TestWeatherEndsNoDestroy: a grant is not given up because the guest was locked
// for a while.
func TestWeatherEndsNoDestroy(t *testing.T) {
	for _, kind := range []plugin.ActionKind{plugin.Shutdown, plugin.SetConfig, plugin.Destroy} {
		t.Run(string(kind), func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				clears := time.Now().Add(2 * time.Hour)
				r.world.Script(func(a plugin.Action) plugintest.Behaviour {
					if a.Kind == kind && time.Now().Before(clears) {
						return weathers["its lock is taken"]
					}
					return plugintest.Behaviour{}
				})
				o := r.askDestroy()
				r.must(r.approve(p, o, alice))
				after(3*time.Hour - time.Minute)
				if got := r.op(o.ID); got.State != op.Succeeded && got.State != op.Granted {
					t.Errorf("the destroy is %s: %s", got.State, got.Message)
				}
			})
		})
	}
}

// TestFrozenNodeCountsNothing: while the node is frozen nothing is tried, so
// nothing fails.
func TestFrozenNodeCountsNothing(t *testing.T) {
	bubble(t, func(r *rig) {
		doc := ""
		for id := guest.VMID(101); id < 110; id++ {
			r.put(id, guest.Running, guest.Config{"cores": "4"})
			doc += strings.Replace(wantRunning, "101", id.String(), 1)
		}
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(doc)
		after(time.Minute)
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			return plugintest.Behaviour{NoEffect: true, Task: time.Second}
		})
		for id := guest.VMID(101); id < 110; id++ {
			r.world.Change(id, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		}
		r.hints(101, time.Second)
		r.eng.Resync("all of them")
		after(time.Second)
		r.hints(101, time.Minute)
		if r.eng.Status().Breaker == "" {
			t.Fatal("the node is not frozen")
		}
		r.must(r.eng.Resume(r.t.Context(), 0, "operator"))
		after(time.Second)
		if v, err := r.eng.View(101); err != nil || strings.Contains(v.Note, "failures") {
			t.Errorf("%v: %s", err, v.Note)
		}
	})
}
