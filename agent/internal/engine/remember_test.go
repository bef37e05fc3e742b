// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// busyHost lets so many ops of another guest end that the ledger forgets those
// that ended before.
func (r *rig) busyHost() {
	r.t.Helper()
	for i := range 600 {
		o := crashed(plugin.TakeSnapshot)
		o.ID, o.Guest.VMID = fmt.Sprintf("busy%03d", i), 999
		r.must(r.eng.append(r.t.Context(), ledger.Record{Type: ledger.TypeOp, Op: o}))
		r.must(r.eng.append(r.t.Context(), ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: o.ID, Guest: o.Guest, State: op.Succeeded}}))
	}
}

// TestForgottenOpIsNoTwin: PVE remembers the task of an op that this agent has
// forgotten by now.
func TestForgottenOpIsNoTwin(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(10 * time.Minute)
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		after(10 * time.Minute)
		r.wantApplied("101 start")
		after(24 * time.Hour)
		r.busyHost()
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		after(10 * time.Minute)
		r.wantApplied("101 start", "101 start")
		if st := r.eng.Status(); st.Twin != "" {
			t.Error(st.Twin)
		}
	})
}

// TestQuarantineLastsOnABusyHost: what was signed is a time in quarantine, and
// that time begins when the guest is in it, whatever else ends meanwhile.
func TestQuarantineLastsOnABusyHost(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.eng.Pause(r.t.Context(), 105, "bob"))
		go func() { _ = r.approve(p, o, alice) }()
		after(10 * time.Second)
		r.must(r.eng.Resume(r.t.Context(), 105, "bob"))
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "backup" })
		after(50 * time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) { g.Lock = "" })
		after(5 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		r.busyHost()
		after(40 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		after(time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
	})
}
