// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// A destroy has two phases (design section 8). The approval's nonce is spent
// when the op is granted; from then on each look at the guest takes the next
// step: the backup that was asked for, the guest's state before, shutdown,
// onboot=0 and protection=1, and after its time the deletion. Each step is an
// op of its own, so a crash between any two of them is the same as any other.

// grant spends the approval of a destroy and begins its first phase.
func (e *Engine) grant(ctx context.Context, o *op.Op, a gated) queue.Result {
	if a.basis == nil {
		a.basis = []string{}
	}
	if err := o.Move(op.Granted); err != nil {
		return queue.Result{Err: err}
	}
	if err := e.record(ctx, o); err != nil {
		return queue.Result{Err: err}
	}
	e.log.Warn("destroy granted", "guest", o.Guest.String(), "op", o.ID, "by", strings.Join(o.Approval.Signers, ", "), "not_before", utc(o.NotBefore))
	e.queue.Look(o.Guest.VMID, "destroy granted")
	return queue.Result{Done: op.Granted}
}

// removal takes the next step of a guest's granted destroy. busy means that
// there is one and the look ends here.
func (e *Engine) removal(ctx context.Context, id guest.VMID) (res queue.Result, busy bool) {
	o, ok := e.removing(id)
	if !ok {
		return queue.Result{}, false
	}
	s, err := e.inspect(ctx, id)
	if err != nil {
		return queue.Result{Err: err}, true
	}
	if v, ok := e.quarantineView(s, o); ok {
		e.setView(v)
	}
	if e.opt.Journal.Err() != nil || e.paused(id) != "" {
		return queue.Result{Err: errWait}, true
	}
	if why := e.notNow(s); why != "" {
		return queue.Result{Again: 2 * time.Second}, true
	}
	err = e.stillGranted(s, &o)
	if errors.Is(err, errNotNow) {
		return queue.Result{Err: fmt.Errorf("guest %s: op %s waits: %w", o.Guest, o.ID, err)}, true
	}
	if err != nil {
		return e.revoke(ctx, &o, op.Refused, err.Error()), true
	}
	for _, step := range []func(context.Context, sighting, *op.Op) (queue.Result, bool){
		e.inTime, e.backUpFirst, e.enterQuarantine, e.shutDown, e.protect, e.waitOut,
	} {
		if res, busy := step(ctx, s, &o); busy {
			return res, true
		}
	}
	return e.delete(ctx, s, &o), true
}

// removing is the guest's destroy that is granted and not in flight.
func (e *Engine) removing(id guest.VMID) (op.Op, bool) {
	for _, o := range e.led.OpsOf(id) {
		if o.Kind == plugin.Destroy && (o.State == op.Granted || o.State == op.Retried) {
			return o, true
		}
	}
	return op.Op{}, false
}

// errNotNow: it cannot be told at the moment whether a grant still holds.
var errNotNow = errors.New("it cannot be told whether the approval still holds")

// stillGranted holds the grant's own list against what is there: who the guest
// is, and what would be lost with it. What the quarantine changes is not in it.
func (e *Engine) stillGranted(s sighting, o *op.Op) error {
	half := s.who.half && o.Incarnation == s.led.Incarnation
	switch {
	case s.obs.Presence == plugin.Unsure, s.obs.Presence == plugin.Here && s.obs.Config == nil && s.who.verdict != identity.Stranger:
		return fmt.Errorf("%w: the guest could not be read: %s", errNotNow, s.obs.ConfigError)
	case s.obs.Presence != plugin.Here:
		return fmt.Errorf("the guest is not here any more (%s)", s.obs.Presence)
	case s.obs.State.ID != o.Guest:
		return fmt.Errorf("%s has this VMID now", s.obs.State.ID)
	case s.led.Incarnation != o.Incarnation, s.who.verdict != identity.Same && !half:
		return fmt.Errorf("it is not the guest that was approved: %s", strings.Join(s.who.why, "; "))
	case s.obs.HA.Managed:
		return fmt.Errorf("the HA stack manages it (state %s): take it out of HA first, then ask again", s.obs.HA.State)
	}
	now, err := lost(s.obs, o.Params)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotNow, err)
	}
	if !slices.Equal(now, o.Basis) {
		return fmt.Errorf("what would be lost is not what was approved: %s", difference(o.Basis, now))
	}
	return nil
}

