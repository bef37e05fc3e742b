// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// TestPower: each action on guests of both kinds and states.
func TestPower(t *testing.T) {
	lxc, vm := guest.LXC, guest.QEMU
	tests := []struct {
		kind    plugin.ActionKind
		of      guest.Kind
		vmid    guest.VMID
		status  plugin.Status
		task    string // its type, "" for none
		changes []string
		undo    plugin.ActionKind
		after   guest.RunState
	}{
		{plugin.Start, lxc, 101, plugin.Done, "vzstart", []string{"start"}, plugin.Shutdown, guest.Running},
		{plugin.Start, vm, 201, plugin.Done, "qmstart", []string{"start"}, plugin.Shutdown, guest.Running},
		{plugin.Start, lxc, 102, plugin.Done, "", nil, "", guest.Running},
		{plugin.Start, vm, 202, plugin.Done, "", nil, "", guest.Running},
		{plugin.Stop, lxc, 102, plugin.Done, "vzstop", []string{"stop"}, plugin.Start, guest.Stopped},
		{plugin.Stop, vm, 202, plugin.Done, "qmstop", []string{"stop"}, plugin.Start, guest.Stopped},
		{plugin.Stop, lxc, 101, plugin.Done, "", nil, "", guest.Stopped},
		{plugin.Stop, vm, 201, plugin.Done, "", nil, "", guest.Stopped},
		{plugin.Shutdown, lxc, 102, plugin.Done, "vzshutdown", []string{"shutdown"}, plugin.Start, guest.Stopped},
		{plugin.Shutdown, vm, 202, plugin.Done, "qmshutdown", []string{"shutdown"}, plugin.Start, guest.Stopped},
		{plugin.Shutdown, vm, 201, plugin.Done, "", nil, "", guest.Stopped},
		{plugin.Reboot, lxc, 102, plugin.Done, "vzreboot", []string{"reboot", "reboot-start"}, "", guest.Running},
		{plugin.Reboot, lxc, 101, plugin.Refused, "", nil, "", guest.Stopped},
		{plugin.Reboot, vm, 201, plugin.Refused, "", nil, "", guest.Stopped},
		{plugin.Start, vm, 999, plugin.Refused, "", nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(string(tt.kind)+" "+guest.ID{Kind: tt.of, VMID: tt.vmid}.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				n := len(r.sim.Record())
				got := apply(t.Context(), r.Driver, act(tt.kind, tt.of, tt.vmid), "")
				if got.err != nil || got.Status != tt.status || got.Message == "" {
					t.Errorf("%+v", got)
				}
				if diff := cmp.Diff(tt.changes, r.changes(n)); diff != "" {
					t.Errorf("changes (-want +got):\n%s", diff)
				}
				if (len(got.handles) == 1) != (tt.task != "") || tt.task != "" && !strings.Contains(got.handles[0], ":"+tt.task+":") {
					t.Errorf("handles %q, want one of %q", got.handles, tt.task)
				}
				if tt.undo == "" != (got.Undo == nil) || got.Undo != nil && got.Undo.Kind != tt.undo {
					t.Errorf("undo %+v, want %q", got.Undo, tt.undo)
				}
				if tt.after != "" && r.run(tt.of, tt.vmid) != tt.after {
					t.Errorf("the guest is %s", r.run(tt.of, tt.vmid))
				}
			})
		})
	}
}

// TestPowerChecks: what must not be sent is not sent.
func TestPowerChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		with := func(change func(*plugin.Action)) plugin.Action {
			a := act(plugin.Shutdown, guest.LXC, 102)
			change(&a)
			return a
		}
		for name, a := range map[string]plugin.Action{
			"another node":       with(func(a *plugin.Action) { a.Node = "pve2" }),
			"config keys":        with(func(a *plugin.Action) { a.Set = map[string]string{"cores": "1"} }),
			"timeout no number":  with(func(a *plugin.Action) { a.Params = map[string]string{"timeout": "1m"} }),
			"timeout zero":       with(func(a *plugin.Action) { a.Params = map[string]string{"timeout": "0"} }),
			"timeout too long":   with(func(a *plugin.Action) { a.Params = map[string]string{"timeout": "99999999"} }),
			"unknown parameter":  with(func(a *plugin.Action) { a.Params = map[string]string{"skiplock": "1"} }),
			"timeout of a start": with(func(a *plugin.Action) { a.Kind = plugin.Start; a.Params = map[string]string{"timeout": "5"} }),
			"no guest":           with(func(a *plugin.Action) { a.Guest.Kind = "x" }),
		} {
			if got := apply(t.Context(), r.Driver, a, ""); !errors.Is(got.err, plugin.ErrInvalid) {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if got := apply(t.Context(), r.Driver, act(plugin.Stop, guest.LXC, 102), "UPID:x"); !errors.Is(got.err, plugin.ErrInvalid) {
			t.Errorf("bad handle: %+v", got)
		}
		if c := r.changes(0); len(c) > 0 {
			t.Errorf("changed %q", c)
		}
	})
}

