// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

const benchLanes = 10_000

// benchQueue runs a queue of which handle is called for each piece of work, until the benchmark ends.
func benchQueue(b *testing.B, handle func(context.Context, int, Item) Result) *Queue[int] {
	b.Helper()
	q := New(Options[int]{Handle: handle, Bound: 1 << 30, Parallel: 64})
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = q.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return q
}

// BenchmarkLooks asks for looks at 10,000 keys in turn and waits until all were done.
func BenchmarkLooks(b *testing.B) {
	var done sync.WaitGroup
	q := benchQueue(b, func(context.Context, int, Item) Result { done.Done(); return Result{} })
	for n := 0; n < b.N; n += benchLanes {
		lanes := min(benchLanes, b.N-n)
		done.Add(lanes)
		for k := range lanes {
			q.Look(k, "")
		}
		done.Wait()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "looks/s")
}

// BenchmarkLooksCollapse asks for looks that are waiting already.
func BenchmarkLooksCollapse(b *testing.B) {
	q := New(Options[int]{Handle: func(context.Context, int, Item) Result { return Result{} }})
	for n := 0; b.Loop(); n++ {
		q.Look(n%benchLanes, "drift")
	}
}

// BenchmarkSubmit submits items to 10,000 lanes in turn and waits until all were done.
func BenchmarkSubmit(b *testing.B) {
	var done sync.WaitGroup
	q := benchQueue(b, func(context.Context, int, Item) Result { done.Done(); return Result{} })
	b.ReportAllocs()
	for n := 0; n < b.N; n += benchLanes {
		lanes := min(benchLanes, b.N-n)
		done.Add(lanes)
		for k := range lanes {
			if _, err := q.Submit(k, n); err != nil {
				b.Fatal(err)
			}
		}
		done.Wait()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

// BenchmarkDispatch measures from Submit to the handler's begin, while 10,000 lanes have work that waits.
func BenchmarkDispatch(b *testing.B) {
	begun := make(chan time.Time, 1)
	q := benchQueue(b, func(_ context.Context, key int, _ Item) Result {
		if key < 0 {
			begun <- time.Now()
			return Result{}
		}
		return Result{Again: time.Hour}
	})
	for k := range benchLanes {
		if _, err := q.Submit(k, nil); err != nil {
			b.Fatal(err)
		}
	}
	var took []time.Duration
	for b.Loop() {
		submitted := time.Now()
		if _, err := q.Submit(-1, nil); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-begun).Sub(submitted))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "ns-p99")
}