// difference says where two lists of lines part.
func difference(was, is []string) string {
	for _, l := range was {
		if !slices.Contains(is, l) {
			return "gone: " + l
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			return "new: " + l
		}
	}
	return "their order"
}

// revoke ends a granted destroy without a deletion. A guest in quarantine stays
// there until somebody says undo: who took the grant's ground away knows better
// what it should be.
func (e *Engine) revoke(ctx context.Context, o *op.Op, next op.State, why string) queue.Result {
	if err := e.step(ctx, o, next, ledger.Step{Message: why + ": nothing is deleted"}); err != nil {
		return queue.Result{Err: err}
	}
	e.report(o, next, why)
	return queue.Result{Again: lookAgain}
}

// part runs one step of a destroy as an op of its own.
func (e *Engine) part(ctx context.Context, s sighting, o *op.Op, a plan.Action) queue.Result {
	p := e.newOp(s, a, o.Asker)
	p.Parent = o.ID
	switch why, wait := e.tooOften(s, p, a); {
	case wait > 0:
		return queue.Result{Again: wait}
	case why != "":
		return e.revoke(ctx, o, op.Failed, why)
	}
	state, res := e.run(ctx, p, e.stillPart(s, o))
	if state == op.Succeeded {
		return queue.Result{Again: lookAgain}
	}
	return soon(res)
}

// inTime ends what is past its time: a step that meets a lock each time would
// otherwise be tried for ever.
func (e *Engine) inTime(ctx context.Context, _ sighting, o *op.Op) (queue.Result, bool) {
	if time.Now().After(o.NotAfter) {
		return e.revoke(ctx, o, op.Abandoned, "the time for the deletion is over; ask again"), true
	}
	return queue.Result{}, false
}

// backUpFirst makes the backup that was asked for, and wants to see it.
func (e *Engine) backUpFirst(ctx context.Context, s sighting, o *op.Op) (queue.Result, bool) {
	storage := o.Params["backup"]
	if storage == "" || s.led.Quarantine != nil {
		return queue.Result{}, false
	}
	for _, p := range e.led.OpsOf(o.Guest.VMID) {
		if p.Parent != o.ID || p.Kind != plugin.Backup || p.State != op.Succeeded {
			continue
		}
		b := recentBackup(inventory(s.obs), p.Sent.Add(-2*time.Second))
		if b == nil {
			return e.revoke(ctx, o, op.Failed, "the backup that was made first is not to be seen, or failed its verification"), true
		}
		return queue.Result{}, false
	}
	a := plan.Action{Kind: plugin.Backup, Class: guest.Benign, Reason: "backup before op " + o.ID, Params: map[string]string{
		"storage": storage, "mode": "snapshot", "notes": "felhom-agent: before op " + o.ID,
	}}
	return e.part(ctx, s, o, a), true
}

// enterQuarantine journals what the guest was like before anything is changed.
func (e *Engine) enterQuarantine(ctx context.Context, s sighting, o *op.Op) (queue.Result, bool) {
	if s.led.Quarantine != nil {
		return queue.Result{}, false
	}
	if s.obs.Config == nil {
		return queue.Result{Err: fmt.Errorf("guest %s: its config could not be read: %s", o.Guest, s.obs.ConfigError)}, true
	}
	q := ledger.Quarantine{
		Op: o.ID, VMID: o.Guest.VMID, Run: s.obs.State.Run, Onboot: s.obs.Config["onboot"],
		Protection: s.obs.Config["protection"], Tags: s.obs.Config["tags"], NotBefore: o.NotBefore,
	}
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeQuarantine, Quarantine: &q}); err != nil {
		return queue.Result{Err: err}, true
	}
	return queue.Result{Again: lookAgain}, true
}

