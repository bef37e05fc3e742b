// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// window is the host's: how long after a sending it may still arrive.
const window = time.Minute

// history makes the node's task list reach back: somebody else's task ended
// a minute ago.
func (r *rig) history() {
	r.t.Helper()
	if _, err := r.sim.Operator(guest.LXC).Stop(context.Background(), 102); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(time.Minute)
}

// lose makes the next request of this method end without an answer; it takes
// effect after delay, or never if delay is negative.
func (r *rig) lose(method string, delay time.Duration) {
	r.t.Helper()
	if delay >= 0 {
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultLost, Method: method, Delay: delay}); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if req.Method != method {
			return false
		}
		panic(http.ErrAbortHandler)
	}
	r.twist.Store(&f)
}

// probe asks about an action that was sent at that time.
func (r *rig) probe(a plugin.Action, sent time.Time) plugin.Verdict {
	r.t.Helper()
	v, err := r.Probe(context.Background(), plugin.ProbeQuery{Action: a, Sent: sent, Until: sent.Add(window)})
	if err != nil {
		r.t.Fatalf("probe: %v", err)
	}
	return v
}

// applyLost carries out an action whose answer gets lost.
func (r *rig) applyLost(a plugin.Action) (sent time.Time) {
	r.t.Helper()
	sent = time.Now()
	if got := apply(context.Background(), r.Driver, a, ""); got.err != nil || got.Status != plugin.Unknown {
		r.t.Fatalf("want an unknown outcome, got %+v", got)
	}
	return sent
}

// TestLostStart: a start whose answer is lost is found once it takes effect,
// however late inside the window, and is not taken for unsent before.
func TestLostStart(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Second, 15 * time.Second, 45 * time.Second} {
		for _, id := range []guest.ID{{Kind: guest.LXC, VMID: 101}, {Kind: guest.QEMU, VMID: 201}} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.history()
				a := act(plugin.Start, id.Kind, id.VMID)
				r.lose("POST", delay)
				sent := r.applyLost(a)
				var v plugin.Verdict
				for v = r.probe(a, sent); v.Finding == plugin.Unclear; v = r.probe(a, sent) {
					if time.Since(sent) > window {
						t.Fatalf("%s after %v: %+v", id, delay, v)
					}
					if !strings.Contains(v.Message, "may still arrive") {
						t.Errorf("unclear: %q", v.Message)
					}
					time.Sleep(2 * time.Second)
				}
				if v.Finding != plugin.Found || !strings.Contains(v.Handle, "start:"+id.VMID.String()+":agent@pve!full:") {
					t.Fatalf("%s after %v: %+v", id, delay, v)
				}
				if got := apply(t.Context(), r.Driver, a, v.Handle); got.err != nil || got.Status != plugin.Done {
					t.Errorf("%+v", got)
				}
				if diff := cmp.Diff([]string{"start"}, r.changes(0)); diff != "" {
					t.Errorf("changes (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestUnsentStart: a start that never arrived is proven unsent only when the
// window is over and the task list reaches back.
func TestUnsentStart(t *testing.T) {
	for _, history := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			if history {
				r.history()
			}
			a := act(plugin.Start, guest.LXC, 101)
			r.lose("POST", -1)
			sent := r.applyLost(a)
			time.Sleep(window - time.Second - time.Since(sent))
			if v := r.probe(a, sent); v.Finding != plugin.Unclear || !strings.Contains(v.Message, "may still arrive") {
				t.Errorf("inside the window: %+v", v)
			}
			time.Sleep(3 * time.Second)
			v := r.probe(a, sent)
			switch {
			case history && v.Finding != plugin.NotSent:
				t.Errorf("a list that reaches back: %+v", v)
			case !history && (v.Finding != plugin.Unclear || !strings.Contains(v.Message, "reach back")):
				t.Errorf("a list that does not: %+v", v)
			}
		})
	}
}

