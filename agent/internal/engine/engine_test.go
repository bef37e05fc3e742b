// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// rig is an engine on a real journal and a scripted node.
type rig struct {
	t      *testing.T
	dir    string
	world  *plugintest.World
	keys   Keys
	rules  map[string]SignedRule
	clock  func(context.Context) bool
	change func(*Settings)
	crash  func(point string)
	wrap   func(plugin.Executor) plugin.Executor
	queue  int // how much the queue holds
	led    *ledger.Ledger
	jrn    *journal.Journal
	eng    *Engine
	cancel context.CancelFunc
	done   chan error
}

type memCache map[string]plugin.Snapshot

func (c memCache) Save(p string, s plugin.Snapshot) error { c[p] = s; return nil }
func (c memCache) Load(p string) (plugin.Snapshot, error) {
	s, ok := c[p]
	if !ok {
		return s, errors.New("nothing cached")
	}
	return s, nil
}

type oneExecutor struct{ exec plugin.Executor }

func (o oneExecutor) Executor(plugin.ActionKind) (plugin.Executor, error) { return o.exec, nil }

func settings(mode Mode) Settings {
	return Settings{
		Mode: mode, Resync: 5 * time.Minute,
		Limits:   map[string]int{SlotCalls: 2, SlotReads: 4, SlotStartStop: 4, SlotBackup: 1, SlotOther: 2},
		Breaker:  BreakerSettings{GuestFailures: 5, GuestQuiet: 10 * time.Minute, NodeGuests: 20, NodePercent: 50},
		Required: map[string]bool{"dir": true},
	}
}

// newRig makes the parts; start makes them run. Both belong in a bubble.
func newRig(t *testing.T) *rig {
	return &rig{t: t, dir: t.TempDir(), queue: 100, world: plugintest.NewWorld("pve1")}
}

var cache = memCache{}

func (r *rig) executor() plugin.Executor {
	if r.wrap == nil {
		return r.world.Executor()
	}
	return r.wrap(r.world.Executor())
}

func (r *rig) start(mode Mode) {
	r.t.Helper()
	r.led = ledger.New()
	j, _, err := journal.Open(r.t.Context(), journal.Options{Dir: r.dir, Fold: r.led, Host: "pve1"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.jrn = j
	set := settings(mode)
	set.Signed = r.rules
	if r.change != nil {
		r.change(&set)
	}
	r.eng, err = New(Options{
		Host: "pve1", Settings: set, Observer: r.world.Observer(), Executors: oneExecutor{r.executor()},
		Journal: j, Ledger: r.led, Cache: cache, Logger: slog.New(slog.DiscardHandler), QueueSize: r.queue, Drain: 20 * time.Second,
		Keys: r.keys, Clock: r.clock, Crash: r.crash,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() { r.done <- r.eng.Run(ctx) }()
}

func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.done; err != nil && !errors.Is(err, context.Canceled) {
		r.t.Errorf("run: %v", err)
	}
	if err := r.jrn.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) desire(doc string) error {
	r.t.Helper()
	snap := plugin.Snapshot{Revision: doc}
	if doc != "" {
		snap.Files = []plugin.File{{Name: "guests.toml", Data: []byte(doc)}}
	}
	return r.eng.SetDesired(r.t.Context(), "dir", snap)
}

func (r *rig) mustDesire(doc string) {
	r.t.Helper()
	if err := r.desire(doc); err != nil {
		r.t.Fatal(err)
	}
}

// after lets d pass and everything settle.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) put(id guest.VMID, run guest.RunState, conf guest.Config) {
	r.world.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: id}, Run: run, Config: conf})
}

// applied are the actions that were sent, in words.
func (r *rig) applied() []string {
	var out []string
	for _, c := range r.world.Calls() {
		if c.Method == "apply" && c.Handle == "" {
			out = append(out, c.Action.Guest.VMID.String()+" "+string(c.Action.Kind))
		}
	}
	return out
}

func (r *rig) wantApplied(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.applied()); diff != "" {
		r.t.Errorf("what was sent (-want +got):\n%s", diff)
	}
}

func (r *rig) state(id guest.VMID) string {
	v, err := r.eng.View(id)
	if err != nil {
		return err.Error()
	}
	return v.State
}

func (r *rig) hook(id guest.VMID, p guest.Phase) {
	r.t.Helper()
	err := r.eng.Event(r.t.Context(), hook.Event{ID: string(p) + time.Now().String(), VMID: id, Phase: p, Time: time.Now().UnixNano()})
	if err != nil {
		r.t.Fatal(err)
	}
}

const wantRunning = "[guest.101]\nkind = \"lxc\"\nrun = \"running\"\ncores = 4\n"

func bubble(t *testing.T, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		clear(cache)
		f(newRig(t))
	})
}

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
		if err := r.eng.Reload(set); err != nil {
			t.Fatal(err)
		}
		if err := r.desire(wantRunning); err == nil {
			t.Error("an unsigned set was taken")
		}
		after(time.Hour)
		r.wantApplied()
	})
}

func TestRestartUsesTheLastGoodStateUntilTheProviderSpeaks(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.stop()
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		r.start(Enforce)
		defer r.stop()
		after(time.Minute)
		r.wantApplied("101 set_config")
		// A cache that is not what the journal accepted is not used.
	})
}

