// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Continuity is what tasks and sightings tell of the time since a guest was
// last seen: whether another can have taken its VMID. It is unbroken only if
// it is known and the lists are empty; the zero Continuity is not known.
//
// What broke it stays true when PVE's task list has forgotten it, so it goes
// into the journal until the operator accepts the guest: see [Continuity.Join].
type Continuity struct {
	// Known says that the tasks of the whole time are known, and every sighting.
	Known bool `json:"known,omitempty"`
	// Recreated tells how somebody else made, restored or deleted a guest of
	// this VMID.
	Recreated []string `json:"recreated,omitempty"`
	// Underway tells who is about to. It is true at this moment only.
	Underway []string `json:"-"`
	// Gone tells when the guest was away: a look found it gone or on another
	// node, or a task migrated it. What the caller saw, the caller adds.
	Gone []string `json:"gone,omitempty"`
	// Doubts are other reasons why it may not be the same: the task list does
	// not reach back, somebody's deletion failed half-way. The caller adds its
	// own.
	Doubts []string `json:"doubts,omitempty"`
}

// maxReasons bounds each list of a Continuity that is carried along: one
// reason is enough, and a guest that nobody accepts is looked at for years.
const maxReasons = 8

// Broken reports whether there is anything to carry along.
func (c Continuity) Broken() bool { return len(c.Recreated)+len(c.Gone)+len(c.Doubts) > 0 }

// Join adds what an earlier Continuity told: all but what was under way then.
func (c Continuity) Join(earlier Continuity) Continuity {
	c.Recreated = join(earlier.Recreated, c.Recreated)
	c.Gone = join(earlier.Gone, c.Gone)
	c.Doubts = join(earlier.Doubts, c.Doubts)
	return c
}

func join(a, b []string) []string {
	out := make([]string, 0, len(a)+len(b))
	for _, s := range slices.Concat(a, b) {
		if !slices.Contains(out, s) && len(out) < maxReasons {
			out = append(out, s)
		}
	}
	return slices.Clip(out)
}

// doubts are the reasons why it cannot be ruled out that this is another.
func (c Continuity) doubts() []string {
	out := slices.Concat(c.Gone, c.Doubts)
	if !c.Known {
		out = append(out, "what happened since it was last seen is not known")
	}
	return out
}

// How PVE calls the tasks that make and end guests (proxmox.md, worker types).
// The id of each is the VMID; that of a clone is its source's, so a clone into
// a VMID does not show among the tasks of that VMID.
var (
	creations = []string{"vzcreate", "qmcreate"}
	restores  = []string{"vzrestore", "qmrestore"}
	deletions = []string{"vzdestroy", "qmdestroy"}
	moves     = []string{"vzmigrate", "qmigrate"}
	rollbacks = []string{"vzrollback", "qmrollback"}
)

// ContinuityOf is what the tasks tell. tasks must hold every task of that VMID
// that began in the second of since or later, or still runs; the caller that
// knows they do not reach back says so in Doubts. since is when the guest was
// last seen in a state that was not [Unsteady], by the node's clock, and not
// later than the tasks of that look were read. own tells the tasks of our own
// ops by their UPIDs: not those of our token, which another may use.
func ContinuityOf(tasks []plugin.Task, vmid guest.VMID, since time.Time, own func(upid string) bool) Continuity {
	c := Continuity{Known: !since.IsZero()}
	deleted := ""
	for _, t := range ofGuest(tasks, vmid) {
		if own == nil || !own(t.UPID) {
			c.foreign(t, since)
			continue
		}
		if !t.Started.After(since) || !mayHaveHappened(t) {
			continue
		}
		switch {
		case slices.Contains(deletions, t.Type):
			deleted = words(t)
		case slices.Contains(creations, t.Type), slices.Contains(restores, t.Type):
			deleted = ""
		}
	}
	if deleted != "" {
		c.Recreated = append(c.Recreated, "it is there again after our own "+deleted)
	}
	return c
}

// ofGuest are the tasks of a VMID, earliest first.
func ofGuest(tasks []plugin.Task, vmid guest.VMID) []plugin.Task {
	id := vmid.String()
	out := slices.DeleteFunc(slices.Clone(tasks), func(t plugin.Task) bool { return t.ID != id })
	slices.SortFunc(out, func(a, b plugin.Task) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.UPID, b.UPID))
	})
	return out
}

// foreign adds what somebody else's task tells.
func (c *Continuity) foreign(t plugin.Task, since time.Time) {
	if !counts(t, since) {
		return
	}
	runs, happened := t.Ended.IsZero(), mayHaveHappened(t)
	switch {
	case slices.Contains(moves, t.Type) && happened:
		c.Gone = append(c.Gone, words(t))
	case !makesOrEnds(t):
	case runs:
		c.Underway = append(c.Underway, words(t)+" runs")
	case happened, slices.Contains(creations, t.Type):
		// A creation begins only if there is no such guest, however it ends.
		c.Recreated = append(c.Recreated, words(t))
	default:
		c.Doubts = append(c.Doubts, words(t)+" failed, perhaps half-way")
	}
}

func makesOrEnds(t plugin.Task) bool {
	return slices.Contains(creations, t.Type) || slices.Contains(restores, t.Type) || slices.Contains(deletions, t.Type)
}

// counts reports whether a task can be later than the sighting at since. PVE
// has its beginning in whole seconds. When in doubt it counts; but a creation
// of the very second is what made the guest that was seen then, because the
// VMID was free when it began.
func counts(t plugin.Task, since time.Time) bool {
	switch {
	case t.Ended.IsZero():
		return true
	case slices.Contains(creations, t.Type):
		return t.Started.After(since)
	}
	return !t.Started.Before(since.Truncate(time.Second))
}

// mayHaveHappened reports whether a task that ended did what it was for, or
// ended without saying.
func mayHaveHappened(t plugin.Task) bool {
	switch {
	case t.Ended.IsZero():
		return false
	case t.Status == "", t.Status == "OK", t.Status == "unexpected status":
		return true
	}
	return strings.HasPrefix(t.Status, "WARNINGS: ")
}

// words names a task for people. It may come from a plugin that lies.
func words(t plugin.Task) string {
	return fmt.Sprintf("%s by %s at %s (%s)", t.Type, clean(t.User), t.Started.UTC().Format(time.RFC3339), clean(t.UPID))
}

func clean(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	if q := strconv.QuoteToASCII(s); q != `"`+s+`"` {
		return q
	}
	return s
}

// unsettling are the locks under which a config is being written as a whole.
var unsettling = []string{"clone", "create", "destroyed", "import", "migrate", "rollback"}

// Unsteady says why an observation is no sighting to be remembered: neither
// its evidence nor its time, which [ContinuityOf] is later given as since. ""
// means that it is one. A guest that is just being made is first seen when
// that is over, else the task that makes it would speak against it.
func Unsteady(o plugin.Observation) string {
	switch {
	case o.Presence != plugin.Here:
		return "it is not here"
	case len(o.Config) == 0:
		return "its config is not known"
	case slices.Contains(unsettling, o.State.Lock):
		return "it has the lock " + o.State.Lock
	}
	for _, t := range ofGuest(o.Tasks, o.State.ID.VMID) {
		if t.Ended.IsZero() && (makesOrEnds(t) || slices.Contains(moves, t.Type) || slices.Contains(rollbacks, t.Type)) {
			return words(t) + " runs"
		}
	}
	return ""
}
