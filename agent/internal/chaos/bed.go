// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Latency is how long the neighbour's calls took.
type Latency struct {
	Calls       int
	Median, Max time.Duration
}

// Bed is a host with two neighbours, and room for one plugin that misbehaves.
type Bed struct {
	Host *pluginhost.Host
	env  Env
	opts pluginhost.Options
	log  lockedLog

	cancel context.CancelFunc
	done   chan error
	wg     sync.WaitGroup
	quiet  context.CancelFunc // ends the calls of the neighbour
	specs  []pluginhost.Spec

	mu        sync.Mutex // guards what follows
	took      []time.Duration
	failed    error
	snapshots map[string]int // of each provider
	before    Latency
	during    Latency
}

// lockedLog is a log that can be looked into.
type lockedLog struct {
	mu   sync.Mutex
	buf  strings.Builder
	also io.Writer
	size int
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size += len(p)
	if l.buf.Len() < 4<<20 {
		l.buf.Write(p)
	}
	if l.also != nil {
		_, _ = l.also.Write(p)
	}
	return len(p), nil
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

const (
	neighbour  = "neighbour"
	neighbour2 = "source"
	bad        = "bad"
	badKind    = plugin.ActionKind("test.bad")
	goodKind   = plugin.ActionKind("test.good")
)

// samples is how many calls show what the neighbour's usually take; that it
// answers shows in a few.
func (e Env) samples() int {
	if e.Strict {
		return 200
	}
	return 20
}

// newBed starts a host with the neighbours and measures them.
func newBed(ctx context.Context, e Env, row Row) (*Bed, error) {
	if err := e.clean(); err != nil {
		return nil, err
	}
	b := &Bed{env: e, done: make(chan error, 1), snapshots: map[string]int{}, log: lockedLog{also: e.Log}}
	b.opts = pluginhost.DefaultOptions()
	b.opts.Logger = slog.New(slog.NewTextHandler(&b.log, nil))
	b.opts.SocketDir = filepath.Join(e.Dir, "s")
	b.opts.TrustedUIDs = []uint32{0, uint32(os.Getuid())}
	b.opts.BackoffMin, b.opts.BackoffMax = 20*time.Millisecond, 50*time.Millisecond
	// Not so often that the end of a large process, which takes a moment, is told as silence.
	b.opts.HealthInterval, b.opts.HealthTimeout, b.opts.HealthMisses = time.Second, 5*time.Second, 2
	b.opts.StartTimeout = cmp.Or(row.StartTimeout, patience)
	b.opts.OnSnapshot = b.onSnapshot
	h, err := pluginhost.New(b.opts)
	if err != nil {
		return nil, err
	}
	b.Host = h
	b.specs = []pluginhost.Spec{b.spec(neighbour, "good", goodKind), b.providerSpec(neighbour2, "good")}
	if err := h.Set(b.specs); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	b.cancel = cancel
	go func() { b.done <- h.Run(run) }()
	if err := b.ready(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *Bed) ready(ctx context.Context) error {
	for _, name := range []string{neighbour, neighbour2} {
		if _, err := b.await(ctx, name, pluginhost.Running); err != nil {
			return err
		}
	}
	for range b.env.samples() {
		b.callNeighbour(ctx)
	}
	b.mu.Lock()
	b.before, b.took = latencyOf(b.took), nil
	err := b.failed
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("before anything: %w", err)
	}
	calling, quiet := context.WithCancel(ctx)
	b.quiet = quiet
	b.wg.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-calling.Done():
				return
			case <-pace.C:
				b.callNeighbour(ctx)
			}
		}
	})
	return nil
}

// measured ends the calls of the neighbour.
func (b *Bed) measured() {
	b.quiet()
	b.wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.during = latencyOf(b.took)
}

func latencyOf(took []time.Duration) Latency {
	if len(took) == 0 {
		return Latency{}
	}
	s := slices.Sorted(slices.Values(took))
	return Latency{Calls: len(s), Median: s[len(s)/2], Max: s[len(s)-1]}
}

func (b *Bed) callNeighbour(ctx context.Context) {
	begin := time.Now()
	_, err := b.do(ctx, goodKind, "work")
	took := time.Since(begin)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, took)
	if err != nil && b.failed == nil && ctx.Err() == nil {
		b.failed = err
	}
}