// TestOthersTasksAreNotOurs: somebody else did the same at the same time.
func TestOthersTasksAreNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.history()
		a := act(plugin.Start, guest.LXC, 101)
		r.lose("POST", -1)
		sent := r.applyLost(a)
		if _, err := r.sim.Operator(guest.LXC).Start(t.Context(), 101); err != nil {
			t.Fatal(err)
		}
		time.Sleep(window + 2*time.Second)
		if v := r.probe(a, sent); v.Finding != plugin.NotSent {
			t.Errorf("%+v", v)
		}
	})
}

// TestTasksOfOtherActions: neither another guest's nor another action's.
func TestTasksOfOtherActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Guests = append(o.Guests, container(103, false)) })
		r.history()
		sent := time.Now()
		for _, a := range []plugin.Action{act(plugin.Start, guest.LXC, 103), act(plugin.Stop, guest.QEMU, 202)} {
			if got := apply(t.Context(), r.Driver, a, ""); got.Status != plugin.Done {
				t.Fatalf("%+v", got)
			}
		}
		time.Sleep(window + 2*time.Second)
		for _, a := range []plugin.Action{act(plugin.Start, guest.LXC, 101), act(plugin.Shutdown, guest.QEMU, 202), act(plugin.Start, guest.QEMU, 202)} {
			if v := r.probe(a, sent); v.Finding != plugin.NotSent {
				t.Errorf("%s %s: %+v", a.Kind, a.Guest, v)
			}
		}
	})
}

// TestEarlierAttempt: the task of an attempt just before does not count as
// this one's while this one may still arrive.
func TestEarlierAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.history()
		a := act(plugin.Start, guest.LXC, 101)
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultTask, Task: "vzstart", Reason: "startup failed"}); err != nil {
			t.Fatal(err)
		}
		if got := apply(t.Context(), r.Driver, a, ""); got.Status != plugin.Failed {
			t.Fatalf("%+v", got)
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		a.Attempt++
		r.lose("POST", 20*time.Second)
		sent := r.applyLost(a)
		if v := r.probe(a, sent); v.Finding != plugin.Unclear {
			t.Errorf("right after: %+v", v)
		}
		time.Sleep(25 * time.Second)
		v := r.probe(a, sent)
		if u, err := pve.ParseUPID(v.Handle); v.Finding != plugin.Found || err != nil || u.Started().Before(sent.Add(15*time.Second)) {
			t.Errorf("once it arrived: %+v", v)
		}
	})
}

// TestClocksDiffer: the node's clock is an hour ahead or behind, and the host
// tells the sending's time by its own clock or, better, by the node's. Nothing
// that happened, or may still happen, is taken for unsent.
func TestClocksDiffer(t *testing.T) {
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		for _, delay := range []time.Duration{0, 45 * time.Second} {
			for _, byNode := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Skew = skew })
					r.history()
					time.Sleep(5 * time.Hour) // the list reaches back by any clock
					a := act(plugin.Start, guest.LXC, 101)
					r.lose("POST", delay)
					sent := r.applyLost(a)
					if byNode {
						sent = sent.Add(skew)
					}
					for i := range 40 {
						v := r.probe(a, sent)
						if v.Finding == plugin.NotSent {
							t.Fatalf("skew %v, by the node's clock %v: %+v", skew, byNode, v)
						}
						if i == 39 && (byNode || skew > 0) && v.Finding != plugin.Found {
							t.Errorf("skew %v, by the node's clock %v: %+v", skew, byNode, v)
						}
						time.Sleep(time.Duration(i+1) * 6 * time.Second) // 82 minutes in all
					}
				})
			}
		}
	}
}

// TestTaskBetweenTwoLists: a reader may find an entry in neither of PVE's
// lists while it is moved from one to the other.
func TestTaskBetweenTwoLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.history()
		a := act(plugin.Start, guest.LXC, 101)
		r.lose("POST", 0)
		sent := r.applyLost(a)
		time.Sleep(2 * window)
		reads := 0
		f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
			if !strings.HasSuffix(req.URL.Path, "/tasks") {
				return false
			}
			if reads++; reads > 1 {
				return false
			}
			fmt.Fprint(w, `{"data":[]}`)
			return true
		}
		r.twist.Store(&f)
		if v := r.probe(a, sent); v.Finding != plugin.Found {
			t.Errorf("%+v", v)
		}
	})
}

