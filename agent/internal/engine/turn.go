// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
)

// An op may wait long for its turn, as while others' tasks run. What is below
// is asked when it is there: what forbids the op since then keeps it back.

// stillDue is for what a document wants: it must still want it, of the same
// guest, and nothing may forbid it. free is for what was asked for, which needs
// no mode that allows it.
func (e *Engine) stillDue(s sighting, o *op.Op, a plan.Action, free bool) func(context.Context) error {
	seen := time.Now()
	return func(ctx context.Context) error {
		want := e.wanted(s.want.VMID)
		if want == nil || !free && (want.Revision != s.want.Revision || e.inactive(want) != "") {
			return errStale
		}
		if time.Since(seen) < freshFor {
			return nil
		}
		now, err := e.sight(ctx, want)
		if err != nil {
			return errors.Join(errStale, err)
		}
		b, _ := stillPlanned(now.plan, *o)
		if b == nil || now.led.Incarnation != o.Incarnation || printOf(*b) != printOf(a) || !maps.Equal(b.Params, a.Params) {
			return errStale
		}
		o.Digest = b.Digest
		return nil
	}
}

// stillPart is for a step of a granted destroy.
func (e *Engine) stillPart(s sighting, o *op.Op) func(context.Context) error {
	seen, id := time.Now(), o.Guest.VMID
	return func(ctx context.Context) error {
		if now, ok := e.led.Op(o.ID); !ok || now.State != o.State || e.paused(id) != "" {
			return errStale
		}
		if time.Since(seen) < freshFor {
			return nil
		}
		now, err := e.inspect(ctx, id)
		if err == nil {
			err = e.stillGranted(now, o)
		}
		if err != nil || e.notNow(now) != "" || now.obs.State.Run != s.obs.State.Run {
			return errors.Join(errStale, err)
		}
		return nil
	}
}

// stillAllowed holds what allows an op against the moment of its turn.
func (e *Engine) stillAllowed(ctx context.Context, s sighting, o *op.Op) error {
	if !o.Gated() {
		return nil
	}
	if o.Approval.Permit {
		p, ok := e.led.Permit(o.Approval.Hash)
		if !ok {
			return errors.New("its permit is not known any more")
		}
		_, err := e.covers(ctx, s, o, p, time.Now())
		return err
	}
	given, ok := e.led.Approval(o.ID)
	if !ok {
		return errors.New("its approval is worth nothing any more")
	}
	_, err := e.stillGood(ctx, o, &given)
	return err
}

// record puts an op on disk as it is. Of those that a permit allows one is
// written at a time: two must not both find its last use.
func (e *Engine) record(ctx context.Context, o *op.Op) error {
	j := o.Journalled()
	rec := ledger.Record{Type: ledger.TypeOp, Op: &j}
	if o.Approval == nil || !o.Approval.Permit {
		return e.append(ctx, rec)
	}
	e.permits.Lock()
	defer e.permits.Unlock()
	p, _ := e.led.Permit(o.Approval.Hash)
	if !e.usedBy(o.ID, p) && (p.Withdrawn || p.Used >= countOf(p)) {
		return fmt.Errorf("%w: permit %s allows no more", errStale, p.ID)
	}
	return e.append(ctx, rec)
}

// usedBy: an attempt of the op has used the permit already.
func (e *Engine) usedBy(id string, p ledger.Permit) bool {
	o, _ := e.led.Op(id)
	return o.Approval != nil && o.Approval.Permit && o.Approval.Hash == p.Hash
}

// soon is a look's result where something was not begun because things changed
// meanwhile.
func soon(res queue.Result) queue.Result {
	if errors.Is(res.Err, errStale) {
		return queue.Result{Again: 500 * time.Millisecond}
	}
	return res
}
