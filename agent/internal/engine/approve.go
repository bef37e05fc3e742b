// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// GateSettings bound what needs a signature.
type GateSettings struct {
	Policy gate.Policy
	// Window is how long a request may be signed and carried out.
	Window time.Duration
	// Quarantine is how long a guest is kept before it is deleted, at least.
	Quarantine time.Duration
	// BackupAge is how old the last backup of a guest may be that is destroyed.
	BackupAge time.Duration
}

// quarantineTag marks a guest in quarantine. It is a help for the eye only.
const quarantineTag = "felhom-quarantine"

// request puts into an op the text that is to be signed for it.
func (e *Engine) request(s sighting, o *op.Op, a gated, asker string) error {
	set := e.gate()
	o.Plan, o.Effects, o.Basis = a.hash(o.Incarnation), a.effects, a.basis
	now := time.Now().UTC().Truncate(time.Second)
	head := e.opt.Journal.Head()
	r := gate.Request{
		OpID: o.ID, Asker: cmp.Or(asker, word(o.Asker)), Action: string(o.Kind), Class: o.Class, Host: e.opt.Host,
		Guest: o.Guest, Name: gate.Plain(s.obs.State.Name), Incarnation: o.Incarnation, PlanHash: o.Plan,
		Journal: gate.Head{Seq: head.Seq, Hash: head.Hash}, Nonce: gate.NewNonce(),
		NotBefore: now, NotAfter: now.Add(set.Window),
	}
	if o.Kind == plugin.Destroy {
		r.DeleteNotBefore = now.Add(set.Quarantine)
		r.DeleteNotAfter = r.NotAfter.Add(set.Quarantine + set.Window)
	}
	for _, line := range a.effects {
		r.Effects = append(r.Effects, gate.Plain(line))
	}
	text, err := r.Text()
	if err != nil {
		return fmt.Errorf("guest %s: request for op %s: %w", o.Guest, o.ID, err)
	}
	o.Request = string(text)
	return nil
}

// word makes an asker fit for a signed text.
func word(by string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '(' || r == ')' {
			return '-'
		}
		return r
	}, strings.NewReplacer(" (", ":", ")", "").Replace(by))
}

// ErrNoOp is returned for an op id that is not known, or is past the state in
// which something could be done about it.
var ErrNoOp = errors.New("no such op waits")

// Approve takes signatures for an op's request, holds them against who may
// sign, and carries the op out. What is refused changes nothing; the journal
// says why.
func (e *Engine) Approve(ctx context.Context, id, text string, sigs []ledger.Signature, by string) (Applied, error) {
	o, ok := e.led.Op(id)
	if !ok {
		return Applied{}, fmt.Errorf("op %s: %w for an approval", id, ErrNoOp)
	}
	a := &ledger.Approval{Op: id, Guest: o.Guest, Text: text, Signatures: sigs, By: by}
	if o.State != op.Awaiting {
		return Applied{}, e.refuse(ctx, o, a, e.tooLate(o, text), false)
	}
	good, err := e.verifyApproval(a, time.Now())
	if err == nil {
		err = good.Check(e.asIssued(ctx, o, good))
	}
	if err != nil {
		return Applied{}, e.turnAway(ctx, o, a, err)
	}
	a.Signers = names(good.Signers)
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeApproval, Approval: a}); err != nil {
		return Applied{}, err
	}
	ops, err := e.await(ctx, []op.Op{o})
	return Applied{Ops: ops}, err
}

// errNotWaiting: an approval came for an op that does not wait for one.
var errNotWaiting = fmt.Errorf("%w for an approval", ErrNoOp)

// tooLate is why an op that does not wait takes no approval.
func (e *Engine) tooLate(o op.Op, text string) error {
	if r, err := gate.ParseRequest([]byte(text)); err == nil && e.led.NonceUsed(r.Nonce) {
		return fmt.Errorf("the op is %s: %w", o.State, gate.ErrNonceUsed)
	}
	return fmt.Errorf("%w: it is %s", errNotWaiting, o.State)
}

// reasonOf is a refusal in one word.
func reasonOf(why error) string {
	switch {
	case gate.ReasonOf(why) != "":
		return string(gate.ReasonOf(why))
	case errors.Is(why, errNotWaiting):
		return "not-waiting"
	}
	return "signers" // who may sign could not be read
}

// verifyApproval holds an approval against the people who may sign now.
func (e *Engine) verifyApproval(a *ledger.Approval, now time.Time) (*gate.Approval, error) {
	signers, revoked, err := e.keys()
	if err != nil {
		return nil, err
	}
	policy := e.gate().Policy
	return gate.Verify([]byte(a.Text), asSigned(a.Signatures), policy, now, signers, revoked)
}

// keys are those who may sign now. With none nobody may.
func (e *Engine) keys() (*gate.Signers, *gate.Revoked, error) {
	if e.opt.Keys == nil {
		return nil, nil, nil
	}
	s, r, err := e.opt.Keys()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	return s, r, nil
}

// errKeys: who may sign could not be read, so nobody may now.
var errKeys = errors.New("who may sign is not known")