// TestProbeHandle: a task that is known.
func TestProbeHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Guests[0].Times.Start = time.Minute })
		ctx, cancel := context.WithCancel(t.Context())
		a := act(plugin.Start, guest.LXC, 101)
		var handle string
		_, _ = r.Apply(ctx, a, "", func(p plugin.Progress) error { handle = p.Handle; cancel(); return nil })
		probe := func() plugin.Verdict {
			v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: handle})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if v := probe(); v.Finding != plugin.Found || v.Handle != handle {
			t.Errorf("running: %+v", v)
		}
		time.Sleep(2 * time.Minute)
		if v := probe(); v.Finding != plugin.Settled || v.Outcome.Status != plugin.Done || v.Outcome.Undo == nil {
			t.Errorf("ended: %+v", v)
		}
		if _, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: "UPID:x"}); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("no UPID: %v", err)
		}
	})
}

// TestProbeTaskWithoutEnd: the worker was killed, or its log is gone; what the
// guest is like settles it.
func TestProbeTaskWithoutEnd(t *testing.T) {
	const gone = "UPID:pve1:00000001:00000001:5B03F43F:vzstart:101:agent@pve!full:"
	tests := []struct {
		kind   plugin.ActionKind
		vmid   guest.VMID
		status plugin.Status // "" for unclear
	}{
		{plugin.Start, 101, plugin.Failed},
		{plugin.Start, 102, plugin.Done},
		{plugin.Stop, 101, plugin.Done},
		{plugin.Shutdown, 102, plugin.Failed},
		{plugin.Reboot, 102, ""},
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, tt := range tests {
			v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: act(tt.kind, guest.LXC, tt.vmid), Handle: gone})
			want := plugin.Settled
			if tt.status == "" {
				want = plugin.Unclear
			}
			if err != nil || v.Finding != want || v.Outcome.Status != tt.status {
				t.Errorf("%s %d: %+v, %v", tt.kind, tt.vmid, v, err)
			}
		}
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultTask, Task: "vzstart", Reason: "unexpected status"}); err != nil {
			t.Fatal(err)
		}
		a := act(plugin.Start, guest.LXC, 101)
		got := apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Unknown || len(got.handles) != 1 {
			t.Fatalf("%+v", got)
		}
		want := plugin.Failed
		if r.run(guest.LXC, 101) == guest.Running {
			want = plugin.Done
		}
		v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: got.handles[0]})
		if err != nil || v.Finding != plugin.Settled || v.Outcome.Status != want {
			t.Errorf("unexpected status: %+v, %v", v, err)
		}
	})
}

