// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestMain is the plugin of the tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv(plugin.CookieKey) != plugin.CookieValue {
		os.Exit(m.Run())
	}
	w := world()
	plugin.Serve(plugin.Set{Executor: w.Executor(), Observer: w.Observer(), Provider: provider()})
}

func world() *plugintest.World {
	w := plugintest.NewWorld("n1")
	for v := guest.VMID(101); v < 104; v++ {
		w.Put(plugintest.Guest{
			ID: guest.ID{Kind: guest.LXC, VMID: v}, Run: guest.Stopped, Config: guest.Config{"cores": "2"},
		})
	}
	w.Put(plugintest.Guest{
		ID: guest.ID{Kind: guest.QEMU, VMID: 200}, Run: guest.Running, ConfigErr: "got timeout", HA: plugin.HA{Managed: true},
	})
	w.Script(func(a plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: 10 * time.Millisecond} })
	return w
}

func provider() *plugintest.FakeProvider {
	return plugintest.NewProvider(plugin.Snapshot{Revision: "1", Files: []plugin.File{{Name: "a.toml", Data: []byte("x = 1\n")}}})
}

var ops atomic.Int64

func action() plugin.Action {
	n := ops.Add(1)
	return plugin.Action{
		OpID: fmt.Sprintf("op%d", n), Attempt: 1, Node: "n1", Kind: plugin.Start,
		Guest: guest.ID{Kind: guest.LXC, VMID: 101},
	}
}

func TestWorldDirect(t *testing.T) {
	w := world()
	plugintest.TestExecutor(t, plugintest.ExecutorCase{Executor: w.Executor(), Action: action, Effects: w.Effects})
	plugintest.TestObserver(t, plugintest.ObserverCase{Observer: w.Observer(), Change: func() { w.Hint(plugin.Hint{All: true}) }})
	p := provider()
	plugintest.TestProvider(t, plugintest.ProviderCase{Provider: p, Change: changer(p)})
}

func changer(p *plugintest.FakeProvider) func() {
	n := 1
	return func() { n++; p.Publish(plugin.Snapshot{Revision: fmt.Sprint(n)}) }
}

func TestWorldOverPipe(t *testing.T) {
	w, p := world(), provider()
	c := plugintest.Pipe(t, plugin.Set{Executor: w.Executor(), Observer: w.Observer(), Provider: p})
	plugintest.TestExecutor(t, plugintest.ExecutorCase{Executor: c.Executor(), Action: action, Effects: w.Effects})
	plugintest.TestObserver(t, plugintest.ObserverCase{Observer: c.Observer(), Change: func() { w.Hint(plugin.Hint{All: true}) }})
	plugintest.TestProvider(t, plugintest.ProviderCase{Provider: c.Provider(), Change: changer(p)})
}

func TestWorldAsProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := plugintest.Start(plugintest.Command{Path: self})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	kinds, err := p.Client().Configure(t.Context(), plugin.Config{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	want := []plugin.Kind{plugin.KindExecutor, plugin.KindObserver, plugin.KindProvider}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	plugintest.TestExecutor(t, plugintest.ExecutorCase{Executor: p.Client().Executor(), Action: action})
	plugintest.TestObserver(t, plugintest.ObserverCase{Observer: p.Client().Observer()})
	plugintest.TestProvider(t, plugintest.ProviderCase{Provider: p.Client().Provider()})
}

// In a bubble, a task of ten minutes takes no time, and the checks find the
// same.
func TestChecksInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := world(), provider()
		w.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: 5 * time.Second} })
		c := plugintest.Pipe(t, plugin.Set{Executor: w.Executor(), Observer: w.Observer(), Provider: p})
		err := errors.Join(
			plugintest.CheckExecutor(t.Context(), plugintest.ExecutorCase{Executor: c.Executor(), Action: action, Effects: w.Effects}),
			plugintest.CheckObserver(t.Context(), plugintest.ObserverCase{Observer: c.Observer(), Change: func() { w.Hint(plugin.Hint{All: true}) }}),
			plugintest.CheckProvider(t.Context(), plugintest.ProviderCase{Provider: c.Provider(), Change: changer(p)}),
		)
		if err != nil {
			t.Error(err)
		}
	})
}

