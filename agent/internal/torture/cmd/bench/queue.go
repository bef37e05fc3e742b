// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// The work that the queue and its reference are given.
const (
	lanes   = 10_000
	workers = 64
	rounds  = 30
	samples = 20_000
)

// benchQueue measures the queue beside client-go's, which is a module of its own below packaging.
func benchQueue(ctx context.Context, _ string) ([]figure, error) {
	cmd := exec.CommandContext(ctx, "go", "run", ".")
	cmd.Dir, cmd.Stderr = "packaging/bench", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the reference (run this in the root of the repository): %w", err)
	}
	var ref map[string]float64
	if err := json.Unmarshal(out, &ref); err != nil {
		return nil, fmt.Errorf("the reference: %w", err)
	}
	rate, err := throughput(ctx, func(q *queue.Queue[int], k int) error { _, err := q.Submit(k, nil); return err })
	if err != nil {
		return nil, err
	}
	looks, err := throughput(ctx, func(q *queue.Queue[int], k int) error { q.Look(k, ""); return nil })
	if err != nil {
		return nil, err
	}
	p50, p99, err := dispatchLatency(ctx)
	return []figure{
		more("queue, items through 10,000 lanes", rate, "items/s", "client-go workqueue", ref["rate"]),
		more("queue, looks at 10,000 lanes", looks, "looks/s", "client-go workqueue", ref["rate"]),
		less("queue, dispatch with 10,000 lanes waiting, median", p50/1000, "us", "client-go workqueue", ref["p50"]/1000),
		less("queue, dispatch with 10,000 lanes waiting, p99", p99/1000, "us", "client-go workqueue", ref["p99"]/1000),
	}, err
}

// withQueue runs a queue while f works.
func withQueue(ctx context.Context, handle func(context.Context, int, queue.Item) queue.Result, f func(*queue.Queue[int]) error) error {
	q := queue.New(queue.Options[int]{Handle: handle, Bound: 1 << 30, Parallel: workers})
	ctx, cancel := context.WithCancel(ctx)
	var run sync.WaitGroup
	run.Go(func() { _ = q.Run(ctx) })
	defer run.Wait()
	defer cancel()
	return f(q)
}

// throughput is how many pieces of work per second go through 10,000 lanes.
func throughput(ctx context.Context, put func(*queue.Queue[int], int) error) (rate float64, err error) {
	var done sync.WaitGroup
	err = withQueue(ctx, func(context.Context, int, queue.Item) queue.Result { done.Done(); return queue.Result{} },
		func(q *queue.Queue[int]) error {
			begin := time.Now()
			for range rounds {
				done.Add(lanes)
				for k := range lanes {
					if err := put(q, k); err != nil {
						return err
					}
				}
				done.Wait()
			}
			rate = rounds * lanes / time.Since(begin).Seconds()
			return nil
		})
	return rate, err
}

func dispatchLatency(ctx context.Context) (p50, p99 float64, err error) {
	begun := make(chan time.Time, 1)
	handle := func(_ context.Context, key int, _ queue.Item) queue.Result {
		if key < 0 {
			begun <- time.Now()
			return queue.Result{}
		}
		return queue.Result{Again: time.Hour}
	}
	took := make([]time.Duration, 0, samples)
	err = withQueue(ctx, handle, func(q *queue.Queue[int]) error {
		for k := range lanes {
			if _, err := q.Submit(k, nil); err != nil {
				return err
			}
		}
		for range samples {
			at := time.Now()
			if _, err := q.Submit(-1, nil); err != nil {
				return err
			}
			took = append(took, (<-begun).Sub(at))
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	slices.Sort(took)
	return float64(took[samples/2]), float64(took[samples*99/100]), nil
}

type noCache struct{}

func (noCache) Save(string, plugin.Snapshot) error { return nil }
func (noCache) Load(string) (plugin.Snapshot, error) {
	return plugin.Snapshot{}, os.ErrNotExist
}

type executors struct{ w *plugintest.World }

func (x executors) Executor(plugin.ActionKind) (plugin.Executor, error) { return x.w.Executor(), nil }

// benchEngine is what a look at a guest costs that is as wanted, beside only asking the observer.
func benchEngine(ctx context.Context, dir string) ([]figure, error) {
	const guests = 1000
	w := plugintest.NewWorld("pve1")
	var doc strings.Builder
	for v := guest.VMID(101); v < 101+guests; v++ {
		w.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: v}, Run: guest.Running, Config: guest.Config{"cores": "2", "memory": "512"}})
		fmt.Fprintf(&doc, "[guest.%d]\nkind = \"lxc\"\nrun = \"running\"\ncores = 2\nmemory = \"512MiB\"\n", v)
	}
	led := ledger.New()
	j, _, err := journal.Open(ctx, journal.Options{Dir: dir + "/j", Fold: led})
	if err != nil {
		return nil, err
	}
	defer j.Close()
	e, err := engine.New(engine.Options{
		Host: "pve1", Observer: w.Observer(), Executors: executors{w}, Journal: j, Ledger: led, Cache: noCache{},
		Logger: slog.New(slog.DiscardHandler), Settings: engine.Settings{
			Mode: engine.Enforce, Resync: time.Hour, Required: map[string]bool{"dir": true},
			Limits:  map[string]int{engine.SlotCalls: 2, engine.SlotReads: 4, engine.SlotStartStop: 4, engine.SlotBackup: 1, engine.SlotOther: 2},
			Breaker: engine.BreakerSettings{GuestFailures: 5, GuestQuiet: time.Minute, NodeGuests: 20, NodePercent: 50},
		},
	})
	if err != nil {
		return nil, err
	}
	err = e.SetDesired(ctx, "dir", plugin.Snapshot{Revision: "r", Files: []plugin.File{{Name: "d.toml", Data: []byte(doc.String())}}})
	if err != nil {
		return nil, err
	}
	ours, err := perGuest(guests, func() error {
		p, err := e.Plan(ctx)
		if err == nil && p.Converged != guests {
			err = fmt.Errorf("%d of %d guests are as wanted", p.Converged, guests)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	plain, err := perGuest(guests, func() error {
		for v := guest.VMID(101); v < 101+guests; v++ {
			if _, err := w.Observer().Guest(ctx, plugin.GuestQuery{VMID: v}); err != nil {
				return err
			}
		}
		return nil
	})
	return []figure{less("engine, look at a guest as wanted", ours, "us", "asking the observer only", plain)}, err
}

// perGuest is the time one round takes per guest, in microseconds: the best of five.
func perGuest(guests int, round func() error) (float64, error) {
	best := time.Hour
	for range 5 {
		begin := time.Now()
		if err := round(); err != nil {
			return 0, err
		}
		best = min(best, time.Since(begin))
	}
	return float64(best.Microseconds()) / float64(guests), nil
}