// TestLostWrite: a config write whose answer is lost, by digest and value.
func TestLostWrite(t *testing.T) {
	tests := []struct {
		name    string
		set     map[string]string
		secret  []string
		delay   time.Duration // negative: it never arrives
		meddle  map[string]string
		inside  plugin.Finding // right after
		outside plugin.Finding // after the window
	}{
		{"applied at once", map[string]string{"cores": "4"}, nil, 0, nil, plugin.Settled, plugin.Settled},
		{"applied in another spelling", map[string]string{"tags": "b,A", "description": "x"}, nil, 0, nil, plugin.Settled, plugin.Settled},
		{"applied late", map[string]string{"cores": "4"}, nil, 40 * time.Second, nil, plugin.Unclear, plugin.Settled},
		{"never applied", map[string]string{"cores": "4"}, nil, -1, nil, plugin.Unclear, plugin.NotSent},
		{"never applied, somebody else wrote", map[string]string{"cores": "4"}, nil, -1, map[string]string{"cores": "3"}, plugin.Unclear, plugin.Unclear},
		{"applied, then changed", map[string]string{"cores": "4"}, nil, 0, map[string]string{"cores": "3"}, plugin.Unclear, plugin.Unclear},
		{"somebody else wrote the same", map[string]string{"cores": "4"}, nil, -1, map[string]string{"cores": "4"}, plugin.Settled, plugin.Settled},
		{"nothing to change", map[string]string{"cores": "2"}, nil, -1, nil, plugin.Unclear, plugin.Settled},
		{"only a secret", map[string]string{"description": "s3cret"}, []string{"description"}, 0, nil, plugin.Unclear, plugin.Unclear},
		{"a secret among others", map[string]string{"description": "s3cret", "cores": "4"}, []string{"description"}, 0, nil, plugin.Settled, plugin.Settled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				a := r.setAction(guest.LXC, 101, tt.set)
				a.Secret = tt.secret
				r.lose("PUT", tt.delay)
				sent := r.applyLost(a)
				time.Sleep(time.Second)
				if tt.meddle != nil {
					if err := r.sim.Operator(guest.LXC).Set(t.Context(), 101, tt.meddle); err != nil {
						t.Fatal(err)
					}
				}
				// After a restart of the agent the secret values are not known.
				for _, key := range tt.secret {
					a.Set[key] = "(masked)"
				}
				check := func(want plugin.Finding) {
					v := r.probe(a, sent)
					if v.Finding != want || want == plugin.Settled && v.Outcome.Status != plugin.Done || strings.Contains(fmt.Sprint(v), "s3cret") {
						t.Errorf("after %v: %+v, want %s", time.Since(sent), v, want)
					}
				}
				check(tt.inside)
				time.Sleep(window)
				check(tt.outside)
				if tt.outside != plugin.NotSent {
					return
				}
				r.twist.Store(nil)
				a.Attempt++
				if got := apply(t.Context(), r.Driver, a, ""); got.Status != plugin.Done {
					t.Errorf("sent again: %+v", got)
				}
			})
		})
	}
}

// TestLostRequestByHA: the task of a guest under HA has another type.
func TestLostRequestByHA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		now := time.Now()
		u := pve.UPID{Node: "pve1", PID: 1, PStart: 1, Start: uint32(now.Unix()), Type: "hastart", ID: "101", User: "agent@pve!full"}
		r.twisted("GET", "/tasks", fmt.Sprintf(`{"data":[{"upid":%q,"status":"OK","endtime":%d}]}`, u, now.Unix()+1))
		if v := r.probe(act(plugin.Start, guest.LXC, 101), now); v.Finding != plugin.Found || v.Handle != u.String() {
			t.Errorf("%+v", v)
		}
	})
}

// TestProbeFails: a probe that cannot look is an error, not a finding.
func TestProbeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		write := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
		r.net.down.Store(true)
		r.pve.Close()
		for _, a := range []plugin.Action{act(plugin.Start, guest.LXC, 101), write} {
			v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Sent: time.Now().Add(-time.Hour), Until: time.Now().Add(-time.Hour)})
			if !errors.Is(err, plugin.ErrUnavailable) || v.Finding != "" {
				t.Errorf("%s: %+v, %v", a.Kind, v, err)
			}
		}
		if _, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: plugin.Action{Kind: "acme.x"}}); !errors.Is(err, plugin.ErrUnsupported) {
			t.Errorf("unsupported: %v", err)
		}
	})
}

// A task that another attempt became is never this one's, even if it started
// within the second of this sending.
func TestProbeLeavesTakenTasks(t *testing.T) {
	r := newRig(t, nil)
	a, sent := act(plugin.Start, guest.LXC, 101), time.Now()
	var handle string
	if _, err := r.Apply(t.Context(), a, "", func(p plugin.Progress) error { handle = p.Handle; return nil }); err != nil {
		t.Fatal(err)
	}
	b := act(plugin.Start, guest.LXC, 101)
	q := plugin.ProbeQuery{Action: b, Sent: sent, Until: sent.Add(time.Hour)}
	v, err := r.Probe(t.Context(), q)
	if err != nil || v.Finding != plugin.Found {
		t.Fatalf("without taken: %+v, %v", v, err)
	}
	q.Taken = []string{handle}
	if v, err = r.Probe(t.Context(), q); err != nil || v.Finding != plugin.Unclear {
		t.Errorf("with the task taken: %+v, %v", v, err)
	}
}