func (e *Engine) shutDown(ctx context.Context, s sighting, o *op.Op) (queue.Result, bool) {
	if s.obs.State.Run == guest.Stopped {
		return queue.Result{}, false
	}
	if why := e.frozen(s.obs.Tasks, true); why != "" {
		return queue.Result{Again: 2 * time.Second}, true
	}
	a := plan.Action{Kind: plugin.Shutdown, Class: guest.Benign, Reason: "quarantine for op " + o.ID, Params: map[string]string{"timeout": "60"}}
	if s.led.ForceStop {
		a.Kind, a.Params, a.Reason = plugin.Stop, nil, a.Reason+" (hard: a clean shutdown failed)"
	}
	return e.part(ctx, s, o, a), true
}

// protect keeps a guest in quarantine from being started or removed by mistake.
func (e *Engine) protect(ctx context.Context, s sighting, o *op.Op) (queue.Result, bool) {
	if s.obs.Config == nil {
		return queue.Result{Err: errWait}, true
	}
	set := map[string]string{}
	if s.obs.Config["onboot"] == "1" {
		set["onboot"] = "0"
	}
	if s.obs.Config["protection"] != "1" {
		set["protection"] = "1"
	}
	if !slices.Contains(tags(s.obs), quarantineTag) {
		set["tags"] = strings.Join(append(tags(s.obs), quarantineTag), ";")
	}
	if len(set) == 0 || s.led.Quarantine == nil {
		return queue.Result{}, false
	}
	a := plan.Action{Kind: plugin.SetConfig, Class: guest.Benign, Reason: "quarantine for op " + o.ID, Set: set, Digest: s.obs.Digest}
	return e.part(ctx, s, o, a), true
}

// waitOut lets the quarantine last.
func (e *Engine) waitOut(_ context.Context, _ sighting, o *op.Op) (queue.Result, bool) {
	left := time.Until(later(o.NotBefore, e.quarantinedAt(*o).Add(max(e.gate().Quarantine, signedQuarantine(*o)))))
	return queue.Result{Again: min(left, time.Minute)}, left > 0
}

// signedQuarantine is how long the guest is kept at least by what was signed.
func signedQuarantine(o op.Op) time.Duration {
	r, err := gate.ParseRequest([]byte(o.Request))
	if err != nil {
		return 0 // delete says so
	}
	return r.DeleteNotBefore.Sub(r.NotBefore)
}

// quarantinedAt is when the last step of the first phase ended.
func (e *Engine) quarantinedAt(o op.Op) time.Time {
	at := o.Planned
	for _, p := range e.led.OpsOf(o.Guest.VMID) {
		if p.Parent == o.ID {
			at = later(at, p.Ended)
		}
	}
	return at
}

