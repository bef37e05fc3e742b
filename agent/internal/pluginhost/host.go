// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Options are what a host needs. DefaultOptions fills the times and bounds.
type Options struct {
	Logger *slog.Logger
	// SocketDir is where the sockets of the plugins are made. It is created
	// with mode 0700 and swept at the start of Run: no second host may use it.
	// At most MaxSocketDir bytes.
	SocketDir string
	// CopyDir is where plugins that run from a copy are copied to; "" means
	// SocketDir. It must be on a file system that allows execution if a copied
	// plugin has machine code. It is swept like SocketDir.
	CopyDir string
	// UnitDir is where the sockets of the plugins' units are, NAME.sock; a
	// vendor's plugin that has none runs as the agent's user. "" means none has.
	UnitDir string
	// TrustedUIDs may own what is executed. Empty means root alone.
	TrustedUIDs []uint32
	// CredentialsDir is where systemd put the unit's credentials; "" if there
	// are none.
	CredentialsDir string
	// Version is the agent's, told to the plugins.
	Version string

	// OnSnapshot takes a snapshot of a provider. Its error is the verdict that
	// the provider is told. Calls for one provider follow one another. Nil
	// drops them.
	OnSnapshot func(ctx context.Context, provider string, s plugin.Snapshot) error
	// OnHint takes a hint of an observer. Nil drops them.
	OnHint func(ctx context.Context, observer string, h plugin.Hint)
	// OnChange is told of each change of a plugin's state, from the goroutine
	// that supervises it. It must not call the host. Nil: nobody is told.
	OnChange func(PluginStatus)

	// StartTimeout bounds the way from exec to a configured plugin.
	StartTimeout time.Duration
	// StopTimeout is how long a plugin may take to end when asked; then it is
	// killed.
	StopTimeout time.Duration
	// HealthInterval and HealthTimeout: how often a plugin is asked whether it
	// lives, and how long it may take. HealthMisses in a row and it is killed.
	HealthInterval time.Duration
	HealthTimeout  time.Duration
	HealthMisses   int
	// Restart is the budget of a plugin that has none of its own.
	Restart Budget
	// BackoffMin and BackoffMax are the first and the longest wait before a
	// restart, and before a watch is established again.
	BackoffMin time.Duration
	BackoffMax time.Duration
	// LogRate is how many lines a second a plugin may log, and LogBurst how
	// many at once. What is above is counted and dropped.
	LogRate  int
	LogBurst int
}

// DefaultOptions are the values of a production host. Logger and SocketDir are
// left to the caller.
func DefaultOptions() Options {
	return Options{
		StartTimeout:   10 * time.Second,
		StopTimeout:    2 * time.Second,
		HealthInterval: 10 * time.Second,
		HealthTimeout:  2 * time.Second,
		HealthMisses:   3,
		Restart:        Budget{Restarts: 3, Window: 10 * time.Minute},
		BackoffMin:     time.Second,
		BackoffMax:     30 * time.Second,
		LogRate:        100,
		LogBurst:       500,
	}
}

// MaxSocketDir is the longest SocketDir in bytes: the path of a unix socket has
// 107, and go-plugin adds two names of its own.
const MaxSocketDir = 64

func (o Options) validate() error {
	switch {
	case o.Logger == nil:
		return errors.New("no Logger")
	case !filepath.IsAbs(o.SocketDir):
		return fmt.Errorf("SocketDir: %q is not absolute", o.SocketDir)
	case o.CopyDir != "" && !filepath.IsAbs(o.CopyDir):
		return fmt.Errorf("CopyDir: %q is not absolute", o.CopyDir)
	case len(o.SocketDir) > MaxSocketDir:
		return fmt.Errorf("SocketDir: %q has %d bytes; the path of a socket in it would be too long above %d",
			o.SocketDir, len(o.SocketDir), MaxSocketDir)
	case o.StartTimeout <= 0, o.StopTimeout <= 0, o.HealthInterval <= 0, o.HealthTimeout <= 0, o.HealthMisses <= 0,
		o.BackoffMin <= 0, o.BackoffMax < o.BackoffMin, o.Restart.Restarts < 0, o.Restart.Window <= 0,
		o.LogRate <= 0, o.LogBurst <= 0:
		return errors.New("times and bounds: start from DefaultOptions")
	}
	return nil
}

// Host runs plugins. Its methods may be called by several goroutines.
type Host struct {
	opts  Options
	start launcher
	spawn *spawner
	wake  chan struct{} // Set has news for Run

	mu      sync.Mutex // guards what follows
	slots   map[string]*slot
	wanted  []*slot
	running bool
	ended   bool
}