// TestLockIsRespected: whatever the action, a locked guest is left alone, a
// container's reboot included, which PVE itself would begin.
func TestLockIsRespected(t *testing.T) {
	for _, a := range []plugin.Action{
		act(plugin.Start, guest.LXC, 101), act(plugin.Stop, guest.LXC, 102), act(plugin.Shutdown, guest.LXC, 102), act(plugin.Reboot, guest.LXC, 102),
		act(plugin.Start, guest.QEMU, 201), act(plugin.Stop, guest.QEMU, 202), act(plugin.Reboot, guest.QEMU, 202),
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			if err := r.sim.SetLock(int(a.Guest.VMID), "backup"); err != nil {
				t.Fatal(err)
			}
			got := apply(t.Context(), r.Driver, a, "")
			if got.err != nil || got.Status != plugin.Retry || got.Reason != "locked" || got.RetryAfter <= 0 || !strings.Contains(got.Message, "backup") {
				t.Errorf("%s %s: %+v", a.Kind, a.Guest, got)
			}
			if c := r.changes(0); len(c) > 0 || len(got.handles) > 0 {
				t.Errorf("%s %s: changed %q", a.Kind, a.Guest, c)
			}
		})
	}
}

// TestPowerAnswers: what PVE answers to the call itself.
func TestPowerAnswers(t *testing.T) {
	tests := []struct {
		code   int
		reason string
		kind   plugin.ActionKind
		want   plugin.Outcome // Status and Reason
	}{
		{500, "CT 101 already running", plugin.Start, plugin.Outcome{Status: plugin.Done}},
		{500, "CT 102 not running", plugin.Stop, plugin.Outcome{Status: plugin.Done}},
		{500, "VM 102 not running", plugin.Reboot, plugin.Outcome{Status: plugin.Refused}},
		{500, "CT is locked (backup)", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "locked"}},
		{500, "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "busy"}},
		{500, "cluster not ready - no quorum?", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "quorum"}},
		{500, "failed to read from command socket: Connection reset by peer", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "transient"}},
		{500, "got no worker upid - start worker failed", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "transient"}},
		{595, "Connection refused", plugin.Start, plugin.Outcome{Status: plugin.Retry, Reason: "unreachable"}},
		{403, "Permission check failed (/vms/101, VM.PowerMgmt)", plugin.Start, plugin.Outcome{Status: plugin.Refused}},
		{401, "Authentication failed!", plugin.Start, plugin.Outcome{Status: plugin.Refused}},
		{400, "Parameter verification failed.", plugin.Start, plugin.Outcome{Status: plugin.Refused}},
		{501, "Method 'POST /x' not implemented", plugin.Start, plugin.Outcome{Status: plugin.Refused}},
		{500, "Configuration file 'nodes/pve1/lxc/101.conf' does not exist", plugin.Start, plugin.Outcome{Status: plugin.Refused}},
		{500, "something odd", plugin.Start, plugin.Outcome{Status: plugin.Failed}},
		{500, "can't lock file '/var/log/pve/tasks/.active.lock' - got timeout", plugin.Start, plugin.Outcome{Status: plugin.Unknown}},
		{596, "Connection timed out", plugin.Start, plugin.Outcome{Status: plugin.Unknown}},
		{599, "Too many redirections", plugin.Start, plugin.Outcome{Status: plugin.Unknown}},
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, tt := range tests {
			if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultStatus, Method: "POST", Status: tt.code, Reason: tt.reason}); err != nil {
				t.Fatal(err)
			}
			vmid := guest.VMID(101)
			if tt.kind != plugin.Start {
				vmid = 102
			}
			got := apply(t.Context(), r.Driver, act(tt.kind, guest.LXC, vmid), "")
			if got.err != nil || got.Status != tt.want.Status || got.Reason != tt.want.Reason || !strings.Contains(got.Message, tt.reason) {
				t.Errorf("%d %s: %+v", tt.code, tt.reason, got)
			}
			if (got.RetryAfter > 0) != (got.Status == plugin.Retry) {
				t.Errorf("%s: retry after %v", tt.reason, got.RetryAfter)
			}
		}
	})
}

// TestTaskEnds: what the task ends with.
func TestTaskEnds(t *testing.T) {
	tests := []struct {
		kind   plugin.ActionKind
		task   string
		text   string
		status plugin.Status
		reason string
	}{
		{plugin.Start, "vzstart", "startup for container '101' failed", plugin.Failed, ""},
		{plugin.Start, "vzstart", "CT is locked (snapshot)", plugin.Retry, "locked"},
		{plugin.Start, "vzstart", "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout", plugin.Retry, "busy"},
		{plugin.Start, "vzstart", "unexpected status", plugin.Unknown, ""},
		{plugin.Start, "vzstart", "CT 101 already running", plugin.Done, ""},
		{plugin.Reboot, "vzreboot", "CT is locked (backup)", plugin.Failed, ""}, // it was stopped by then
		{plugin.Shutdown, "vzshutdown", "container did not stop", plugin.Failed, ""},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultTask, Task: tt.task, Reason: tt.text}); err != nil {
				t.Fatal(err)
			}
			vmid := guest.VMID(101)
			if tt.kind != plugin.Start {
				vmid = 102
			}
			got := apply(t.Context(), r.Driver, act(tt.kind, guest.LXC, vmid), "")
			if got.err != nil || got.Status != tt.status || got.Reason != tt.reason || got.Message != tt.text || len(got.handles) != 1 {
				t.Errorf("%s: %+v", tt.text, got)
			}
			if told := strings.Contains(strings.Join(got.texts, "\n"), "TASK ERROR: "+tt.text); told != (tt.status == plugin.Failed) {
				t.Errorf("%s: the log %q was told", tt.text, got.texts)
			}
		})
	}
}

