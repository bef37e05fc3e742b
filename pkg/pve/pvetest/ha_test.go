// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, true)}})
		if err := b.sim.SetHA(101, "started"); err != nil {
			t.Fatal(err)
		}
		_, _, data := b.do("GET", "/nodes/pve1/lxc/101/status/current", "")
		if d := cmp.Diff(map[string]any{"managed": 1.0, "state": "started"}, data.(map[string]any)["ha"]); d != "" {
			t.Errorf("ha (-want +got):\n%s", d)
		}
		if st := b.task("/nodes/pve1/lxc/101/status/shutdown", ""); st != "OK" {
			t.Errorf("hastop: %s", st)
		}
		if !b.up(101) {
			t.Error("the guest is down when hastop has only queued the request")
		}
		time.Sleep(20 * time.Second)
		if b.up(101) {
			t.Error("the resource manager did not stop the guest")
		}
		if err := b.sim.SetHA(101, "started"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if err := b.sim.Poweroff(101); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if !b.up(101) {
			t.Error("a guest that powered itself off was not started again")
		}
		var got []string
		for _, m := range b.sim.Record() {
			got = append(got, m.What+" "+m.User)
		}
		want := []string{
			"ha-stop agent@pve!t", "shutdown root@pam", "start root@pam", "poweroff guest", "start root@pam",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("record (-want +got):\n%s", d)
		}
	})
}

func TestHAError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := ct(101, false)
		spec.Times.NoStart = true
		b := newBench(t, Options{Guests: []GuestSpec{spec}})
		if code, reason, _ := b.do("POST", "/cluster/ha/resources", "sid=ct:101&state=started"); code != 200 {
			t.Fatal(code, reason)
		}
		time.Sleep(time.Minute)
		b.sim.mu.Lock()
		st := b.sim.guests[101].ha.state
		b.sim.mu.Unlock()
		if st != "error" {
			t.Errorf("state %q after two failed starts, want error", st)
		}
		_, _, data := b.do("GET", "/cluster/ha/status/current", "")
		list := data.([]any)
		if last := list[len(list)-1].(map[string]any); last["status"] != "ct:101 (pve1, error)" {
			t.Errorf("status %v", last["status"])
		}
	})
}

func TestStopAndStartAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{
			ct(101, true, "startup", "order=1", "onboot", "1"), ct(102, true, "startup", "order=2", "onboot", "1"), ct(103, true),
		}})
		if err := b.sim.SetLock(102, ""); err != nil {
			t.Fatal(err)
		}
		if st := b.task("/nodes/pve1/stopall", ""); st != "OK" {
			t.Fatal(st)
		}
		if err := b.sim.SetLock(102, "backup"); err != nil {
			t.Fatal(err)
		}
		b.sim.SetQuorum(false)
		code, _, data := b.do("POST", "/nodes/pve1/startall", "")
		if code != 200 {
			t.Fatal(code)
		}
		time.Sleep(5 * time.Second)
		b.sim.SetQuorum(true)
		log, err := b.sim.WaitTask(t.Context(), data.(string))
		if err != nil {
			t.Fatal(err)
		}
		want := "waiting for quorum ...\nremoved left over backup lock from '102'!\nStarting CT 101\nStarting CT 102\nTASK OK\n"
		if d := cmp.Diff(want, log); d != "" {
			t.Errorf("log of startall (-want +got):\n%s", d)
		}
		var got []string
		for _, m := range b.sim.Record() {
			if m.What != "config" {
				got = append(got, m.What+" "+itoa(m.VMID)+" "+m.User)
			}
		}
		order := []string{
			"shutdown 103 agent@pve!t", "shutdown 102 agent@pve!t", "shutdown 101 agent@pve!t",
			"start 101 agent@pve!t", "start 102 agent@pve!t",
		}
		if d := cmp.Diff(order, got); d != "" {
			t.Errorf("record (-want +got):\n%s", d)
		}
	})
}

func TestKilledTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, true)}})
		_, _, data := b.do("POST", "/nodes/pve1/vzdump", "vmid=101&storage=local&mode=suspend")
		time.Sleep(jobSetup + 100*time.Millisecond)
		b.sim.KillTasks()
		time.Sleep(time.Second)
		if st := b.status(data.(string)); st != unexpectedStatus {
			t.Errorf("status %q", st)
		}
		b.sim.mu.Lock()
		l := b.sim.guests[101].conf.Lock()
		b.sim.mu.Unlock()
		if l != "backup" {
			t.Errorf("lock %q is left, want backup", l)
		}
	})
}

func TestAbortKillsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := ct(101, true)
		spec.Times.NoShutdown = true
		b := newBench(t, Options{Guests: []GuestSpec{spec}})
		_, _, data := b.do("POST", "/nodes/pve1/lxc/101/status/shutdown", "timeout=60")
		time.Sleep(time.Second)
		began := time.Now()
		b.do("DELETE", "/nodes/pve1/tasks/"+strings.ReplaceAll(data.(string), "!", "%21"), "")
		if d := time.Since(began); d < killAfter || d > killAfter+time.Second {
			t.Errorf("the abort took %v", d)
		}
		if st := b.status(data.(string)); st != unexpectedStatus {
			t.Errorf("status %q", st)
		}
		if st := b.task("/nodes/pve1/lxc/101/status/stop", ""); st != "OK" {
			t.Errorf("the killed task still holds the lock: %s", st)
		}
	})
}

func TestMovedAndDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, true), ct(102, false)}})
		if err := b.sim.Move(101, "pve2"); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			"/nodes/pve1/lxc/101/config": 500, "/nodes/pve2/lxc/101/config": 595, "/cluster/nextid?vmid=101": 400,
		} {
			if code, reason, _ := b.do("GET", path, ""); code != want {
				t.Errorf("GET %s: %d %s, want %d", path, code, reason, want)
			}
		}
		_, _, data := b.do("GET", "/cluster/resources?type=vm", "")
		nodes := map[any]any{}
		for _, r := range data.([]any) {
			nodes[r.(map[string]any)["id"]] = r.(map[string]any)["node"]
		}
		if d := cmp.Diff(map[any]any{"lxc/101": "pve2", "lxc/102": "pve1"}, nodes); d != "" {
			t.Errorf("nodes (-want +got):\n%s", d)
		}
		b.sim.Deny("VM.PowerMgmt")
		if code, reason, _ := b.do("POST", "/nodes/pve1/lxc/102/status/start", ""); code != 403 || reason != "Permission check failed (/vms/102, VM.PowerMgmt)" {
			t.Errorf("denied start: %d %s", code, reason)
		}
	})
}

func TestResourcesLagBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, false)}})
		status := func() any {
			_, _, data := b.do("GET", "/cluster/resources?type=vm", "")
			return data.([]any)[0].(map[string]any)["status"]
		}
		b.task("/nodes/pve1/lxc/101/status/start", "")
		if st := status(); st != "stopped" {
			t.Errorf("right after the start the cluster says %v", st)
		}
		time.Sleep(broadcastEvery)
		if st := status(); st != "running" {
			t.Errorf("after the next broadcast the cluster says %v", st)
		}
		b.sim.Crashed()
		if st := status(); st != "unknown" {
			t.Errorf("right after a boot the cluster says %v", st)
		}
	})
}

func (b *bench) up(vmid int) bool {
	b.sim.mu.Lock()
	defer b.sim.mu.Unlock()
	return b.sim.guests[vmid].up
}

func TestReadsFailWhileAContainerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{Guests: []GuestSpec{ct(101, true)}})
		if err := b.sim.Poweroff(101); err != nil {
			t.Fatal(err)
		}
		var seen []string
		for len(seen) == 0 || seen[len(seen)-1] != "stopped" {
			code, reason, data := b.do("GET", "/nodes/pve1/lxc", "")
			now := reason
			if code == 200 {
				now = data.([]any)[0].(map[string]any)["status"].(string)
			}
			if len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
			}
			time.Sleep(20 * time.Millisecond)
		}
		want := []string{"running", "failed to read from command socket: Connection reset by peer", "stopped"}
		if d := cmp.Diff(want, seen); d != "" {
			t.Errorf("what the list said (-want +got):\n%s", d)
		}
	})
}