func (e *Engine) gate() GateSettings {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.set.Gate
}

func asSigned(sigs []ledger.Signature) []gate.Signed {
	out := make([]gate.Signed, len(sigs))
	for i, s := range sigs {
		out[i] = gate.Signed{Principal: s.Principal, Armored: []byte(s.Armored)}
	}
	return out
}

func names(who []gate.Signer) []string {
	out := make([]string, len(who))
	for i, s := range who {
		out[i] = s.Principal + " " + s.Fingerprint
	}
	return out
}

// asIssued is what holds by the journal alone: enough to turn an approval away
// at the door. What is true of the guest is looked at right before the deed.
func (e *Engine) asIssued(ctx context.Context, o op.Op, a *gate.Approval) gate.Present {
	return gate.Present{
		Now: time.Now(), ClockSynchronised: e.clockGood(ctx), Issued: []byte(o.Request),
		NonceUsed: e.led.NonceUsed(a.Request.Nonce), OpID: o.ID, Host: e.opt.Host, Action: string(o.Kind),
		Guest: o.Guest, Incarnation: e.led.Guest(o.Guest.VMID).Incarnation, PlanHash: o.Plan, Effects: plain(o.Effects),
	}
}

func plain(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = gate.Plain(l)
	}
	return out
}

func (e *Engine) clockGood(ctx context.Context) bool { return e.opt.Clock != nil && e.opt.Clock(ctx) }

// turnAway journals why an approval is not taken at the door. If the op's own
// request is past use, the op gets a new one; a text of somewhere else changes
// nothing, whatever is wrong with it.
func (e *Engine) turnAway(ctx context.Context, o op.Op, a *ledger.Approval, why error) error {
	err := e.refuse(ctx, o, a, why, false)
	if a.Text != o.Request || !outOfDate(why) {
		return err
	}
	e.queue.Look(o.Guest.VMID, "request out of date")
	if again := e.askAgain(ctx, o); again != nil {
		return errors.Join(err, again)
	}
	return fmt.Errorf("%w; the op has a new request: `felhom-agent approve %s` shows it", err, o.ID)
}

// outOfDate reports whether a refusal is one that a new request helps against.
func outOfDate(why error) bool {
	switch gate.ReasonOf(why) {
	case gate.ErrExpired, gate.ErrOtherPlan, gate.ErrOtherEffects, gate.ErrOtherIncarnation:
		return true
	}
	return false
}

// refuse journals that an approval was refused, and returns it as an error.
// void says that it had been taken before.
func (e *Engine) refuse(ctx context.Context, o op.Op, a *ledger.Approval, why error, void bool) error {
	reason := reasonOf(why)
	rec := ledger.Approval{Op: o.ID, Guest: o.Guest, By: a.By, Refused: why.Error(), Reason: reason, Void: void}
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeApproval, Approval: &rec}); err != nil {
		return err
	}
	e.log.Warn("approval refused", "guest", o.Guest.String(), "op", o.ID, "reason", reason, "err", why)
	return fmt.Errorf("the approval of op %s is refused (%s): %w", o.ID, reason, why)
}

// askAgain gives a waiting op a new request for what is there now, or ends it
// if there is nothing left to ask.
func (e *Engine) askAgain(ctx context.Context, o op.Op) error {
	s, err := e.inspect(ctx, o.Guest.VMID)
	if err != nil {
		return err
	}
	a, err := e.again(s, o)
	if err != nil {
		e.abandon(ctx, o.ID, err.Error())
		return fmt.Errorf("op %s is given up: %w", o.ID, err)
	}
	fresh := e.renew(s, o, a.Action)
	if err := e.request(s, fresh, a, requestAsker(o)); err != nil {
		return err
	}
	j := fresh.Journalled()
	return e.append(ctx, ledger.Record{Type: ledger.TypeOp, Op: &j})
}

// requestAsker is whom the op's request names as its asker.
func requestAsker(o op.Op) string {
	r, err := gate.ParseRequest([]byte(o.Request))
	if err != nil {
		return ""
	}
	return r.Asker
}

// allow tells whether an op may be done now: under its approval, checked again
// on what was just seen, or under a standing permit. It fills in what the
// intent consumes. An op that was proven not to have been sent goes on under
// the approval that it has spent, if that would still be good.
func (e *Engine) allow(ctx context.Context, s sighting, o *op.Op, a gated) (bool, error) {
	o.Plan, o.Effects, o.Basis = a.hash(o.Incarnation), a.effects, a.basis
	given, ok := e.led.Approval(o.ID)
	if _, _, err := e.keys(); err != nil && (ok || o.State == op.Retried) {
		return false, err
	}
	if !ok {
		if e.permitted(ctx, s, o) {
			return true, nil
		}
		return false, e.spent(ctx, s, *o, a, errors.New("no standing permit covers it any more"))
	}
	good, err := e.stillGood(ctx, o, &given)
	if err != nil {
		return false, e.revise(ctx, s, *o, a, &given, err)
	}
	o.Approval = &op.Approval{Nonce: good.Request.Nonce, Hash: good.Hash, Signers: names(good.Signers), At: time.Now()}
	if o.Kind == plugin.Destroy {
		o.NotBefore, o.NotAfter = good.Request.DeleteNotBefore, good.Request.DeleteNotAfter
	}
	return true, nil
}

