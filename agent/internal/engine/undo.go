// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Undo takes back an op: a guest out of quarantine, or a benign op by its
// recorded inverse. Where a document wants otherwise the reconciler will do it
// again; `status` tells.
func (e *Engine) Undo(ctx context.Context, id, by string) (Applied, error) {
	o, ok := e.led.Op(id)
	switch {
	case !ok:
		return Applied{}, fmt.Errorf("op %s: %w", id, ErrNoOp)
	case o.Kind == plugin.Destroy && (o.State == op.Granted || o.State == op.Retried || e.keeps(o)):
		return e.leaveQuarantine(ctx, o, by)
	case o.State != op.Succeeded:
		return Applied{}, fmt.Errorf("op %s: %w: it is %s, there is nothing to undo", id, ErrOrder, o.State)
	}
	s, err := e.inspect(ctx, o.Guest.VMID)
	if err != nil {
		return Applied{}, err
	}
	a, err := e.inverse(s, o)
	if err != nil {
		return Applied{}, err
	}
	u := e.newOp(s, a, by)
	u.Undoes = o.ID
	return e.orderNow(ctx, u)
}

// keeps reports whether a guest is still in quarantine for an op that ended
// without deleting it.
func (e *Engine) keeps(o op.Op) bool {
	q := e.led.Guest(o.Guest.VMID).Quarantine
	return q != nil && q.Op == o.ID && o.State.Ended() && o.State != op.Succeeded
}

// orderNow journals ops and carries them out in order.
func (e *Engine) orderNow(ctx context.Context, os ...*op.Op) (Applied, error) {
	ops := []op.Op{}
	var recs []ledger.Record
	for _, o := range os {
		if err := o.Move(op.Planned); err != nil {
			return Applied{}, err
		}
		j := o.Journalled()
		ops = append(ops, j)
		recs = append(recs, ledger.Record{Type: ledger.TypeOp, Op: &j})
	}
	if len(recs) > 0 {
		if err := e.append(ctx, recs...); err != nil {
			return Applied{}, err
		}
	}
	ops, err := e.await(ctx, ops)
	return Applied{Ops: ops}, err
}

// inverse is what undoes an op that is done, if nothing came after it.
func (e *Engine) inverse(s sighting, o op.Op) (plan.Action, error) {
	no := func(why string) (plan.Action, error) {
		return plan.Action{}, fmt.Errorf("op %s cannot be undone: %w: %s", o.ID, ErrOrder, why)
	}
	a := plan.Action{Class: guest.Benign, Reason: "undo of op " + o.ID, Digest: s.obs.Digest}
	switch {
	case o.Class != guest.Benign:
		return no("it is " + string(o.Class))
	case s.led.Incarnation != o.Incarnation:
		return no("another guest has this VMID")
	case o.Kind == plugin.Start && s.obs.State.Run == guest.Running:
		a.Kind, a.Params = plugin.Shutdown, map[string]string{"timeout": "60"}
		return a, nil
	case (o.Kind == plugin.Shutdown || o.Kind == plugin.Stop) && s.obs.State.Run == guest.Stopped:
		a.Kind = plugin.Start
		return a, nil
	case o.Kind != plugin.SetConfig:
		return no("there is no inverse of a " + string(o.Kind) + " here")
	case o.Undo == nil:
		return no("its executor did not record what was there before")
	}
	if s.obs.Config == nil {
		return no("its config could not be read: " + s.obs.ConfigError)
	}
	if key := e.changedSince(o, s.obs.Config); key != "" {
		return no(key + " was changed since")
	}
	a.Kind, a.Set, a.Delete = plugin.SetConfig, maps.Clone(o.Undo.Set), slices.Clone(o.Undo.Delete)
	if why := e.notBenign(s, o, a); why != "" {
		return no(why)
	}
	return a, nil
}

// notBenign says why an inverse is not taken as it was recorded. It is an
// executor's word, and what takes back a benign change need not be benign:
// protection is put on without a signature, and not taken off.
func (e *Engine) notBenign(s sighting, o op.Op, a plan.Action) string {
	for _, k := range sorted(a.Set) {
		if a.Set[k] == op.Masked {
			return "the value of " + k + " before is a secret, which the journal does not keep"
		}
	}
	for _, k := range slices.Concat(sorted(a.Set), a.Delete) {
		if _, ok := o.Set[k]; !ok && !slices.Contains(o.Delete, k) {
			return "its executor recorded " + k + ", which the op did not touch"
		}
	}
	facts := guest.Facts{Kind: o.Guest.Kind, Running: s.obs.State.Run == guest.Running, PVE: major(s.pve)}
	for _, c := range e.forms.Diff(facts, a.Set, a.Delete, s.obs.Config) {
		switch {
		case c.Refuse != "":
			return c.Key + ": " + c.Refuse
		case c.Class != guest.Benign:
			return "to change " + c.Key + " back is " + string(c.Class) + "; a document that wants it leads to a request"
		}
	}
	return ""
}

