// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
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

// TestSetConfig writes to both kinds, and undoes it.
func TestSetConfig(t *testing.T) {
	for _, id := range []guest.ID{{Kind: guest.LXC, VMID: 101}, {Kind: guest.QEMU, VMID: 201}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			ctx := t.Context()
			before, err := r.pve.Config(ctx, r.ref(id))
			if err != nil {
				t.Fatal(err)
			}
			a := r.setAction(id.Kind, id.VMID, map[string]string{"cores": "4", "description": "hi"}, "memory")
			if id.Kind == guest.LXC { // whose memory cannot be deleted
				a.Delete = []string{"swap"}
			}
			got := apply(ctx, r.Driver, a, "")
			if got.err != nil || got.Status != plugin.Done {
				t.Fatalf("%s: %+v", id, got)
			}
			after, _ := r.pve.Config(ctx, r.ref(id))
			if _, still := after.Values[a.Delete[0]]; still && id.Kind == guest.QEMU || after.Values["cores"] != "4" {
				t.Errorf("%s: config %v", id, after.Values)
			}
			undo := *got.Undo
			undo.OpID, undo.Attempt, undo.Digest = "undo", 1, after.Digest
			if got = apply(ctx, r.Driver, undo, ""); got.err != nil || got.Status != plugin.Done {
				t.Fatalf("%s: undo %+v", id, got)
			}
			undone, _ := r.pve.Config(ctx, r.ref(id))
			if diff := cmp.Diff(before.Values, undone.Values); diff != "" {
				t.Errorf("%s: after undo (-before +after):\n%s", id, diff)
			}
		})
	}
}

// TestDigest: the digest is always sent, and a config that
// changed since is not written.
func TestDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		stale := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
		if err := r.sim.Operator(guest.LXC).Set(t.Context(), 101, map[string]string{"cores": "3"}); err != nil {
			t.Fatal(err)
		}
		got := apply(t.Context(), r.Driver, stale, "")
		if got.err != nil || got.Status != plugin.Retry || got.Reason != "changed" || !strings.Contains(got.Message, "nothing was sent") {
			t.Errorf("seen before: %+v", got)
		}
		// PVE itself finds out when the change comes after our look.
		a := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultDelay, Method: "PUT", Delay: 5 * time.Second}); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(2 * time.Second)
			_ = r.sim.Operator(guest.LXC).Set(t.Context(), 101, map[string]string{"cores": "5"})
		}()
		got = apply(t.Context(), r.Driver, a, "")
		if got.err != nil || got.Status != plugin.Retry || got.Reason != "changed" || !strings.Contains(got.Message, "detected modified configuration") {
			t.Errorf("seen by PVE: %+v", got)
		}
		if c := r.changes(0); len(c) > 0 {
			t.Errorf("changed %q", c)
		}
	})
}

// TestSetConfigRefusesToSend: what is no config key, or would lock the guest
// out, and a write that rests on nothing.
func TestSetConfigRefusesToSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for name, change := range map[string]func(*plugin.Action){
			"nothing":          func(a *plugin.Action) { a.Set = nil },
			"no digest":        func(a *plugin.Action) { a.Digest = "" },
			"lock":             func(a *plugin.Action) { a.Set = map[string]string{"lock": "backup"} },
			"template":         func(a *plugin.Action) { a.Set = map[string]string{"template": "1"} },
			"hookscript":       func(a *plugin.Action) { a.Delete = []string{"hookscript"} },
			"skiplock":         func(a *plugin.Action) { a.Set = map[string]string{"skiplock": "1"} },
			"digest as a key":  func(a *plugin.Action) { a.Set = map[string]string{"digest": "x"} },
			"a list of keys":   func(a *plugin.Action) { a.Delete = []string{"cores,lock"} },
			"set and deleted":  func(a *plugin.Action) { a.Delete = []string{"cores"} },
			"parameters":       func(a *plugin.Action) { a.Params = map[string]string{"timeout": "3"} },
			"no key at all":    func(a *plugin.Action) { a.Set = map[string]string{"": "x"} },
			"upper case":       func(a *plugin.Action) { a.Set = map[string]string{"Cores": "x"} },
			"background_delay": func(a *plugin.Action) { a.Set = map[string]string{"background_delay": "5"} },
		} {
			a := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
			change(&a)
			if got := apply(t.Context(), r.Driver, a, ""); !errors.Is(got.err, plugin.ErrInvalid) {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if c := r.changes(0); len(c) > 0 {
			t.Errorf("changed %q", c)
		}
	})
}

// TestSetConfigLocked: a lock is seen before anything is sent.
func TestSetConfigLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if err := r.sim.SetLock(101, "snapshot"); err != nil {
			t.Fatal(err)
		}
		got := apply(t.Context(), r.Driver, r.setAction(guest.LXC, 101, map[string]string{"cores": "4"}), "")
		if got.err != nil || got.Status != plugin.Retry || got.Reason != "locked" {
			t.Errorf("%+v", got)
		}
	})
}

