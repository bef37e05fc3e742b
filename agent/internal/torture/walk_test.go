// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// walk is a world in which anything may happen next.
type walk struct {
	*world
	rnd   *rand.Rand
	specs []pvetest.GuestSpec
	// ever are the guests that some accepted document named.
	ever map[guest.VMID]bool
	log  []string
}

// steps are what may happen, each as often as it is listed.
var steps = []struct {
	name   string
	weight int
	do     func(k *walk)
}{
	{"wait", 20, func(*walk) {}},
	{"new document", 10, (*walk).newDocument},
	{"bad document", 1, func(k *walk) { k.badDocument() }},
	{"empty document", 1, func(k *walk) { _ = k.desire("# nothing\n") }},
	{"hook event", 6, (*walk).event},
	{"hint", 2, func(k *walk) { k.agent.eng.Hint(context.Background(), plugin.Hint{All: true}) }},
	{"apply", 3, (*walk).apply},
	{"pause", 2, (*walk).pause},
	{"resume", 4, (*walk).resume},
	{"somebody changes a guest", 8, (*walk).drift},
	{"guest fails", 3, (*walk).fail},
	{"lock", 2, (*walk).lock},
	{"plugin dies", 5, (*walk).pluginDies},
	{"PVE fault", 12, (*walk).pveFault},
	{"agent dies", 4, (*walk).agentDies},
	{"agent is restarted", 2, func(k *walk) { k.stop(); k.mustStart(nil) }},
	{"disk full", 1, func(k *walk) { k.fs.SetQuota(k.fs.Used() + int64(k.rnd.IntN(2000))) }},
	{"disk has room", 2, func(k *walk) { k.fs.SetQuota(-1) }},
	{"disk fails", 1, (*walk).diskFails},
}

func (k *walk) step() {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := k.rnd.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			k.note("%s", s.name)
			s.do(k)
			break
		}
	}
	if errors.Is(k.agent.jrn.Err(), journal.ErrFailed) && k.rnd.IntN(4) == 0 {
		k.note("the journal failed: the agent is restarted")
		k.stop()
		k.mustStart(nil)
	}
	// Some steps end within a call that is under way, others long after.
	time.Sleep(time.Duration(k.rnd.ExpFloat64() * float64([]time.Duration{50 * time.Millisecond, 3 * time.Second, 40 * time.Second}[k.rnd.IntN(3)])))
	synctest.Wait()
}

