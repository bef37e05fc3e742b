// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The task types by which a person starts or stops a guest (proxmox.md 4.4).
var (
	stopTasks  = []string{"vzstop", "vzshutdown", "qmstop", "qmshutdown"}
	startTasks = []string{"vzstart", "qmstart"}
	// bulkTasks start or stop guests on their way, by child tasks of the same
	// user or inside themselves.
	bulkTasks = []string{
		"startall", "stopall", "suspendall", "migrateall", "vzdump",
		"vzrollback", "qmrollback", "vzmigrate", "qmigrate", "vzrestore", "qmrestore",
		"hastart", "hastop", "hamigrate", "bulk-start", "bulk-shutdown", "bulk-suspend", "bulk-migrate",
	}
)

// manual tells whether the guest's run state is what somebody made it by hand
// after since, and says so in words; "" means no. want is the desired run
// state, which the guest is not in.
//
// A poweroff from inside and a crash leave no task and no pre-stop, so they
// are not manual. A stop that was asked for by nobody we can name counts as
// manual: to hold is the smaller mistake.
func manual(tasks []plugin.Task, g ledger.Guest, want guest.RunState, since time.Time) string {
	if want == guest.Running && g.StopAsked.After(since) && !explained(tasks, g.StopAsked) {
		return "somebody asked for the stop at " + clock(g.StopAsked) + ", no task tells who"
	}
	types, verb := stopTasks, "stopped"
	if want == guest.Stopped {
		types, verb = startTasks, "started"
	}
	last := lastRunTask(tasks, since)
	if last == nil || last.Own || !slices.Contains(types, last.Type) || partOfBulk(tasks, *last) {
		return ""
	}
	return fmt.Sprintf("%s by %s at %s (%s)", verb, last.User, clock(last.Started), last.UPID)
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// explained reports whether a task that may stop the guest ran at that time.
func explained(tasks []plugin.Task, at time.Time) bool {
	return slices.ContainsFunc(tasks, func(t plugin.Task) bool {
		return (runsGuest(t) || slices.Contains(bulkTasks, t.Type)) && covers(t, at)
	})
}

// runsGuest reports whether t starts, stops or reboots one guest.
func runsGuest(t plugin.Task) bool {
	return slices.Contains(stopTasks, t.Type) || slices.Contains(startTasks, t.Type) ||
		t.Type == "vzreboot" || t.Type == "qmreboot"
}

// past leaves out tasks of a later time: they ran before the clock was set back,
// and are older than they look.
func past(tasks []plugin.Task, now time.Time) []plugin.Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(t plugin.Task) bool { return t.Started.After(now.Add(time.Second)) })
}

// lastRunTask is the newest task since then that starts or stops the guest.
func lastRunTask(tasks []plugin.Task, since time.Time) *plugin.Task {
	var last *plugin.Task
	for i, t := range tasks {
		if !runsGuest(t) || t.Started.Before(since) {
			continue
		}
		if last == nil || t.Started.After(last.Started) {
			last = &tasks[i]
		}
	}
	return last
}

// partOfBulk reports whether t is a child of a task that acts on many guests,
// or of one that stops and starts a guest on its way: it began while that ran.
// Children have the parent's user, but for backup and HA, whose are root's.
func partOfBulk(tasks []plugin.Task, t plugin.Task) bool {
	for _, b := range tasks {
		if !slices.Contains(bulkTasks, b.Type) || b.UPID == t.UPID {
			continue
		}
		sameUser := b.User == t.User || (t.User == "root@pam" && (b.Type == "vzdump" || strings.HasPrefix(b.Type, "ha")))
		if sameUser && covers(b, t.Started) {
			return true
		}
	}
	return false
}

// covers reports whether at is within the task's life, whose times are whole
// seconds.
func covers(t plugin.Task, at time.Time) bool {
	if at.Before(t.Started.Add(-time.Second)) {
		return false
	}
	return t.Ended.IsZero() || !at.After(t.Ended.Add(time.Second))
}

// foreignTask is a running task about the guest that is not ours, or nil.
func foreignTask(tasks []plugin.Task, v guest.VMID) *plugin.Task {
	for i, t := range tasks {
		if t.Ended.IsZero() && !t.Own && t.ID == v.String() {
			return &tasks[i]
		}
	}
	return nil
}
