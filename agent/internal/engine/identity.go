// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// who is what a look says of a guest's identity (promise P5).
type who struct {
	verdict    identity.Verdict // "" is as Same: nothing speaks against it
	why        []string
	evidence   identity.Evidence // as seen; zero if the config could not be read
	continuity identity.Continuity
	judged     bool
	// half: it is what an op of ours that failed has left there.
	half bool
}

// judge says who the guest is. It takes the guest's tasks to say anything new;
// without them the last verdict stands, and nothing is changed on that alone
// (see sight).
func (e *Engine) judge(s *sighting, tasks bool) who {
	w := who{verdict: s.led.Verdict, why: s.led.VerdictWhy}
	if s.obs.Presence != plugin.Here {
		return w
	}
	w.evidence = identity.Of(s.obs.State.ID.Kind, s.obs.Config)
	if s.led.Incarnation == "" {
		if s.led.HalfMade != "" {
			w.verdict, w.why = identity.Stranger, []string{e.halfMade(s.led.HalfMade)}
		}
		return w
	}
	if !tasks {
		return w
	}
	var known identity.Evidence
	if s.led.Evidence != nil {
		known = *s.led.Evidence
	}
	w.continuity, w.judged = e.continuity(s), true
	if s.obs.TasksGap != "" {
		w.continuity.Known = false // at this look; it is no mark against the guest for ever
	}
	w.verdict, w.why = identity.Judge(known, w.evidence, w.continuity, s.led.Explained)
	if s.obs.TasksGap != "" {
		w.why = append(w.why, s.obs.TasksGap)
	}
	if s.led.HalfMade != "" { // what was first seen is no guest that anybody meant
		o, ok := e.led.Op(s.led.HalfMade)
		w.half = w.verdict == identity.Same && ok && o.State == op.Failed
		w.verdict, w.why = identity.Stranger, append([]string{e.halfMade(s.led.HalfMade)}, w.why...)
	}
	return w
}

func (e *Engine) halfMade(opID string) string {
	o, ok := e.led.Op(opID)
	switch {
	case ok && o.State == op.Refused:
		return "op " + opID + " was to make it: " + o.Message
	case ok && o.Message != "":
		return "it may be half made by op " + opID + ": " + o.Message
	}
	return "it may be half made by op " + opID
}

func (e *Engine) continuity(s *sighting) identity.Continuity {
	id := s.want.VMID
	c := identity.ContinuityOf(s.obs.Tasks, id, e.knownSince(s.led), e.ours(id))
	if s.led.Lost != "" {
		c.Gone = append(c.Gone, s.led.Lost)
	}
	if s.led.Continuity != nil {
		c = c.Join(*s.led.Continuity)
	}
	return c
}

