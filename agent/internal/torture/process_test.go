// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
)

// recovery is how long an agent may take after a crash: what cannot be proven at once waits until no sending can take
// effect any more, a minute after the intent.
const recovery = 150 * time.Second

// parallel tries side by side: most of the time is spent waiting.
func parallel[T any](t *testing.T, row Row, all []T, width int, try func(*testing.T, T) Verdict) {
	var mu sync.Mutex
	var v Verdict
	var wg sync.WaitGroup
	turn := make(chan struct{}, width)
	for _, x := range all {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			got := try(t, x)
			mu.Lock()
			defer mu.Unlock()
			v.Add(fmt.Sprint(x), got)
		})
	}
	wg.Wait()
	report(t, row, v)
}

// fewer makes a sample short: with one guest, nothing else is between intent and sending when the agent is killed, so
// nothing has to wait for a minute until it is known.
func (r *rig) fewer() {
	if size(0, 0, 1) > 0 {
		return
	}
	doc, _, _ := strings.Cut(rigDesired, "[guest.102]")
	r.write("desired/guests.toml", doc)
}

// TestTortureProcess kills the real agent at its named points while three guests are made as they are wanted, starts it
// again, and holds the node's record against the journal.
func TestTortureProcess(t *testing.T) {
	onDemand(t)
	t.Parallel()
	all := []string{engine.CrashHandle + ":1", engine.CrashOutcome + ":2", engine.CrashBeforeIntent + ":2"}
	if size(0, 0, 1) > 0 {
		all = nil
		for _, p := range points {
			times := 6 // three writes, three tasks
			if p == engine.CrashHandle {
				times = 3 // writes have no handle
			}
			for n := 1; n <= times; n++ {
				all = append(all, fmt.Sprintf("%s:%d", p, n))
			}
		}
	}
	parallel(t, Row{Scenario: "process/kill -9 at a point", Points: len(all)}, all, 5, func(t *testing.T, at string) (v Verdict) {
		r := newRig(t, "")
		r.fewer()
		r.start(at)
		if !r.died(60 * time.Second) {
			v.Jam("the agent did not come to %s within a minute", at)
		}
		r.start("")
		v.Add("recovered", r.judge(recovery))
		return v
	})
}

// TestTortureProcessRandom kills the agent, or one of its plugins, several times at random moments.
func TestTortureProcessRandom(t *testing.T) {
	onDemand(t)
	t.Parallel()
	seed := seedOf(t)
	var all []uint64
	for i := range size(2, 3, 60) {
		all = append(all, seed+uint64(i))
	}
	parallel(t, Row{Scenario: "process/kill -9 at random", Rounds: len(all)}, all, 4, func(t *testing.T, seed uint64) (v Verdict) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		r := newRig(t, "")
		r.fewer()
		r.start("")
		for range 3 {
			time.Sleep(time.Duration(rnd.IntN(2500)) * time.Millisecond)
			if name := []string{"", "pve", "local"}[rnd.IntN(3)]; name == "" {
				r.kill()
				r.start("")
			} else if pid := r.plugin(name); pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return r.judge(recovery)
	})
}
