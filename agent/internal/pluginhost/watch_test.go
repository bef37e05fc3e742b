// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func TestSnapshotsAndVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plugintest.NewProvider(plugin.Snapshot{Revision: "1"})
		l := &memLauncher{set: plugin.Set{Provider: p}}
		o := testOptions(t)
		var mu sync.Mutex
		var got []string
		o.OnSnapshot = func(_ context.Context, provider string, s plugin.Snapshot) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, provider+" "+s.Revision)
			if s.Revision == "2" {
				return fmt.Errorf("%w: a.toml:3: memory", plugin.ErrInvalid)
			}
			return nil
		}
		h := memHost(t, o, l, Spec{Name: "c", Kinds: []plugin.Kind{plugin.KindProvider}, Path: "/x/c"})
		p.Publish(plugin.Snapshot{Revision: "2"})
		synctest.Wait()
		p.Publish(plugin.Snapshot{Revision: "3"})
		synctest.Wait()
		mu.Lock()
		if diff := cmp.Diff([]string{"c 1", "c 2", "c 3"}, got); diff != "" {
			t.Errorf("snapshots (-want +got):\n%s", diff)
		}
		mu.Unlock()
		v := p.Verdicts()
		if len(v) != 3 || v[0] != nil || !errors.Is(v[1], plugin.ErrInvalid) || v[2] != nil {
			t.Errorf("verdicts %v", v)
		}
		if err := h.Report(t.Context(), "c", plugin.Report{JSON: []byte("{}")}); err != nil || len(p.Reports()) != 1 {
			t.Errorf("report: %v, %d arrived", err, len(p.Reports()))
		}
		if err := h.Report(t.Context(), "d", plugin.Report{}); !errors.Is(err, plugin.ErrUnsupported) {
			t.Errorf("report to nobody: %v", err)
		}
	})
}

// endingWatcher is an observer whose streams end by themselves.
type endingWatcher struct {
	plugin.Observer
	mu    sync.Mutex
	times []time.Time
	hints []plugin.Hint
}

func (e *endingWatcher) Watch(_ context.Context, emit func(plugin.Hint) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.times = append(e.times, time.Now())
	for _, h := range e.hints {
		if err := emit(h); err != nil {
			return err
		}
	}
	return nil
}

func TestWatchIsEstablishedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endingWatcher{Observer: plugintest.NewWorld("n1").Observer()}
		o := testOptions(t)
		var mu sync.Mutex
		var all, named int
		o.OnHint = func(_ context.Context, observer string, h plugin.Hint) {
			mu.Lock()
			defer mu.Unlock()
			if observer == "o" && h.All {
				all++
			}
			named += len(h.Guests)
		}
		h := memHost(t, o, &memLauncher{set: plugin.Set{Observer: e}}, Spec{Name: "o", Kinds: []plugin.Kind{plugin.KindObserver}, Path: "/x/o"})
		time.Sleep(64 * time.Second)
		synctest.Wait()
		e.mu.Lock()
		var gaps []time.Duration
		for i := 1; i < len(e.times); i++ {
			gaps = append(gaps, e.times[i].Sub(e.times[i-1]))
		}
		s := time.Second
		if diff := cmp.Diff([]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s}, gaps); diff != "" {
			t.Errorf("waits between streams (-want +got):\n%s", diff)
		}
		// A stream that delivers is a good one; a hint about very many guests is
		// about all of them.
		e.hints = []plugin.Hint{{Guests: []guest.VMID{101}}, {Guests: manyVMIDs(maxHinted + 1)}}
		e.times = nil
		e.mu.Unlock()
		time.Sleep(40 * time.Second)
		synctest.Wait()
		e.mu.Lock()
		defer e.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		if len(e.times) < 8 || named != len(e.times) || all < 7+2*len(e.times) {
			t.Errorf("%d streams, %d guests named, %d hints about all", len(e.times), named, all)
		}
		if s := stateOf(t, h, "o"); s.State != Running {
			t.Errorf("%+v", s)
		}
	})
}

func manyVMIDs(n int) []guest.VMID {
	var all []guest.VMID
	for i := range n {
		all = append(all, guest.MinVMID+guest.VMID(i))
	}
	return all
}