func (e *Engine) stillGood(ctx context.Context, o *op.Op, given *ledger.Approval) (*gate.Approval, error) {
	now := time.Now()
	good, err := e.verifyApproval(given, now)
	if err != nil {
		return nil, err
	}
	nonce := good.Request.Nonce
	itsOwn := o.State == op.Retried && o.Approval != nil && o.Approval.Nonce == nonce
	return good, good.Check(gate.Present{
		Now: now, ClockSynchronised: e.clockGood(ctx), Issued: []byte(o.Request), NonceUsed: e.led.NonceUsed(nonce) && !itsOwn,
		OpID: o.ID, Host: e.opt.Host, Action: string(o.Kind), Guest: o.Guest, Incarnation: o.Incarnation,
		PlanHash: o.Plan, Effects: plain(o.Effects),
	})
}

// revise voids an approval that is not good any more, right before the deed.
func (e *Engine) revise(ctx context.Context, s sighting, o op.Op, a gated, given *ledger.Approval, why error) error {
	err := e.refuse(ctx, o, given, why, true)
	if o.State == op.Retried {
		return errors.Join(err, e.spent(ctx, s, o, a, why))
	}
	if !outOfDate(why) {
		return err
	}
	if again := e.askAgain(ctx, o); again != nil {
		return errors.Join(err, again)
	}
	return fmt.Errorf("%w; the op has a new request: `felhom-agent approve %s` shows it", err, o.ID)
}

// spent ends an op that had an attempt and may not have another: its approval
// is used up. What was asked for by itself is asked for anew.
func (e *Engine) spent(ctx context.Context, s sighting, o op.Op, a gated, why error) error {
	if o.State != op.Retried {
		return nil
	}
	e.abandon(ctx, o.ID, "its approval is spent, ask again: "+why.Error())
	if o.Asker == op.Reconciler {
		e.queue.Look(o.Guest.VMID, "approval spent") // which proposes it anew
		return nil
	}
	fresh := e.newOp(s, a.Action, o.Asker)
	if err := e.request(s, fresh, a, requestAsker(o)); err != nil {
		return err
	}
	if err := fresh.Move(op.Awaiting); err != nil {
		return err
	}
	j := fresh.Journalled()
	return e.append(ctx, ledger.Record{Type: ledger.TypeOp, Op: &j})
}

// Reject ends an op that waits, or whose guest is in quarantine.
func (e *Engine) Reject(ctx context.Context, id, by string) error {
	o, ok := e.led.Op(id)
	if !ok || o.State != op.Awaiting && o.State != op.Granted {
		return fmt.Errorf("op %s: %w", id, ErrNoOp)
	}
	if o.State == op.Granted {
		_, err := e.Undo(ctx, id, by)
		return err
	}
	if err := e.step(ctx, &o, op.Refused, ledger.Step{Message: "rejected by " + by}); err != nil {
		return err
	}
	e.queue.Look(o.Guest.VMID, "op rejected")
	return nil
}

// Accept takes a guest as it is now for the one that is meant.
func (e *Engine) Accept(ctx context.Context, id guest.VMID, by string) error {
	s, err := e.inspect(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case s.obs.Presence != plugin.Here:
		return fmt.Errorf("guest %s: %w: it is not here (%s)", id, ErrOrder, s.obs.Presence)
	case s.who.evidence.IsZero():
		return fmt.Errorf("guest %s: %w: its config could not be read: %s", id, ErrOrder, s.obs.ConfigError)
	case identity.Unsteady(s.obs) != "":
		return fmt.Errorf("guest %s: %w: it is just changing (%s); look at it once that has ended", id, ErrOrder, identity.Unsteady(s.obs))
	}
	rec := ledger.Accepted{VMID: id, Guest: s.obs.State.ID, Incarnation: incarnation(s), Evidence: &s.who.evidence, Looked: s.looked(), By: by}
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeAccepted, Accepted: &rec}); err != nil {
		return err
	}
	e.queue.Look(id, "accepted")
	return nil
}

// Forget wipes what is known of a guest that is not here any more.
func (e *Engine) Forget(ctx context.Context, id guest.VMID, by string) error {
	s, err := e.inspect(ctx, id)
	if err != nil {
		return err
	}
	if s.obs.Presence == plugin.Here || s.obs.Presence == plugin.Unsure {
		return fmt.Errorf("guest %s: %w: it is not gone (%s); `felhom-agent accept %s` takes another guest for the one that is meant", id, ErrOrder, s.obs.Presence, id)
	}
	if o, open := e.led.Open(id); open {
		return fmt.Errorf("guest %s: %w: op %s is under way", id, ErrOrder, o.ID)
	}
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeForgot, Forgot: &ledger.Forgot{VMID: id, By: by}}); err != nil {
		return err
	}
	e.queue.Look(id, "forgotten")
	return nil
}
