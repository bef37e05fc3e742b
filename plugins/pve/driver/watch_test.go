// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// watcher collects what a Watch emits.
type watcher struct {
	t     *testing.T
	mu    sync.Mutex // guards hints
	hints []plugin.Hint
}

// watchRig starts a Watch on a rig; it ends with the test.
func watchRig(t *testing.T, r *rig) *watcher {
	w := &watcher{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- r.Watch(ctx, func(h plugin.Hint) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.hints = append(w.hints, h)
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return w
}

// after waits and takes the hints of that time, each as "reason: guests".
func (w *watcher) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, h := range w.hints {
		text := h.Reason + ":"
		if h.All {
			text += " all"
		}
		for _, v := range h.Guests {
			text += " " + v.String()
		}
		out = append(out, text)
	}
	w.hints = nil
	return out
}

func (w *watcher) want(what string, d time.Duration, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.after(d)); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestWatchPolls: hints without .vmlist come from the two lists, one for each
// guest that changed and for no other.
func TestWatchPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		w := watchRig(t, r)
		op := r.sim.Operator(guest.LXC)
		w.want("at first", time.Second, "the watch begins: all")
		w.want("nothing happens", time.Minute)
		if err := op.Set(t.Context(), 101, map[string]string{"cores": "3"}); err != nil {
			t.Fatal(err)
		}
		w.want("cores", 2*time.Second, "the guest list changed: 101")
		if err := op.Set(t.Context(), 101, map[string]string{"description": "x"}); err != nil {
			t.Fatal(err)
		}
		w.want("a change that shows in no list", 10*time.Second)
		if err := r.sim.SetLock(202, "backup"); err != nil {
			t.Fatal(err)
		}
		w.want("lock", 2*time.Second, "the guest list changed: 202")
		if err := r.sim.Crash(102); err != nil {
			t.Fatal(err)
		}
		w.want("crash", 4*time.Second, "the guest list changed: 102")
		if err := r.sim.Remove(201); err != nil {
			t.Fatal(err)
		}
		w.want("gone", 2*time.Second, "the guest list changed: 201")
		if err := r.sim.Add(container(105, false)); err != nil {
			t.Fatal(err)
		}
		w.want("new", 2*time.Second, "the guest list changed: 105")
		if _, err := op.Start(t.Context(), 105); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.after(20*time.Second), "\n"); strings.Contains(got, "all") || !strings.Contains(got, "the guest list changed: 105") || !strings.Contains(got, "the task list changed: 105") {
			t.Errorf("start: %s", got)
		}
	})
}

// TestWatchReboot: a reboot between two looks shows by the uptime.
func TestWatchReboot(t *testing.T) {
	w := &watch{}
	g := pve.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}, Run: guest.Running, Uptime: time.Hour}
	w.newList([]pve.Guest{g})
	g.Uptime += time.Minute
	if changed := w.newList([]pve.Guest{g}); len(changed) > 0 {
		t.Errorf("it ran on: %v", changed)
	}
	g.Uptime = time.Second
	if diff := cmp.Diff([]guest.VMID{101}, w.newList([]pve.Guest{g})); diff != "" {
		t.Errorf("it was started anew (-want +got):\n%s", diff)
	}
}

// TestWatchTasks: a task gives a hint when it starts and when it ends.
func TestWatchTasks(t *testing.T) {
	task := func(n uint32, typ, id string, ended bool) pve.Task {
		k := pve.Task{UPID: pve.UPID{Node: "pve1", PID: n, Type: typ, ID: id, User: "root@pam"}}
		if ended {
			k.End = time.Unix(1, 0)
		}
		return k
	}
	w := &watch{}
	w.newTasks([]pve.Task{task(1, "vzstart", "101", true)})
	tests := []struct {
		list []pve.Task
		want []guest.VMID
		all  string
	}{
		{[]pve.Task{task(1, "vzstart", "101", true)}, nil, ""},
		{[]pve.Task{task(2, "vzstop", "102", false), task(1, "vzstart", "101", true)}, []guest.VMID{102}, ""},
		{[]pve.Task{task(2, "vzstop", "102", false), task(1, "vzstart", "101", true)}, nil, ""},
		{[]pve.Task{task(2, "vzstop", "102", true), task(1, "vzstart", "101", true)}, []guest.VMID{102}, ""},
		{[]pve.Task{task(3, "stopall", "", false), task(4, "vzstop", "101", false), task(2, "vzstop", "102", true)}, []guest.VMID{101}, reasonBulk},
		{[]pve.Task{task(5, "vzdump", "", false), task(3, "stopall", "", true), task(4, "vzstop", "101", true)}, []guest.VMID{101}, reasonBulk},
		{[]pve.Task{task(6, "aptupdate", "", false), task(5, "vzdump", "", false)}, nil, ""},
	}
	for i, tt := range tests {
		got, all := w.newTasks(tt.list)
		if diff := cmp.Diff(tt.want, got); diff != "" || all != tt.all {
			t.Errorf("look %d: all %q (-want +got):\n%s", i, all, diff)
		}
	}
	var flood []pve.Task
	for i := range uint32(recentTasks) {
		flood = append(flood, task(1000+i, "vzstart", "101", true))
	}
	if _, all := w.newTasks(flood); all != reasonNotSeen {
		t.Errorf("none of the last look's tasks is left: %q", all)
	}
}