// broken is an executor with one rule broken.
type broken struct {
	plugin.Executor
	apply func(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error)
	info  *plugin.Info
	probe *plugin.Verdict
}

func (b broken) Describe(ctx context.Context) (plugin.Info, error) {
	if b.info != nil {
		return *b.info, nil
	}
	return b.Executor.Describe(ctx)
}

func (b broken) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if b.apply != nil {
		return b.apply(ctx, a, handle, emit)
	}
	return b.Executor.Apply(ctx, a, handle, emit)
}

func (b broken) Probe(ctx context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	if b.probe != nil {
		return *b.probe, nil
	}
	return b.Executor.Probe(ctx, q)
}

// Each check is worth something only if it can fail.
func TestBrokenExecutorsAreFound(t *testing.T) {
	tests := map[string]struct {
		check  string
		breaks func(w *plugintest.World, e plugin.Executor) broken
	}{
		"no version": {"describe", func(*plugintest.World, plugin.Executor) broken { return broken{info: &plugin.Info{Name: "x"}} }},
		"probe forgets": {"probe done", func(*plugintest.World, plugin.Executor) broken {
			return broken{probe: &plugin.Verdict{Finding: plugin.NotSent}}
		}},
		"probe makes it up": {"probe unsent", func(*plugintest.World, plugin.Executor) broken {
			return broken{probe: &plugin.Verdict{Finding: plugin.Found}}
		}},
		"twice": {"once per op", func(_ *plugintest.World, e plugin.Executor) broken {
			var n atomic.Int64
			return broken{apply: func(ctx context.Context, a plugin.Action, h string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
				a.Attempt = int(n.Add(1))
				return e.Apply(ctx, a, h, emit)
			}}
		}},
		"resume sends": {"resume", func(_ *plugintest.World, e plugin.Executor) broken {
			return broken{apply: func(ctx context.Context, a plugin.Action, h string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
				if h != "" {
					a.Attempt++
				}
				return e.Apply(ctx, a, "", emit)
			}}
		}},
		"deaf to its context": {"cancelled", func(_ *plugintest.World, e plugin.Executor) broken {
			return broken{apply: func(ctx context.Context, a plugin.Action, h string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
				time.Sleep(time.Hour) // fake time
				return e.Apply(context.WithoutCancel(ctx), a, h, emit)
			}}
		}},
		"does what it does not know": {"unsupported", func(*plugintest.World, plugin.Executor) broken {
			return broken{apply: func(context.Context, plugin.Action, string, func(plugin.Progress) error) (plugin.Outcome, error) {
				return plugin.Outcome{Status: plugin.Done}, nil
			}}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world()
				b := tt.breaks(w, w.Executor())
				b.Executor = w.Executor()
				err := plugintest.CheckExecutor(t.Context(), plugintest.ExecutorCase{Executor: b, Action: action, Effects: w.Effects})
				if err == nil || !strings.Contains(err.Error(), tt.check+": ") {
					t.Errorf("check %q did not fail; all that failed: %v", tt.check, err)
				}
				time.Sleep(2 * time.Hour) // let what hangs end
			})
		})
	}
}

// watcher is a provider made of a function.
type watcher func(ctx context.Context, emit func(plugin.Snapshot) error) error

func (watcher) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "w", Version: "1"}, nil
}

func (w watcher) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	return w(ctx, emit)
}