// TestUnreadableConfigIsNotWritten: P9.
func TestUnreadableConfigIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
		fault := pvetest.Fault{Kind: pvetest.FaultStatus, Method: "GET", Path: "/nodes/*/lxc/*/config", Times: -1}
		for reason, want := range map[string]error{"500 odd": plugin.ErrNotSent, "403 Permission check failed (/vms/101, VM.Audit)": nil} {
			r.sim.ClearFaults()
			_, _ = fmt.Sscanf(reason, "%d", &fault.Status)
			fault.Reason = reason[4:]
			if _, err := r.sim.Inject(fault); err != nil {
				t.Fatal(err)
			}
			a.Attempt++
			got := apply(t.Context(), r.Driver, a, "")
			if want != nil && !errors.Is(got.err, want) || want == nil && (got.err != nil || got.Status != plugin.Refused) {
				t.Errorf("%s: %+v", reason, got)
			}
		}
		if c := r.changes(0); len(c) > 0 {
			t.Errorf("changed %q", c)
		}
	})
}

// TestWriteRefused: PVE refuses, and what that means.
func TestWriteRefused(t *testing.T) {
	lxc, vm := guest.LXC, guest.QEMU
	netLXC := "name=eth0,bridge=nobr,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth"
	tests := []struct {
		name   string
		kind   guest.Kind
		vmid   guest.VMID
		set    map[string]string
		status plugin.Status
		keys   map[string]string // part of PVE's words
	}{
		{
			"schema", lxc, 101,
			map[string]string{"cores": "9999", "tags": "ok", "memory": "x"},
			plugin.Refused,
			map[string]string{"cores": "maximum value", "memory": "type check"},
		},
		{"unknown key", vm, 201, map[string]string{"nonsense": "1", "cores": "4"}, plugin.Refused, map[string]string{"nonsense": "not defined in schema"}},
		{"root only, container", lxc, 101, map[string]string{"features": "keyctl=1", "cores": "4"}, plugin.Refused, map[string]string{"features": "root@pam"}},
		{"root only, machine", vm, 201, map[string]string{"args": "-x", "cores": "4"}, plugin.Refused, map[string]string{"args": "only root can set"}},
		{"startup of a machine", vm, 201, map[string]string{"startup": "order=1", "cores": "4"}, plugin.Refused, map[string]string{"startup": "Sys.Modify"}},
		{"read only, stopped", lxc, 101, map[string]string{"unprivileged": "0", "cores": "4"}, plugin.Refused, map[string]string{"unprivileged": "read-only"}},
		{"bridge is stored, stopped", lxc, 101, map[string]string{"net0": netLXC, "memory": "256"}, plugin.Failed, map[string]string{"net0": "bridge 'nobr'"}},
		{"bridge is stored, machine", vm, 202, map[string]string{"net0": "virtio=BC:24:11:00:00:02,bridge=nobr"}, plugin.Failed, map[string]string{"net0": "hotplug problem"}},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			a := r.setAction(tt.kind, tt.vmid, tt.set)
			got := apply(t.Context(), r.Driver, a, "")
			if got.err != nil || got.Status != tt.status || got.Message == "" {
				t.Errorf("%s: %+v", tt.name, got)
			}
			if len(got.RefusedKeys) != len(tt.keys) {
				t.Errorf("%s: refused keys %v, want %v", tt.name, got.RefusedKeys, tt.keys)
			}
			for k, part := range tt.keys {
				if !strings.Contains(got.RefusedKeys[k], part) {
					t.Errorf("%s: %s refused with %q, want %q in it", tt.name, k, got.RefusedKeys[k], part)
				}
			}
			conf, err := r.pve.Config(t.Context(), r.ref(a.Guest))
			if changed := conf.Digest != a.Digest; err != nil || changed != (tt.status == plugin.Failed) {
				t.Errorf("%s: %s, and the config changed: %v, %v", tt.name, got.Status, changed, err)
			}
		})
	}
}

// TestWritePrivileges: a token that may only change the processors.
func TestWritePrivileges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		d := r.driver("cpu", secretCPU, Options{})
		for _, tt := range []struct {
			set  map[string]string
			keys []string
		}{
			{map[string]string{"cores": "4", "memory": "256"}, []string{"memory"}},
			{map[string]string{"cores": "4", "description": "x", "onboot": "1"}, []string{"description", "onboot"}},
			{map[string]string{"cores": "4", "hostname": "x"}, []string{"hostname"}},
		} {
			got := apply(t.Context(), d, r.setAction(guest.LXC, 101, tt.set), "")
			if got.err != nil || got.Status != plugin.Refused {
				t.Errorf("%v: %+v", tt.set, got)
			}
			if diff := cmp.Diff(tt.keys, sortedKeys(got.RefusedKeys)); diff != "" {
				t.Errorf("%v: refused keys (-want +got):\n%s", tt.set, diff)
			}
		}
		if got := apply(t.Context(), d, r.setAction(guest.LXC, 101, map[string]string{"cores": "4"}), ""); got.Status != plugin.Done {
			t.Errorf("without the refused keys: %+v", got)
		}
	})
}