// neighbours says whether the neighbours were hindered.
func (b *Bed) neighbours(strict bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed != nil {
		return fmt.Errorf("a call of the neighbour failed: %w", b.failed)
	}
	if strict && b.during.Median > 10*b.before.Median && b.during.Median > 20*time.Millisecond {
		return fmt.Errorf("the neighbour's calls took %v, and %v before", b.during.Median, b.before.Median)
	}
	for _, st := range b.Host.Status() {
		if (st.Name == neighbour || st.Name == neighbour2) && (st.State != pluginhost.Running || st.Restarts != 0) {
			return fmt.Errorf("the neighbour %s is %s after %d restarts: %s", st.Name, st.State, st.Restarts, st.LastError)
		}
	}
	return nil
}

func (b *Bed) close() error {
	if b.quiet != nil {
		b.quiet()
		b.wg.Wait()
	}
	b.cancel()
	select {
	case err := <-b.done:
		return err
	case <-time.After(patience):
		return errors.New("the host does not end")
	}
}

func (b *Bed) onSnapshot(_ context.Context, provider string, s plugin.Snapshot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snapshots[provider]++
	return nil
}

func (b *Bed) spec(name, mode string, kind plugin.ActionKind) pluginhost.Spec {
	return pluginhost.Spec{
		Name: name, Kinds: []plugin.Kind{plugin.KindExecutor}, Path: b.env.Self, Args: []string{PluginArg, mode},
		Actions: []plugin.ActionKind{kind},
	}
}

func (b *Bed) providerSpec(name, mode string) pluginhost.Spec {
	return pluginhost.Spec{Name: name, Kinds: []plugin.Kind{plugin.KindProvider}, Path: b.env.Self, Args: []string{PluginArg, mode}}
}

// add adds the plugin that misbehaves.
func (b *Bed) add(s ...pluginhost.Spec) error { return b.Host.Set(append(slices.Clone(b.specs), s...)) }

// addBad adds one in a mode.
func (b *Bed) addBad(mode string) error { return b.add(b.spec(bad, mode, badKind)) }

// do has an executor do something.
func (b *Bed) do(ctx context.Context, kind plugin.ActionKind, what string) (plugin.Outcome, error) {
	e, err := b.Host.Executor(kind)
	if err != nil {
		return plugin.Outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return e.Apply(ctx, plugin.Action{
		OpID: what, Attempt: 1, Kind: kind, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Params: map[string]string{"do": what},
	}, "", func(plugin.Progress) error { return nil })
}

func (b *Bed) status(name string) pluginhost.PluginStatus {
	for _, st := range b.Host.Status() {
		if st.Name == name {
			return st
		}
	}
	return pluginhost.PluginStatus{}
}

// await waits until a plugin is in one of these states.
func (b *Bed) await(ctx context.Context, name string, want ...pluginhost.State) (pluginhost.PluginStatus, error) {
	var st pluginhost.PluginStatus
	err := b.until(ctx, func() bool { st = b.status(name); return slices.Contains(want, st.State) })
	if err != nil {
		return st, fmt.Errorf("plugin %s does not become %v, it is %s: %s", name, want, st.State, st.LastError)
	}
	return st, nil
}

// until waits for a condition.
func (b *Bed) until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return fmt.Errorf("waited for %v", patience)
		case <-tick.C:
		}
	}
	return nil
}

// told waits until a plugin is in a state and its last error says why.
func (b *Bed) told(ctx context.Context, state pluginhost.State, words string) (string, error) {
	var st pluginhost.PluginStatus
	err := b.until(ctx, func() bool {
		st = b.status(bad)
		return st.State == state && strings.Contains(st.LastError, words)
	})
	if err != nil {
		return "", fmt.Errorf("it is %s, and the operator is told %q; want %s, with %q in it: %w", st.State, st.LastError, state, words, err)
	}
	return st.LastError, nil
}

// logged waits until the log has these words, and returns the line.
func (b *Bed) logged(ctx context.Context, words string) (string, error) {
	var line string
	err := b.until(ctx, func() bool {
		for l := range strings.Lines(b.log.String()) {
			if strings.Contains(l, words) {
				line = l
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("not in the log: %q", words)
	}
	return strings.TrimSpace(line), nil
}
