// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package agent wires the daemon together: the journal under the engine, the
// plugin host beside it, the hook and control sockets in front.
//
// It guarantees that what New acquired is given back in the opposite order,
// each step named in the error it may end with, and that Run returns only when
// everything it started has ended.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/oplog"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/agent/internal/power"
	"github.com/felhom/felhom-agent/agent/internal/reporter"
	"github.com/felhom/felhom-agent/agent/internal/sdnotify"
	"github.com/felhom/felhom-agent/agent/internal/signers"
)

// Options are what the daemon needs besides its configuration file.
type Options struct {
	Config config.Config
	// ConfigPath is read again by Reload.
	ConfigPath string
	Version    string
	Host       string // this host's short name
	Logger     *slog.Logger
	// Level follows the configuration's log_level.
	Level *slog.LevelVar
	// Notify hands a message of sd_notify(3) to the service manager; nil tells
	// nobody. Watchdog is within which time it wants signs of life, 0 = none.
	Notify   func(state string)
	Watchdog time.Duration
	// Crash is called at the engine's named points; nil outside of tests.
	Crash func(point string)
}

// Agent is the daemon. Make one with New, then Run it.
type Agent struct {
	opt     Options
	log     *slog.Logger
	started time.Time
	led     *ledger.Ledger
	jrn     *journal.Journal
	host    *pluginhost.Host
	eng     *engine.Engine
	rep     *reporter.Reporter
	audit   *oplog.Log
	socks   sockets
	notify  *sdnotify.Notifier
	power   *power.Watcher
	down    teardown

	reloads sync.Mutex // held while the configuration is read and taken

	mu  sync.Mutex // guards cfg
	cfg config.Config
}

// New acquires everything: journal, plugin host, engine, sockets. On an error
// nothing stays acquired.
func New(ctx context.Context, opt Options) (_ *Agent, err error) {
	a := &Agent{opt: opt, log: opt.Logger, started: time.Now(), cfg: opt.Config, led: ledger.New()}
	a.notify = &sdnotify.Notifier{Send: opt.Notify, Watchdog: opt.Watchdog, Log: opt.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.down.run())
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"journal", a.openJournal},
		{"audit log", a.openAudit},
		{"plugin host", a.makeHost},
		{"host state", a.makePower},
		{"engine", a.makeEngine},
		{"sockets", a.listen},
	} {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return a, nil
}

func (a *Agent) openJournal(ctx context.Context) error {
	j, rep, err := journal.Open(ctx, journal.Options{
		Dir: filepath.Join(a.cfg.Agent.StateDir, "journal"), Fold: a.led, Logger: a.log, Host: a.opt.Host,
	})
	if err != nil {
		return err
	}
	a.jrn = j
	a.down.add("journal", j.Close)
	a.log.Info("journal open", "entries", rep.Entries, "head", rep.Head.Seq, "fresh", rep.Fresh)
	return nil
}

// openAudit opens the audit log. Without one the agent works on: the journal
// is the truth.
func (a *Agent) openAudit(context.Context) error {
	l, err := oplog.Open(a.cfg.Agent.LogDir, a.log)
	if err != nil {
		a.log.Warn("there will be no audit log; the journal has it all", "err", err)
		return nil
	}
	a.audit = l
	a.down.add("audit log", l.Close)
	return nil
}

func (a *Agent) makeHost(context.Context) error {
	o := hostOptions(a.cfg)
	o.Logger, o.Version = a.log, a.opt.Version
	o.OnSnapshot, o.OnHint = a.onSnapshot, a.onHint
	h, err := pluginhost.New(o)
	if err != nil {
		return err
	}
	a.host = h
	return h.Set(specs(a.cfg, a.opt.Host))
}

// hostOptions are what the configuration says of the plugins' host. Copies of
// plugins are in the state directory: in /run nothing can be executed on Debian.
func hostOptions(c config.Config) pluginhost.Options {
	o := pluginhost.DefaultOptions()
	o.SocketDir = filepath.Join(c.Agent.RunDir, "p")
	o.CopyDir = filepath.Join(c.Agent.StateDir, "plugins")
	o.UnitDir = filepath.Join(c.Agent.RunDir, "u")
	o.CredentialsDir = os.Getenv("CREDENTIALS_DIRECTORY")
	o.TrustedUIDs = c.Plugins.Trusted()
	return o
}

// makePower watches whether the host goes down. What it learns makes every
// guest worth a look.
func (a *Agent) makePower(context.Context) error {
	a.power = power.New(a.log, func(why string) { a.eng.Resync(why) })
	return nil
}

