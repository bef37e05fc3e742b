// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// HostState is what is known of the host going down or coming up, beside what
// PVE's tasks tell.
type HostState struct {
	// Frozen says why no guest is started or stopped now, "" if it may be.
	Frozen string
	// Booted is when the host came up, if it is not known whether the start of
	// its guests has ended.
	Booted time.Time
}

// bulkRun are the tasks that start, stop or move many guests: PVE's own order
// is at work while one runs. The last four are PVE 9's.
var bulkRun = []string{
	"startall", "stopall", "suspendall", "migrateall", "bulk-start", "bulk-shutdown", "bulk-suspend", "bulk-migrate",
}

// frozen says why no guest is started or stopped now. known is whether tasks
// are what there are, or were not asked for.
func (e *Engine) frozen(tasks []plugin.Task, known bool) string {
	h := e.hostState()
	if h.Frozen != "" {
		return h.Frozen
	}
	for _, t := range tasks {
		if slices.Contains(bulkRun, t.Type) && t.Ended.IsZero() {
			return "a " + t.Type + " of " + t.User + " is running on the node"
		}
	}
	if h.Booted.IsZero() || known && slices.ContainsFunc(tasks, func(t plugin.Task) bool { return startedAll(t, h.Booted) }) {
		return ""
	}
	return "the host came up at " + clock(h.Booted) + " and no startall has been seen to end since"
}

// startedAll reports whether t is the start of all guests after a boot, and
// has ended. A task's times are whole seconds of the node's clock.
func startedAll(t plugin.Task, boot time.Time) bool {
	return t.Type == "startall" && !t.Ended.IsZero() && t.Started.After(boot.Add(-2*time.Second))
}

func (e *Engine) hostState() HostState {
	if e.opt.HostState == nil {
		return HostState{}
	}
	return e.opt.HostState()
}

// frozenNow is the last look before an op that starts or stops a guest is
// sent: it may have waited long for its turn.
func (e *Engine) frozenNow(kind plugin.ActionKind) bool {
	return slotOf(kind) == SlotStartStop && e.hostState().Frozen != ""
}
