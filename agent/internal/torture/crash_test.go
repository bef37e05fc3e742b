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
	what string // set_config, start, shutdown, both (a write, then a start), provision, destroy
}

func (j job) String() string { return string(j.kind) + " " + j.what }

func (j job) specs() []pvetest.GuestSpec {
	if j.what == "provision" { // by a clone, of a virtual machine; the log of that tells of its disks
		source := spec(j.kind, 900, false)
		if j.kind == guest.QEMU {
			source.Config["scsi0"] = "local:900/vm-900-disk-0.qcow2,size=8G"
		}
		return []pvetest.GuestSpec{source}
	}
	return []pvetest.GuestSpec{spec(j.kind, 101, j.what == "shutdown" || j.what == "destroy")}
}

func (j job) document() string {
	doc := fmt.Sprintf("[guest.101]\nkind = %q\n", j.kind)
	switch j.what {
	case "destroy":
		return "# an operator asks for it\n"
	case "provision":
		how := "template = \"" + template + "\", storage = \"local\", config = { rootfs = \"local:8\" }"
		if j.kind == guest.QEMU {
			how = "clone = 900"
		}
		return doc + "cores = 2\nprovision = { " + how + " }\n"
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
	if j.what == "destroy" {
		for _, g := range op.List() {
			if g.VMID == 101 {
				return "the guest is still there"
			}
		}
		return ""
	}
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
	if (j.what == "both" || j.what == "set_config" || j.what == "provision") && fmt.Sprint(c["cores"]) != "2" {
		return fmt.Sprintf("the guest has %v cores", c["cores"])
	}
	return ""
}

// crash is one way to end the agent while it does a job: at the n-th time of a named point, or at a call to the file
// system, and what the successor finds.
type crash struct {
	point string
	nth   int // 0 is the first time, as 1
	call  int
	act   fault.Action
	cut   string // kill, power-none, power-all
	// reuse: somebody makes another guest of the VMID when that is free after the crash.
	reuse bool
}

func (c crash) String() string {
	if c.point != "" {
		return fmt.Sprintf("at %s %d, %s", c.point, max(c.nth, 1), c.cut)
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
		w := newWorld(t, j.specs(), 1)
		w.broken = b
		if c.call > 0 {
			w.broken.disk = func(f fault.Call) fault.Action {
				if f.N == c.call {
					return c.act
				}
				return fault.Action{}
			}
		}
		times := 0
		err := w.start(func(a *agent, point string) {
			if point != c.point {
				return
			}
			w.mu.Lock()
			times++
			now := times == max(c.nth, 1)
			w.mu.Unlock()
			if now {
				a.kill()
			}
		})
		if err == nil {
			j.begin(w)
			time.Sleep(j.takes() / 2) // the work, or nothing after a crash
			calls = w.fs.Calls()
			v.Add("before", w.wrong)
			w.broken.disk = b.disk
			w.bury(cutter(c.cut))
			if c.reuse && j.asWanted(w.sim) == "" {
				w.addStranger(j.kind)
			}
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
	j.begin(w)
	time.Sleep(j.takes())
	if j.what == "destroy" && !w.stranger && j.asWanted(w.sim) != "" {
		// What is irreversible and not known ends there; who still wants it asks anew.
		w.order(j)
		time.Sleep(j.takes())
	}
	return w.conclude(j)
}

// conclude judges all there is when a job should be over, and stops the agent.
func (w *world) conclude(j job) (v Verdict) {
	v = w.judge(true)
	v.Add("plan", w.judgeConverged())
	v.Add("end", j.judgeEnd(w))
	w.stop()
	return v
}

// judgeEnd holds what is there against what was wanted.
func (j job) judgeEnd(w *world) (v Verdict) {
	why := j.asWanted(w.sim)
	switch {
	case !w.stranger && why != "":
		v.Jam("in the end %s", why)
	case w.stranger && why == "":
		v.Double("a stranger that had the VMID since was destroyed")
	}
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
				if turn++; turn%stride == 0 && !timeUp(t, &row, 0.3) {
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