func TestBrokenProvidersAreFound(t *testing.T) {
	snap := func(rev string) plugin.Snapshot {
		return plugin.Snapshot{Revision: rev, Files: []plugin.File{{Name: "a"}}}
	}
	stay := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := map[string]struct {
		check string
		watch watcher
	}{
		"mute": {"at once", func(ctx context.Context, _ func(plugin.Snapshot) error) error { return stay(ctx) }},
		"no revision": {"at once", func(ctx context.Context, emit func(plugin.Snapshot) error) error {
			_ = emit(snap(""))
			return stay(ctx)
		}},
		"never changes": {"change", func(ctx context.Context, emit func(plugin.Snapshot) error) error {
			_ = emit(snap("1"))
			return stay(ctx)
		}},
		"unstable": {"stable", func(ctx context.Context, emit func(plugin.Snapshot) error) error {
			_ = emit(snap(fmt.Sprint(ops.Add(1))))
			return stay(ctx)
		}},
		"gives up when rejected": {"rejected", func(ctx context.Context, emit func(plugin.Snapshot) error) error { return emit(snap("1")) }},
		"deaf to its context":    {"watch ends", func(context.Context, func(plugin.Snapshot) error) error { time.Sleep(time.Hour); return nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := plugintest.CheckProvider(t.Context(), plugintest.ProviderCase{Provider: tt.watch, Change: func() {}})
				if err == nil || !strings.Contains(err.Error(), tt.check+": ") {
					t.Errorf("check %q did not fail; all that failed: %v", tt.check, err)
				}
				time.Sleep(2 * time.Hour) // let what hangs end
			})
		})
	}
}

// What a test scripts is what it gets.
func TestBehaviours(t *testing.T) {
	self := func(st plugin.Status) *plugin.Outcome { return &plugin.Outcome{Status: st} }
	tests := map[string]struct {
		b       plugintest.Behaviour
		status  plugin.Status
		err     error
		effects int
		running bool
		probe   plugin.Finding
	}{
		"good":           {plugintest.Behaviour{}, plugin.Done, nil, 1, true, plugin.Settled},
		"task":           {plugintest.Behaviour{Task: time.Minute}, plugin.Done, nil, 1, true, plugin.Settled},
		"not sent":       {plugintest.Behaviour{Err: plugin.ErrNotSent}, "", plugin.ErrNotSent, 0, false, plugin.NotSent},
		"busy":           {plugintest.Behaviour{Outcome: self(plugin.Retry)}, plugin.Retry, nil, 0, false, plugin.Settled},
		"fails":          {plugintest.Behaviour{Fail: "no space"}, plugin.Failed, nil, 0, false, plugin.Settled},
		"lost start":     {plugintest.Behaviour{NoEffect: true}, plugin.Done, nil, 1, false, plugin.Settled},
		"reply lost":     {plugintest.Behaviour{Lose: true, Task: time.Minute}, "", plugin.ErrShutdown, 1, true, plugin.Found},
		"lost late":      {plugintest.Behaviour{LoseLate: true, Task: time.Minute}, "", plugin.ErrShutdown, 1, true, plugin.Found},
		"key refused":    {plugintest.Behaviour{Refuse: map[string]string{"a": "no"}}, plugin.Refused, nil, 0, false, plugin.Settled},
		"hangs":          {plugintest.Behaviour{Hang: true}, "", context.DeadlineExceeded, 0, false, plugin.NotSent},
		"without handle": {plugintest.Behaviour{NoTask: true}, plugin.Done, nil, 1, true, plugin.Settled},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world()
				w.Script(func(plugin.Action) plugintest.Behaviour { return tt.b })
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				a := action()
				out, err := w.Executor().Apply(ctx, a, "", func(plugin.Progress) error { return nil })
				if out.Status != tt.status || !errors.Is(err, tt.err) {
					t.Errorf("ended as %q, %v; want %q, %v", out.Status, err, tt.status, tt.err)
				}
				v, err := w.Executor().Probe(t.Context(), plugin.ProbeQuery{Action: a})
				if err != nil || v.Finding != tt.probe {
					t.Errorf("probe finds %q, %v; want %q", v.Finding, err, tt.probe)
				}
				time.Sleep(time.Hour)
				g, _ := w.Guest(101)
				if got := w.Effects(a.OpID); got != tt.effects || (g.Run == guest.Running) != tt.running {
					t.Errorf("%d effects, guest is %s; want %d, running %v", got, g.Run, tt.effects, tt.running)
				}
			})
		})
	}
}
