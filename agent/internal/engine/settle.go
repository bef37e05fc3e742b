// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// inFlight is how long a request may still take effect after it was sent: 30 s
// in PVE's proxy, 10 s for the config lock, and the task's start (proxmox.md
// 4.7), with some to spare.
const inFlight = 60 * time.Second

// probeGrace is how long after that a probe may still say that it is open.
const probeGrace = 3 * time.Second

// resume puts every unfinished op back on its guest's lane: those in flight
// are settled by a look, those an operator asked for keep their order.
func (e *Engine) resume() {
	for _, o := range e.led.Ops() {
		switch {
		case o.State.InFlight(), o.State == op.Unknown:
			e.log.Info("found an unfinished op", "guest", o.Guest.String(), "op", o.ID, "action", o.Kind, "state", o.State, "upid", o.Handle)
			e.queue.Look(o.Guest.VMID, "unfinished op")
		}
	}
	e.takeUp()
}

// takeUp goes on with what was granted, approved or asked for and is not done.
func (e *Engine) takeUp() {
	for _, o := range e.led.Ops() {
		switch {
		case o.Kind == plugin.Destroy && (o.State == op.Granted || o.State == op.Retried):
			e.queue.Look(o.Guest.VMID, "granted destroy")
		case e.waitsForLane(o):
			e.submitOrder(o)
		}
	}
}

// waitsForLane: an op that somebody asked for, or approved, and that was not
// carried out yet.
func (e *Engine) waitsForLane(o op.Op) bool {
	_, approved := e.led.Approval(o.ID)
	switch o.State {
	case op.Planned, op.Retried:
		return o.Asker != op.Reconciler || o.Gated()
	case op.Awaiting:
		return approved || e.hasPermits()
	}
	return false
}

// settle deals with the guest's op whose outcome is not known, if there is
// one. open means that the lane must not do anything else yet.
func (e *Engine) settle(ctx context.Context, id guest.VMID) (res queue.Result, open bool) {
	o, ok := e.led.Open(id)
	if !ok {
		return queue.Result{}, false
	}
	if o.State == op.Unknown {
		return e.byObservation(ctx, &o)
	}
	exec, err := e.opt.Executors.Executor(o.Kind)
	if e.goneFor(id, err) > patience {
		err = e.step(ctx, &o, op.Unknown, ledger.Step{Message: "not known: " + err.Error()})
		return queue.Result{Err: err, Again: lookAgain}, true
	}
	if err != nil {
		return queue.Result{Err: fmt.Errorf("guest %s: settle op %s: %w", o.Guest, o.ID, err)}, true
	}
	if o.Handle == "" {
		if res, open = e.probe(ctx, exec, &o); open {
			return res, true
		}
	}
	if o.State != op.Started {
		return res, false
	}
	out, err := exec.Apply(ctx, o.Action(), o.Handle, func(plugin.Progress) error { return nil })
	out.Message = "found again by its UPID: " + out.Message
	state, res := e.foundEnded(ctx, &o, out, err)
	return res, state != op.Abandoned
}

// patience is how long a plugin that serves an op's kind may be away in the
// middle of the op before it is taken for gone.
const patience = 10 * time.Minute

// goneFor is how long no plugin has served the kind of the guest's open op, by
// what looking for one said each time.
func (e *Engine) goneFor(id guest.VMID, err error) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !errors.Is(err, plugin.ErrUnsupported) {
		delete(e.unserved, id)
		return 0
	}
	since, ok := e.unserved[id]
	if !ok {
		since = time.Now()
		e.unserved[id] = since
	}
	return time.Since(since)
}

// foundEnded puts the end of an op on disk that was found again. Its place on
// the lane is gone: one that somebody asked for and that is to be tried again
// gets a new one.
func (e *Engine) foundEnded(ctx context.Context, o *op.Op, out plugin.Outcome, err error) (op.State, queue.Result) {
	state, res := e.finish(ctx, o, out, err)
	if state == op.Retried {
		e.tryAgain(*o)
	}
	return state, res
}

// tryAgain gives an op a place on its lane. A destroy needs none: looks go on
// with it.
func (e *Engine) tryAgain(o op.Op) {
	if o.Kind != plugin.Destroy {
		e.submitOrder(o)
	}
}

// probe settles an intent without a handle (design section 7). When it
// returns with open unset the op has a handle or has ended.
func (e *Engine) probe(ctx context.Context, exec plugin.Executor, o *op.Op) (res queue.Result, open bool) {
	w := e.windowOf(o)
	v, err := exec.Probe(ctx, plugin.ProbeQuery{Action: o.Action(), Sent: w.sent, Until: w.until, Taken: e.taken(o)})
	if err != nil {
		return queue.Result{Err: fmt.Errorf("guest %s: probe op %s: %w", o.Guest, o.ID, err)}, true
	}
	if v.Finding == plugin.NotSent && w.doubtful && o.Kind != plugin.SetConfig { // a digest is proof at any time
		v.Finding, v.Message = plugin.Unclear, v.Message+", but the clock was set back since"
	}
	e.log.Info("probed an op", "guest", o.Guest.String(), "op", o.ID, "finding", v.Finding, "upid", v.Handle, "message", v.Message)
	// The prober may go by the node's clock, which is told in whole seconds.
	left := w.until.Add(probeGrace).Sub(e.opt.Wall())
	switch {
	case v.Finding == plugin.Found:
		err = e.step(ctx, o, op.Started, ledger.Step{Handle: v.Handle, Message: "found again: " + v.Message})
	case v.Finding == plugin.Settled && v.Outcome.Status != plugin.Unknown:
		_, res = e.foundEnded(ctx, o, v.Outcome, nil)
		return res, true
	case v.Finding == plugin.NotSent:
		err = e.step(ctx, o, notSent(o), ledger.Step{Message: "proven not sent: " + v.Message})
		if err == nil && o.State == op.Retried {
			e.tryAgain(*o)
		}
	case left > 0:
		return queue.Result{Again: min(left, 2*time.Second)}, true
	default:
		err = e.step(ctx, o, op.Unknown, ledger.Step{Message: "not known: " + v.Message})
		return queue.Result{Err: err, Again: lookAgain}, true
	}
	return queue.Result{Err: err}, err != nil
}

// taken are the handles of the guest's other ops: none of them is this one's.
func (e *Engine) taken(o *op.Op) []string {
	var out []string
	for _, other := range e.led.OpsOf(o.Guest.VMID) {
		if other.ID != o.ID && other.Handle != "" {
			out = append(out, other.Handle)
		}
	}
	return out
}

// byObservation ends an unknown op by what is there now.
func (e *Engine) byObservation(ctx context.Context, o *op.Op) (queue.Result, bool) {
	obs, err := e.observe(ctx, plugin.GuestQuery{VMID: o.Guest.VMID, Inventory: isOrder(*o)})
	if err != nil {
		return queue.Result{Err: err}, true
	}
	next, why, ok := e.observed(o, obs)
	if !ok {
		return queue.Result{Err: errWait}, true
	}
	if err := e.step(ctx, o, next, ledger.Step{Message: why}); err != nil {
		return queue.Result{Err: err}, true
	}
	e.report(o, next, why)
	return queue.Result{}, false
}
