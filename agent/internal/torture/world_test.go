// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/wire"
	"github.com/felhom/felhom-agent/plugins/pve/driver"
)

const (
	jdir   = "/journal"
	user   = "agent@pve!full"
	secret = "00000000-0000-0000-0000-000000000001"
)

// world is a simulated node with a disk, and one agent after another that works there, all in one synctest bubble.
type world struct {
	t      *testing.T
	sim    *pvetest.Sim
	client *pve.Client
	fs     *fault.FS
	cache  *memCache
	broken broken
	// agent is the one that runs, nil while none does.
	agent *agent
	// acked are the payloads that were acknowledged, by any agent.
	acked []string
	// step is by how much somebody set the host's clock; steppedBack is the sum of all steps back.
	step, steppedBack time.Duration
	// stranger: another guest has the VMID now.
	stranger bool
	// wrong are invariants that were seen broken while it ran.
	wrong Verdict
	mu    sync.Mutex
	hooks int
}

// broken says how a build is broken on purpose; the zero value is the real one.
type broken struct {
	// disk decides on each call to the file system.
	disk func(fault.Call) fault.Action
	// lateIntent writes intents with the record that follows.
	lateIntent bool
	// noProbe takes every lost sending for not sent.
	noProbe bool
}

// memCache is the cache of desired state; losing it with a crash would only mean to wait for the provider.
type memCache struct{ kept sync.Map }

func (c *memCache) Save(p string, s plugin.Snapshot) error { c.kept.Store(p, s); return nil }
func (c *memCache) Load(p string) (plugin.Snapshot, error) {
	s, ok := c.kept.Load(p)
	if !ok {
		return plugin.Snapshot{}, errors.New("nothing cached")
	}
	return s.(plugin.Snapshot), nil
}

// agent is one life of the agent's core.
type agent struct {
	w      *world
	eng    *engine.Engine
	led    *ledger.Ledger
	jrn    *journal.Journal
	drv    atomic.Pointer[driver.Driver]
	cancel context.CancelFunc
	done   chan error
	// dead: the process is gone; nothing leaves it any more.
	dead atomic.Bool
	// life ends with the plugin's process; a new one begins with the next.
	life       atomic.Pointer[life]
	pluginDown atomic.Bool
	flying     map[guest.VMID]int
	held       []json.RawMessage
}

// life is a plugin process's.
type life struct {
	context.Context
	end context.CancelFunc
}

var privileges = []string{
	"VM.Audit", "VM.PowerMgmt", "VM.Allocate", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Options", "VM.Config.Network",
	"VM.Config.Disk", "VM.Config.HWType", "VM.Config.Cloudinit", "SDN.Use", "Sys.Audit", "Datastore.AllocateSpace", "Sys.Modify",
	"VM.Clone", "VM.Snapshot", "VM.Backup", "Datastore.Audit",
}

