// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) {
			o.Skew = 3 * time.Minute
			o.Guests[0].Config["tags"] = "a;b"
			o.Guests[2].Config["template"] = "1"
		})
		if err := r.sim.SetLock(102, "backup"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		got, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got.Node != "pve1" || got.Version != "8.4.21" || !got.Quorate || got.Busy != "" || got.Privileges == "" {
			t.Errorf("%+v", got)
		}
		if off := time.Until(got.Time); off > 3*time.Minute || off < 3*time.Minute-time.Second {
			t.Errorf("the node's clock is %v ahead", off)
		}
		lxc, vm := guest.LXC, guest.QEMU
		want := []plugin.GuestState{
			{ID: guest.ID{Kind: lxc, VMID: 101}, Name: "ct", Run: guest.Stopped, Tags: "a;b"},
			{ID: guest.ID{Kind: lxc, VMID: 102}, Name: "ct", Run: guest.Running, Lock: "backup"},
			{ID: guest.ID{Kind: vm, VMID: 201}, Name: "vm", Run: guest.Stopped, Template: true},
			{ID: guest.ID{Kind: vm, VMID: 202}, Name: "vm", Run: guest.Running},
		}
		for i := range got.Guests {
			if up := got.Guests[i].Uptime; (up > 0) != (got.Guests[i].Run == guest.Running) {
				t.Errorf("%s has run for %v", got.Guests[i].ID, up)
			}
			got.Guests[i].Uptime = 0
		}
		if diff := cmp.Diff(want, got.Guests); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestQuorum: false only if the cluster says so.
func TestQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for body, want := range map[string]bool{
			`{"data":[{"type":"cluster","name":"c","quorate":0},{"type":"node","name":"pve1"}]}`: false,
			`{"data":[{"type":"cluster","name":"c","quorate":1},{"type":"node","name":"pve1"}]}`: true,
			`{"data":[{"type":"node","name":"pve1"}]}`:                                           true,
		} {
			r.twisted("GET", "/cluster/status", body)
			if got, err := r.List(t.Context()); err != nil || got.Quorate != want {
				t.Errorf("%s: %v, %v", body, got.Quorate, err)
			}
		}
		r.twist.Store(nil)
		if got, err := r.driver("blind", secretBlind, Options{}).List(t.Context()); err != nil || !got.Quorate {
			t.Errorf("a token that may not ask: %+v, %v", got, err)
		}
		r.denies("/cluster/status", 500, "odd")
		if got, err := r.List(t.Context()); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("no answer: %+v, %v", got, err)
		}
	})
}

