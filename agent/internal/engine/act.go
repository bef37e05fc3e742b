// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The named points at which a test may kill the agent.
const (
	CrashBeforeIntent = "before-intent"
	CrashIntent       = "intent" // on disk, not sent
	CrashHandle       = "handle" // sent, handle on disk
	CrashSent         = "sent"   // ended, outcome not on disk
	CrashOutcome      = "outcome"
)

// slotOf names the limit that a kind of action counts against.
func slotOf(kind plugin.ActionKind) string {
	switch kind {
	case plugin.Start, plugin.Stop, plugin.Shutdown, plugin.Reboot:
		return SlotStartStop
	case plugin.Backup:
		return SlotBackup
	}
	return SlotOther
}

// run takes an op from intent to outcome: intent synced, then sent, then
// handle synced, then outcome synced. last is asked when it is the op's turn,
// which may be long after it was planned; with an error nothing is sent.
func (e *Engine) run(ctx context.Context, o *op.Op, last ...func(context.Context) error) (op.State, queue.Result) {
	defer func(was op.State) {
		if o.State == was {
			e.takeBack(o, false)
		}
	}(o.State)
	exec, err := e.opt.Executors.Executor(o.Kind)
	if err != nil {
		return o.State, queue.Result{Err: fmt.Errorf("guest %s: %s: %w", o.Guest, o.Kind, err)}
	}
	kindSlot, err := e.slots.Acquire(ctx, slotOf(o.Kind))
	if err != nil {
		return o.State, queue.Result{Err: err}
	}
	defer kindSlot()
	callSlot, err := e.slots.Acquire(ctx, SlotCalls)
	if err != nil {
		return o.State, queue.Result{Err: err}
	}
	defer callSlot() // releasing twice is harmless
	if e.frozenNow(o.Kind) {
		return op.Retried, queue.Result{Err: errWait} // planned afresh
	}
	for _, f := range last {
		if err := f(ctx); err != nil {
			return o.State, queue.Result{Err: err}
		}
	}
	sent, ok := e.sending.begin()
	if !ok {
		return o.State, queue.Result{Err: errStopping}
	}
	defer sent()
	if err := e.intend(ctx, o); err != nil {
		return o.State, queue.Result{Err: err}
	}
	out, err := exec.Apply(ctx, o.Action(), "", func(p plugin.Progress) error {
		if p.Handle == "" {
			return nil
		}
		callSlot()
		defer sent()
		return e.started(ctx, o, p.Handle)
	})
	e.opt.Crash(CrashSent)
	return e.finish(ctx, o, out, err)
}

// intend writes the intent: from here on the op may have taken effect.
func (e *Engine) intend(ctx context.Context, o *op.Op) error {
	e.opt.Crash(CrashBeforeIntent)
	if err := o.Move(op.Intent); err != nil {
		return err
	}
	o.Attempt++
	o.Sent = e.opt.Wall()
	if err := e.record(ctx, o); err != nil {
		return err
	}
	e.sends(o.Guest.VMID)
	e.log.Info("doing", "guest", o.Guest.String(), "op", o.ID, "action", o.Kind, "reason", o.Reason)
	e.opt.Crash(CrashIntent)
	return nil
}

// started puts a handle on disk. The context is the op's own: when the agent
// is told to stop, a handle that has arrived is still written.
func (e *Engine) started(ctx context.Context, o *op.Op, handle string) error {
	err := e.step(context.WithoutCancel(ctx), o, op.Started, ledger.Step{Handle: handle})
	e.opt.Crash(CrashHandle)
	return err
}

// step moves an op on, on disk first.
func (e *Engine) step(ctx context.Context, o *op.Op, next op.State, st ledger.Step) error {
	if !o.State.Can(next) {
		return fmt.Errorf("op %s cannot go from %q to %q", o.ID, o.State, next)
	}
	st.ID, st.Guest, st.State, st.From = o.ID, o.Guest, next, o.State
	bound(&st)
	if err := e.append(ctx, ledger.Record{Type: ledger.TypeStep, Step: &st}); err != nil {
		return err
	}
	o.State = next
	if st.Handle != "" {
		o.Handle = st.Handle
	}
	if st.From.InFlight() && (next == op.Retried || next == op.Abandoned) {
		e.takeBack(o, true)
	}
	return nil
}

// finish puts the end of an attempt on disk and says what to do next. It is
// the one place where outcomes are told apart.
func (e *Engine) finish(ctx context.Context, o *op.Op, out plugin.Outcome, err error) (op.State, queue.Result) {
	next, res := e.verdict(ctx, o, out, err)
	if next == "" { // still open: the next look settles it
		return o.State, res
	}
	st := ledger.Step{Message: message(out, err), Undo: out.Undo, Made: out.Params}
	if st.Undo != nil {
		masked := op.Op{Secret: o.Secret, Undo: st.Undo}
		st.Undo = masked.Journalled().Undo
	}
	// The outcome is known: it is written even when the agent is being stopped.
	ctx = context.WithoutCancel(ctx)
	if err := e.step(ctx, o, next, st); err != nil {
		return o.State, queue.Result{Err: err}
	}
	e.opt.Crash(CrashOutcome)
	e.report(o, next, st.Message)
	if err := e.putAside(ctx, o, out.RefusedKeys); err != nil {
		return next, queue.Result{Err: err}
	}
	return next, res
}