// knownSince is from when on a task that makes or removes guests speaks
// against this one being the same.
func (e *Engine) knownSince(g ledger.Guest) time.Time {
	since := g.Looked
	if since.IsZero() { // a journal from before looks had a time
		since = g.FirstSeen
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return later(since, e.sure[g.ID.VMID])
}

// ours tells the tasks of this agent's own ops.
func (e *Engine) ours(id guest.VMID) func(upid string) bool {
	own := map[string]bool{}
	for _, o := range e.led.OpsOf(id) {
		if o.Handle != "" {
			own[o.Handle] = true
		}
	}
	return func(upid string) bool { return own[upid] }
}

// surely notes that at the time of a look the guest was the same and at rest,
// so that older tasks need not be asked for again.
func (e *Engine) surely(s *sighting) {
	if !s.who.judged || s.who.verdict != identity.Same || s.obs.Time.IsZero() || identity.Unsteady(s.obs) != "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sure[s.want.VMID] = s.obs.Time.Add(-2 * time.Second) // older is never wrong
}

// doubt puts a verdict into the plan's words.
func doubt(pol *plan.Policy, s *sighting) {
	id := s.want.VMID.String()
	why := strings.Join(s.who.why, "; ")
	switch s.who.verdict {
	case identity.Stranger:
		pol.Identity = "another guest has this VMID: " + why + "; `felhom-agent accept " + id + "` takes it as the one that is meant"
		if s.who.half {
			pol.Identity = why + "; `felhom-agent accept " + id + "` keeps it as it is, `felhom-agent ask destroy " + id + "` removes it"
		}
	case identity.Changed:
		pol.Changed = "it is not surely the same guest: " + why + "; `felhom-agent accept " + id + "` if it is"
	case identity.Unsure:
		pol.Changed = "it is not surely the same guest: " + why
	}
	if q := s.led.Quarantine; q != nil && s.who.verdict != identity.Stranger {
		pol.Identity = "in quarantine for op " + q.Op + "; `felhom-agent undo " + q.Op + "` takes it out"
	}
	pol.Lost = s.led.Lost
	if pol.Lost == "" && s.led.Incarnation != "" { // seen to be gone just now, if it is: not journalled yet
		pol.Lost = "it was here and is gone"
	}
}

// recognise is what is to be journalled about who the guest is.
func (s sighting) recognise() []ledger.Record {
	switch s.obs.Presence {
	case plugin.Gone, plugin.Elsewhere:
		return s.away()
	case plugin.Here:
		if s.led.Incarnation == "" {
			return s.firstSight()
		}
		return s.newVerdict()
	}
	return nil
}

func (s sighting) away() []ledger.Record {
	known := s.led.Incarnation != "" || s.obs.Presence == plugin.Elsewhere
	if !known || s.led.Lost != "" {
		return nil
	}
	return []ledger.Record{{Type: ledger.TypeGone, Gone: &ledger.Gone{
		VMID: s.want.VMID, Elsewhere: s.obs.Presence == plugin.Elsewhere,
	}}}
}

// firstSight takes a guest nothing is known of as the one that is meant. What
// is there although an op that was to make it did not succeed is known by it
// too, but stays a stranger.
func (s sighting) firstSight() []ledger.Record {
	if s.who.verdict == identity.Stranger && s.led.HalfMade == "" || s.obs.State.ID.Kind != s.want.Kind || identity.Unsteady(s.obs) != "" {
		return nil
	}
	return []ledger.Record{{Type: ledger.TypeSeen, Seen: &ledger.Seen{
		Guest: s.obs.State.ID, Incarnation: rand.Text(), Evidence: &s.who.evidence, Looked: s.looked(),
	}}}
}

// newVerdict is the verdict if it says anything new.
func (s sighting) newVerdict() []ledger.Record {
	w := s.who
	if !w.judged {
		return nil
	}
	r := &ledger.Identity{VMID: s.want.VMID, Verdict: w.verdict, Why: w.why}
	if w.continuity.Broken() {
		r.Continuity = &w.continuity
	}
	fresh := w.verdict == identity.Same || w.verdict == identity.Unsure && s.led.Evidence == nil
	if fresh && !w.evidence.IsZero() && identity.Unsteady(s.obs) == "" && !s.sameEvidence() {
		r.Evidence, r.Looked = &w.evidence, s.looked()
	}
	was := s.led.Verdict
	if was == "" {
		was = identity.Same
	}
	if w.verdict == was && r.Evidence == nil && sameContinuity(r.Continuity, s.led.Continuity) {
		return nil
	}
	return []ledger.Record{{Type: ledger.TypeIdentity, Identity: r}}
}

// sameContinuity: both say the same, as the journal keeps it.
func sameContinuity(a, b *identity.Continuity) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Known == b.Known && slices.Equal(a.Recreated, b.Recreated) && slices.Equal(a.Gone, b.Gone) && slices.Equal(a.Doubts, b.Doubts)
}

// sameEvidence: there is nothing new to keep. What ops of ours may have changed
// is looked at once they have ended; a change that waits for a restart is still
// to come.
func (s sighting) sameEvidence() bool {
	if s.looked().Sub(s.led.Looked) > keepLook || s.led.Evidence == nil || s.led.Lost != "" || !s.led.Evidence.Equal(s.who.evidence) {
		return false
	}
	return len(s.led.Explained) == 0 || len(s.obs.Pending) > 0
}

// keepLook is how old the last journalled look at who a guest is may get: PVE's
// task list, which tells what happened since, does not reach back far.
const keepLook = 24 * time.Hour

// looked is when the guest was looked at, by the node's clock.
func (s sighting) looked() time.Time {
	if s.obs.Time.IsZero() {
		return time.Now()
	}
	return s.obs.Time
}

// unlikely reports whether what was seen gives a reason to judge who it is.
func (s sighting) unlikely() bool {
	return s.obs.Presence == plugin.Here && s.led.Incarnation != "" && !s.who.evidence.IsZero() && !s.sameEvidence()
}

// incarnation is the guest's present one, or a new one for a guest that was
// not known or is another.
func incarnation(s sighting) string {
	if s.led.Incarnation == "" || s.who.verdict == identity.Stranger {
		return rand.Text()
	}
	return s.led.Incarnation
}