// delete is the second phase. The executor clears protection with the digest
// that was just read, compares once more, and deletes at once.
func (e *Engine) delete(ctx context.Context, s sighting, o *op.Op) queue.Result {
	kept, err := gate.ParseRequest([]byte(o.Request))
	if err == nil {
		err = kept.CheckDelete(gate.Present{
			Now: time.Now(), ClockSynchronised: e.clockGood(ctx), OpID: o.ID, Host: e.opt.Host, Guest: s.obs.State.ID,
			Incarnation: s.led.Incarnation,
		})
	}
	if err == nil {
		err = e.stillSigned(o)
	}
	if reason := gate.ReasonOf(err); reason == gate.ErrClock || reason == gate.ErrEarly || errors.Is(err, errKeys) {
		return queue.Result{Err: fmt.Errorf("guest %s: op %s waits: %w", o.Guest, o.ID, err)}
	}
	if err != nil {
		return e.revoke(ctx, o, op.Refused, err.Error())
	}
	switch why, wait := e.tooOften(s, o, plan.Action{Kind: plugin.Destroy}); {
	case wait > 0:
		return queue.Result{Again: wait}
	case why != "":
		return e.revoke(ctx, o, op.Failed, why)
	}
	fresh := *o
	fresh.Params = nil // the others are this agent's own
	if o.Params["purge"] != "" {
		fresh.Params = map[string]string{"purge": o.Params["purge"]}
	}
	fresh.Digest, fresh.Node = s.obs.Digest, e.nodeName()
	fresh.Explains = nil // a guest that is still there after it should be as it was
	e.logHead("about to destroy a guest", "guest", o.Guest.String(), "op", o.ID)
	_, res := e.run(ctx, &fresh, e.stillToDelete(o, &fresh))
	return soon(res)
}

// stillToDelete looks at the guest again if its deletion had to wait for its
// turn.
func (e *Engine) stillToDelete(o, fresh *op.Op) func(context.Context) error {
	seen := time.Now()
	return func(ctx context.Context) error {
		if time.Since(seen) < freshFor {
			return nil
		}
		now, err := e.inspect(ctx, o.Guest.VMID)
		if err == nil {
			err = errors.Join(e.stillGranted(now, o), e.stillSigned(o))
		}
		if err != nil || !e.clockGood(ctx) || e.notNow(now) != "" || e.paused(o.Guest.VMID) != "" || time.Now().After(o.NotAfter) {
			return errors.Join(errStale, err)
		}
		fresh.Digest = now.obs.Digest
		return nil
	}
}

// stillSigned holds a grant's signatures against who may sign now, as they were
// when it was given: a certificate may have run out since, but a key that was
// revoked, or is listed no more, ends the grant.
func (e *Engine) stillSigned(o *op.Op) error {
	switch {
	case o.Approval == nil:
		return errors.New("nothing tells who granted it")
	case o.Approval.Permit:
		p, ok := e.led.Permit(o.Approval.Hash)
		if !ok {
			return errors.New("its permit is not known any more")
		}
		if p.Withdrawn {
			return fmt.Errorf("its permit %s was withdrawn", p.ID)
		}
		_, err := e.granted(p, o.Approval.At)
		return err
	}
	given, ok := e.led.Approval(o.ID)
	if !ok {
		return errors.New("its signatures are not known any more")
	}
	_, err := e.verifyApproval(&given, o.Approval.At)
	return err
}

// logHead puts the journal's head where it is seen elsewhere (promise P10).
func (e *Engine) logHead(msg string, attrs ...any) {
	h := e.opt.Journal.Head()
	e.log.Warn(msg, append(attrs, "journal_seq", h.Seq, "journal_hash", h.Hash)...)
}

// tooOften stops a destroy whose steps achieve nothing. With a wait its step is
// only not to be tried yet.
func (e *Engine) tooOften(s sighting, o *op.Op, a plan.Action) (why string, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := s.want.VMID
	before := e.last[id]
	next := before.next(s, o, a)
	if why, wait := before.weather(next.print, time.Now()); wait > 0 {
		return why, wait
	}
	if next.counted = before.print == next.print; next.counted {
		e.guards.guest.Count(id)
	}
	e.last[id] = next
	return e.guards.guestState(id), 0
}

// quarantineView is how a guest in quarantine stands, if a document names it.
func (e *Engine) quarantineView(s sighting, o op.Op) (View, bool) {
	if e.wanted(s.want.VMID) == nil {
		return View{}, false
	}
	v := e.makeView(s)
	v.State = StateQuarantine
	v.Note = fmt.Sprintf("op %s: to be destroyed, not before %s; `felhom-agent undo %s` takes it out", o.ID, utc(o.NotBefore), o.ID)
	return v, true
}