// TestShutdownTimeout: the parameter reaches PVE, and a guest that does not
// listen is a failure.
func TestShutdownTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Guests[1].Times.NoShutdown = true })
		a := act(plugin.Shutdown, guest.LXC, 102)
		a.Params = map[string]string{"timeout": "7"}
		start := time.Now()
		got := apply(t.Context(), r.Driver, a, "")
		took := time.Since(start)
		if got.err != nil || got.Status != plugin.Failed || took < 7*time.Second || took > 40*time.Second {
			t.Errorf("after %v: %+v", took, got)
		}
		if r.run(guest.LXC, 102) != guest.Running {
			t.Error("the guest was stopped")
		}
	})
}

// TestPVEAway: nothing listens, so nothing was sent.
func TestPVEAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.net.down.Store(true)
		for _, a := range []plugin.Action{act(plugin.Start, guest.LXC, 101), {
			OpID: "x", Attempt: 1, Kind: plugin.SetConfig, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Set: map[string]string{"cores": "1"}, Digest: "d",
		}} {
			if got := apply(t.Context(), r.Driver, a, ""); !errors.Is(got.err, plugin.ErrNotSent) {
				t.Errorf("%s: %+v", a.Kind, got)
			}
		}
	})
}

// TestSlowLook: a look that takes too long ends in not sent, so that a lost
// sending always is inside the host's window.
func TestSlowLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultDelay, Method: "GET", Delay: 20 * time.Second}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got := apply(t.Context(), r.Driver, act(plugin.Start, guest.LXC, 101), "")
		if !errors.Is(got.err, plugin.ErrNotSent) || time.Since(start) != lookBefore {
			t.Errorf("after %v: %+v", time.Since(start), got)
		}
		time.Sleep(time.Minute)
		if c := r.changes(0); len(c) > 0 {
			t.Errorf("changed %q", c)
		}
	})
}

// TestResume: another process waits for the same task and sends nothing.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Guests[0].Times.Start = time.Minute })
		ctx, cancel := context.WithCancel(t.Context())
		a := act(plugin.Start, guest.LXC, 101)
		var handle string
		_, err := r.Apply(ctx, a, "", func(p plugin.Progress) error { handle = p.Handle; cancel(); return nil })
		if !errors.Is(err, context.Canceled) || handle == "" {
			t.Fatalf("handle %q, %v", handle, err)
		}
		other := r.driver("full", secretFull, Options{})
		start := time.Now()
		got := apply(t.Context(), other, a, handle)
		if got.err != nil || got.Status != plugin.Done || time.Since(start) < 50*time.Second || got.Undo == nil {
			t.Errorf("after %v: %+v", time.Since(start), got)
		}
		// The first process too goes on with the task it knows.
		got = apply(t.Context(), r.Driver, a, "")
		if got.err != nil || got.Status != plugin.Done || len(got.handles) != 1 || got.handles[0] != handle {
			t.Errorf("the same attempt again: %+v", got)
		}
		if diff := cmp.Diff([]string{"start"}, r.changes(0)); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	})
}

// TestHandleOfForgottenTask: PVE keeps no log of it any more.
func TestHandleOfForgottenTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		got := apply(t.Context(), r.Driver, act(plugin.Start, guest.LXC, 101), "UPID:pve1:00000001:00000001:5B03F43F:vzstart:101:agent@pve!full:")
		if got.err != nil || got.Status != plugin.Unknown || !strings.Contains(got.Message, "no such task") {
			t.Errorf("%+v", got)
		}
	})
}

// TestHATaskOnlyQueues: that the task is OK is not told as more than it is.
func TestHATaskOnlyQueues(t *testing.T) {
	d := &Driver{}
	j := &job{Action: act(plugin.Start, guest.LXC, 101)}
	for text, warnings := range map[string]int{"OK": 0, "WARNINGS: 2": 2} {
		for typ, queued := range map[string]bool{"hastart": true, "hastop": true, "vzstart": false} {
			o := d.ended(t.Context(), j, pve.TaskStatus{UPID: pve.UPID{Type: typ}, Text: text})
			if o.Status != plugin.Done || o.Warnings != warnings || strings.Contains(o.Message, "queued") != queued {
				t.Errorf("%s %s: %+v", typ, text, o)
			}
		}
	}
}
