// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// look reconciles one guest one step: settle what is in flight, observe, plan,
// and carry out the first action. It comes back until the plan is empty.
func (e *Engine) look(ctx context.Context, id guest.VMID) queue.Result {
	if res, open := e.settle(ctx, id); open {
		return res
	}
	if res, busy := e.removal(ctx, id); busy {
		return res
	}
	want := e.wanted(id)
	if want == nil {
		e.forgetView(id)
		return queue.Result{}
	}
	s, err := e.sight(ctx, want)
	if err != nil {
		e.setView(e.errorView(want, err))
		return queue.Result{Err: err}
	}
	e.setView(e.makeView(s))
	if err := e.note(ctx, s); err != nil {
		return queue.Result{Err: err}
	}
	if s.inactive != "" {
		return s.again()
	}
	if !e.goOn(ctx, s) {
		if err := e.propose(ctx, s); err != nil {
			return queue.Result{Err: err}
		}
	}
	if len(s.plan.Actions) == 0 {
		return s.again()
	}
	return e.act(ctx, s, s.plan.Actions[0], op.Reconciler)
}

// sighting is one guest at one moment: wanted, seen and planned.
type sighting struct {
	want *desired.Guest
	obs  plugin.Observation
	led  ledger.Guest
	plan plan.Guest
	// inactive says why nothing is carried out although it is planned.
	inactive string
	// wait is when to look again although nothing happened.
	wait time.Duration
	// held is why the run state is left alone, "" if it is not.
	held string
	pve  string
	// who the guest is.
	who who
}

// idleLook is how soon a guest in transition is looked at where nobody acts on
// what is seen.
const idleLook = 5 * time.Second

// again is when to look at the guest next without being told to.
func (s sighting) again() queue.Result {
	switch {
	case s.inactive != "" && s.wait > 0: // what is shown is out of date then, and no hint may come
		return queue.Result{Again: max(s.wait, idleLook)}
	case s.inactive != "":
		return queue.Result{}
	case s.wait > 0:
		return queue.Result{Again: s.wait}
	case s.obs.State.Lock != "" && !s.plan.Empty():
		return queue.Result{Err: errWait}
	}
	return queue.Result{}
}

// sight observes and plans a guest. The guest's tasks cost a call of their
// own, so they are asked for only when something differs.
func (e *Engine) sight(ctx context.Context, want *desired.Guest) (s sighting, err error) {
	s = sighting{want: want}
	defer func() { s.inactive = e.inactive(want) }() // what was seen may be a reason
	for _, since := range []time.Time{{}, e.tasksSince(want.VMID)} {
		tasks := !since.IsZero()
		obs, err := e.observe(ctx, plugin.GuestQuery{VMID: want.VMID, TasksSince: since})
		if err != nil {
			return s, err
		}
		s.obs, s.led = obs, e.led.Guest(want.VMID)
		e.noticeTwin(want.VMID, obs.Tasks)
		e.planGuest(&s, tasks)
		if s.plan.Empty() && !s.unlikely() {
			break
		}
	}
	return s, nil
}

func (e *Engine) observe(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	release, err := e.slots.Acquire(ctx, SlotReads)
	if err != nil {
		return plugin.Observation{}, err
	}
	defer release()
	obs, err := e.opt.Observer.Guest(ctx, q)
	if err != nil {
		return obs, fmt.Errorf("observe guest %s: %w", q.VMID, err)
	}
	return obs, nil
}

// tasksSince is from when on a guest's tasks bear on its plan: since its
// present desire was accepted or its hold was ended, and at least the last
// quarter of an hour, in which something may still run.
func (e *Engine) tasksSince(id guest.VMID) time.Time {
	g := e.led.Guest(id)
	since := e.wantedSince(g)
	if recent := e.opt.Wall().Add(-recently); since.IsZero() || recent.Before(since) {
		since = recent
	}
	if known := e.knownSince(g).Truncate(time.Second); !known.IsZero() && known.Before(since) {
		return known
	}
	return since
}

// recently is how far back something may still run, or was surely seen.
const recently = 15 * time.Minute

