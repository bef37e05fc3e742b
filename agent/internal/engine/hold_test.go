// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func TestManualStopIsHeldUntilResumed(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.userStops(101)
		after(time.Hour)
		r.wantApplied()
		v, _ := r.eng.View(101)
		if v.State != StateHeld || !strings.Contains(why(v), "alice@pam") {
			t.Errorf("state %s, why %q", v.State, why(v))
		}
		r.must(r.eng.Resume(r.t.Context(), 101, "operator"))
		after(time.Minute)
		r.wantApplied("101 start")
	})
}

func TestHoldOutlivesPVEsMemoryAndARestart(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.userStops(101)
		after(time.Minute)
		r.stop()
		r.world.ForgetTasks()
		r.start(Enforce)
		defer r.stop()
		after(time.Hour)
		r.wantApplied()
		if got := r.state(101); got != StateHeld {
			t.Errorf("state = %s", got)
		}
		// A manual start ends it: a crash afterwards is no manual stop.
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Running })
		after(10 * time.Minute)
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		after(10 * time.Minute)
		r.wantApplied("101 start")
	})
}

func TestManualStopIsRevertedWhereTheDocumentSaysSo(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning + "on_manual_change = \"revert\"\n")
		after(time.Minute)
		r.userStops(101)
		after(2 * time.Second)
		r.wantApplied("101 start")
	})
}

func TestHeldStopEndsWithANewRevision(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.userStops(101)
		after(time.Hour)
		r.wantApplied()
		r.mustDesire(wantRunning + "description = \"again\"\n")
		after(time.Minute)
		r.wantApplied("101 set_config", "101 start")
	})
}

// userStops is what happens when alice stops a guest: hooks, task, state.
func (r *rig) userStops(id guest.VMID) {
	r.hook(id, guest.PreStop)
	started := time.Now()
	after(500 * time.Millisecond)
	r.world.AddTask(id, plugin.Task{
		UPID: "UPID:pve1:0000AAAA:00000001:00000001:vzshutdown:101:alice@pam:", Type: "vzshutdown", ID: id.String(),
		User: "alice@pam", Started: started, Ended: time.Now(), Status: "OK",
	})
	r.world.Change(id, func(g *plugintest.Guest) { g.Run = guest.Stopped })
	r.hook(id, guest.PostStop)
}

func why(v View) string {
	if len(v.Plan.Withheld) == 0 {
		return ""
	}
	return v.Plan.Withheld[0].Why
}

func TestPoweroffFromInsideIsNotManual(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		stopped := time.Now()
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		after(500 * time.Millisecond)
		r.hook(101, guest.PostStop)
		after(10 * time.Second)
		r.wantApplied("101 start")
		for _, c := range r.world.Calls() {
			if c.Method == "apply" && c.Time.Sub(stopped) < 1400*time.Millisecond {
				t.Errorf("started %s after the poweroff, where a start is lost", c.Time.Sub(stopped))
			}
		}
	})
}

func TestNoCallDuringATransition(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.hook(101, guest.PreStop)
		r.world.AddTask(101, plugin.Task{UPID: "u", Type: "vzshutdown", ID: "101", User: "alice@pam"})
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		after(90 * time.Second)
		r.wantApplied()
	})
}
