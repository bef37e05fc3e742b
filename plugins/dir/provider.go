// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The times of the watch. An editor writes a file in several steps: quiet is
// how long nothing may happen before the directory is read, patience how long
// that may be put off. Once in every glance it is checked that the path is
// still the same directory, which inotify does not tell of an unmount.
const (
	quiet    = 150 * time.Millisecond
	patience = time.Second
	glance   = 2 * time.Second
)

// Settings is the configuration of the plugin.
type Settings struct {
	// Path is the directory; default /etc/felhom-agent/desired.d.
	Path string `json:"path"`
	// Relist is how often the directory is read without a reason, as a Go
	// duration from 1s to 5m; default 60s.
	Relist string `json:"relist"`
}

// Provider provides the files of a directory. Describe works at once, Watch
// after Configure.
type Provider struct {
	version string
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	path   string
	relist time.Duration
	reader *reader // remembers which directory it was, across watches
}

// New makes a provider that is not configured.
func New(version string, log *slog.Logger) *Provider {
	return &Provider{version: version, log: log}
}

// Describe implements plugin.Provider.
func (p *Provider) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "dir", Version: p.version}, nil
}

// Configure implements plugin.Configurer.
func (p *Provider) Configure(_ context.Context, c plugin.Config) error {
	s := Settings{Path: "/etc/felhom-agent/desired.d", Relist: "60s"}
	if err := c.Decode(&s); err != nil {
		return err
	}
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path {
		return fmt.Errorf("%w: config: path: %q is not a clean absolute path", plugin.ErrInvalid, s.Path)
	}
	relist, err := time.ParseDuration(s.Relist)
	if err != nil || relist < time.Second || relist > 5*time.Minute {
		return fmt.Errorf("%w: config: relist: %q is not a duration from 1s to 5m", plugin.ErrInvalid, s.Relist)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path, p.relist, p.reader = s.Path, relist, newReader(s.Path)
	return nil
}

// Watch implements plugin.Provider.
func (p *Provider) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	p.mu.Lock()
	path, relist, r := p.path, p.relist, p.reader
	p.mu.Unlock()
	if r == nil {
		return fmt.Errorf("%w: not configured", plugin.ErrInvalid)
	}
	n := newNotifier(path, p.log)
	defer n.close()
	w := &watch{log: p.log, read: r.snapshot, moved: r.moved, arm: n.arm, changes: n.changes, relist: relist}
	return w.run(ctx, emit)
}

// watch is one call of Watch. What touches the file system is in its
// functions, so that its timing can be tested alone.
type watch struct {
	log     *slog.Logger
	read    func() plugin.Snapshot
	moved   func() bool // the path is not the directory that was read last
	arm     func()      // establishes the notification, if it is not
	changes <-chan struct{}
	relist  time.Duration

	sent     plugin.Snapshot // the last one
	any      bool            // there was one
	rejected bool            // by the core
}

// run reads and emits until ctx ends. The notification is established before
// each reading, so that no change falls between them.
func (w *watch) run(ctx context.Context, emit func(plugin.Snapshot) error) error {
	for relisted := false; ctx.Err() == nil; {
		w.arm()
		w.deliver(w.read(), relisted, emit)
		relisted = w.wait(ctx)
	}
	return ctx.Err()
}

// deliver emits s if it is news. What the core rejected is offered again at
// each relist: the reason may have been its own.
func (w *watch) deliver(s plugin.Snapshot, relisted bool, emit func(plugin.Snapshot) error) {
	news := !w.any || s.Revision != w.sent.Revision || s.Err != w.sent.Err
	if !news && !(relisted && w.rejected) {
		return
	}
	err := emit(s)
	w.sent, w.any, w.rejected = s, true, err != nil
	// The core logs what it made of it.
	w.log.Debug("snapshot", "revision", s.Revision, "files", len(s.Files), "error", s.Err, "verdict", err)
}

// wait returns when the directory should be read again, and whether that is
// for no other reason than the time that has passed.
func (w *watch) wait(ctx context.Context) (relisted bool) {
	due := time.NewTimer(w.relist)
	defer due.Stop()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due.C:
			return true
		case <-tick.C:
			if w.sent.Err != "" || w.moved() {
				return false
			}
		case <-w.changes:
			w.settle(ctx)
			return false
		}
	}
}

// settle waits until changes have stopped coming, but not for ever.
func (w *watch) settle(ctx context.Context) {
	end := time.NewTimer(patience)
	defer end.Stop()
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-calm.C:
			return
		case <-w.changes:
			calm.Reset(quiet)
		}
	}
}