func newWorld(t *testing.T, specs []pvetest.GuestSpec, seed uint64) *world {
	t.Helper()
	w := &world{t: t, fs: fault.New(), cache: &memCache{}}
	sim, err := pvetest.New(pvetest.Options{
		Version: []string{"8.4.21", "9.2.11"}[seed%2], Node: "pve1", Guests: specs, Seed: seed | 1, RunHook: w.hook,
		Storages: []pvetest.Storage{{
			ID: "local", Snippets: map[string]bool{"felhom-hook": true}, Total: 1 << 40,
			Volumes: []pvetest.Volume{{VolID: template, Content: "vztmpl", Format: "tzst", Size: 100 << 20}},
		}},
		Roles: map[string][]string{"Full": privileges},
		Users: []pvetest.User{{ID: "agent@pve", Tokens: []pvetest.Token{{ID: "full", Secret: secret}}}},
		ACL:   []pvetest.Grant{{Path: "/", Who: "agent@pve", Role: "Full"}, {Path: "/", Who: user, Role: "Full"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.sim = sim
	t.Cleanup(sim.Close)
	w.client = wire.Client(t, sim.Server(), user+"="+secret)
	return w
}

// hook is what the hookscript does: it tells the agent that runs, if one does.
func (w *world) hook(h pvetest.HookCall) error {
	w.mu.Lock()
	a := w.agent
	w.hooks++
	n := w.hooks
	w.mu.Unlock()
	if a == nil || a.dead.Load() {
		return nil // it would be spooled
	}
	ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
	defer cancel()
	_ = a.eng.Events(ctx, []hook.Event{{ID: fmt.Sprint("h", n), VMID: guest.VMID(h.VMID), Phase: guest.Phase(h.Phase), Time: w.wall().UnixNano()}})
	return nil
}

// wall is the host's wall clock, which is the node's.
func (w *world) wall() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Round(0).Add(w.step)
}

// setClock sets the host's clock forward, or back.
func (w *world) setClock(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step += by
	w.steppedBack += max(0, -by)
	w.sim.SetSkew(w.step)
}

// settings are those of a host in mode enforce whose breakers do not trip early.
func settings() engine.Settings {
	return engine.Settings{
		Mode: engine.Enforce, Resync: 5 * time.Minute,
		Limits:   map[string]int{engine.SlotCalls: 2, engine.SlotReads: 4, engine.SlotStartStop: 4, engine.SlotBackup: 1, engine.SlotOther: 2},
		Breaker:  engine.BreakerSettings{GuestFailures: 50, GuestQuiet: 5 * time.Minute, NodeGuests: 20, NodePercent: 100},
		Required: map[string]bool{"dir": true}, AllowAdditive: true,
		Gate: engine.GateSettings{Policy: gate.DefaultPolicy(), Window: time.Hour, Quarantine: quarantine, BackupAge: 24 * time.Hour},
	}
}

// start begins an agent's life. An agent that cannot open its journal ends at once.
func (w *world) start(crash func(a *agent, point string)) error {
	w.t.Helper()
	a := &agent{w: w, led: ledger.New(), done: make(chan error, 1), flying: map[guest.VMID]int{}}
	w.fs.Inject(w.broken.disk)
	j, _, err := journal.Open(context.Background(), journal.Options{FS: w.fs, Dir: jdir, Fold: a.led, Host: "pve1"})
	if err != nil {
		return err
	}
	a.jrn = j
	a.startPlugin()
	a.eng, err = engine.New(engine.Options{
		Host: "pve1", Settings: settings(), Observer: watched{a}, Executors: a, Journal: a, Ledger: a.led, Cache: w.cache,
		Logger: slog.New(slog.DiscardHandler), QueueSize: 1000, Wall: w.wall,
		Keys: keys, Clock: func(context.Context) bool { return true },
		Crash: func(p string) {
			if crash != nil {
				crash(a, p)
			}
		},
	})
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	w.mu.Lock()
	w.agent = a
	w.mu.Unlock()
	go func() { a.done <- a.eng.Run(ctx) }()
	return nil
}

func (w *world) mustStart(crash func(a *agent, point string)) {
	w.t.Helper()
	if err := w.start(crash); err != nil {
		w.t.Fatal(err)
	}
}

// kill is kill -9: nothing leaves the process from this moment on.
func (a *agent) kill() {
	a.dead.Store(true)
	a.w.fs.Stop()
}

// bury waits for the goroutines of a process that was killed, and makes the disk what its successor finds.
func (w *world) bury(cut func(*fault.FS)) {
	a := w.agent
	a.kill()
	left := w.fs.Clone()
	a.cancel()
	a.life.Load().end()
	<-a.done
	_ = a.jrn.Close()
	w.mu.Lock()
	w.agent = nil
	w.mu.Unlock()
	cut(left)
	left.SetQuota(-1)
	w.fs = left
}

// stop ends the agent in order.
func (w *world) stop() {
	a := w.agent
	a.cancel()
	<-a.done
	a.life.Load().end()
	_ = a.jrn.Close() // a disk that fails may say so here; nothing was promised
	w.mu.Lock()
	w.agent = nil
	w.mu.Unlock()
}

func (w *world) desire(doc string) error {
	return w.agent.eng.SetDesired(context.Background(), "dir", plugin.Snapshot{
		Revision: doc, Files: []plugin.File{{Name: "guests.toml", Data: []byte(doc)}},
	})
}

// judge reads the journal and holds everything against it.
func (w *world) judge(quiet bool) Verdict {
	w.mu.Lock()
	v := w.wrong
	w.mu.Unlock()
	f := w.fs.Clone() // which has no faults
	v.Add("journal", JudgeJournal(f, jdir))
	s, err := ReadStory(f, jdir)
	if err != nil {
		v.Jam("%v", err)
		return v
	}
	s.Slack = w.steppedBack
	v.Add("node", s.Judge(w.sim.Record(), user))
	v.Add("records", s.JudgeKept(w.acked))
	if w.agent != nil && w.agent.jrn.Err() == nil { // after a failed sync the next start decides what counts
		v.Add("memory", s.JudgeReplay(w.agent.led))
	}
	if quiet {
		v.Add("ends", s.JudgeEnds())
	}
	return v
}

// judgeConverged finds guests that differ with nothing to say why.
func (w *world) judgeConverged() (v Verdict) {
	p, err := w.agent.eng.Plan(context.Background())
	if err != nil {
		v.Jam("plan: %v", err)
		return v
	}
	for _, g := range p.Guests {
		if len(g.Actions) == 0 {
			continue // withheld, and it says why
		}
		view, _ := w.agent.eng.View(g.ID.VMID)
		if view.Note == "" {
			v.Jam("guest %s differs and nothing is done: %s: %+v", g.ID, view.State, g.Actions)
		}
	}
	return v
}

// Append is the engine's journal: what it acknowledges is remembered.
func (a *agent) Append(ctx context.Context, payloads ...json.RawMessage) (journal.Head, error) {
	if a.w.broken.lateIntent {
		if r, err := ledger.Decode(payloads[0]); err == nil && r.Op != nil && r.Op.State == op.Intent {
			a.w.mu.Lock()
			a.held = append(a.held, payloads...)
			a.w.mu.Unlock()
			return a.jrn.Head(), nil
		}
		a.w.mu.Lock()
		payloads = append(a.held, payloads...)
		a.held = nil
		a.w.mu.Unlock()
	}
	h, err := a.jrn.Append(ctx, payloads...)
	if err == nil && !a.dead.Load() {
		a.w.mu.Lock()
		for _, p := range payloads {
			a.w.acked = append(a.w.acked, string(p))
		}
		a.w.mu.Unlock()
	}
	return h, err
}

func (a *agent) Err() error { return a.jrn.Err() }

func (a *agent) Head() journal.Head { return a.jrn.Head() }

// startPlugin begins a plugin process's life, without memory of the one before.
func (a *agent) startPlugin() {
	d, err := driver.New(driver.Options{Client: a.w.client, Node: "pve1", Wall: a.w.wall})
	if err != nil {
		a.w.t.Fatal(err)
	}
	a.drv.Store(d)
	ctx, cancel := context.WithCancel(context.Background())
	a.life.Store(&life{ctx, cancel})
	a.pluginDown.Store(false)
}

// killPlugin ends the plugin's process: calls in flight come back without an answer.
func (a *agent) killPlugin() {
	a.pluginDown.Store(true)
	a.life.Load().end()
}

// within is a context that ends with the plugin too.
func (a *agent) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.life.Load(), cancel)
	return ctx, func() { stop(); cancel() }
}

func (a *agent) gone() bool { return a.dead.Load() || a.pluginDown.Load() }

// shut is what the core sees of a call to a plugin that is gone or went away.
func shut(life context.Context, err error) error {
	if err != nil && life.Err() != nil {
		return fmt.Errorf("plugin pve: %w: EOF", plugin.ErrShutdown)
	}
	return err
}

// Executor is the engine's way to the executor, which is the agent itself.
func (a *agent) Executor(plugin.ActionKind) (plugin.Executor, error) { return a, nil }

func (a *agent) Describe(ctx context.Context) (plugin.Info, error) { return a.drv.Load().Describe(ctx) }

func (a *agent) Apply(ctx context.Context, act plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if a.gone() {
		if handle != "" {
			return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, plugin.ErrShutdown)
		}
		return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrNotSent, plugin.ErrShutdown)
	}
	defer a.takeOff(act, handle)()
	life := a.life.Load()
	ctx, done := a.within(ctx)
	defer done()
	out, err := a.drv.Load().Apply(ctx, act, handle, func(p plugin.Progress) error {
		if a.gone() {
			return plugin.ErrShutdown
		}
		return emit(p)
	})
	return out, shut(life, err)
}

