// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestOutcomeThatIsTooLong: however much a plugin has to say of an op's end, it
// ends.
func TestOutcomeThatIsTooLong(t *testing.T) {
	long := strings.Repeat("\x01", 3<<19) // in JSON six times that
	for name, out := range map[string]plugin.Outcome{
		"message": {Status: plugin.Done, Message: long},
		"undo":    {Status: plugin.Done, Undo: &plugin.Action{Set: map[string]string{"cores": long}}},
		"made":    {Status: plugin.Done, Params: map[string]string{"volume": long}},
		"refused": {Status: plugin.Refused, RefusedKeys: map[string]string{"cores": long}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.always(plugintest.Behaviour{Outcome: &out})
				r.put(101, guest.Running, guest.Config{"cores": "2"})
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wantRunning)
				after(5 * time.Second)
				ops := r.led.Ops()
				if len(ops) == 0 || !ops[0].State.Ended() {
					t.Fatalf("%d ops, the first is %s", len(ops), ops[0].State)
				}
				if n := len(ops[0].Message); n > 64<<10 {
					t.Errorf("%d bytes of it are kept", n)
				}
			})
		})
	}
}

// TestRetryInTenYears: a plugin does not hold a guest's lane for as long as it
// likes.
func TestRetryInTenYears(t *testing.T) {
	bubble(t, func(r *rig) {
		r.world.Script(lockedFor(10 * 365 * 24 * time.Hour))
		r.put(101, guest.Running, guest.Config{"cores": "2"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		got, err := r.eng.Apply(r.t.Context(), Asked{By: "operator (uid 0)"})
		if err != nil || got.Ops[0].State != op.Succeeded {
			t.Errorf("%+v, %v", got.Ops, err)
		}
		if up := time.Since(r.eng.began); up > 24*time.Hour {
			t.Errorf("it took %s", up)
		}
	})
}

// TestSelftestSendsOneAtATime: what a selftest has sent and knows no outcome of
// is settled before the config is put back.
func TestSelftestSendsOneAtATime(t *testing.T) {
	bubble(t, func(r *rig) {
		sent := 0
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			if open, ok := r.led.Open(900); ok && sent > 0 && open.Attempt > 0 {
				for _, o := range r.led.OpsOf(900) {
					if o.State.InFlight() && o.ID != open.ID {
						t.Errorf("ops %s and %s are in flight at once", o.ID, open.ID)
					}
				}
			}
			sent++
			return plugintest.Behaviour{Lose: sent == 3, Task: 20 * time.Second}
		})
		r.put(900, guest.Stopped, guest.Config{"hostname": "scratch", "tags": SelftestTag, "ostype": "debian"})
		r.start(Observe)
		defer r.stop()
		after(time.Minute)
		before, _ := r.world.Guest(900)
		_, err := r.eng.Selftest(r.t.Context(), 900, "operator (uid 0)")
		if err == nil {
			t.Error("an outcome that is not known is no success")
		}
		after(10 * time.Minute)
		now, _ := r.world.Guest(900)
		for k, v := range now.Config {
			if before.Config[k] != v {
				t.Errorf("%s is %q", k, v)
			}
		}
	})
}