func (a *Agent) hostState() engine.HostState {
	s := a.power.State()
	return engine.HostState{Frozen: s.Frozen, Booted: s.Booted}
}

func (a *Agent) makeEngine(context.Context) error {
	e, err := engine.New(engine.Options{
		Node: a.cfg.Agent.Node, Host: a.opt.Host, Settings: settingsOf(a.cfg), Observer: lateObserver{a.host},
		Executors: a.host, Journal: a.jrn, Ledger: a.led, Logger: a.log, QueueSize: a.cfg.Limits.Queue, Drain: a.cfg.Agent.Drain,
		HostState: a.hostState, Cache: fileCache{fs: fsys.OS{}, dir: filepath.Join(a.cfg.Agent.StateDir, "cache")}, Crash: a.opt.Crash,
		Keys: a.keys, Clock: a.clockGood,
	})
	if err != nil {
		return err
	}
	a.eng = e
	a.rep = a.newReporter()
	return nil
}

// keys reads who may sign.
func (a *Agent) keys() (*gate.Signers, *gate.Revoked, error) {
	cfg := a.config()
	k, err := signers.Of(cfg).Load()
	return k.Signers, k.Revoked, err
}

// settingsOf maps the configuration to the engine's settings, field by field.
func settingsOf(c config.Config) engine.Settings {
	s := engine.Settings{
		Mode: engine.Mode(c.Agent.Mode), Resync: c.Agent.Resync,
		Breaker: engine.BreakerSettings{
			GuestFailures: c.Limits.GuestFailures, GuestQuiet: c.Limits.GuestQuiet,
			NodeGuests: c.Limits.NodeGuests, NodePercent: c.Limits.NodePercent,
		},
		Limits: map[string]int{
			engine.SlotCalls: c.Limits.Calls, engine.SlotReads: c.Limits.Reads, engine.SlotStartStop: c.Limits.StartStop,
			engine.SlotBackup: c.Limits.Backup, engine.SlotOther: c.Limits.Other,
		},
		Gate: gateSettings(c.Gate), AllowAdditive: c.Agent.AllowAdditive, Reserve: int64(c.Agent.ReserveGiB) << 30,
		MaxAge: map[string]time.Duration{}, Required: map[string]bool{}, Signed: map[string]engine.SignedRule{},
	}
	for _, p := range c.Providers {
		s.Required[p.Name] = true
		s.MaxAge[p.Name] = p.MaxAge
		if p.RequireSignature {
			s.Signed[p.Name] = engine.SignedRule{Issuer: p.Issuer, Threshold: p.Threshold}
		}
	}
	return s
}

// Run works until ctx ends or a part fails, then lets the lanes finish within
// the configured time, and gives everything back.
func (a *Agent) Run(ctx context.Context) error {
	stopAudit := a.runAudit(context.WithoutCancel(ctx))
	err := a.mark(ctx, ledger.Started)
	if err == nil {
		err = a.serve(ctx)
		a.log.Info("stopped", "err", err)
		err = errors.Join(err, a.mark(context.WithoutCancel(ctx), ledger.Stopped))
	}
	stopAudit()
	return errors.Join(err, a.down.run())
}

// runAudit writes the audit log until stop is called, which waits for the last
// record: it has the agent's own start and stop as well.
func (a *Agent) runAudit(ctx context.Context) (stop func()) {
	if a.audit == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	head := a.jrn.Head().Seq
	var running sync.WaitGroup
	running.Go(func() { a.audit.Run(ctx, a.led, head) })
	return func() {
		cancel()
		running.Wait()
	}
}

// serve takes in hooks until everything else has ended: the guests that start
// and stop while the lanes finish wait for no answer.
func (a *Agent) serve(ctx context.Context) error {
	hooks, stopHooks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHooks()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serveHooks(hooks) })
	g.Go(func() error { defer stopHooks(); return a.work(gctx) })
	return g.Wait()
}

// work runs the other parts. The engine is stopped first and the plugins last,
// so that an op in flight can still reach its end.
func (a *Agent) work(ctx context.Context) error {
	plugins, stopPlugins := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPlugins()
	g, gctx := errgroup.WithContext(ctx)
	hostDone := make(chan error, 1)
	go func() { hostDone <- a.host.Run(plugins) }()
	g.Go(func() error { return a.runEngine(gctx) })
	g.Go(func() error { a.power.Run(gctx); return nil })
	g.Go(func() error { return a.serveControl(gctx) })
	g.Go(func() error { a.rep.Run(gctx); return nil })
	g.Go(func() error { logHeads(gctx, a.log, a.jrn.Head); return nil })
	a.notify.Ready(a.statusLine())
	a.log.Info("ready", "mode", a.cfg.Agent.Mode, "version", a.opt.Version)
	err := g.Wait()
	stopPlugins()
	return errors.Join(err, <-hostDone)
}

