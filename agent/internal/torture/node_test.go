// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// event is something that happens to the host while an operation is under way whose answer may be lost.
type event struct {
	name string
	// at is when after the beginning.
	at time.Duration
	// lost: the answer to the sending is lost, and it takes effect after delay.
	lost  bool
	delay time.Duration
	// down is for how long the agent is away then, 0 if it goes on.
	down time.Duration
	do   func(w *world)
	// away: the guest is on another node then, where nothing is ours to do.
	away bool
}

func (e event) String() string {
	return fmt.Sprintf("%s after %v, lost %v, effect after %v, agent down %v", e.name, e.at, e.lost, e.delay, e.down)
}

// each is an event at every moment, with and without its answer and the agent.
func each(name string, do func(w *world), downs ...time.Duration) (out []event) {
	for _, at := range []time.Duration{50 * time.Millisecond, 500 * time.Millisecond, 4 * time.Second, 20 * time.Second} {
		for _, down := range downs {
			out = append(out, event{name: name, at: at, down: down, do: do})
			for _, delay := range []time.Duration{0, 2 * time.Second, 15 * time.Second, 45 * time.Second} {
				out = append(out, event{name: name, at: at, lost: true, delay: delay, down: down, do: do})
			}
		}
	}
	return out
}

// happen does a job while something happens, and judges.
func happen(t *testing.T, j job, ev event) (v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, append(j.specs(), spec(guest.LXC, unwanted, false)), 1)
		if ev.lost {
			if _, err := w.sim.Inject(j.faulty(reply{kind: pvetest.FaultLost, delay: ev.delay, hang: time.Millisecond})); err != nil {
				t.Fatal(err)
			}
		}
		w.mustStart(nil)
		j.begin(w)
		time.Sleep(ev.at)
		if ev.down > 0 {
			w.bury(cutter("kill"))
		}
		ev.do(w)
		if ev.down > 0 {
			time.Sleep(ev.down)
			w.mustStart(nil)
		}
		time.Sleep(15 * time.Minute)
		v = w.judge(true)
		v.Add("plan", w.judgeConverged())
		if ev.away {
			v.Add("end", w.judgeAway())
		} else {
			v.Add("end", j.judgeEnd(w))
		}
		if twin := w.agent.eng.Status().Twin; twin != "" {
			v.Jam("it takes itself for two: %s", twin)
		}
		w.stop()
	})
	return v
}

// TestTortureClock sets the host's clock while an operation is under way, forward and back, the agent alive or away: what
// is proven by times must not be believed then, and no time that lies in the future holds anything up.
func TestTortureClock(t *testing.T) {
	notUnderRace(t)
	var all []event
	for _, by := range []time.Duration{-time.Hour, -90 * time.Second, -5 * time.Second, 90 * time.Second, time.Hour} {
		all = append(all, each(fmt.Sprintf("clock set by %v", by), func(w *world) { w.setClock(by) }, 0, time.Second, 20*time.Second)...)
	}
	tryEvents(t, "clock", size(127, 127, 1), 0.65, all)
}

// TestTortureNode has the node boot anew, its daemons restart, and its task list forget, while an operation is under way.
func TestTortureNode(t *testing.T) {
	notUnderRace(t)
	all := each("node lost its power", func(w *world) { w.sim.Crashed() }, time.Second, time.Minute)
	all = append(all, each("PVE's daemons restarted", func(w *world) { w.sim.KillTasks() }, 0, time.Second)...)
	all = append(all, each("task list rolled over", (*world).rollOver, 0, time.Second)...)
	moved := each("guest moved to another node", func(w *world) { _ = w.sim.Move(101, "pve2") }, 0, time.Second)
	for i := range moved {
		moved[i].away = true
	}
	tryEvents(t, "node", size(127, 127, 1), 0.7, append(all, moved...))
}

// judgeAway wants the agent to say that the guest is elsewhere, and nothing more.
func (w *world) judgeAway() (v Verdict) {
	if view, err := w.agent.eng.View(101); err != nil || !strings.Contains(fmt.Sprint(view), "another node") {
		v.Jam("it does not say where the guest is: %+v", view)
	}
	return v
}

// TestTortureClonedHost has two agents with one token, as after a host was cloned, who are told the opposite of each
// other. One of them at least notices and changes nothing any more; it is not fought out on the guest.
func TestTortureClonedHost(t *testing.T) {
	notUnderRace(t)
	var v Verdict
	row := Row{Scenario: "core/cloned host"}
	for _, k := range []guest.Kind{guest.LXC, guest.QEMU} {
		for _, apart := range []time.Duration{0, time.Second, time.Minute} {
			row.Points++
			v.Add(fmt.Sprintf("%s, %v apart", k, apart), cloned(t, k, apart))
		}
	}
	report(t, row, v)
}

func cloned(t *testing.T, k guest.Kind, apart time.Duration) (v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		one := newWorld(t, []pvetest.GuestSpec{spec(k, 101, false)}, 1)
		two := &world{t: t, sim: one.sim, client: one.client, fs: fault.New(), cache: &memCache{}}
		two.mustStart(nil)
		time.Sleep(2 * time.Minute) // what is older than its journal is not held against anybody
		one.mustStart(nil)
		time.Sleep(2 * time.Minute)
		for i, w := range []*world{one, two} {
			doc := fmt.Sprintf("[guest.101]\nkind = %q\nrun = %q\non_manual_change = \"revert\"\n", k, []string{"running", "stopped"}[i])
			if err := w.desire(doc); err != nil {
				t.Fatal(err)
			}
			time.Sleep(apart)
		}
		time.Sleep(2 * time.Hour)
		if one.agent.eng.Status().Twin == "" && two.agent.eng.Status().Twin == "" {
			v.Jam("neither noticed that there are two")
		}
		if n := len(one.sim.Record()); n > 4 {
			v.Double("they changed the guest %d times", n)
		}
		one.stop()
		two.stop()
	})
	return v
}

func tryEvents(t *testing.T, name string, stride int, part float64, all []event) {
	for n, j := range jobs("set_config", "start", "shutdown") {
		t.Run(strings.ReplaceAll(j.String(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			var v Verdict
			row := Row{Scenario: "core/" + name + " " + j.String()}
			for i, ev := range all {
				if (n*len(all)+i+1)%stride == 0 && !timeUp(t, &row, part) {
					row.Points++
					v.Add(ev.String(), happen(t, j, ev))
				}
			}
			report(t, row, v)
		})
	}
}

// rollOver has so many tasks of others end that the task list forgets what was there before.
func (w *world) rollOver() {
	o := w.sim.Operator(guest.LXC)
	for range 1100 {
		_, _ = o.Stop(w.t.Context(), unwanted) // refused at once, which is a task too
	}
}
