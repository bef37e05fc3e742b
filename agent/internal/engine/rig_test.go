// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
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
	wall   func() time.Time
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
		Keys: r.keys, Clock: r.clock, Wall: r.wall, Crash: r.crash,
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
	r.must(r.desire(doc))
}

// after lets d pass and everything settle.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) put(id guest.VMID, run guest.RunState, conf guest.Config) {
	r.world.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: id}, Run: run, Config: conf})
}

// must ends the test with an error. It is for the test's own goroutine.
func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// always makes the node behave so, whatever it is asked for.
func (r *rig) always(b plugintest.Behaviour) {
	r.world.Script(func(plugin.Action) plugintest.Behaviour { return b })
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
	err := r.eng.Events(r.t.Context(), []hook.Event{{ID: string(p) + time.Now().String(), VMID: id, Phase: p, Time: time.Now().UnixNano()}})
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
