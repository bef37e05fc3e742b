// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// propose keeps one waiting op for what a guest's document wants and only a
// signature allows: a new one when what is wanted changes, none when it is not
// wanted any more.
func (e *Engine) propose(ctx context.Context, s sighting) error {
	var want *gated
	if len(s.plan.Gated) > 0 {
		want = &gated{Action: s.plan.Gated[0]}
		want.effects = configEffects(want.Action)
	}
	if want == nil && e.clouded(s) {
		return nil
	}
	for _, o := range e.led.Waiting(s.want.VMID) {
		if o.Asker != op.Reconciler || o.State != op.Awaiting {
			continue
		}
		if want != nil && o.Plan == want.hash(s.led.Incarnation) {
			return nil // it waits already
		}
		why := "no longer wanted"
		if want != nil {
			why = "what is wanted changed: a new request takes its place"
		}
		e.abandon(ctx, o.ID, why)
	}
	if want == nil {
		return nil
	}
	return e.offer(ctx, s, *want)
}

// goOn puts what a document wants and a signature or a permit allows back on
// the lane, if it lost its place there: what held it back is over. There is
// none to be proposed then.
func (e *Engine) goOn(ctx context.Context, s sighting) bool {
	found := false
	for _, o := range e.led.OpsOf(s.want.VMID) {
		if o.Asker != op.Reconciler || !o.Gated() || o.Kind == plugin.Destroy {
			continue
		}
		_, approved := e.led.Approval(o.ID)
		if o.State == op.Retried || o.State == op.Awaiting && (approved || e.permitted(ctx, s, &o)) {
			e.submitOrder(o)
			found = true
		}
	}
	return found
}

// clouded: what is planned is not all that is wanted, as it cannot be told at
// the moment or must wait.
func (e *Engine) clouded(s sighting) bool {
	return unreadable(s) || s.who.verdict == identity.Unsure || e.notNow(s) != ""
}

func (e *Engine) offer(ctx context.Context, s sighting, a gated) error {
	s.led = e.led.Guest(s.want.VMID) // its first sight may just have been noted
	if s.led.Incarnation == "" {
		return nil
	}
	o := e.newOp(s, a.Action, op.Reconciler)
	if err := e.request(s, o, a, ""); err != nil {
		return err
	}
	if err := o.Move(op.Awaiting); err != nil {
		return err
	}
	j := o.Journalled()
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeOp, Op: &j}); err != nil {
		return err
	}
	e.log.Warn("an op waits for an approval", "guest", o.Guest.String(), "op", o.ID, "action", o.Kind, "reason", o.Reason)
	if e.hasPermits() {
		e.submitOrder(*o)
	}
	return nil
}

// isOrder reports whether an op was asked for by itself, or waits for an
// approval, rather than being a step of a plan that was applied.
func isOrder(o op.Op) bool {
	if _, ok := orderParams[o.Kind]; ok {
		return true
	}
	return o.State == op.Awaiting || o.Gated() || o.Undoes != "" || vendors(o.Kind)
}

// gatedOf is the plan's action that needs a signature.
func gatedOf(p plan.Guest, kind plugin.ActionKind) *plan.Action {
	for i, a := range p.Gated {
		if a.Kind == kind {
			return &p.Gated[i]
		}
	}
	return nil
}
