// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// bench is a Sim with a client as agent@pve!t, who may do everything.
type bench struct {
	t    *testing.T
	sim  *Sim
	pipe *Pipe

	mu    sync.Mutex
	hooks []string
}

func newBench(t *testing.T, opt Options) *bench {
	t.Helper()
	b := &bench{t: t}
	inner := opt.RunHook
	opt.RunHook = func(h HookCall) error {
		b.mu.Lock()
		b.hooks = append(b.hooks, h.Phase)
		b.mu.Unlock()
		if inner != nil {
			return inner(h)
		}
		return nil
	}
	opt.Users = []User{{ID: "agent@pve", Tokens: []Token{{ID: "t", Secret: "s", NoPrivSep: true}}}}
	opt.ACL = []Grant{{Path: "/", Who: "agent@pve", Role: "Administrator"}}
	opt.Storages = []Storage{{ID: "local", Snippets: map[string]bool{"h": true, "plain": false}}}
	opt.Seed = 1
	sim, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	b.sim, b.pipe = sim, sim.Pipe()
	t.Cleanup(func() { b.pipe.Close(); sim.Close() })
	return b
}

// do makes a call and returns status, reason and data.
func (b *bench) do(method, path, form string) (int, string, any) {
	b.t.Helper()
	req, err := http.NewRequest(method, "http://pve/api2/json"+path, strings.NewReader(form))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "PVEAPIToken=agent@pve!t=s")
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.pipe.Client().Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error(), nil
	}
	var env struct{ Data any }
	if len(body) > 0 {
		if err := json.Unmarshal(body, &env); err != nil {
			b.t.Fatalf("%s %s: body %q: %v", method, path, body, err)
		}
	}
	_, reason, _ := strings.Cut(resp.Status, " ")
	return resp.StatusCode, reason, env.Data
}

// task makes a call that starts a task, waits for it and returns its status.
func (b *bench) task(path, form string) string {
	b.t.Helper()
	code, reason, data := b.do("POST", path, form)
	if code != 200 {
		return reason
	}
	return b.status(data.(string))
}

func (b *bench) status(upid string) string {
	b.t.Helper()
	for {
		_, _, data := b.do("GET", "/nodes/pve1/tasks/"+url.PathEscape(upid)+"/status", "")
		st, ok := data.(map[string]any)
		if !ok {
			b.t.Fatalf("no status of %s", upid)
		}
		if st["status"] == "stopped" {
			return st["exitstatus"].(string)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *bench) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.hooks
	b.hooks = nil
	return out
}

func ct(id int, running bool, more ...string) GuestSpec {
	cfg := map[string]string{
		"hostname": "ct", "memory": "512", "swap": "0", "ostype": "debian", "arch": "amd64", "unprivileged": "1",
		"rootfs": "local:1/vm-disk.raw,size=1G", "hookscript": "local:snippets/h",
	}
	for i := 0; i+1 < len(more); i += 2 {
		cfg[more[i]] = more[i+1]
	}
	return GuestSpec{Kind: guest.LXC, VMID: id, Running: running, Config: cfg}
}

func vm(id int, running bool) GuestSpec {
	return GuestSpec{Kind: guest.QEMU, VMID: id, Running: running, Config: map[string]string{"name": "vm", "memory": "512", "hookscript": "local:snippets/h"}}
}

func TestHookPhasesOfEachOperation(t *testing.T) {
	t.Parallel()
	const start, stop = "pre-start post-start", "pre-stop post-stop"
	tests := []struct {
		name, version, path string
		running             bool
		want                string
	}{
		{"container start", "9.2.11", "/nodes/pve1/lxc/101/status/start", false, start},
		{"container stop", "9.2.11", "/nodes/pve1/lxc/101/status/stop", true, stop},
		{"container shutdown", "8.4.21", "/nodes/pve1/lxc/101/status/shutdown", true, stop},
		{"container reboot", "8.4.21", "/nodes/pve1/lxc/101/status/reboot", true, stop + " " + start},
		{"vm start", "9.2.11", "/nodes/pve1/qemu/200/status/start", false, start},
		{"vm stop on 9, in the task", "9.2.11", "/nodes/pve1/qemu/200/status/stop", true, stop},
		{"vm stop on 8, before the cleanup", "8.4.21", "/nodes/pve1/qemu/200/status/stop", true, "pre-stop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Version: tt.version, Guests: []GuestSpec{ct(101, tt.running), vm(200, tt.running)}})
				if st := b.task(tt.path, ""); st != "OK" {
					t.Errorf("task ended %q", st)
				}
				if got := strings.Join(b.seen(), " "); got != tt.want {
					t.Errorf("hooks %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestVMPostStopComesLateOn8(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Version: "8.4.21", Guests: []GuestSpec{vm(200, true)}})
		b.task("/nodes/pve1/qemu/200/status/stop", "")
		time.Sleep(time.Second)
		if got := b.seen(); !slices.Equal(got, []string{"pre-stop", "post-stop"}) {
			t.Errorf("hooks %v", got)
		}
	})
}

func TestPreStartVetoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}, RunHook: func(h HookCall) error {
			return errors.New("exit code 1")
		}})
		st := b.task("/nodes/pve1/lxc/101/status/start", "")
		want := "hookscript error for 101 on pre-start: command '/var/lib/vz/snippets/h 101 pre-start' failed: exit code 1 "
		if st != want {
			t.Errorf("task ended %q, want %q", st, want)
		}
		if got := b.seen(); !slices.Equal(got, []string{"pre-start"}) {
			t.Errorf("hooks %v", got)
		}
		if n := len(b.sim.Record()); n != 0 {
			t.Errorf("%d mutations recorded, want none", n)
		}
	})
}

