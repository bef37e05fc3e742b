// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// flooder is a provider and an observer that never stop.
type flooder struct {
	plugin.Observer
	n atomic.Int64
}

func (f *flooder) next() string {
	time.Sleep(time.Millisecond) // in a bubble time goes on only when all sleep
	return fmt.Sprint(f.n.Add(1))
}

type floodProvider struct {
	plugin.Provider
	flooder
}

func (f *floodProvider) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	for ctx.Err() == nil {
		_ = emit(plugin.Snapshot{Revision: f.next()})
	}
	return ctx.Err()
}

type floodObserver struct{ flooder }

func (f *floodObserver) Watch(ctx context.Context, emit func(plugin.Hint) error) error {
	for {
		if err := emit(plugin.Hint{All: true, Reason: f.next()}); err != nil {
			return err
		}
	}
}

// TestFloodOfSnapshots: each set that is new is journalled, and each that is
// refused is logged, so a plugin decides neither how fast the journal grows nor
// how fast the log does. Some at once are well.
func TestFloodOfSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Second) }) // the plugin sees the end
		o := testOptions(t)
		var taken atomic.Int64
		o.OnSnapshot = func(context.Context, string, plugin.Snapshot) error { taken.Add(1); return nil }
		memHost(t, o, &memLauncher{set: plugin.Set{Provider: &floodProvider{}}}, Spec{Name: "c", Kinds: []plugin.Kind{plugin.KindProvider}, Path: "/x/c"})
		time.Sleep(time.Second)
		if n := taken.Load(); n < 10 || n > 50 {
			t.Errorf("%d in the first second", n)
		}
		time.Sleep(time.Minute)
		if n := taken.Load(); n < 50 || n > 200 {
			t.Errorf("%d in a minute", n)
		}
	})
}

// TestFloodOfHints: a hint is a reason to ask the node, which is not asked as
// often as a plugin likes.
func TestFloodOfHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Second) }) // the plugin sees the end
		o := testOptions(t)
		var taken atomic.Int64
		o.OnHint = func(context.Context, string, plugin.Hint) { taken.Add(1) }
		memHost(t, o, &memLauncher{set: plugin.Set{Observer: &floodObserver{}}}, Spec{Name: "o", Kinds: []plugin.Kind{plugin.KindObserver}, Path: "/x/o"})
		time.Sleep(time.Minute)
		if n := taken.Load(); n < 100 || n > 2000 {
			t.Errorf("%d in a minute", n)
		}
	})
}

// endingProvider gives one set, and then its streams end by themselves.
type endingProvider struct{ plugin.Provider }

func (endingProvider) Watch(_ context.Context, emit func(plugin.Snapshot) error) error {
	_ = emit(plugin.Snapshot{Revision: "1"})
	return fmt.Errorf("%w: no route to the source", plugin.ErrUnavailable)
}

// TestWatchThatEndsIsTold: a provider that does not watch any more says nothing
// of it by itself, and its set gets old.
func TestWatchThatEndsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t)
		var told atomic.Value
		o.OnSnapshot = func(_ context.Context, _ string, s plugin.Snapshot) error {
			if s.Err != "" {
				told.Store(s.Err)
			}
			return nil
		}
		memHost(t, o, &memLauncher{set: plugin.Set{Provider: endingProvider{}}}, Spec{Name: "c", Kinds: []plugin.Kind{plugin.KindProvider}, Path: "/x/c"})
		time.Sleep(10 * time.Second)
		if s, _ := told.Load().(string); !strings.Contains(s, "no route to the source") {
			t.Errorf("told: %q", s)
		}
	})
}

// TestManyActions: what a plugin says of itself does not fill the log.
func TestManyActions(t *testing.T) {
	t.Parallel()
	c := &capture{}
	s := newSlot(Options{Logger: slog.New(slog.NewTextHandler(c, nil))}, nil, executorSpec("a"), "")
	var info plugin.Info
	for i := range 100_000 {
		info.Actions = append(info.Actions, plugin.ActionKind(fmt.Sprintf("acme.action%d", i)))
	}
	s.compareActions(info)
	if n := len(c.String()); n == 0 || n > 8<<10 {
		t.Errorf("%d bytes were logged", n)
	}
}

// TestLongHandle: a handle is kept, so it has to be one.
func TestLongHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := plugintest.NewWorld("n1")
		w.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}, Run: guest.Stopped})
		h := memHost(t, testOptions(t), &memLauncher{set: plugin.Set{Executor: longHandle{w.Executor()}}}, executorSpec("a"))
		e, err := h.Executor(plugin.Start)
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Apply(t.Context(), startAction(), "", func(p plugin.Progress) error {
			t.Errorf("a handle of %d bytes", len(p.Handle))
			return nil
		})
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("got %v", err)
		}
	})
}

type longHandle struct{ plugin.Executor }

func (longHandle) Apply(_ context.Context, _ plugin.Action, _ string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	return plugin.Outcome{Status: plugin.Done}, emit(plugin.Progress{Handle: strings.Repeat("UPID", 1<<18)})
}
