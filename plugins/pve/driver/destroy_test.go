// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// at runs before and after around the first request of this method whose path
// has that end; it counts the requests of the method.
func (r *rig) at(method, end string, before, after func()) (count *int) {
	count = new(int)
	f := func(w http.ResponseWriter, req *http.Request, node http.Handler) bool {
		if req.Method != method {
			return false
		}
		*count++
		if *count > 1 || !strings.HasSuffix(req.URL.Path, end) {
			return false
		}
		if before != nil {
			before()
		}
		node.ServeHTTP(w, req)
		if after != nil {
			after()
		}
		return true
	}
	r.twist.Store(&f)
	return count
}

// doomed is a protected guest and the action that destroys it.
func doomed(t *testing.T, r *rig, id guest.ID) plugin.Action {
	t.Helper()
	if err := r.sim.EditConfig(int(id.VMID), map[string]string{"protection": "1"}); err != nil {
		t.Fatal(err)
	}
	return r.resting(withParams(act(plugin.Destroy, id.Kind, id.VMID)))
}

// there tells whether the guest is there, and whether it is protected.
func (r *rig) there(id guest.ID) (there, protected bool) {
	conf, err := r.sim.Operator(id.Kind).Config(int(id.VMID), false)
	if err != nil {
		return false, false
	}
	return true, fmt.Sprint(conf["protection"]) == "1"
}

func eachOf(t *testing.T, f func(t *testing.T, r *rig, id guest.ID)) {
	t.Helper()
	for _, id := range twoKinds {
		t.Run(string(id.Kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onZFS)
				r.history()
				f(t, r, id)
			})
		})
	}
}

// twin is a guest like the one on the node under this VMID, but for its
// hardware address.
func twin(id guest.ID) pvetest.GuestSpec {
	var o pvetest.Options
	o.Guests = []pvetest.GuestSpec{container(int(id.VMID), false)}
	if id.Kind == guest.QEMU {
		o.Guests[0] = machine(int(id.VMID), false)
	}
	onZFS(&o, nil)
	spec := o.Guests[0]
	spec.Config["net0"] = strings.Replace(spec.Config["net0"], "BC:24:11:00:00:0", "BC:24:11:00:AA:0", 1)
	spec.Config["protection"] = "1"
	return spec
}

// TestReplacedBeforeTheWrite: between the first look and the write somebody
// destroys the guest and makes another: it is not touched.
func TestReplacedBeforeTheWrite(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := doomed(t, r, id)
		r.at("PUT", "/config", func() {
			if err := r.sim.Replace(twin(id)); err != nil {
				t.Error(err)
			}
		}, nil)
		got := apply(t.Context(), r.Driver, a, "")
		if got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, "changed or replaced") {
			t.Errorf("%+v", got)
		}
		if there, protected := r.there(id); !there || !protected {
			t.Errorf("the stranger is there: %v, protected: %v", there, protected)
		}
	})
}

// TestReplacedAfterTheWrite: between the write and the second look something
// happens to the guest: it is not deleted, and what differs is said.
func TestReplacedAfterTheWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		happens func(r *rig, id guest.ID) error
		says    string
	}{
		"replaced": {func(r *rig, id guest.ID) error { return r.sim.Replace(twin(id)) }, "net0 differs"},
		"gone":     {func(r *rig, id guest.ID) error { return r.sim.Remove(int(id.VMID)) }, "is gone"},
		"changed": {func(r *rig, id guest.ID) error {
			return r.sim.EditConfig(int(id.VMID), map[string]string{"tags": "keep", "description": "do not delete"})
		}, "description differs, tags differs; its protection is off"},
		"locked": {func(r *rig, id guest.ID) error { return r.sim.SetLock(int(id.VMID), "backup") }, "it is locked (backup)"},
		"started": {func(r *rig, id guest.ID) error {
			_, err := r.sim.Operator(id.Kind).Start(context.Background(), int(id.VMID))
			return err
		}, "it is not stopped"},
		"snapshot": {func(r *rig, id guest.ID) error {
			return r.sim.EditConfig(int(id.VMID), map[string]string{"parent": "new"})
		}, "its place among the snapshots differ"},
	} {
		t.Run(name, func(t *testing.T) {
			eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
				a := doomed(t, r, id)
				var deletes int
				r.at("PUT", "/config", nil, func() {
					if err := tt.happens(r, id); err != nil {
						t.Error(err)
					}
				})
				got := apply(t.Context(), r.Driver, a, "")
				if got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, tt.says) {
					t.Errorf("%+v", got)
				}
				for _, c := range r.changes(0) {
					if strings.HasPrefix(c, "destroy") {
						deletes++
					}
				}
				if there, _ := r.there(id); there != (name != "gone") || deletes > 0 {
					t.Errorf("there: %v, deletes: %d", there, deletes)
				}
			})
		})
	}
}

