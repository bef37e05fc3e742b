// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// noticeTwin looks for tasks of our own token that are not ours: then another
// agent uses the token, most likely on a host that was cloned. Two agents that
// both mean well would fight, so this one stops changing anything until the
// operator resumes it. Config writes leave no task, so a twin that only writes
// configs is not seen.
func (e *Engine) noticeTwin(id guest.VMID, tasks []plugin.Task) {
	for _, t := range tasks {
		if !t.Own || !runsGuest(t) || t.ID != id.String() || e.accountsFor(id, t) {
			continue
		}
		e.mu.Lock()
		if e.twin == "" {
			e.twin = "another agent uses this agent's token: task " + t.UPID + " is not of this agent; " +
				"give each host a token of its own, then `felhom-agent resume`"
			e.log.Error(e.twin)
		}
		e.mu.Unlock()
		return
	}
}

// accountsFor reports whether a task of our token may be this agent's: it is
// an op's, or there was a sending about the guest that it may have come of, or
// it is older than what this agent knows.
func (e *Engine) accountsFor(id guest.VMID, t plugin.Task) bool {
	if t.Started.Before(e.led.Began().Add(inFlight)) || t.Started.Before(e.led.Whole()) {
		return true
	}
	for _, o := range e.led.OpsOf(id) {
		sent := o.Sent.Add(-2 * time.Second)
		if o.Handle == t.UPID || (o.Handle == "" && !t.Started.Before(sent) && t.Started.Before(o.Sent.Add(inFlight))) {
			return true
		}
	}
	return false
}
