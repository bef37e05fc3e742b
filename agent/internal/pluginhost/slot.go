// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// State is how a plugin is.
type State string

// The states of a plugin.
const (
	Waiting     State = "waiting" // not started yet
	Starting    State = "starting"
	Running     State = "running"
	Backoff     State = "backoff"     // ended or did not start; waits for the next try
	Quarantined State = "quarantined" // failed too often; waits for Restart
	Refused     State = "refused"     // must not or cannot be started as it is
	Stopped     State = "stopped"
)

// PluginStatus is how a plugin is, for the operator.
type PluginStatus struct {
	Name    string        `json:"name"`
	Kinds   []plugin.Kind `json:"kinds"`
	Path    string        `json:"path"`
	Version string        `json:"version,omitempty"`
	State   State         `json:"state"`
	PID     int           `json:"pid,omitempty"`
	// Isolation is how the process is kept apart: IsolationUnit or
	// IsolationGroup; "" while there is none.
	Isolation string `json:"isolation,omitempty"`
	// Restarts counts the starts after the first one.
	Restarts  int       `json:"restarts"`
	LastError string    `json:"last_error,omitempty"`
	Since     time.Time `json:"since"` // of State
	// Next is when the next try is due, in Backoff.
	Next time.Time `json:"next,omitzero"`
}

// launcher starts a plugin and brings it as far as configured. An error of
// kind errRefused means that trying again is pointless until something changes.
type launcher interface {
	launch(ctx context.Context, s Spec) (*instance, error)
}

// instance is one running plugin process.
type instance struct {
	client *plugin.Client
	kinds  []plugin.Kind // what it serves
	info   plugin.Info
	pid    int
	// isolation is how it is kept apart.
	isolation string
	exited    <-chan struct{} // closed when the process is gone
	why       func() error    // why it is gone; after exited was closed
	health    func(context.Context) error
	// stop ends it, asking first unless it is known to hang, and waits. It
	// takes a bounded time.
	stop func(ask bool) error
}

// slot supervises the plugin of one spec.
type slot struct {
	opts        Options
	start       launcher
	spec        Spec
	fingerprint string
	log         *slog.Logger
	kick        chan struct{} // Restart or Set wants a new try
	done        chan struct{} // closed when run has returned

	mu      sync.Mutex // guards what follows
	status  PluginStatus
	current *instance
	starts  int
}

func newSlot(o Options, start launcher, spec Spec, print string) *slot {
	return &slot{
		opts: o, start: start, spec: spec, fingerprint: print,
		log:  o.Logger.With("plugin", spec.Name),
		kick: make(chan struct{}, 1), done: make(chan struct{}),
		status: PluginStatus{
			Name: spec.Name, Kinds: spec.Kinds, Path: spec.Path, State: Waiting, Since: time.Now(), LastError: spec.Refused,
		},
	}
}

// errKicked ends a running plugin that Restart was called for.
var errKicked = errors.New("restart was asked for")

// run supervises until ctx ends. It is the slot's only goroutine that changes
// the status.
func (s *slot) run(ctx context.Context) {
	defer close(s.done)
	defer func() { s.set(Stopped, nil, time.Time{}) }()
	b := newBudget(s.opts, s.spec.Restart)
	for ctx.Err() == nil {
		err := s.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errKicked):
			b.reset()
			continue
		case errors.Is(err, errRefused):
			s.log.Error("plugin refused", "error", err)
			s.set(Refused, err, time.Time{})
			s.sleep(ctx, nil)
			b.reset()
			continue
		}
		delay, left := b.failed(time.Now())
		if !left {
			s.log.Error("plugin quarantined", "error", err, "failures", b.max+1, "within", b.window)
			s.set(Quarantined, err, time.Time{})
			s.sleep(ctx, nil)
			b.reset()
			continue
		}
		s.log.Warn("plugin failed", "error", err, "retry_in", delay)
		s.set(Backoff, err, time.Now().Add(delay))
		timer := time.NewTimer(delay)
		if s.sleep(ctx, timer.C) {
			b.reset()
		}
		timer.Stop()
	}
}

// sleep waits for due, and says whether it was kicked before.
func (s *slot) sleep(ctx context.Context, due <-chan time.Time) (kicked bool) {
	select {
	case <-ctx.Done():
		return false
	case <-due:
		return false
	case <-s.kick:
		return true
	}
}