func (k *walk) note(format string, args ...any) {
	k.log = append(k.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (k *walk) pick() pvetest.GuestSpec { return k.specs[k.rnd.IntN(len(k.specs))] }

func (k *walk) document(all bool) (string, map[guest.VMID]bool) {
	var b strings.Builder
	named := map[guest.VMID]bool{}
	for _, s := range k.specs {
		if !all && k.rnd.IntN(4) == 0 || s.VMID == unwanted {
			continue
		}
		named[guest.VMID(s.VMID)] = true
		fmt.Fprintf(&b, "[guest.%d]\nkind = %q\n", s.VMID, s.Kind)
		if k.rnd.IntN(4) > 0 {
			fmt.Fprintf(&b, "run = %q\n", []string{"running", "stopped"}[k.rnd.IntN(2)])
		}
		if k.rnd.IntN(2) == 0 {
			fmt.Fprintf(&b, "cores = %d\n", 1+k.rnd.IntN(4))
		}
		if k.rnd.IntN(3) == 0 {
			fmt.Fprintf(&b, "description = %q\n", fmt.Sprint("d", k.rnd.IntN(3)))
		}
		if k.rnd.IntN(3) == 0 {
			b.WriteString("on_manual_change = \"revert\"\n")
		}
	}
	return b.String(), named
}

func (k *walk) newDocument() {
	doc, named := k.document(false)
	if err := k.desire(doc); err == nil {
		maps.Copy(k.ever, named)
	} else {
		k.note("not accepted: %v", err)
	}
}

func (k *walk) badDocument() {
	if err := k.desire("[guest.101]\nkind = \"lxc\"\ncorse = 1\n"); err == nil {
		k.wrong.Lose("a document with an unknown key was accepted")
	}
}

func (k *walk) event() {
	p := []guest.Phase{guest.PreStart, guest.PostStart, guest.PreStop, guest.PostStop}[k.rnd.IntN(4)]
	ev := hook.Event{ID: fmt.Sprint("e", k.rnd.IntN(1000)), VMID: guest.VMID(k.pick().VMID), Phase: p, Time: time.Now().UnixNano()}
	for range 1 + k.rnd.IntN(2) {
		_ = k.agent.eng.Events(context.Background(), []hook.Event{ev})
	}
}

// background runs something that may take long; it ends with the world.
func (k *walk) background(f func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	go func() { defer cancel(); f(ctx) }()
}

func (k *walk) apply() {
	a := k.agent
	k.background(func(ctx context.Context) { _, _ = a.eng.Apply(ctx, engine.Asked{By: "operator"}) })
}

func (k *walk) someone() guest.VMID {
	if k.rnd.IntN(4) == 0 {
		return 0
	}
	return guest.VMID(k.pick().VMID)
}

func (k *walk) pause()  { _ = k.agent.eng.Pause(context.Background(), k.someone(), "operator") }
func (k *walk) resume() { _ = k.agent.eng.Resume(context.Background(), k.someone(), "operator") }

func (k *walk) drift() {
	g := k.pick()
	o := k.sim.Operator(g.Kind)
	n := k.rnd.IntN(4)
	k.background(func(ctx context.Context) {
		switch n {
		case 0:
			_, _ = o.Start(ctx, g.VMID)
		case 1:
			_, _ = o.Stop(ctx, g.VMID)
		case 2:
			_, _ = o.Shutdown(ctx, g.VMID, time.Minute, false)
		default:
			_ = o.Set(ctx, g.VMID, map[string]string{"cores": "3"})
		}
	})
}

func (k *walk) fail() {
	g := k.pick().VMID
	switch k.rnd.IntN(3) {
	case 0:
		_ = k.sim.Poweroff(g)
	case 1:
		_ = k.sim.Crash(g)
	default:
		_ = k.sim.RebootInside(g)
	}
}

func (k *walk) lock() {
	_ = k.sim.SetLock(k.pick().VMID, []string{"backup", "", ""}[k.rnd.IntN(3)])
}

func (k *walk) pluginDies() {
	k.agent.killPlugin()
	time.Sleep(time.Duration(k.rnd.IntN(5000)) * time.Millisecond)
	k.agent.startPlugin()
	k.agent.eng.Hint(context.Background(), plugin.Hint{All: true})
}

func (k *walk) pveFault() {
	f := pvetest.Fault{
		Kind:  []pvetest.FaultKind{pvetest.FaultDelay, pvetest.FaultLost, pvetest.FaultTimeout, pvetest.FaultStatus, pvetest.FaultTask}[k.rnd.IntN(5)],
		Delay: []time.Duration{0, time.Second, 15 * time.Second, 45 * time.Second}[k.rnd.IntN(4)],
		Hang:  []time.Duration{time.Millisecond, 5 * time.Second, 30 * time.Second}[k.rnd.IntN(3)],
		Times: 1 + k.rnd.IntN(3),
	}
	if f.Kind == pvetest.FaultDelay {
		f.Delay = min(f.Delay, 15*time.Second)
	}
	f.Method = []string{"POST", "PUT", "GET"}[k.rnd.IntN(3)]
	if f.Method == "GET" {
		f.Delay = min(f.Delay, time.Second)
	}
	if f.Kind == pvetest.FaultStatus {
		f.Status, f.Reason = []int{500, 503, 595}[k.rnd.IntN(3)], "simulated trouble"
	}
	if f.Kind == pvetest.FaultTask {
		f.Task, f.Reason = []string{"vzstart", "vzshutdown", "qmstart", "qmshutdown"}[k.rnd.IntN(4)], "simulated failure"
	}
	k.note("  %+v", f)
	if _, err := k.sim.Inject(f); err != nil {
		k.t.Error(err)
	}
}

// agentDies kills the agent, or cuts the power of its disk only, at this moment.
func (k *walk) agentDies() {
	power := k.rnd.IntN(2) == 0
	k.bury(func(f *fault.FS) {
		if !power {
			f.Kill()
			return
		}
		var choice []int
		for _, c := range f.Choices() {
			choice = append(choice, k.rnd.IntN(c))
		}
		f.PowerCut(choice)
	})
	time.Sleep(time.Duration(k.rnd.IntN(70000)) * time.Millisecond)
	k.mustStart(nil)
}

// diskFails lets one call fail, and restarts the agent if that ended its writing.
func (k *walk) diskFails() {
	at := len(k.fs.Calls()) + 1 + k.rnd.IntN(20)
	k.fs.Inject(func(c fault.Call) fault.Action {
		if c.N == at {
			return fault.Action{Err: fmt.Errorf("disk: %w", syscall.EIO)}
		}
		return fault.Action{}
	})
}

// heal takes everything away that keeps the agent from its work.
func (k *walk) heal() {
	k.sim.ClearFaults()
	k.fs.SetQuota(-1)
	for _, s := range k.specs {
		_ = k.sim.SetLock(s.VMID, "")
	}
	time.Sleep(3 * time.Minute) // what was lost and late has arrived
	k.stop()
	k.mustStart(nil)
	doc, named := k.document(true)
	maps.Copy(k.ever, named)
	if err := k.desire(doc); err != nil {
		k.wrong.Jam("a good document is not accepted after everything healed: %v", err)
	}
	ids := []guest.VMID{0}
	for _, s := range k.specs {
		ids = append(ids, guest.VMID(s.VMID))
	}
	for _, id := range ids {
		if err := k.agent.eng.Resume(context.Background(), id, "operator"); err != nil {
			k.wrong.Jam("resume: %v", err)
		}
	}
	time.Sleep(30 * time.Minute)
	synctest.Wait()
}

// untouched finds mutations of guests that no document ever named (P1).
func (k *walk) untouched() (v Verdict) {
	for _, m := range k.sim.Record() {
		if m.User == user && !k.ever[guest.VMID(m.VMID)] {
			v.Lose("%s, whom nobody wanted changed", words(m))
		}
	}
	return v
}

// unwanted is a guest that no document names.
const unwanted = 900

func walkOnce(t *testing.T, seed uint64, n int, b broken) (v Verdict) {
	synctest.Test(t, func(t *testing.T) {
		k := &walk{rnd: rand.New(rand.NewPCG(seed, 4)), ever: map[guest.VMID]bool{}}
		for i, kind := range []guest.Kind{guest.LXC, guest.QEMU, guest.LXC} {
			k.specs = append(k.specs, spec(kind, 101+i, k.rnd.IntN(2) == 0))
		}
		k.specs = append(k.specs, spec(guest.LXC, unwanted, true))
		k.world = newWorld(t, k.specs, seed)
		k.world.broken = b
		k.mustStart(nil)
		k.newDocument()
		for i := range n {
			k.step()
			if v = k.judge(false); !v.OK() {
				k.note("step %d: not as it must be", i)
				break
			}
		}
		if v.OK() {
			k.heal()
			v = k.judge(true)
			v.Add("plan", k.judgeConverged())
		}
		v.Add("unwanted", k.untouched())
		k.stop()
		time.Sleep(3 * time.Minute) // what runs in the background ends
		if !v.OK() {
			v.Texts = append(v.Texts, strings.Join(k.log[max(0, len(k.log)-25):], "\n"))
		}
	})
	return v
}

// TestTortureWalk lets anything happen in any order. FELHOM_SEED repeats what it prints.
func TestTortureWalk(t *testing.T) {
	onDemand(t)
	notUnderRace(t)
	rounds, length := size(3, 6, 400), size(25, 40, 60)
	seed := seedOf(t)
	fmt.Printf("torture: random walk with FELHOM_SEED=%d\n", seed)
	var v Verdict
	row := Row{Scenario: "core/random walk"}
	for i := range rounds {
		if timeUp(t, &row, 0.78) {
			break
		}
		row.Rounds++
		got := walkOnce(t, seed+uint64(i), length, broken{})
		v.Add(fmt.Sprintf("FELHOM_SEED=%d", seed+uint64(i)), got)
		if len(v.Texts) > 0 {
			v.Texts = append(v.Texts, got.Texts[max(0, len(got.Texts)-1):]...)
			break
		}
	}
	report(t, row, v)
}