// TestWriteWeather: errors that pass are a retry only if nothing was stored.
func TestWriteWeather(t *testing.T) {
	for _, execute := range []bool{false, true} {
		for reason, want := range map[string]string{
			"fork failed: Cannot allocate memory":                                   "transient",
			"failed to read from command socket: Connection reset by peer":          "transient",
			"can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout":     "busy",
			"unable to open file '/etc/pve/lxc/101.conf.tmp.1' - Permission denied": "quorum",
			// The root file system is full, and with it the cluster's.
			"unable to open file '/etc/pve/lxc/101.conf.tmp.1' - Input/output error":        "quorum",
			"unable to write '/etc/pve/lxc/101.conf.tmp.1' - No space left on device":       "quorum",
			"close (rename) atomic file '/etc/pve/lxc/101.conf' failed: Input/output error": "quorum",
		} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				a := r.setAction(guest.LXC, 101, map[string]string{"cores": "4"})
				f := func(w http.ResponseWriter, req *http.Request, node http.Handler) bool {
					if req.Method != http.MethodPut {
						return false
					}
					if execute {
						node.ServeHTTP(httptest.NewRecorder(), req)
					}
					w.WriteHeader(500)
					fmt.Fprintf(w, `{"data":null,"message":%q}`, reason+"\n")
					return true
				}
				r.twist.Store(&f)
				got := apply(t.Context(), r.Driver, a, "")
				switch {
				case !execute && (got.err != nil || got.Status != plugin.Retry || got.Reason != want),
					execute && (got.err != nil || got.Status != plugin.Failed),
					got.RefusedKeys != nil: // no key was refused, and none is to be set aside
					t.Errorf("%s, executed %v: %+v", reason, execute, got)
				}
			})
		}
	}
}

// TestOddWriteError: an error of unknown meaning has changed nothing only if
// nothing was stored and the guest does not run.
func TestOddWriteError(t *testing.T) {
	for vmid, want := range map[guest.VMID]plugin.Status{101: plugin.Refused, 102: plugin.Failed} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			a := r.setAction(guest.LXC, vmid, map[string]string{"cores": "4", "onboot": "1"})
			if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultStatus, Method: "PUT", Status: 500, Reason: "odd"}); err != nil {
				t.Fatal(err)
			}
			if got := apply(t.Context(), r.Driver, a, ""); got.err != nil || got.Status != want || got.RefusedKeys != nil {
				t.Errorf("%d: %+v", vmid, got)
			}
		})
	}
}

// TestSecrets: the value of a secret is in nothing that is told, not even when
// PVE quotes it.
func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := r.setAction(guest.QEMU, 201, map[string]string{"cipassword": "geheim123", "cores": "4"})
		a.Secret = []string{"cipassword"}
		if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultStatus, Method: "PUT", Status: 500, Reason: "cipassword: got 'geheim123'"}); err != nil {
			t.Fatal(err)
		}
		got := apply(t.Context(), r.Driver, a, "")
		if text := fmt.Sprintf("%+v", got); strings.Contains(text, "geheim123") || !strings.Contains(text, "***") || got.RefusedKeys["cipassword"] == "" {
			t.Errorf("%s", text)
		}
		a.Attempt++
		got = apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Done {
			t.Fatalf("%+v", got)
		}
		if diff := cmp.Diff(map[string]string{"cores": "2"}, got.Undo.Set); diff != "" || len(got.Undo.Delete) > 0 {
			t.Errorf("undo %+v (-want +got):\n%s", got.Undo, diff)
		}
	})
}

func sortedKeys(m map[string]string) []string {
	var out []string
	for k := range maps.Keys(m) {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// A key that only waits for a restart is dropped from what waits: deleting it
// would answer 200 and do nothing.
func TestDeleteOfAPendingKey(t *testing.T) {
	r := newRig(t, nil)
	ct := pve.Ref{Node: "pve1", ID: guest.ID{Kind: guest.LXC, VMID: 102}}
	write := func(change func(*plugin.Action)) plugin.Outcome {
		t.Helper()
		conf, err := r.pve.Config(t.Context(), ct)
		if err != nil {
			t.Fatal(err)
		}
		a := act(plugin.SetConfig, guest.LXC, 102)
		a.Digest = conf.Digest
		change(&a)
		o, err := r.Apply(t.Context(), a, "", func(plugin.Progress) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := write(func(a *plugin.Action) { a.Set = map[string]string{"nameserver": "192.0.2.1"} }); o.Status != plugin.Done {
		t.Fatalf("set: %+v", o)
	}
	if pending, _, err := r.pve.Pending(t.Context(), ct); err != nil || len(pending) != 1 {
		t.Fatalf("pending %+v, %v", pending, err)
	}
	if o := write(func(a *plugin.Action) { a.Delete = []string{"nameserver"} }); o.Status != plugin.Done {
		t.Fatalf("delete: %+v", o)
	}
	conf, err := r.pve.Config(t.Context(), ct)
	if err != nil {
		t.Fatal(err)
	}
	if v, still := conf.Values["nameserver"]; still {
		t.Errorf("nameserver is still to become %q", v)
	}
}
