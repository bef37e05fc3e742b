// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func TestObserveTouchesNothing(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Hour)
		r.wantApplied()
		if got := r.state(101); got != StateDrift {
			t.Errorf("state = %s", got)
		}
	})
}

// TestObserveSeesTheEnd: a guest that went down by itself is shown as such, and
// not for long as one that has only just stopped.
func TestObserveSeesTheEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Second)
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.eng.Hint(t.Context(), plugin.Hint{Guests: []guest.VMID{101}})
		after(time.Second)
		if got := r.state(101); got != StateWaiting {
			t.Errorf("at once: %s", got)
		}
		after(idleLook)
		if got := r.state(101); got != StateDrift {
			t.Errorf("state = %s", got)
		}
	})
}

func TestConverges(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.put(900, guest.Stopped, guest.Config{"cores": "1"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.wantApplied("101 set_config", "101 start")
		if got := r.state(101); got != StateConverged {
			t.Errorf("state = %s", got)
		}
		after(time.Hour)
		r.wantApplied("101 set_config", "101 start")
	})
}

func TestNoDesiredStateNoMutation(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{})
		r.start(Enforce)
		defer r.stop()
		after(time.Hour)
		r.wantApplied()
		r.mustDesire(wantRunning)
		after(time.Minute)
		before := r.applied()
		r.mustDesire("") // emptied: manages nothing
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "9"; g.Run = guest.Stopped })
		after(time.Hour)
		if diff := cmp.Diff(before, r.applied()); diff != "" {
			t.Errorf("an emptied set caused mutations:\n%s", diff)
		}
	})
}

func TestBadRevisionKeepsTheLastGoodOne(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		err := r.desire("[guest.101]\nkind = \"lxc\"\ncorse = 4\n")
		if err == nil || !strings.Contains(err.Error(), "guests.toml:3") {
			t.Fatalf("error = %v, want one that names guests.toml:3", err)
		}
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		after(10 * time.Minute)
		r.wantApplied("101 set_config", "101 start", "101 set_config")
		if st := r.eng.Status(); st.Providers[0].Err == "" {
			t.Error("status does not tell why the newest revision was rejected")
		}
	})
}

func TestUnsignedSetIsNotTakenWhereASignatureIsRequired(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Enforce)
		defer r.stop()
		set := settings(Enforce)
		set.Signed = map[string]SignedRule{"dir": {Issuer: "hub@example.com", Threshold: 1}}
		r.must(r.eng.Reload(set))
		if err := r.desire(wantRunning); err == nil {
			t.Error("an unsigned set was taken")
		}
		after(time.Hour)
		r.wantApplied()
	})
}

func TestLostStartIsSeenAndRepeated(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		n := 0
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			n++
			return plugintest.Behaviour{Task: 10 * time.Second, NoEffect: n == 1}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		r.wantApplied("101 start", "101 start")
		if got := r.state(101); got != StateConverged {
			t.Errorf("state = %s", got)
		}
	})
}

func TestCrashLoopingGuestIsLeftAloneUntilResumed(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.always(plugintest.Behaviour{NoEffect: true})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(9 * time.Minute)
		tries := len(r.applied())
		if tries == 0 || tries > 6 {
			t.Fatalf("%d starts within nine minutes", tries)
		}
		v, err := r.eng.View(101)
		if err != nil || !strings.Contains(v.Note, "resume 101") {
			t.Errorf("view: %q, %v", v.Note, err)
		}
		r.always(plugintest.Behaviour{})
		r.must(r.eng.Resume(r.t.Context(), 101, "operator"))
		after(time.Minute)
		if got := r.state(101); got != StateConverged {
			t.Errorf("state after resume = %s", got)
		}
	})
}

func TestRefusedKeyIsSetAsideAndTheRestIsSent(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "2", "memory": "512"})
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if _, ok := a.Set["cores"]; ok {
				return plugintest.Behaviour{Refuse: map[string]string{"cores": "no cores for you"}}
			}
			return plugintest.Behaviour{NoTask: true}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning + "memory = \"1GiB\"\n")
		after(time.Hour)
		r.wantApplied("101 set_config", "101 set_config")
		if g, _ := r.world.Guest(101); g.Config["memory"] != "1024" || g.Config["cores"] != "2" {
			t.Errorf("config = %v", g.Config)
		}
		v, _ := r.eng.View(101)
		if len(v.Plan.Withheld) != 1 || !strings.Contains(v.Plan.Withheld[0].Why, "no cores for you") {
			t.Errorf("withheld = %+v", v.Plan.Withheld)
		}
		// Something about it changes: it is tried again.
		r.always(plugintest.Behaviour{NoTask: true})
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "3" })
		after(10 * time.Minute)
		r.wantApplied("101 set_config", "101 set_config", "101 set_config")
	})
}

// A value that was corrected while the old one was being refused is tried.
func TestCorrectionDuringARefusalIsTried(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "2"})
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Set["cores"] != "4" {
				return plugintest.Behaviour{}
			}
			return plugintest.Behaviour{Delay: 10 * time.Second, Refuse: map[string]string{"cores": "too many"}}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Second)
		r.mustDesire(strings.Replace(wantRunning, "cores = 4", "cores = 3", 1))
		after(time.Minute)
		if g, _ := r.world.Guest(101); g.Config["cores"] != "3" {
			t.Errorf("config %v", g.Config)
		}
	})
}