// wantedSince is from when on counts what somebody does to the guest by hand. If
// that is still to come the clock was set back, and what was done lately counts.
func (e *Engine) wantedSince(g ledger.Guest) time.Time {
	since, now := later(g.Since, g.Released), e.opt.Wall()
	if since.After(now) {
		return now.Add(-recently)
	}
	return since
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (e *Engine) planGuest(s *sighting, tasks bool) {
	s.pve = e.version()
	s.who = e.judge(s, tasks)
	if tasks {
		e.surely(s)
	}
	in := plan.Input{Forms: e.forms, PVE: major(s.pve), Frozen: e.frozen(s.obs.Tasks, tasks)}
	e.mu.Lock()
	in.AllowAdditive, in.Reserve = e.set.AllowAdditive, e.set.Reserve
	e.mu.Unlock()
	in.Guests = map[guest.VMID]plan.Policy{s.want.VMID: e.policy(s, tasks)}
	s.plan = in.Guest(s.want, s.obs)
}

func major(version string) int {
	n, _ := strconv.Atoi(strings.SplitN(version, ".", 2)[0])
	return n
}

// policy is what the agent remembers that bears on the guest's plan.
func (e *Engine) policy(s *sighting, tasks bool) plan.Policy {
	pol := plan.Policy{ForceStop: s.led.ForceStop, Hold: map[string]string{}}
	if s.led.HARevision == s.want.Revision {
		pol.HARequested = s.led.HARequested
	}
	if s.led.Settled == s.want.Revision {
		pol.Hold["*"] = "changed by hand since the agent found it as wanted"
	}
	pol.SetAside = setAside(s)
	doubt(&pol, s)
	pol.Busy, s.wait = e.busy(s, tasks)
	if o, open := e.led.Open(s.want.VMID); open {
		pol.Busy = "op " + o.ID + " (" + string(o.Kind) + ") is under way"
	}
	s.held = e.held(s, tasks)
	if s.held != "" {
		pol.Hold[desired.RunField] = "held: " + s.held + "; `felhom-agent resume " + s.want.VMID.String() + "` ends the hold"
	}
	return pol
}

// held says why the run state is left alone, or "". What was found once counts
// until the guest is as wanted, is resumed, or is wanted otherwise: PVE's task
// list does not go back far.
func (e *Engine) held(s *sighting, tasks bool) string {
	if s.want.Run == "" || s.obs.State.Run == s.want.Run || s.want.Manual(desired.RunField) != desired.Hold {
		return ""
	}
	if s.led.Held != "" || !tasks {
		return s.led.Held
	}
	return manual(past(s.obs.Tasks, e.opt.Wall()), s.led, s.want.Run, e.wantedSince(s.led))
}

// setAside are the keys whose present change PVE has refused.
func setAside(s *sighting) map[string]string {
	out := map[string]string{}
	for key, sa := range s.led.SetAside {
		if sa.Want == fingerprint(s.want.Config, key) && sa.Have == fingerprint(s.obs.Config, key) && sa.PVE == s.pve {
			out[key] = sa.Words
		}
	}
	return out
}

// fingerprint stands for a value without showing it.
func fingerprint(c guest.Config, key string) string {
	v, ok := c[key]
	if !ok {
		return "absent"
	}
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:8])
}

// note journals what was learned by looking: a guest's first sight, a hold's
// beginning or end, and that it is as wanted.
func (e *Engine) note(ctx context.Context, s sighting) error {
	recs := s.recognise()
	if s.held != s.led.Held && s.obs.Presence == plugin.Here {
		recs = append(recs, ledger.Record{Type: ledger.TypeHeld, Held: &ledger.Held{VMID: s.want.VMID, Why: s.held}})
	}
	if s.plan.Empty() {
		e.converged(s.want.VMID)
		if s.led.Settled != s.want.Revision {
			recs = append(recs, ledger.Record{Type: ledger.TypeSettled, Settled: &ledger.Settled{
				VMID: s.want.VMID, Revision: s.want.Revision,
			}})
		}
	}
	if len(recs) == 0 || e.opt.Journal.Err() != nil {
		return nil // nothing depends on these until a mutation, which needs the journal anyway
	}
	return e.append(ctx, recs...)
}

// inactive says why nothing is carried out for a guest, or "".
func (e *Engine) inactive(want *desired.Guest) string {
	e.mu.Lock()
	mode, expired, twin, silent := e.set.Mode, e.expiredLocked(want), e.twin, e.silentLocked()
	e.mu.Unlock()
	switch {
	case twin != "":
		return twin
	case expired != "":
		return expired
	case mode != Enforce:
		return "the host is in mode observe"
	case silent != "":
		return "provider " + silent + " has not spoken yet, and may claim the guest too"
	case want.Mode == desired.Observe:
		return "its document says mode = \"observe\""
	case e.led.Paused():
		return "the host is paused by the operator"
	case e.led.Guest(want.VMID).Paused:
		return "the guest is paused by the operator"
	}
	if err := e.opt.Journal.Err(); err != nil {
		return "the journal cannot be written: " + err.Error()
	}
	return ""
}

// act carries out one action of a guest's plan.
func (e *Engine) act(ctx context.Context, s sighting, a plan.Action, asker string) queue.Result {
	o := e.newOp(s, a, asker)
	if why, wait := e.mayAct(s, o, a); why != "" {
		v := e.makeView(s)
		v.Note = why
		e.setView(v)
		return queue.Result{Again: wait}
	}
	_, res := e.run(ctx, o, e.stillDue(s, o, a, false))
	return soon(res)
}

func (e *Engine) newOp(s sighting, a plan.Action, asker string) *op.Op {
	now := time.Now()
	o := &op.Op{
		ID: op.NewID(now), Asker: asker, Guest: s.obs.State.ID, Kind: a.Kind, Class: a.Class,
		Reason: a.Reason, Set: a.Set, Delete: a.Delete, Digest: a.Digest, Params: a.Params,
		Secret: a.Secret, Revision: s.want.Revision, Node: e.nodeName(), Planned: now,
		Incarnation: cmp.Or(s.led.Incarnation, e.led.Guest(s.want.VMID).Incarnation), // its first sight may just have been noted
	}
	if o.Guest.Kind == "" { // it is to be made
		o.Guest = guest.ID{Kind: s.want.Kind, VMID: s.want.VMID}
	}
	o.Explains = identity.Changes(o.Action())
	if s.obs.HA.Managed && slotOf(a.Kind) == SlotStartStop {
		o.Params = withParam(o.Params, "ha", string(s.want.Run))
	}
	return o
}

func withParam(m map[string]string, k, v string) map[string]string {
	out := map[string]string{k: v}
	for key, val := range m {
		out[key] = cmp.Or(out[key], val)
	}
	return out
}

func (e *Engine) nodeName() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return cmp.Or(e.opt.Node, e.node.Node)
}

// unavailable reports whether err says that a plugin or PVE is away.
func unavailable(err error) bool {
	return errors.Is(err, plugin.ErrShutdown) || errors.Is(err, plugin.ErrUnavailable)
}
