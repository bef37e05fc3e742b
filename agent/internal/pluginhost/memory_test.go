// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// most is how much the heap may grow for what one plugin does, in bytes: two
// messages of the largest size, and the garbage of as much.
const most = 24 << 20

// bounded sees to it that the heap does not grow beyond most while f runs.
func bounded(t *testing.T, f func()) {
	t.Helper()
	runtime.GC()
	before, peak := heap(), uint64(0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				peak = max(peak, heap())
			}
		}
	})
	f()
	close(done)
	wg.Wait()
	if grown := peak - min(peak, before); grown > most {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MiB", grown>>20)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestLinesWithoutEnd: what is printed comes in pieces.
func TestLinesWithoutEnd(t *testing.T) {
	bounded(t, func() {
		few := func(o *Options) { o.LogRate, o.LogBurst = 1, 20 } // the log is in memory, here
		b := startBed(t, few, spec(t, "a", "good"), restarted(spec(t, "b", "long line")), restarted(spec(t, "c", "long handshake")))
		b.await(t, "a", Running)
		b.must(t, "a", "pour")
		for _, name := range []string{"b", "c"} {
			if st := b.await(t, name, Quarantined); len(st.LastError) > 1000 {
				t.Errorf("%d bytes of reason", len(st.LastError))
			}
		}
		b.stop()
	})
}

func restarted(s Spec) Spec {
	s.Restart.Restarts = 1
	return s
}

func observerSpec(t *testing.T, mode string) Spec {
	s := spec(t, "o", mode)
	s.Kinds, s.Actions = []plugin.Kind{plugin.KindObserver}, nil
	return s
}

// TestHintsWithoutEnd: hints wait in the plugin.
func TestHintsWithoutEnd(t *testing.T) {
	bounded(t, func() {
		enough, some := make(chan struct{}), 0
		b := startBed(t, func(o *Options) {
			o.OnHint = func(context.Context, string, plugin.Hint) {
				if some++; some == 210 { // beyond what comes at once
					close(enough)
				}
			}
		}, observerSpec(t, "many hints"))
		b.await(t, "o", Running)
		<-enough
		b.stop()
	})
}

// TestManyParts: the smallest part of a message takes two bytes of it and a
// hundred times as much here. A message with very many is not read.
func TestManyParts(t *testing.T) {
	bounded(t, func() {
		b := startBed(t, nil, observerSpec(t, "many parts"))
		b.await(t, "o", Running)
		o, err := b.Observer()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.List(t.Context()); err == nil || !strings.Contains(err.Error(), "parts") {
			t.Errorf("got %v", err)
		}
		if _, err := o.Guest(t.Context(), plugin.GuestQuery{VMID: 101}); err == nil || !strings.Contains(err.Error(), "parts") {
			t.Errorf("got %v", err)
		}
		b.waitLog(t, "watch ended")
		b.stop()
	})
}
