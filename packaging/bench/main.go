// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the work queue of Kubernetes' client-go on the work that the agent's queue is measured on, and
// prints the figures as JSON: a reference for `make bench`. It is a module of its own, so that client-go is needed by
// nothing that is shipped.
package main

import (
	"encoding/json"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
)

const (
	lanes   = 10_000
	workers = 64
	rounds  = 30
	samples = 20_000
)

func newQueue(handle func(int)) (q workqueue.TypedRateLimitingInterface[int], stop func()) {
	q = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[int]())
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				k, shut := q.Get()
				if shut {
					return
				}
				handle(k)
				q.Done(k)
			}
		})
	}
	return q, func() { q.ShutDown(); wg.Wait() }
}

// rate is how many items per second go through 10,000 keys.
func rate() float64 {
	var done sync.WaitGroup
	q, stop := newQueue(func(int) { done.Done() })
	defer stop()
	begin := time.Now()
	for range rounds {
		done.Add(lanes)
		for k := range lanes {
			q.Add(k)
		}
		done.Wait()
	}
	return rounds * lanes / time.Since(begin).Seconds()
}

// latency is from Add to the handler's begin, in nanoseconds, while 10,000 keys wait for their time.
func latency() (p50, p99 float64) {
	begun := make(chan time.Time, 1)
	q, stop := newQueue(func(int) { begun <- time.Now() })
	defer stop()
	for k := range lanes {
		q.AddAfter(k, time.Hour)
	}
	took := make([]time.Duration, 0, samples)
	for range samples {
		at := time.Now()
		q.Add(-1)
		took = append(took, (<-begun).Sub(at))
	}
	slices.Sort(took)
	return float64(took[samples/2]), float64(took[samples*99/100])
}

func main() {
	p50, p99 := latency()
	err := json.NewEncoder(os.Stdout).Encode(map[string]float64{"rate": rate(), "p50": p50, "p99": p99})
	if err != nil {
		os.Exit(1)
	}
}