// TestWatchFile: with .vmlist every config change gives a hint at once.
func TestWatchFile(t *testing.T) {
	etc := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, d *Options) {
			o.EtcPVE, d.VMList = etc, filepath.Join(etc, ".vmlist")
		})
		w := watchRig(t, r)
		w.want("at first", time.Second, "the watch begins: all")
		if err := r.sim.Operator(guest.LXC).Set(t.Context(), 101, map[string]string{"description": "x"}); err != nil {
			t.Fatal(err)
		}
		w.want("config", 500*time.Millisecond, "the cluster file system says so: 101")
		w.want("nothing happens", time.Minute)
		time.Sleep(1510 * time.Millisecond) // not at the moment of a look
		r.sim.ResetCounters()
		w.want("counters reset", 500*time.Millisecond, "the cluster file system's counters were reset: all")
		if err := os.Rename(etc+"/.vmlist", etc+"/x"); err != nil {
			t.Fatal(err)
		}
		w.want("not mounted", time.Minute)
		if err := os.Rename(etc+"/x", etc+"/.vmlist"); err != nil {
			t.Fatal(err)
		}
		w.want("mounted again", 500*time.Millisecond, "the cluster file system's counters were reset: all")
	})
}

func TestVMListSince(t *testing.T) {
	list := func(start, version int64, ids map[guest.VMID]int64) vmList {
		l := vmList{StartTime: start, Version: version, IDs: map[guest.VMID]vmEntry{}}
		for v, n := range ids {
			l.IDs[v] = vmEntry{Node: "pve1", Type: "lxc", Version: n}
		}
		return l
	}
	old := list(7, 10, map[guest.VMID]int64{101: 5, 102: 10})
	moved := list(7, 11, map[guest.VMID]int64{101: 5, 102: 10})
	moved.IDs[101] = vmEntry{Node: "pve2", Type: "lxc", Version: 5}
	tests := []struct {
		name string
		now  vmList
		want []guest.VMID
		all  bool
	}{
		{"the same", old, nil, false},
		{"a write", list(7, 11, map[guest.VMID]int64{101: 11, 102: 10}), []guest.VMID{101}, false},
		{"a new one and one gone", list(7, 12, map[guest.VMID]int64{102: 10, 103: 11}), []guest.VMID{101, 103}, false},
		{"moved to another node", moved, []guest.VMID{101}, false},
		{"another run of pmxcfs", list(8, 11, map[guest.VMID]int64{101: 11, 102: 10}), nil, true},
		{"the counter went down", list(7, 9, map[guest.VMID]int64{101: 5, 102: 9}), nil, true},
		{"one guest's counter went down", list(7, 12, map[guest.VMID]int64{101: 4, 102: 10}), nil, true},
	}
	for _, tt := range tests {
		got, all := tt.now.since(old)
		if diff := cmp.Diff(tt.want, got); diff != "" || all != tt.all {
			t.Errorf("%s: all %v (-want +got):\n%s", tt.name, all, diff)
		}
	}
}

func TestReadVMListRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no version": `{"ids":{}}`, "odd VMID": `{"version":1,"ids":{"x":{}}}`, "not JSON": `version 1`,
	} {
		path := writeVMList(t, t.TempDir(), 1, 1)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := readVMList(path); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// TestWatchOutage: while PVE is away it is asked rarely and nothing is told;
// afterwards anything may have changed.
func TestWatchOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		w := watchRig(t, r)
		w.want("at first", time.Second, "the watch begins: all")
		var mu sync.Mutex
		asked, first := 0, time.Time{}
		f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
			mu.Lock()
			defer mu.Unlock()
			if asked++; first.IsZero() {
				first = time.Now()
			}
			w.WriteHeader(500)
			fmt.Fprint(w, `{"message":"odd"}`)
			return true
		}
		r.twist.Store(&f)
		w.want("away", time.Hour)
		mu.Lock()
		if asked < 100 || asked > 130 {
			t.Errorf("asked %d times in an hour", asked)
		}
		mu.Unlock()
		r.twist.Store(nil)
		w.want("back", 31*time.Second, "PVE answers again: all")
		if err := r.sim.SetLock(202, "backup"); err != nil {
			t.Fatal(err)
		}
		w.want("as before", 2*time.Second, "the guest list changed: 202")
	})
}

// TestWatchStartsBeforePVE: the first hint waits for PVE.
func TestWatchStartsBeforePVE(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.net.down.Store(true)
		w := watchRig(t, r)
		w.want("away", time.Minute)
		r.net.down.Store(false)
		w.want("there", time.Minute, "the watch begins: all")
	})
}

// TestWatchEndsWithEmit: its error is passed on.
func TestWatchEndsWithEmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("full")
		if err := newRig(t, nil).Watch(t.Context(), func(plugin.Hint) error { return failure }); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
	})
}
