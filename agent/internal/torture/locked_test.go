// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// meanwhile is a lock that somebody puts on the guest while a request is on
// its way: the agent looked before it, PVE's task comes after it.
type meanwhile struct {
	delay   time.Duration // of the request
	held    time.Duration // how long the lock stays
	restart time.Duration // when the agent is killed and begins anew after the lock was put, 0 for never
}

func (m meanwhile) String() string {
	return fmt.Sprintf("request takes %v, locked for %v, restart after %v", m.delay, m.held, m.restart)
}

func meanwhiles() (out []meanwhile) {
	for _, delay := range []time.Duration{100 * time.Millisecond, time.Second, 15 * time.Second} {
		for _, held := range []time.Duration{500 * time.Millisecond, 20 * time.Second, 3 * time.Minute} {
			for _, restart := range []time.Duration{0, 50 * time.Millisecond, 2 * time.Second, 30 * time.Second} {
				out = append(out, meanwhile{delay, held, restart})
			}
		}
	}
	return out
}

func lockOnce(t *testing.T, j job, m meanwhile) (v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		w := j.beginFaulty(t, reply{kind: pvetest.FaultDelay, delay: m.delay}, broken{})
		w.awaitSending(j, 10*time.Millisecond)
		if err := w.sim.SetLock(101, "backup"); err != nil {
			t.Fatal(err)
		}
		unlock := time.AfterFunc(m.held, func() { _ = w.sim.SetLock(101, "") })
		defer unlock.Stop()
		w.restartAfter(m.restart)
		time.Sleep(m.held + j.takes())
		v = w.conclude(j)
	})
	return v
}

// TestTortureLockedMeanwhile locks a guest between the agent's look and PVE's
// task. Nothing may wait for an op that PVE has long refused.
func TestTortureLockedMeanwhile(t *testing.T) {
	notUnderRace(t)
	stride := size(13, 5, 1)
	turn := 0
	for _, j := range jobs("set_config", "start", "shutdown") {
		var v Verdict
		row := Row{Scenario: "core/locked meanwhile " + j.String()}
		for _, m := range meanwhiles() {
			if turn++; turn%stride != 0 || timeUp(t, &row, 0.6) {
				continue
			}
			row.Points++
			v.Add(m.String(), lockOnce(t, j, m))
		}
		report(t, row, v)
	}
}