// undoAgain plans an undo anew right before it is carried out.
func (e *Engine) undoAgain(s sighting, u op.Op) (gated, error) {
	o, ok := e.led.Op(u.Undoes)
	if !ok {
		return gated{}, fmt.Errorf("op %s is not remembered any more", u.Undoes)
	}
	if o.Kind != plugin.Destroy {
		a, err := e.inverse(s, o)
		return gated{Action: a}, err
	}
	a := plan.Action{Kind: u.Kind, Class: u.Class, Reason: u.Reason, Set: u.Set, Delete: u.Delete, Digest: s.obs.Digest}
	return gated{Action: a}, nil
}

// changedSince names a key whose value is not what the op made it.
func (e *Engine) changedSince(o op.Op, conf guest.Config) string {
	diff := e.forms.Diff(guest.Facts{Kind: o.Guest.Kind}, e.comparable(&o), o.Delete, conf)
	if len(diff) == 0 {
		return ""
	}
	return diff[0].Key
}

// leaveQuarantine ends a granted destroy and makes the guest what it was.
func (e *Engine) leaveQuarantine(ctx context.Context, o op.Op, by string) (Applied, error) {
	if !o.State.Ended() {
		if err := e.step(ctx, &o, op.Abandoned, ledger.Step{Message: "undone by " + by + ": nothing is deleted"}); err != nil {
			return Applied{}, err
		}
	}
	defer e.queue.Look(o.Guest.VMID, "out of quarantine")
	if !e.keeps(o) {
		return Applied{}, nil // it had not begun
	}
	t, err := e.queue.SubmitUrgent(o.Guest.VMID, leaving{op: o, by: by}, false)
	if err != nil {
		return Applied{}, notRestored(o, err)
	}
	done, err := t.Wait(ctx)
	if err != nil {
		return Applied{}, notRestored(o, err)
	}
	l, _ := done.(left)
	ops, err := e.waitFor(ctx, l.ops, l.tickets)
	return Applied{Ops: ops}, err
}

func notRestored(o op.Op, err error) error {
	return fmt.Errorf("nothing is deleted, but the guest is not yet what it was before; `felhom-agent undo %s` again: %w", o.ID, err)
}

// leaving is a lane's item: a guest is to be what it was before a quarantine.
// The steps of the quarantine are on the same lane, so none of them is still
// under way when it is looked at.
type leaving struct {
	op op.Op
	by string
}

// leave ends a quarantine in the same batch that has the ops which make the
// guest what it was: as long as they are not on disk, undo can be said again.
func (e *Engine) leave(ctx context.Context, id guest.VMID, l leaving) queue.Result {
	if res, open := e.settle(ctx, id); open {
		return queue.Result{Again: max(res.Again, 100*time.Millisecond)}
	}
	if !e.keeps(l.op) {
		return queue.Result{}
	}
	s, err := e.inspect(ctx, id)
	switch {
	case err != nil:
		return queue.Result{Err: err}
	case s.obs.Presence == plugin.Unsure, s.obs.Presence == plugin.Here && s.obs.Config == nil:
		return queue.Result{Err: fmt.Errorf("guest %s could not be read: %s", l.op.Guest, s.obs.ConfigError)}
	}
	over := *s.led.Quarantine
	over.Over = "undone by " + l.by
	recs := []ledger.Record{{Type: ledger.TypeQuarantine, Quarantine: &over}}
	var ops []op.Op
	stranger := s.obs.Presence != plugin.Here || s.led.Incarnation != l.op.Incarnation || s.who.verdict == identity.Stranger
	if !stranger {
		for _, a := range former(s, over) {
			u := e.newOp(s, a, l.by)
			u.Undoes, u.State = l.op.ID, op.Planned
			ops = append(ops, u.Journalled())
			recs = append(recs, ledger.Record{Type: ledger.TypeOp, Op: &ops[len(ops)-1]})
		}
	}
	if err := e.append(ctx, recs...); err != nil {
		return queue.Result{Err: err}
	}
	if stranger {
		return queue.Result{Err: fmt.Errorf("%w: the guest of the quarantine is not there any more", ErrOrder)}
	}
	done := left{ops: ops}
	for _, o := range ops { // here: who said undo may not wait so long
		done.tickets = append(done.tickets, e.submitOrder(o))
	}
	return queue.Result{Done: done}
}

// left are the ops that make a guest what it was before its quarantine.
type left struct {
	ops     []op.Op
	tickets []*queue.Ticket
}

// former are the actions that make a guest what it was before quarantine.
func former(s sighting, q ledger.Quarantine) []plan.Action {
	var out []plan.Action
	a := plan.Action{Kind: plugin.SetConfig, Class: guest.Benign, Reason: "out of quarantine, undo of op " + q.Op, Digest: s.obs.Digest}
	for key, was := range map[string]string{"onboot": q.Onboot, "protection": q.Protection, "tags": q.Tags} {
		switch now, there := s.obs.Config[key]; {
		case was == "" && there:
			a.Delete = append(a.Delete, key)
		case was != "" && was != now:
			if a.Set == nil {
				a.Set = map[string]string{}
			}
			a.Set[key] = was
		}
	}
	slices.Sort(a.Delete)
	if len(a.Set)+len(a.Delete) > 0 {
		out = append(out, a)
	}
	if q.Run == guest.Running && s.obs.State.Run == guest.Stopped {
		out = append(out, plan.Action{Kind: plugin.Start, Class: guest.Benign, Reason: "out of quarantine, undo of op " + q.Op})
	}
	return out
}