func TestLockedGuestWaits(t *testing.T) {
	bubble(t, func(r *rig) {
		r.world.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}, Run: guest.Running, Lock: "backup", Config: guest.Config{"cores": "2"}})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(10 * time.Minute)
		r.wantApplied()
		if got := r.state(101); got != StateWaiting {
			t.Errorf("state = %s", got)
		}
		r.world.Change(101, func(g *plugintest.Guest) { g.Lock = "" })
		after(3 * time.Minute)
		r.wantApplied("101 set_config")
	})
}

func TestPausedGuestIsLeftAlone(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.must(r.eng.Pause(r.t.Context(), 101, "operator"))
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		r.mustDesire(wantRunning)
		after(time.Hour)
		r.wantApplied()
		r.must(r.eng.Resume(r.t.Context(), 101, "operator"))
		after(time.Minute)
		r.wantApplied("101 set_config")
	})
}

func TestApplyOnceWorksInModeObserve(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Observe)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		done, err := r.eng.Apply(r.t.Context(), Asked{By: "operator"})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range done.Ops {
			if o.State != op.Succeeded || o.Asker != "operator" {
				t.Errorf("op %+v", o)
			}
		}
		r.wantApplied("101 set_config", "101 start")
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		after(time.Hour)
		r.wantApplied("101 set_config", "101 start")
	})
}

func TestSameKeyIsAppliedOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "2"})
		r.start(Observe)
		r.mustDesire(wantRunning)
		after(time.Minute)
		asked := Asked{Guests: []guest.VMID{101}, Key: "change-4711", By: "operator"}
		first, err := r.eng.Apply(r.t.Context(), asked)
		if err != nil || first.Already || len(first.Ops) != 2 {
			t.Fatalf("first: %+v, %v", first, err)
		}
		r.stop()
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		r.start(Observe)
		defer r.stop()
		after(time.Minute)
		again, err := r.eng.Apply(r.t.Context(), asked)
		if err != nil || !again.Already || len(again.Ops) != 2 || again.Ops[0].State != op.Succeeded {
			t.Errorf("again, after a restart: %+v, %v", again, err)
		}
		r.wantApplied("101 set_config", "101 start")
		asked.Guests = nil
		if _, err := r.eng.Apply(r.t.Context(), asked); !errors.Is(err, ErrKeyReused) {
			t.Errorf("the same key for another request: %v", err)
		}
	})
}

func TestTwinWithTheSameTokenIsNotFought(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(10 * time.Minute)
		twin := plugin.Task{
			UPID: "UPID:pve1:0000BBBB:00000001:00000001:vzshutdown:101:felhom@pve!agent:", Type: "vzshutdown", ID: "101",
			User: "felhom@pve!agent", Started: time.Now(), Ended: time.Now(), Status: "OK", Own: true,
		}
		r.world.AddTask(101, twin)
		r.world.Change(101, func(g *plugintest.Guest) { g.Run = guest.Stopped })
		after(time.Hour)
		r.wantApplied()
		if st := r.eng.Status(); !strings.Contains(st.Twin, twin.UPID) {
			t.Errorf("status says %q", st.Twin)
		}
	})
}

func TestNodeAwayAndBack(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "2"})
		r.world.SetListError(plugin.ErrUnavailable)
		r.start(Enforce)
		defer r.stop()
		after(time.Minute)
		if st := r.eng.Status(); st.NodeErr == "" {
			t.Error("status does not say that the node is away")
		}
		if _, err := r.eng.Plan(r.t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("plan: %v", err)
		}
		r.world.SetListError(nil)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.wantApplied("101 set_config")
	})
}

func TestTooManyChangesAtOnceFreezeTheNode(t *testing.T) {
	bubble(t, func(r *rig) {
		doc := func(cores string) string {
			var b strings.Builder
			for id := 101; id <= 120; id++ {
				b.WriteString("[guest." + guest.VMID(id).String() + "]\nkind = \"lxc\"\ncores = " + cores + "\n")
			}
			return b.String()
		}
		for id := guest.VMID(101); id <= 120; id++ {
			r.put(id, guest.Running, guest.Config{"cores": "1"})
		}
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(doc("2"))
		after(time.Minute)
		if n := len(r.applied()); n != 20 {
			t.Fatalf("%d of 20 guests were changed at their first adoption", n)
		}
		after(time.Hour)
		r.mustDesire(doc("3"))
		after(time.Hour)
		n := len(r.applied()) - 20
		if n > 10 {
			t.Errorf("%d of 20 guests were changed at once, more than half", n)
		}
		if st := r.eng.Status(); !strings.Contains(st.Breaker, "felhom-agent resume") {
			t.Errorf("status says %q", st.Breaker)
		}
		r.must(r.eng.Resume(r.t.Context(), 0, "operator"))
		after(time.Hour)
		if n := len(r.applied()); n != 40 {
			t.Errorf("after resume %d changes in all, want 40", n)
		}
	})
}
