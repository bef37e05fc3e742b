// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

func TestManual(t *testing.T) {
	since := time.Unix(10_000, 0)
	at := func(s int) time.Time { return since.Add(time.Duration(s) * time.Second) }
	task := func(typ, user string, from, to int) plugin.Task {
		return plugin.Task{UPID: typ + user, Type: typ, ID: "101", User: user, Started: at(from), Ended: at(to), Status: "OK", Own: strings.HasPrefix(user, "felhom@")}
	}
	running := func(tk plugin.Task) plugin.Task { tk.Ended, tk.Status = time.Time{}, ""; return tk }
	bulk := func(tk plugin.Task) plugin.Task { tk.ID = ""; return tk }
	asked := func(s int) ledger.Guest { return ledger.Guest{StopAsked: at(s)} }

	tests := []struct {
		name  string
		tasks []plugin.Task
		led   ledger.Guest
		want  guest.RunState // running unless set
		held  string         // part of the reason; "" = not manual
	}{
		{name: "nothing known: a crash or a poweroff from inside"},
		{name: "a user's shutdown", tasks: []plugin.Task{task("vzshutdown", "alice@pam", 10, 12)}, led: asked(10), held: "stopped by alice@pam"},
		{name: "a user's hard stop of a VM", tasks: []plugin.Task{task("qmstop", "alice@pam", 10, 12)}, held: "stopped by alice@pam"},
		{name: "root at the command line is a user too", tasks: []plugin.Task{task("vzstop", "root@pam", 10, 12)}, held: "stopped by root@pam"},
		{name: "our own shutdown", tasks: []plugin.Task{task("vzshutdown", "felhom@pve!agent-n1", 10, 12)}, led: asked(10)},
		{name: "a stop before the present desire", tasks: []plugin.Task{task("vzstop", "alice@pam", -60, -58)}, led: asked(-60)},
		{name: "our start after the user's stop", tasks: []plugin.Task{
			task("vzstop", "alice@pam", 10, 12), task("vzstart", "felhom@pve!agent-n1", 20, 22),
		}},
		{name: "the user's stop after our start", tasks: []plugin.Task{
			task("vzstart", "felhom@pve!agent-n1", 5, 6), task("vzstop", "alice@pam", 10, 12),
		}, held: "stopped by alice@pam"},
		{name: "a child of stopall", tasks: []plugin.Task{
			bulk(running(task("stopall", "root@pam", 8, 0))), task("vzshutdown", "root@pam", 10, 12),
		}, led: asked(10)},
		{name: "a stop by another user while stopall runs", tasks: []plugin.Task{
			bulk(running(task("stopall", "root@pam", 8, 0))), task("vzshutdown", "alice@pam", 10, 12),
		}, held: "stopped by alice@pam"},
		{name: "a VM stopped for its backup", tasks: []plugin.Task{
			task("vzdump", "alice@pam", 8, 30), task("qmshutdown", "root@pam", 10, 12),
		}},
		{name: "a container stopped by a rollback, which has no stop task", tasks: []plugin.Task{
			task("vzrollback", "alice@pam", 9, 12),
		}, led: asked(10)},
		{name: "a user's reboot whose start failed", tasks: []plugin.Task{task("vzreboot", "alice@pam", 10, 20)}, led: asked(10)},
		{name: "asked for, and no task tells by whom", led: asked(10), held: "no task tells who"},
		{name: "asked for long after our start, and no task tells by whom", tasks: []plugin.Task{
			task("vzstart", "felhom@pve!agent-n1", 5, 6),
		}, led: asked(100), held: "no task tells who"},
		{name: "asked for before the present desire", led: asked(-10)},
		{name: "started by a user although wanted stopped", want: guest.Stopped, tasks: []plugin.Task{
			task("vzstart", "alice@pam", 10, 12),
		}, held: "started by alice@pam"},
		{name: "started by startall although wanted stopped", want: guest.Stopped, tasks: []plugin.Task{
			bulk(task("startall", "root@pam", 8, 30)), task("vzstart", "root@pam", 10, 12),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = guest.Running
			}
			got := manual(tt.tasks, tt.led, want, since)
			if (got == "") != (tt.held == "") || !strings.Contains(got, tt.held) {
				t.Errorf("manual = %q, want something with %q", got, tt.held)
			}
		})
	}
}

func TestForeignTask(t *testing.T) {
	now := time.Now()
	tasks := []plugin.Task{
		{Type: "vzstart", ID: "101", Started: now, Own: true},
		{Type: "vzshutdown", ID: "102", Started: now},
		{Type: "vzshutdown", ID: "101", Started: now, Ended: now},
	}
	if got := foreignTask(tasks, 101); got != nil {
		t.Errorf("foreign task of 101: %+v", got)
	}
	if got := foreignTask(tasks, 102); got == nil || got.Type != "vzshutdown" {
		t.Errorf("foreign task of 102: %+v", got)
	}
}