// TestDestroyWritesFirst: there is never a DELETE without the write, of an
// unprotected guest either, and both go out once.
func TestDestroyWritesFirst(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := r.resting(act(plugin.Destroy, id.Kind, id.VMID))
		var calls []string
		f := func(_ http.ResponseWriter, req *http.Request, _ http.Handler) bool {
			if req.Method != "GET" {
				calls = append(calls, req.Method+" "+req.URL.RequestURI())
			}
			return false
		}
		r.twist.Store(&f)
		r.must(a)
		base := "/api2/json/nodes/pve1/" + id.String()
		if diff := cmp.Diff([]string{"PUT " + base + "/config", "DELETE " + base + "?destroy-unreferenced-disks=0"}, calls); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestDestroyRefused: PVE refuses the DELETE; the protection is put back, and
// the config is the one that was approved.
func TestDestroyRefused(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := doomed(t, r, id)
		if _, err := r.sim.Inject(pvetest.Fault{
			Kind: pvetest.FaultStatus, Method: "DELETE", Status: 500, Reason: "unable to remove CT 101 - used in HA resources and purge parameter not set.",
		}); err != nil {
			t.Fatal(err)
		}
		got := apply(t.Context(), r.Driver, a, "")
		if got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, "HA resources") || !strings.Contains(got.Message, "put back") {
			t.Errorf("%+v", got)
		}
		if there, protected := r.there(id); !there || !protected {
			t.Errorf("there: %v, protected: %v", there, protected)
		}
		if now := r.resting(a); now.Digest != a.Digest {
			t.Error("the config is not as it was")
		}
		a.Attempt++
		r.must(a)
	})
}

// TestDestroyOfReplicated: a job stands in the way unless it is purged.
func TestDestroyOfReplicated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withJobs)
		a := r.resting(act(plugin.Destroy, guest.LXC, 101))
		if got := apply(t.Context(), r.Driver, a, ""); got.Status != plugin.Refused || !strings.Contains(got.Message, "replication job '101-0'") {
			t.Errorf("%+v", got)
		}
		a.Attempt, a.Params = 2, map[string]string{"purge": "1"}
		a = r.resting(a)
		r.must(a)
		for _, job := range inventoryOf(t, r.Driver, 201).Jobs {
			if strings.Contains(job, "this and 1") {
				t.Errorf("the job names it still: %s", job)
			}
		}
	})
}

// TestRunningIsNotDestroyed: nothing is sent.
func TestRunningIsNotDestroyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, id := range []guest.ID{{Kind: guest.LXC, VMID: 102}, {Kind: guest.QEMU, VMID: 202}} {
			got := apply(t.Context(), r.Driver, r.resting(act(plugin.Destroy, id.Kind, id.VMID)), "")
			if got.Status != plugin.Refused || !strings.Contains(got.Message, "not stopped; nothing was sent") || len(r.changes(0)) > 0 {
				t.Errorf("%+v, %q", got, r.changes(0))
			}
		}
	})
}