// denies makes GETs whose path ends so fail.
func (r *rig) denies(path string, code int, reason string) {
	f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, path) {
			return false
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"data":null,"message":%q}`, reason)
		return true
	}
	r.twist.Store(&f)
}

// TestBusy: a task about many guests counts while it really runs.
func TestBusy(t *testing.T) {
	for typ, want := range map[string]string{
		"stopall": "stopall", "startall": "startall", "bulk-shutdown": "stopall", "bulk-migrate": "migrateall", "vzstart": "", "vzdump": "",
	} {
		for _, running := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				u := pve.UPID{Node: "pve1", PID: 1, PStart: 1, Start: uint32(time.Now().Unix()), Type: typ, User: "root@pam"}
				status := `{"data":{"status":"stopped","exitstatus":"OK"}}`
				if running {
					status = `{"data":{"status":"running"}}`
				} else {
					want = ""
				}
				f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
					switch {
					case strings.HasSuffix(req.URL.Path, "/tasks"):
						fmt.Fprintf(w, `{"data":[{"upid":%q,"status":"RUNNING"}]}`, u)
					case strings.Contains(req.URL.Path, "/tasks/UPID"):
						fmt.Fprint(w, status)
					default:
						return false
					}
					return true
				}
				r.twist.Store(&f)
				if got, err := r.List(t.Context()); err != nil || got.Busy != want {
					t.Errorf("%s, running %v: busy %q, %v", typ, running, got.Busy, err)
				}
			})
		}
	}
}

// TestPrivilegesFingerprint: equal privileges, equal fingerprint.
func TestPrivilegesFingerprint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		print := func() string {
			n, err := r.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return n.Privileges
		}
		before := print()
		if before == "" || print() != before {
			t.Error("the fingerprint is not stable")
		}
		r.sim.SetRole("Full", []string{"VM.Audit", "Sys.Audit"})
		if print() == before {
			t.Error("the fingerprint does not tell a change")
		}
	})
}

func TestGuestInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Guests[3].Config["protection"] = "1" })
		// A change that waits for a restart, and a deletion.
		for _, set := range []map[string]string{{"bios": "ovmf", "delete": "cores"}} {
			if err := r.sim.Operator(guest.QEMU).Set(t.Context(), 202, set); err != nil {
				t.Fatal(err)
			}
		}
		got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 202})
		if err != nil {
			t.Fatal(err)
		}
		if got.Presence != plugin.Here || got.State.Run != guest.Running || !got.Protection || got.HA.Managed || got.Time.IsZero() || got.Digest == "" || got.ConfigError != "" {
			t.Errorf("%+v", got)
		}
		if _, has := got.Config["cores"]; has || got.Config["bios"] != "ovmf" || got.Config["memory"] != "1024" || got.Config["digest"] != "" {
			t.Errorf("config %v", got.Config)
		}
		if diff := cmp.Diff(map[string]string{"bios": "ovmf", "cores": ""}, got.Pending); diff != "" {
			t.Errorf("pending (-want +got):\n%s", diff)
		}
		if err := r.sim.SetLock(101, "disk"); err != nil {
			t.Fatal(err)
		}
		got, err = r.Guest(t.Context(), plugin.GuestQuery{VMID: 101})
		if err != nil || got.State.Lock != "disk" || len(got.Pending) > 0 || got.State.ID.Kind != guest.LXC {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestGuestUnderHA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.twisted("GET", "/status/current", `{"data":{"vmid":101,"status":"running","ha":{"managed":1,"state":"started"}}}`)
		got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101})
		if err != nil || !got.HA.Managed || got.HA.State != "started" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestConfigNotReadable: what cannot be read is not known, and why is told.
func TestConfigNotReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for path, reason := range map[string]string{
			"/config":  "Permission check failed (/vms/101, VM.Audit)",
			"/pending": "odd",
		} {
			r.denies(path, 500, reason)
			got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101})
			if err != nil || got.Presence != plugin.Here || got.Config != nil || got.Digest != "" || got.ConfigError != reason || got.State.Run != guest.Stopped {
				t.Errorf("%s: %+v, %v", path, got, err)
			}
		}
		// Both are read, but never of one moment.
		r.twisted("GET", "/pending", `{"data":[{"key":"digest","value":"other"}]}`)
		got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101})
		if err != nil || got.Config != nil || !strings.Contains(got.ConfigError, "changed 3 times") {
			t.Errorf("%+v, %v", got, err)
		}
		r.denies("/status/current", 500, "odd")
		if got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101}); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("no status: %+v, %v", got, err)
		}
	})
}

// TestTransientRead: a container that closes makes its status fail for a
// moment.
func TestTransientRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if err := r.sim.ResetReads(102, 1); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 102}); err != nil || got.Presence != plugin.Here {
			t.Errorf("%+v, %v", got, err)
		}
		if err := r.sim.ResetReads(102, 5); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 102}); !errors.Is(err, plugin.ErrUnavailable) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestPresence: gone is proven, everything short of it is unsure.
func TestPresence(t *testing.T) {
	const cluster = `{"data":[{"type":"cluster","name":"c","quorate":%d},{"type":"node","name":"pve1","local":1,"online":1}]}`
	tests := []struct {
		name   string
		change func(t *testing.T, r *rig, d *Driver) *Driver
		want   plugin.Presence
		why    string // part of ConfigError
	}{
		{"gone", func(*testing.T, *rig, *Driver) *Driver { return nil }, plugin.Gone, "does not exist"},
		{"no quorum", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.twisted("GET", "/cluster/status", fmt.Sprintf(cluster, 0))
			return nil
		}, plugin.Unsure, "quorum"},
		{"quorum in a cluster", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.twisted("GET", "/cluster/status", fmt.Sprintf(cluster, 1))
			return nil
		}, plugin.Gone, ""},
		{"may not see the quorum", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.denies("/cluster/status", 403, "Permission check failed (/, Sys.Audit)")
			return nil
		}, plugin.Unsure, "quorate"},
		{"on another node", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.twisted("GET", "/cluster/resources", `{"data":[{"type":"lxc","vmid":300,"node":"pve2","name":"x"}]}`)
			return nil
		}, plugin.Elsewhere, "pve2"},
		{"just being moved here", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.twisted("GET", "/cluster/resources", `{"data":[{"type":"lxc","vmid":300,"node":"pve1","name":"x"}]}`)
			return nil
		}, plugin.Unsure, "moved"},
		{"no privileges on it", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			return r.driver("blind", secretBlind, Options{})
		}, plugin.Unsure, "Permission check failed"},
		{"privileges lost in between", func(_ *testing.T, r *rig, _ *Driver) *Driver {
			r.twisted("GET", "/access/permissions", `{"data":{"/vms/300":{}}}`)
			return nil
		}, plugin.Unsure, "VM.Audit"},
		{"the file system says gone too", func(t *testing.T, r *rig, _ *Driver) *Driver {
			return r.driver("full", secretFull, Options{VMList: writeVMList(t, t.TempDir(), 7, 1, "101")})
		}, plugin.Gone, ""},
		{"the file system still has it", func(t *testing.T, r *rig, _ *Driver) *Driver {
			return r.driver("full", secretFull, Options{VMList: writeVMList(t, t.TempDir(), 7, 1, "300")})
		}, plugin.Unsure, "file system"},
		{"the file system is not mounted", func(t *testing.T, r *rig, _ *Driver) *Driver {
			return r.driver("full", secretFull, Options{VMList: filepath.Join(t.TempDir(), ".vmlist")})
		}, plugin.Unsure, "not readable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				d := tt.change(t, r, r.Driver)
				if d == nil {
					d = r.Driver
				}
				got, err := d.Guest(t.Context(), plugin.GuestQuery{VMID: 300})
				if err != nil || got.Presence != tt.want || !strings.Contains(got.ConfigError, tt.why) || got.Config != nil {
					t.Errorf("%+v, %v; want %s because of %q", got, err, tt.want, tt.why)
				}
			})
		})
	}
}

// writeVMList writes .vmlist and .version as pmxcfs shows them.
func writeVMList(t testing.TB, dir string, start, version int, vmids ...string) string {
	t.Helper()
	ids := make([]string, 0, len(vmids))
	for _, v := range vmids {
		ids = append(ids, fmt.Sprintf(`%q:{"node":"pve1","type":"lxc","version":%d}`, v, version))
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".version", fmt.Sprintf(`{"starttime":%d,"vmlist":%d}`, start, version))
	write(".vmlist", fmt.Sprintf(`{"version":%d,"ids":{%s}}`, version, strings.Join(ids, ",")))
	return filepath.Join(dir, ".vmlist")
}

// TestGuestTasks: the guest's own and those about many, each as it is now.
func TestGuestTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		op := r.sim.Operator(guest.LXC)
		if _, err := op.Stop(t.Context(), 102); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		since := r.sim.Now()
		if _, err := op.Start(t.Context(), 102); err != nil {
			t.Fatal(err)
		}
		if _, err := op.Start(t.Context(), 101); err != nil {
			t.Fatal(err)
		}
		if got := apply(t.Context(), r.Driver, act(plugin.Stop, guest.LXC, 102), ""); got.Status != plugin.Done {
			t.Fatalf("%+v", got)
		}
		got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 102, TasksSince: since})
		if err != nil {
			t.Fatal(err)
		}
		type brief struct {
			Type, ID, User, Status string
			Own, Ended             bool
		}
		var list []brief
		for _, k := range got.Tasks {
			list = append(list, brief{k.Type, k.ID, k.User, k.Status, k.Own, !k.Ended.IsZero()})
		}
		want := []brief{
			{"vzstop", "102", "agent@pve!full", "OK", true, true},
			{"vzstart", "102", "root@pam", "OK", false, true},
		}
		if diff := cmp.Diff(want, list); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, _ := r.Guest(t.Context(), plugin.GuestQuery{VMID: 102}); got.Tasks != nil {
			t.Errorf("tasks nobody asked for: %v", got.Tasks)
		}
	})
}

// TestBulkTasksOfAGuest: those about many guests belong to it, an earlier one
// too if it still runs.
func TestBulkTasksOfAGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		now := time.Now()
		at := func(ago time.Duration, typ, id string) pve.UPID {
			return pve.UPID{Node: "pve1", PID: 1, PStart: uint64(ago / time.Second), Start: uint32(now.Add(-ago).Unix()), Type: typ, ID: id, User: "root@pam"}
		}
		running, old, mine, others := at(time.Hour, "vzdump", ""), at(2*time.Hour, "stopall", ""), at(time.Minute, "vzstop", "101"), at(time.Minute, "vzstop", "102")
		f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
			switch {
			case strings.HasSuffix(req.URL.Path, "/tasks"):
				fmt.Fprintf(w, `{"data":[{"upid":%q,"status":"RUNNING"}`, running)
				if req.URL.Query().Get("source") == "all" {
					fmt.Fprintf(w, `,{"upid":%q,"endtime":1,"status":"OK"},{"upid":%q,"endtime":1,"status":"OK"},{"upid":%q,"endtime":1,"status":"OK"}`, old, mine, others)
				}
				fmt.Fprint(w, `]}`)
			case strings.Contains(req.URL.Path, "/tasks/UPID"):
				fmt.Fprint(w, `{"data":{"status":"running"}}`)
			default:
				return false
			}
			return true
		}
		r.twist.Store(&f)
		got, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101, TasksSince: now.Add(-5 * time.Minute)})
		if err != nil || len(got.Tasks) != 2 || got.Tasks[0].UPID != mine.String() || got.Tasks[1].UPID != running.String() || !got.Tasks[1].Ended.IsZero() {
			t.Errorf("%+v, %v", got.Tasks, err)
		}
	})
}