// New makes a host without plugins. It starts nothing.
func New(o Options) (*Host, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("pluginhost: options: %w", err)
	}
	if len(o.TrustedUIDs) == 0 {
		o.TrustedUIDs = []uint32{0}
	}
	spawn := &spawner{jobs: make(chan func())}
	return &Host{
		opts: o, spawn: spawn, start: &processLauncher{opts: o, spawn: spawn},
		wake: make(chan struct{}, 1), slots: map[string]*slot{},
	}, nil
}

// Set says which plugins there should be from now on. A plugin whose spec is
// not among them is stopped, one whose spec changed is started anew, one that
// was refused is looked at again, and the others run on. A spec that is wrong,
// or that excludes one before it (the same name, action, unit or the
// observer's part), is refused alone, and its status says why.
func (h *Host) Set(specs []Spec) error {
	specs = h.opts.settle(specs)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return errors.New("the plugin host has ended")
	}
	wanted := make([]*slot, 0, len(specs))
	for _, spec := range specs {
		s, err := h.slotLocked(spec)
		if err != nil {
			return fmt.Errorf("plugin %s: %w", spec.Name, err)
		}
		wanted = append(wanted, s)
	}
	h.wanted = wanted
	next := map[string]*slot{}
	for _, s := range wanted {
		next[s.spec.Name] = s
	}
	h.slots = next
	select {
	case h.wake <- struct{}{}:
	default: // Run has not taken the former news yet
	}
	return nil
}

// slotLocked returns the present slot for an unchanged spec, or a new one.
func (h *Host) slotLocked(spec Spec) (*slot, error) {
	print, err := spec.fingerprint()
	if err != nil {
		return nil, err
	}
	if old := h.slots[spec.Name]; old != nil && old.fingerprint == print {
		if old.Status().State == Refused {
			old.retry()
		}
		return old, nil
	}
	return newSlot(h.opts, h.start, spec, print), nil
}

// Run runs the plugins until ctx ends, and returns when all of them have
// ended. It is called once.
func (h *Host) Run(ctx context.Context) error {
	if err := h.begin(); err != nil {
		return err
	}
	stop := h.spawn.background()
	defer stop() // after the last plugin has ended
	var wg sync.WaitGroup
	defer wg.Wait()
	started := map[*slot]context.CancelFunc{}
	last := map[string]*slot{} // the slot started last under a name
	for {
		for _, s := range h.reconcile(started) {
			slotCtx, cancel := context.WithCancel(ctx)
			started[s] = cancel
			former := last[s.spec.Name]
			last[s.spec.Name] = s
			wg.Go(func() {
				defer cancel()
				former.wait() // one process per name at a time
				s.run(slotCtx)
			})
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
			h.end()
			return nil
		}
	}
}

// reconcile cancels the slots that are no longer wanted and returns those that
// are not started.
func (h *Host) reconcile(started map[*slot]context.CancelFunc) []*slot {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s, cancel := range started {
		if !slices.Contains(h.wanted, s) {
			cancel()
			delete(started, s)
		}
	}
	var fresh []*slot
	for _, s := range h.wanted {
		if started[s] == nil {
			fresh = append(fresh, s)
		}
	}
	return fresh
}

// begin prepares the socket directory.
func (h *Host) begin() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running {
		return errors.New("pluginhost: Run was called before")
	}
	h.running = true
	return h.opts.prepare()
}

// prepare makes the directories.
func (o Options) prepare() error {
	if o.CopyDir == "" {
		return prepareDir(o.SocketDir)
	}
	return errors.Join(prepareDir(o.SocketDir), prepareDir(o.CopyDir))
}

func (h *Host) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
}

// prepareDir makes dir private and removes what a killed host left there.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("plugin directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return fmt.Errorf("plugin directory: %s is not a directory (%w)", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("plugin directory: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, dirPrefix+"*"))
	if err != nil {
		return fmt.Errorf("plugin directory: %w", err)
	}
	for _, l := range left {
		if err := os.RemoveAll(l); err != nil {
			return fmt.Errorf("plugin directory: %w", err)
		}
	}
	return nil
}

// Restart ends a plugin's quarantine, backoff or refusal, or its process, and
// starts it with a fresh budget.
func (h *Host) Restart(name string) error {
	s, err := h.slot(name)
	if err != nil {
		return err
	}
	s.retry()
	return nil
}

// Status tells how each plugin is, by name.
func (h *Host) Status() []PluginStatus {
	h.mu.Lock()
	slots := maps.Clone(h.slots)
	h.mu.Unlock()
	var all []PluginStatus
	for _, name := range slices.Sorted(maps.Keys(slots)) {
		all = append(all, slots[name].Status())
	}
	return all
}

func (h *Host) slot(name string) (*slot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: there is no plugin %q", plugin.ErrUnsupported, name)
}