func (e *Engine) report(o *op.Op, next op.State, msg string) {
	attrs := []any{"guest", o.Guest.String(), "op", o.ID, "action", o.Kind, "state", next}
	if o.Handle != "" {
		attrs = append(attrs, "upid", o.Handle)
	}
	if msg != "" {
		attrs = append(attrs, "message", clip(msg))
	}
	if next == op.Succeeded || next == op.Abandoned {
		e.log.Info("done", attrs...)
		return
	}
	e.log.Warn("not done", attrs...)
}

// verdict decides what an attempt's end means. An empty state leaves the op
// open.
func (e *Engine) verdict(ctx context.Context, o *op.Op, out plugin.Outcome, err error) (op.State, queue.Result) {
	if err != nil {
		return e.errVerdict(ctx, o, err)
	}
	switch out.Status {
	case plugin.Done:
		return op.Succeeded, queue.Result{Again: lookAgain}
	case plugin.Retry:
		next := op.Retried
		if o.Asker == op.Reconciler && !o.Gated() || o.Parent != "" {
			next = op.Abandoned // planned afresh at the next look
		}
		if out.RetryAfter > 0 {
			return next, queue.Result{Again: min(out.RetryAfter, maxRetryAfter)}
		}
		return next, queue.Result{Err: errWait}
	case plugin.Refused:
		if len(out.RefusedKeys) > 0 {
			return op.Refused, queue.Result{Again: lookAgain} // the rest goes without them
		}
		e.failed(o.Guest.VMID)
		return op.Refused, queue.Result{Err: errWait}
	case plugin.Failed:
		e.failed(o.Guest.VMID)
		return op.Failed, queue.Result{Err: errWait}
	}
	// Unknown, and whatever a plugin should not say.
	if o.State == op.Started {
		return op.Unknown, queue.Result{Again: lookAgain}
	}
	return "", queue.Result{Again: lookAgain}
}

// maxRetryAfter bounds for how long a plugin's word keeps an op, and with it
// its guest's lane, waiting.
const maxRetryAfter = 6 * time.Hour

// lookAgain is at once, but behind what is already on the lane.
const lookAgain = time.Millisecond

func (e *Engine) errVerdict(ctx context.Context, o *op.Op, err error) (op.State, queue.Result) {
	switch {
	case errors.Is(err, plugin.ErrInvalid), errors.Is(err, plugin.ErrUnsupported):
		if o.State == op.Started { // a plugin that does not know its handle
			return op.Unknown, queue.Result{Again: lookAgain}
		}
		e.failed(o.Guest.VMID)
		return op.Refused, queue.Result{Err: errWait}
	case errors.Is(err, plugin.ErrNotSent) && o.State == op.Intent:
		if next := notSent(o); next == op.Retried {
			return next, queue.Result{Again: retryUnsent}
		}
		return op.Abandoned, queue.Result{Err: err}
	}
	if ctx.Err() != nil {
		return "", queue.Result{} // being stopped: the next start settles it
	}
	return "", queue.Result{Err: fmt.Errorf("guest %s: outcome of op %s not known yet: %w", o.Guest, o.ID, err)}
}

// retryUnsent is how soon an op is tried again that could not be sent.
const retryUnsent = 10 * time.Second

// notSent is what becomes of an op that was proven not to have been sent. What
// somebody asked for is tried again; an approval that it has spent stays good
// for it, and is checked again. The rest is planned afresh.
func notSent(o *op.Op) op.State {
	if o.Gated() || o.Asker != op.Reconciler && o.Parent == "" {
		return op.Retried
	}
	return op.Abandoned
}

func message(out plugin.Outcome, err error) string {
	if err != nil {
		return err.Error()
	}
	msg := out.Message
	if out.Warnings > 0 {
		msg = fmt.Sprintf("%d warnings: %s", out.Warnings, msg)
	}
	for _, k := range slices.Sorted(maps.Keys(out.RefusedKeys)) {
		msg += fmt.Sprintf(" [%s: %s]", k, out.RefusedKeys[k])
	}
	return msg
}

// putAside journals the keys PVE refused, so that they are not tried again
// until something about them changes.
func (e *Engine) putAside(ctx context.Context, o *op.Op, refused map[string]string) error {
	if len(refused) == 0 {
		return nil
	}
	want := e.wanted(o.Guest.VMID)
	if want == nil || want.Revision != o.Revision {
		return nil // what is wanted by now was not refused yet
	}
	have := e.lastConfig(o.Guest.VMID)
	pve := e.version()
	var recs []ledger.Record
	for _, key := range slices.Sorted(maps.Keys(refused)) {
		recs = append(recs, ledger.Record{Type: ledger.TypeSetAside, SetAside: &ledger.SetAside{
			VMID: o.Guest.VMID, Key: key, Words: clip(refused[key]), PVE: pve,
			Want: fingerprint(want.Config, key), Have: fingerprint(have, key),
		}})
	}
	return e.append(ctx, recs...)
}