// takeOff checks that nothing else of the guest is in flight (P2).
func (a *agent) takeOff(act plugin.Action, handle string) (land func()) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	id := act.Guest.VMID
	if a.flying[id]++; a.flying[id] > 1 {
		a.w.wrong.Double("two calls about guest %s at once", id)
	}
	if o, open := a.led.Open(id); open && o.ID != act.OpID && handle == "" {
		a.w.wrong.Double("op %s of guest %s is sent while %s is %s", act.OpID, id, o.ID, o.State)
	}
	return func() {
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		a.flying[id]--
	}
}

func (a *agent) Probe(ctx context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	if a.gone() {
		return plugin.Verdict{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, plugin.ErrShutdown)
	}
	if a.w.broken.noProbe {
		return plugin.Verdict{Finding: plugin.NotSent, Message: "not looked"}, nil
	}
	life := a.life.Load()
	ctx, done := a.within(ctx)
	defer done()
	v, err := a.drv.Load().Probe(ctx, q)
	return v, shut(life, err)
}

// watched is the agent's observer.
type watched struct{ a *agent }

func (o watched) List(ctx context.Context) (plugin.NodeState, error) {
	if o.a.gone() {
		return plugin.NodeState{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, plugin.ErrShutdown)
	}
	life := o.a.life.Load()
	ctx, done := o.a.within(ctx)
	defer done()
	n, err := o.a.drv.Load().List(ctx)
	return n, shut(life, err)
}

func (o watched) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	if o.a.gone() {
		return plugin.Observation{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, plugin.ErrShutdown)
	}
	life := o.a.life.Load()
	ctx, done := o.a.within(ctx)
	defer done()
	g, err := o.a.drv.Load().Guest(ctx, q)
	return g, shut(life, err)
}
