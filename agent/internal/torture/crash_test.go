// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// job is one operation that the agent is made to do.
type job struct {
	kind guest.Kind
	what string // set_config, start, shutdown, both (a write, then a start)
}

func (j job) String() string { return string(j.kind) + " " + j.what }

func (j job) spec() pvetest.GuestSpec { return spec(j.kind, 101, j.what == "shutdown") }

func (j job) document() string {
	doc := fmt.Sprintf("[guest.101]\nkind = %q\n", j.kind)
	switch j.what {
	case "start":
		return doc + "run = \"running\"\n"
	case "shutdown":
		return doc + "run = \"stopped\"\n"
	case "both":
		return doc + "run = \"running\"\ncores = 2\n"
	}
	return doc + "cores = 2\n"
}

func jobs(whats ...string) (out []job) {
	for _, k := range []guest.Kind{guest.LXC, guest.QEMU} {
		for _, w := range whats {
			out = append(out, job{k, w})
		}
	}
	return out
}

// asWanted tells how the guest differs from the document at the end, "" if it does not.
func (j job) asWanted(sim *pvetest.Sim) string {
	op := sim.Operator(j.kind)
	run := map[string]guest.RunState{"start": guest.Running, "both": guest.Running, "shutdown": guest.Stopped}[j.what]
	for _, g := range op.List() {
		if g.VMID == 101 && run != "" && fmt.Sprint(g.Status) != string(run) {
			return fmt.Sprintf("the guest is %v", g.Status)
		}
	}
	c, err := op.Config(101, false)
	if err != nil {
		return err.Error()
	}
	if (j.what == "both" || j.what == "set_config") && fmt.Sprint(c["cores"]) != "2" {
		return fmt.Sprintf("the guest has %v cores", c["cores"])
	}
	return ""
}

// crash is one way to end the agent while it does a job: at the n-th time of a named point, or at a call to the file
// system, and what the successor finds.
type crash struct {
	point string
	call  int
	act   fault.Action
	cut   string // kill, power-none, power-all
}

func (c crash) String() string {
	if c.point != "" {
		return "at " + c.point + ", " + c.cut
	}
	return fmt.Sprintf("call %d err %v crash %d, %s", c.call, c.act.Err, c.act.Crash, c.cut)
}

func cutter(how string) func(*fault.FS) {
	return func(f *fault.FS) {
		if how == "kill" {
			f.Kill()
			return
		}
		var choice []int
		for _, n := range f.Choices() {
			if how == "power-all" {
				choice = append(choice, n-1)
			} else {
				choice = append(choice, 0)
			}
		}
		f.PowerCut(choice)
	}
}

// crashOnce runs a job, crashes it, and lets a successor finish it.
func crashOnce(t *testing.T, j job, c crash, b broken) (v Verdict, calls []fault.Call) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []pvetest.GuestSpec{j.spec()}, 1)
		w.broken = b
		if c.call > 0 {
			w.broken.disk = func(f fault.Call) fault.Action {
				if f.N == c.call {
					return c.act
				}
				return fault.Action{}
			}
		}
		err := w.start(func(a *agent, point string) {
			if point == c.point {
				a.kill()
			}
		})
		if err == nil {
			_ = w.desire(j.document())
			time.Sleep(5 * time.Minute) // the work, or nothing after a crash
			calls = w.fs.Calls()
			v.Add("before", w.wrong)
			w.broken.disk = b.disk
			w.bury(cutter(c.cut))
		} else {
			w.fs = w.fs.Clone()
			cutter(c.cut)(w.fs)
			w.broken.disk = b.disk
		}
		v.Add("after", finish(w, j))
	})
	return v, calls
}

// finish starts a successor, lets it work, and judges.
func finish(w *world, j job) (v Verdict) {
	if err := w.start(nil); err != nil {
		v.Jam("the journal cannot be opened: %v", err)
		return v
	}
	if err := w.desire(j.document()); err != nil {
		v.Jam("the desired state is not accepted: %v", err)
	}
	time.Sleep(10 * time.Minute)
	v = w.judge(true)
	v.Add("plan", w.judgeConverged())
	if why := j.asWanted(w.sim); why != "" {
		v.Jam("in the end %s", why)
	}
	w.stop()
	return v
}

// faults are what may happen to each call to the file system that changes something while a job is done.
func faults(calls []fault.Call, cuts []string) (out []crash) {
	for _, call := range calls {
		n := call.N
		switch call.Op[strings.LastIndex(call.Op, ":")+1:] {
		case "READ", "READDIR", "SIZE", "CLOSE", "CHMOD":
			continue
		}
		for _, m := range []fault.Moment{fault.Before, fault.After} {
			for _, cut := range cuts {
				out = append(out, crash{call: n, act: fault.Action{Crash: m}, cut: cut})
			}
		}
		for _, e := range []error{syscall.EIO, syscall.ENOSPC} {
			out = append(out, crash{call: n, act: fault.Action{Err: e}, cut: "kill"})
		}
	}
	return out
}

var points = []string{
	engine.CrashBeforeIntent, engine.CrashIntent, engine.CrashHandle, engine.CrashSent, engine.CrashOutcome,
}

// TestTortureCrash ends the agent's core at each named point and at each call to the file system of each kind of work,
// and lets a successor find what is left.
func TestTortureCrash(t *testing.T) {
	notUnderRace(t)
	stride := size(97, 31, 1)
	cuts := []string{"kill", "power-none", "power-all"}
	for _, j := range jobs("set_config", "start", "shutdown", "both") {
		t.Run(strings.ReplaceAll(j.String(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			v, calls := crashOnce(t, j, crash{cut: "kill"}, broken{})
			turn := len(j.what)
			row := Row{Scenario: "core/crash " + j.String(), Points: 1}
			for _, p := range points {
				for _, cut := range cuts {
					if turn++; stride > 1 && turn%5 != 0 {
						continue
					}
					tryCrash(t, &v, &row, j, crash{point: p, cut: cut})
				}
			}
			for _, c := range faults(calls, cuts) {
				if turn++; turn%stride == 0 {
					tryCrash(t, &v, &row, j, c)
				}
			}
			report(t, row, v)
		})
	}
}

func tryCrash(t *testing.T, v *Verdict, row *Row, j job, c crash) {
	got, _ := crashOnce(t, j, c, broken{})
	v.Add(c.String(), got)
	row.Points++
}