func TestMissingHookscript(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{
			ct(101, false, "hookscript", "local:snippets/none"), ct(102, false, "hookscript", "local:snippets/plain"),
		}})
		for id, want := range map[string]string{
			"101": "hookscript error for 101 on pre-start: script 'local:snippets/none' does not exist ",
			"102": "hookscript error for 102 on pre-start: script 'local:snippets/plain' is not executable ",
		} {
			if st := b.task("/nodes/pve1/lxc/"+id+"/status/start", ""); st != want {
				t.Errorf("task ended %q, want %q", st, want)
			}
		}
	})
}

func TestWriteWaitsTenSecondsForTheLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}, RunHook: func(h HookCall) error {
			time.Sleep(30 * time.Second)
			return nil
		}})
		b.do("POST", "/nodes/pve1/lxc/101/status/start", "")
		time.Sleep(time.Second)
		begin := time.Now()
		code, reason, _ := b.do("PUT", "/nodes/pve1/lxc/101/config", "cores=2")
		if code != 500 || reason != "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout" {
			t.Errorf("got %d %s", code, reason)
		}
		if d := time.Since(begin); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("answered after %v, want 10 s", d)
		}
	})
}

func TestThreeWaitingWritesStarveTheNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false), ct(102, false)}, RunHook: func(h HookCall) error {
			time.Sleep(time.Minute)
			return nil
		}})
		b.do("POST", "/nodes/pve1/lxc/101/status/start", "")
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { b.do("PUT", "/nodes/pve1/lxc/101/config", "cores=2") })
		}
		time.Sleep(time.Second)
		took := func(path string) time.Duration {
			begin := time.Now()
			b.do("GET", path, "")
			return time.Since(begin).Round(time.Second)
		}
		if d := took("/nodes/pve1/lxc/102/config"); d != 0 {
			t.Errorf("a config read, which needs no worker, took %v", d)
		}
		if d := took("/nodes/pve1/lxc"); d != 9*time.Second {
			t.Errorf("the list took %v, want until a worker was free (9 s)", d)
		}
		wg.Wait()
	})
}

func TestStartRightAfterPoweroffIsLost(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{"8.4.21": "OK", "9.2.11": "unable to get PID for CT 101 (not running?)"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Options{Version: version, Guests: []GuestSpec{ct(101, true)}})
				if err := b.sim.Poweroff(101); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second) // stopped, post-stop not yet run
				if st := b.task("/nodes/pve1/lxc/101/status/start", ""); st != want {
					t.Errorf("task ended %q, want %q", st, want)
				}
				if g := b.sim.Operator(guest.LXC).List()[0]; g.Status != guest.Stopped {
					t.Errorf("the guest is %s", g.Status)
				}
				if got := strings.Join(b.seen(), " "); got != "pre-start post-stop post-start" {
					t.Errorf("hooks %q", got)
				}
			})
		})
	}
}

func TestSecondStartRunsTheHooksAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		_, _, first := b.do("POST", "/nodes/pve1/lxc/101/status/start", "")
		_, _, second := b.do("POST", "/nodes/pve1/lxc/101/status/start", "")
		if a, c := b.status(first.(string)), b.status(second.(string)); a != "OK" || c != "OK" {
			t.Errorf("tasks ended %q and %q", a, c)
		}
		if got := strings.Join(b.seen(), " "); got != "pre-start post-start pre-start post-start" {
			t.Errorf("hooks %q", got)
		}
		var details []string
		for _, m := range b.sim.Record() {
			details = append(details, m.What+":"+m.Detail)
		}
		if diff := cmp.Diff([]string{"start:", "start:already running"}, details); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBadTokenIsToldAfterThreeSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		req, err := http.NewRequest("GET", "http://pve/api2/json/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "PVEAPIToken=agent@pve!t=wrong")
		begin := time.Now()
		resp, err := b.pipe.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		if resp.Status != "401 Authentication failed!" || len(body) != 0 || time.Since(begin) != 3*time.Second {
			t.Errorf("got %s with %q after %v", resp.Status, body, time.Since(begin))
		}
	})
}

func TestLostReplyTakesEffectLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		if _, err := b.sim.Inject(Fault{Kind: FaultLost, Method: "POST", Path: "/nodes/*/lxc/101/status/start", Delay: 15 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if code, _, _ := b.do("POST", "/nodes/pve1/lxc/101/status/start", ""); code != 0 {
			t.Errorf("answered %d, want no answer", code)
		}
		time.Sleep(14 * time.Second)
		if n := len(b.sim.Record()); n != 0 {
			t.Errorf("it took effect early")
		}
		time.Sleep(5 * time.Second)
		if n := len(b.sim.Record()); n != 1 {
			t.Errorf("%d mutations, want exactly one", n)
		}
	})
}

func TestTimeoutGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		if _, err := b.sim.Inject(Fault{Kind: FaultTimeout, Method: "PUT", Delay: 40 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if code, reason, _ := b.do("PUT", "/nodes/pve1/lxc/101/config", "cores=2"); code != 596 {
			t.Errorf("got %d %s, want 596", code, reason)
		}
		time.Sleep(15 * time.Second)
		if n := len(b.sim.Record()); n != 1 {
			t.Errorf("%d mutations, want the write", n)
		}
	})
}

func TestTaskFaultAndStatusFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		for _, f := range []Fault{
			{Kind: FaultTask, Task: "vzstart", Reason: "startup for container '101' failed"},
			{Kind: FaultStatus, Method: "GET", Path: "/version", Status: 599, Reason: "Too many redirections"},
		} {
			if _, err := b.sim.Inject(f); err != nil {
				t.Fatal(err)
			}
		}
		if st := b.task("/nodes/pve1/lxc/101/status/start", ""); st != "startup for container '101' failed" {
			t.Errorf("task ended %q", st)
		}
		if code, reason, _ := b.do("GET", "/version", ""); code != 599 || reason != "Too many redirections" {
			t.Errorf("got %d %s", code, reason)
		}
		if code, _, _ := b.do("GET", "/version", ""); code != 200 {
			t.Errorf("a fault for once happened twice")
		}
	})
}

func TestReplacedGuestHasLostItsGrants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, true)}})
		b.sim.Grant(Grant{Path: "/vms/101", Who: "other@pve", Role: "PVEVMUser"})
		if err := b.sim.Replace(ct(101, false, "hostname", "other")); err != nil {
			t.Fatal(err)
		}
		_, _, data := b.do("GET", "/nodes/pve1/lxc/101/status/current", "")
		if st := data.(map[string]any); st["name"] != "other" || st["status"] != "stopped" {
			t.Errorf("status %v", st)
		}
		if got := b.sim.acl.Perms("other@pve", "/vms/101"); len(got) != 0 {
			t.Errorf("the grant on the guest survived: %v", got)
		}
	})
}

func TestNoQuorumRefusesWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		b.sim.SetQuorum(false)
		for method, path := range map[string]string{"PUT": "/nodes/pve1/lxc/101/config", "POST": "/nodes/pve1/lxc/101/status/start"} {
			form := map[string]string{"PUT": "cores=2"}[method]
			if code, reason, _ := b.do(method, path, form); code != 500 || reason != "cluster not ready - no quorum?" {
				t.Errorf("%s: got %d %s", method, code, reason)
			}
		}
	})
}
