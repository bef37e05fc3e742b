// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// powered is a rig on a host whose state the test sets.
func powered(t *testing.T) (*rig, *atomic.Pointer[HostState]) {
	r := newRig(t)
	state := &atomic.Pointer[HostState]{}
	state.Store(&HostState{})
	r.start(Enforce)
	r.eng.opt.HostState = func() HostState { return *state.Load() }
	return r, state
}

func TestNothingIsStartedOrStoppedWhileTheHostGoesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, host := powered(t)
		defer r.stop()
		host.Store(&HostState{Frozen: "the host is going down"})
		r.put(101, guest.Stopped, guest.Config{"cores": "1"})
		r.mustDesire("[guest.101]\nkind = \"lxc\"\nrun = \"running\"\ncores = 2\n")
		after(time.Minute)
		r.wantApplied("101 set_config")
		if got := r.state(101); got != StateWaiting {
			t.Errorf("state %s", got)
		}
		host.Store(&HostState{})
		r.eng.Resync("the host's state changed")
		after(time.Minute)
		r.wantApplied("101 set_config", "101 start")
	})
}

// Twenty starts wait for four slots when the shutdown begins.
func TestWhatWaitsForItsTurnIsNotSentAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, host := powered(t)
		defer r.stop()
		doc := ""
		for id := guest.VMID(101); id <= 120; id++ {
			r.put(id, guest.Stopped, nil)
			doc += fmt.Sprintf("[guest.%d]\nkind = \"lxc\"\nrun = \"running\"\n", id)
		}
		// The first start to be sent is when the shutdown begins.
		crash := r.eng.opt.Crash
		r.eng.opt.Crash = func(point string) {
			if point == CrashIntent {
				host.Store(&HostState{Frozen: "the host is going down"})
			}
			crash(point)
		}
		r.mustDesire(doc)
		after(time.Hour)
		// Calls that were let through side by side with it.
		if n := len(r.applied()); n == 0 || n > 2 {
			t.Errorf("%d starts were sent, at most the two calls that may be outstanding are in time", n)
		}
	})
}

func TestBootCountsUntilStartallHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, host := powered(t)
		defer r.stop()
		boot := time.Now()
		host.Store(&HostState{Booted: boot})
		for _, tc := range []struct {
			name   string
			tasks  []plugin.Task
			known  bool
			frozen bool
		}{
			{"tasks not asked for", nil, false, true},
			{"no startall yet", nil, true, true},
			{"startall runs", []plugin.Task{{Type: "startall", User: "root@pam", Started: boot}}, true, true},
			{"startall of before the boot", []plugin.Task{{Type: "startall", Started: boot.Add(-time.Hour), Ended: boot.Add(-time.Minute)}}, true, true},
			{"startall has ended", []plugin.Task{{Type: "startall", Started: boot.Truncate(time.Second), Ended: boot.Add(time.Second)}}, true, false},
		} {
			if got := r.eng.frozen(tc.tasks, tc.known); (got != "") != tc.frozen {
				t.Errorf("%s: %q", tc.name, got)
			}
		}
	})
}

func TestBulkTasksFreeze(t *testing.T) {
	e := &Engine{}
	for _, typ := range bulkRun {
		if e.frozen([]plugin.Task{{Type: typ, User: "root@pam"}}, true) == "" {
			t.Errorf("a running %s freezes nothing", typ)
		}
		if why := e.frozen([]plugin.Task{{Type: typ, Ended: time.Now()}}, true); why != "" {
			t.Errorf("a %s that has ended: %s", typ, why)
		}
	}
}