// once is the life of one process. It returns why that ended.
func (s *slot) once(ctx context.Context) error {
	s.set(Starting, nil, time.Time{})
	if err := s.spec.validate(); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if s.spec.Refused != "" {
		return fmt.Errorf("%w: %s", errRefused, s.spec.Refused)
	}
	p, err := s.start.launch(ctx, s.spec)
	if err != nil {
		return err
	}
	s.publish(p)
	s.log.Info("plugin runs", "version", p.info.Version, "pid", p.pid)
	s.compareActions(p.info)
	ask, err := s.attend(ctx, p)
	s.publish(nil)
	stopped := p.stop(ask)
	return errors.Join(p.cause(err), stopped)
}

// cause is why a process ended for which there is this reason to end it. One
// that is killed for what it takes may be noticed first because it is silent.
func (p *instance) cause(err error) error {
	select {
	case <-p.exited:
		if why := p.why(); errors.Is(why, errOverLimit) {
			return fmt.Errorf("the process ended: %w", why)
		}
	default:
	}
	return err
}

// maxNamed is how many of a plugin's names are logged.
const maxNamed = 10

// compareActions logs where an executor and who set it up are not of one mind.
// What counts is the spec: no other action reaches the plugin.
func (s *slot) compareActions(info plugin.Info) {
	if !slices.Contains(s.spec.Kinds, plugin.KindExecutor) {
		return
	}
	var more []string
	for _, k := range info.Actions {
		if !slices.Contains(s.spec.Actions, k) {
			more = append(more, fmt.Sprintf("%.64s", k))
		}
	}
	if n := len(more); n > 0 {
		s.log.Warn("plugin says that it serves actions which it is not given", "actions", more[:min(n, maxNamed)], "number", n)
	}
	for _, k := range s.spec.Actions {
		if !slices.Contains(info.Actions, k) {
			s.log.Warn("plugin does not say that it serves an action which it is given", "action", k)
		}
	}
}

// attend keeps a running plugin company: it checks its health and follows its
// watches. It returns why that ended, and whether the plugin can be asked to
// end.
func (s *slot) attend(ctx context.Context, p *instance) (ask bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(s.watchHealth(ctx, p)) })
	if slices.Contains(s.spec.Kinds, plugin.KindObserver) {
		wg.Go(func() { s.followHints(ctx, p) })
	}
	if slices.Contains(s.spec.Kinds, plugin.KindProvider) {
		wg.Go(func() { s.followSnapshots(ctx, p) })
	}
	select {
	case <-p.exited:
		return false, fmt.Errorf("the process ended: %w", p.why())
	case <-s.kick:
		return true, errKicked
	case <-ctx.Done():
		if cause := context.Cause(ctx); errors.Is(cause, errUnhealthy) {
			return false, cause
		}
		return true, ctx.Err()
	}
}

var errUnhealthy = errors.New("the plugin does not answer")

// watchHealth returns when the plugin has missed too many health checks in a
// row, or nil when ctx ends.
func (s *slot) watchHealth(ctx context.Context, p *instance) error {
	tick := time.NewTicker(s.opts.HealthInterval)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		check, cancel := context.WithTimeout(ctx, s.opts.HealthTimeout)
		err := p.health(check)
		cancel()
		if err == nil {
			misses = 0
			continue
		}
		if misses++; misses >= s.opts.HealthMisses {
			return fmt.Errorf("%w: %d health checks in a row failed, the last with: %w", errUnhealthy, misses, err)
		}
		s.log.Debug("health check failed", "error", err, "misses", misses)
	}
}

func (s *slot) publish(p *instance) {
	s.mu.Lock()
	s.current = p
	if p != nil {
		s.starts++
		s.status.PID, s.status.Version, s.status.Isolation = p.pid, p.info.Version, p.isolation
	} else {
		s.status.PID, s.status.Isolation = 0, ""
	}
	s.mu.Unlock()
	if p != nil {
		s.set(Running, nil, time.Time{})
	}
}

// set changes the state. The last error stays until the next one.
func (s *slot) set(state State, err error, next time.Time) {
	s.mu.Lock()
	s.status.State, s.status.Since, s.status.Next = state, time.Now(), next
	s.status.Restarts = max(s.starts-1, 0)
	if err != nil {
		s.status.LastError = err.Error()
	}
	st := s.status
	s.mu.Unlock()
	if s.opts.OnChange != nil {
		s.opts.OnChange(st)
	}
}

// Status is how the plugin is.
func (s *slot) Status() PluginStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// retry asks for a new try.
func (s *slot) retry() {
	select {
	case s.kick <- struct{}{}:
	default: // asked for already
	}
}

// wait returns when run has. A nil slot has nothing to wait for.
func (s *slot) wait() {
	if s != nil {
		<-s.done
	}
}