// afterDrain is what plugins, sockets and journal may take to end after the
// lanes.
const afterDrain = 20 * time.Second

// runEngine runs the engine and, for as long, feeds the service manager's
// watchdog: an engine that finishes its lanes is alive as well.
func (a *Agent) runEngine(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		a.notify.Stopping("finishing what is under way", a.opt.Config.Agent.Drain+afterDrain)
	})
	defer stop()
	beating, still := context.WithCancel(context.WithoutCancel(ctx))
	var beat sync.WaitGroup
	beat.Go(func() { a.notify.Run(beating, a.eng.Pulse, func() string { return a.statusNow(ctx) }) })
	err := a.eng.Run(ctx)
	still()
	beat.Wait()
	return err
}

// statusNow is the line of state for `systemctl status`.
func (a *Agent) statusNow(ctx context.Context) string {
	if ctx.Err() != nil {
		return "finishing what is under way"
	}
	return a.statusLine()
}

func (a *Agent) statusLine() string {
	st := a.eng.Status()
	states := map[string]int{}
	for _, g := range st.Guests {
		states[g.State]++
	}
	line := fmt.Sprintf("mode %s, %d guests managed", st.Mode, len(st.Guests))
	sep := ": "
	for _, s := range slices.Sorted(maps.Keys(states)) {
		line += fmt.Sprintf("%s%d %s", sep, states[s], s)
		sep = ", "
	}
	for _, trouble := range []struct{ what, why string }{
		{"node", st.NodeErr}, {"journal", st.Journal}, {"", st.Breaker}, {"", st.Twin},
	} {
		if trouble.why != "" {
			line += "; " + strings.TrimPrefix(trouble.what+": "+trouble.why, ": ")
		}
	}
	return line
}

// mark journals that the agent started or stopped.
func (a *Agent) mark(ctx context.Context, what string) error {
	r := ledger.Record{Type: ledger.TypeAgent, Agent: &ledger.Agent{
		What: what, Version: a.opt.Version, Mode: string(a.config().Agent.Mode), Boot: bootID(),
	}}
	p, err := r.Encode()
	if err != nil {
		return err
	}
	if _, err := a.jrn.Append(ctx, p); err != nil {
		// Without a journal the agent still observes and says so.
		a.log.Error("the journal cannot be written; nothing will be changed", "err", err)
	}
	return nil
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(b[:max(0, len(b)-1)])
}

func (a *Agent) config() config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}

func (a *Agent) setConfig(c config.Config) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg = c
}

// Reload reads the configuration again. An invalid one changes nothing. Of two
// at once the second waits, so that what was read last is what counts.
func (a *Agent) Reload(context.Context) error {
	a.reloads.Lock()
	defer a.reloads.Unlock()
	a.notify.Reloading()
	err := a.reload()
	line := a.statusLine()
	if err != nil {
		line = "the last reload failed, see the log; " + line
	}
	a.notify.Ready(line)
	return err
}

func (a *Agent) reload() error {
	cfg, err := config.Load(a.opt.ConfigPath)
	if err != nil {
		return fmt.Errorf("the configuration is not taken, the old one stays: %w", err)
	}
	old := a.config()
	for _, key := range config.Changed(old, cfg) {
		a.log.Warn("a changed key takes effect at the next start", "key", key)
	}
	if err := a.host.Set(specs(cfg, a.opt.Host)); err != nil {
		return fmt.Errorf("the configuration is not taken, the old one stays: %w", err)
	}
	a.rep.Set(providerNames(cfg))
	a.setConfig(cfg) // the engine asks for the keys of the new one
	if err := a.eng.Reload(settingsOf(cfg)); err != nil {
		a.setConfig(old)
		return err
	}
	a.markGated()
	if a.opt.Level != nil {
		a.opt.Level.Set(cfg.Agent.LogLevel)
	}
	a.log.Info("configuration read again", "mode", cfg.Agent.Mode)
	return nil
}

// teardown gives back what was acquired, last first.
type teardown struct {
	steps []struct {
		name string
		do   func() error
	}
}

func (t *teardown) add(name string, do func() error) {
	t.steps = append(t.steps, struct {
		name string
		do   func() error
	}{name, do})
}

func (t *teardown) run() error {
	var errs []error
	for i := len(t.steps) - 1; i >= 0; i-- {
		if err := t.steps[i].do(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", t.steps[i].name, err))
		}
	}
	t.steps = nil
	return errors.Join(errs...)
}