func TestTamperedCacheIsNotUsed(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.stop()
		s := cache["dir"]
		s.Files = []plugin.File{{Name: "guests.toml", Data: []byte(strings.Replace(wantRunning, "running", "stopped", 1))}}
		cache["dir"] = s
		r.start(Enforce)
		defer r.stop()
		after(time.Hour)
		r.wantApplied()
	})
}

func TestIntentIsOnDiskBeforeTheEffect(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		var seen []op.State
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			disk := ledger.New()
			err := journal.Read(fsys.OS{}, r.dir, 0, func(e journal.Entry, _ journal.Frame) bool { return disk.Apply(e) == nil })
			if err != nil {
				t.Error(err)
			}
			o, _ := disk.Op(a.OpID)
			seen = append(seen, o.State)
			return plugintest.Behaviour{Task: time.Second}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		if diff := cmp.Diff([]op.State{op.Intent}, seen); diff != "" {
			t.Errorf("state on disk when the executor was called (-want +got):\n%s", diff)
		}
	})
}

func TestLostReplyIsNotSentTwice(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(r *rig) {
			r.put(101, guest.Stopped, guest.Config{"cores": "4"})
			lost := false
			r.world.Script(func(plugin.Action) plugintest.Behaviour {
				b := plugintest.Behaviour{Task: 3 * time.Second, Lose: !late && !lost, LoseLate: late && !lost}
				lost = true
				return b
			})
			r.start(Enforce)
			defer r.stop()
			r.mustDesire(wantRunning)
			after(10 * time.Minute)
			r.wantApplied("101 start")
			if got := r.state(101); got != StateConverged {
				t.Errorf("late %v: state = %s", late, got)
			}
		})
	}
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
		r.world.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{NoEffect: true} })
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
		r.world.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{} })
		if err := r.eng.Resume(r.t.Context(), 101, "operator"); err != nil {
			t.Fatal(err)
		}
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
		r.world.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{NoTask: true} })
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
		if err := r.eng.Resume(r.t.Context(), 101, "operator"); err != nil {
			t.Fatal(err)
		}
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

func TestPausedGuestIsLeftAlone(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		defer r.stop()
		if err := r.eng.Pause(r.t.Context(), 101, "operator"); err != nil {
			t.Fatal(err)
		}
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		r.mustDesire(wantRunning)
		after(time.Hour)
		r.wantApplied()
		if err := r.eng.Resume(r.t.Context(), 101, "operator"); err != nil {
			t.Fatal(err)
		}
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

// seed writes records as an agent that crashed would have left them.
func (r *rig) seed(recs ...ledger.Record) {
	r.t.Helper()
	led := ledger.New()
	j, _, err := journal.Open(r.t.Context(), journal.Options{Dir: r.dir, Fold: led, Host: "pve1"})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, rec := range recs {
		b, err := rec.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := j.Append(r.t.Context(), json.RawMessage(b)); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func crashed(kind plugin.ActionKind) *op.Op {
	return &op.Op{
		ID: "o1", Asker: op.Reconciler, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Kind: kind, Class: guest.Benign,
		State: op.Intent, Attempt: 1, Sent: time.Now(), Planned: time.Now(), Node: "pve1",
	}
}

func TestStoppingWaitsForTheHandleOnly(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			return plugintest.Behaviour{Delay: 3 * time.Second, Task: time.Hour}
		})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Second) // sent, not answered
		began := time.Now()
		r.stop()
		if took := time.Since(began); took < time.Second || took > 10*time.Second {
			t.Errorf("stopping took %s", took)
		}
		ops := r.led.Ops()
		if len(ops) != 1 || ops[0].State != op.Started || ops[0].Handle == "" {
			t.Errorf("ops %+v", ops)
		}
	})
}

func TestCrashAfterTheIntentAndBeforeTheSend(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: crashed(plugin.Start)})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(50 * time.Second)
		r.wantApplied() // it may still be under way
		after(5 * time.Minute)
		r.wantApplied("101 start")
		if o, _ := r.led.Op("o1"); !o.State.Ended() {
			t.Errorf("the op of before the crash is %s", o.State)
		}
	})
}

func TestHandleThatThePluginDoesNotKnow(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		o := crashed(plugin.Start)
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: o},
			ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: o.ID, Guest: o.Guest, State: op.Started, Handle: "UPID:of:another:plugin"}})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		r.wantApplied()
		if o, _ := r.led.Op("o1"); o.State != op.Succeeded || !strings.Contains(o.Message, "by observation") {
			t.Errorf("op %+v", o)
		}
	})
}

func TestCrashAfterTheSend(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.world.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: 20 * time.Second} })
		o := crashed(plugin.Start)
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: o})
		// The world has taken the request; the agent died before the answer.
		ctx, cancel := context.WithCancel(r.t.Context())
		sent := make(chan struct{})
		go func() {
			_, _ = r.world.Executor().Apply(ctx, o.Action(), "", func(plugin.Progress) error { close(sent); <-ctx.Done(); return ctx.Err() })
		}()
		<-sent
		cancel()
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		r.wantApplied("101 start") // the one before the crash
		if n := r.world.Effects("o1"); n != 1 {
			t.Errorf("carried out %d times", n)
		}
		if o, _ := r.led.Op("o1"); o.State != op.Succeeded || o.Handle == "" {
			t.Errorf("op %+v", o)
		}
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
		if err := r.eng.Resume(r.t.Context(), 0, "operator"); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		if n := len(r.applied()); n != 40 {
			t.Errorf("after resume %d changes in all, want 40", n)
		}
	})
}
