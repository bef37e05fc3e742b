// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// reply is one way to lose the answer to a sending.
type reply struct {
	kind pvetest.FaultKind
	// delay is when the request takes effect, hang when the sender gives up: before the effect the probe comes first.
	delay, hang time.Duration
	// restart is when the agent is killed and begins anew, 0 for never.
	restart time.Duration
}

func (r reply) String() string {
	return fmt.Sprintf("%s, effect after %v, given up after %v, restart after %v", r.kind, r.delay, r.hang, r.restart)
}

// replies are all that are tried.
func replies() (out []reply) {
	for _, kind := range []pvetest.FaultKind{pvetest.FaultLost, pvetest.FaultTimeout} {
		for _, delay := range []time.Duration{0, time.Second, 15 * time.Second, 45 * time.Second} {
			for _, hang := range []time.Duration{time.Millisecond, 10 * time.Second, 30 * time.Second} {
				for _, restart := range []time.Duration{0, 500 * time.Millisecond, 3 * time.Second, 20 * time.Second, 50 * time.Second} {
					out = append(out, reply{kind, delay, hang, restart})
				}
			}
		}
	}
	return out
}

// faulty matches the call that a job makes.
func (j job) faulty(r reply) pvetest.Fault {
	f := pvetest.Fault{Kind: r.kind, Delay: r.delay, Hang: r.hang, Method: "POST", Path: "/nodes/*/" + string(j.kind) + "/101/status/" + j.what}
	switch {
	case j.what == "set_config":
		f.Method, f.Path = "PUT", "/nodes/*/"+string(j.kind)+"/101/config"
	case j.what == "destroy":
		f.Method, f.Path = "DELETE", "/nodes/*/"+string(j.kind)+"/101"
	case j.what == "provision" && j.kind == guest.QEMU:
		f.Path = "/nodes/*/qemu/900/clone"
	case j.what == "provision":
		f.Path = "/nodes/*/lxc"
	}
	return f
}

func loseOnce(t *testing.T, j job, r reply, b broken) (v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		w := j.beginFaulty(t, r, b)
		if j.what == "destroy" { // which is long after the beginning
			w.awaitSending(j, time.Second)
		}
		w.restartAfter(r.restart)
		time.Sleep(j.takes())
		if left := w.sim.Faults(); len(left) > 0 {
			t.Errorf("the fault did not happen: %+v", left)
		}
		v = w.conclude(j)
	})
	return v
}

// beginFaulty begins a job whose call a node treats as r says.
func (j job) beginFaulty(t *testing.T, r reply, b broken) *world {
	t.Helper()
	w := newWorld(t, j.specs(), 1)
	w.broken = b
	if _, err := w.sim.Inject(j.faulty(r)); err != nil {
		t.Fatal(err)
	}
	w.mustStart(nil)
	j.begin(w)
	return w
}

// awaitSending looks every so often whether the faulty call was made, and returns when it was.
func (w *world) awaitSending(j job, every time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(j.takes()); len(w.sim.Faults()) > 0; time.Sleep(every) {
		if time.Now().After(end) {
			w.t.Fatal("the request was never sent")
		}
	}
}

// restartAfter kills the agent after so long and begins a new one; after 0 it lives on.
func (w *world) restartAfter(d time.Duration) {
	w.t.Helper()
	if d == 0 {
		return
	}
	time.Sleep(d)
	w.bury(cutter("kill"))
	w.mustStart(nil)
}

// TestTortureLostReplies loses the answer to each kind of sending in each way.
func TestTortureLostReplies(t *testing.T) {
	notUnderRace(t)
	stride := size(61, 29, 1)
	turn := 0
	for _, j := range jobs("set_config", "start", "shutdown", "provision", "destroy") {
		var v Verdict
		row := Row{Scenario: "core/lost reply " + j.String()}
		for _, r := range replies() {
			if turn++; turn%stride != 0 || timeUp(t, &row, 0.6) {
				continue
			}
			row.Points++
			v.Add(r.String(), loseOnce(t, j, r, broken{}))
		}
		report(t, row, v)
	}
}
