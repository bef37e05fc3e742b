// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestManualStopAfterTheClockWasSetBack: what somebody does by hand is respected
// although the desire was accepted, and a task of ours ran, at what is a later
// time by the clock now.
func TestManualStopAfterTheClockWasSetBack(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.wantApplied("101 start")
		r.stop()
		r.wall = func() time.Time { return time.Now().Add(-time.Hour) }
		r.start(Enforce)
		after(20 * time.Minute)
		asked := r.wall()
		r.must(r.eng.Events(r.t.Context(), []hook.Event{{ID: "pre", VMID: 101, Phase: guest.PreStop, Time: asked.UnixNano()}}))
		r.world.AddTask(101, plugin.Task{UPID: "u", Type: "vzshutdown", ID: "101", User: "alice@pam", Started: asked, Ended: asked, Status: "OK"})
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		r.eng.Hint(r.t.Context(), plugin.Hint{Guests: []guest.VMID{101}})
		after(10 * time.Minute)
		r.wantApplied("101 start")
		if got := r.state(101); got != StateHeld {
			t.Errorf("state = %s", got)
		}
	})
}