// TestWriteThatFails: without an answer that shows whose config it is the
// guest is not deleted.
func TestWriteThatFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fault pvetest.Fault
		want  plugin.Status
		goes  bool
	}{
		"lost before it was taken": {pvetest.Fault{Kind: pvetest.FaultLost, Delay: 5 * time.Second}, plugin.Retry, false},
		"no answer in time":        {pvetest.Fault{Kind: pvetest.FaultTimeout, Hang: time.Second, Delay: 10 * time.Second}, plugin.Retry, false},
		"late":                     {pvetest.Fault{Kind: pvetest.FaultDelay, Delay: 25 * time.Second}, plugin.Retry, false},
		"busy":                     {pvetest.Fault{Kind: pvetest.FaultStatus, Status: 500, Reason: "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout"}, plugin.Retry, false},
		"refused":                  {pvetest.Fault{Kind: pvetest.FaultStatus, Status: 403, Reason: "Permission check failed (/vms/101, VM.Config.Options)"}, plugin.Refused, false},
		"failed":                   {pvetest.Fault{Kind: pvetest.FaultStatus, Status: 500, Reason: "bridge 'vmbr9' does not exist"}, plugin.Failed, false},
		"failed and taken":         {pvetest.Fault{Kind: pvetest.FaultStatus, Status: 500, Reason: "bridge 'vmbr9' does not exist", Execute: true}, plugin.Done, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
				a := doomed(t, r, id)
				fault := tt.fault
				fault.Method = "PUT"
				if fault.Execute {
					f := takenButFailed(fault.Reason)
					r.twist.Store(&f)
				} else if _, err := r.sim.Inject(fault); err != nil {
					t.Fatal(err)
				}
				got := apply(t.Context(), r.Driver, a, "")
				if got.err != nil || got.Status != tt.want {
					t.Errorf("%+v", got)
				}
				if there, _ := r.there(id); there == tt.goes {
					t.Errorf("the guest is there: %v", there)
				}
			})
		})
	}
}

// takenButFailed answers a config write with an error after it was taken.
func takenButFailed(reason string) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(w http.ResponseWriter, req *http.Request, node http.Handler) bool {
		if req.Method != "PUT" {
			return false
		}
		node.ServeHTTP(&discard{header: http.Header{}}, req)
		w.WriteHeader(500)
		_, _ = w.Write([]byte(`{"data":null,"message":"` + reason + `\n"}`))
		return true
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// TestCrashBetweenWriteAndDelete: the process dies after the write: the
// destroy is proven unsent once the window is over, and goes on from a fresh
// look.
func TestCrashBetweenWriteAndDelete(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := doomed(t, r, id)
		sent := time.Now()
		ctx, die := context.WithCancel(t.Context())
		r.at("PUT", "/config", nil, die)
		if got := apply(ctx, r.Driver, a, ""); got.Status == plugin.Done {
			t.Fatalf("%+v", got)
		}
		if there, protected := r.there(id); !there || protected {
			t.Fatalf("there: %v, protected: %v", there, protected)
		}
		if v := r.probe(a, sent); v.Finding != plugin.Unclear {
			t.Errorf("inside the window: %+v", v)
		}
		time.Sleep(window + 2*time.Second)
		if v := r.probe(a, sent); v.Finding != plugin.NotSent || !strings.Contains(v.Message, "protection may have been cleared") {
			t.Errorf("%+v", v)
		}
		a.Attempt++
		r.must(r.resting(a))
		if n := len(slices.DeleteFunc(r.changes(0), func(s string) bool { return s != "destroy" })); n != 1 {
			t.Errorf("destroyed %d times", n)
		}
	})
}

// TestHalfDestroyed: a task that was killed leaves a tombstone.
func TestHalfDestroyed(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := doomed(t, r, id)
		if err := r.sim.SetLock(int(id.VMID), "destroyed"); err != nil {
			t.Fatal(err)
		}
		u := pveUPID(t, ofKind(a, "destroy"), id.VMID)
		v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: u})
		if err != nil || v.Finding != plugin.Settled || v.Outcome.Status != plugin.Failed || v.Outcome.Params[ParamHalfMade] != "destroyed" {
			t.Errorf("%+v, %v", v, err)
		}
	})
}
