// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// request is an op that somebody asked for: it has its place on the lane.
type request struct{ id string }

// ErrNotManaged is returned for a guest that no accepted document names.
var ErrNotManaged = errors.New("no accepted document names this guest")

// Plan observes every managed guest afresh and plans. It changes nothing.
func (e *Engine) Plan(ctx context.Context) (plan.Plan, error) {
	if err := e.observeNode(ctx); err != nil {
		return plan.Plan{}, err
	}
	ss, err := e.sightAll(ctx, e.managed())
	if err != nil {
		return plan.Plan{}, err
	}
	var p plan.Plan
	for _, s := range ss {
		e.setView(e.makeView(s))
		if s.plan.Empty() {
			p.Converged++
			continue
		}
		p.Guests = append(p.Guests, s.plan)
	}
	p.Surplus = e.surplus()
	return p, nil
}

// sightAll observes and plans guests side by side, as the read slots allow.
func (e *Engine) sightAll(ctx context.Context, ids []guest.VMID) ([]sighting, error) {
	var mu sync.Mutex
	found := map[guest.VMID]sighting{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, id := range ids {
		g.Go(func() error {
			want := e.wanted(id)
			if want == nil {
				return nil
			}
			s, err := e.sight(ctx, want)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found[id] = s
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]sighting, 0, len(found))
	for _, id := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[id])
	}
	return out, nil
}

// surplus counts the node's guests that no document names.
func (e *Engine) surplus() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, g := range e.node.Guests {
		if e.want[g.ID.VMID] == nil {
			n++
		}
	}
	return n
}

// Asked is what somebody asks to be applied.
type Asked struct {
	Guests []guest.VMID // none = all managed ones
	// Key, if not empty, makes the request idempotent: asked again under the
	// same key, also after a restart, it is answered from the journal.
	Key string
	By  string
}

// Applied is how it ended.
type Applied struct {
	Ops []op.Op `json:"ops"`
	// Already is set when the key was used before: nothing was done now.
	Already bool `json:"already_applied,omitempty"`
}

// ErrKeyReused is returned when a key was used for something else before.
var ErrKeyReused = errors.New("this key was used for another request")

// maxKey bounds an idempotency key, in bytes.
const maxKey = 128

// Apply plans the given guests and carries the plan out once, as the asker's
// ops, whatever the host's mode. It returns how each op ended.
func (e *Engine) Apply(ctx context.Context, q Asked) (Applied, error) {
	if len(q.Key) > maxKey {
		return Applied{}, fmt.Errorf("the key has %d bytes, at most %d are allowed", len(q.Key), maxKey)
	}
	content := fmt.Sprint("apply", q.Guests)
	unlock := e.oneAtATime(q.Key)
	defer unlock()
	if used, ok := e.led.Key(q.Key); ok && q.Key != "" {
		unlock()
		return e.already(ctx, used, content)
	}
	only := q.Guests
	if len(only) == 0 {
		only = e.managed()
	}
	for _, id := range only {
		if e.wanted(id) == nil {
			return Applied{}, fmt.Errorf("guest %s: %w", id, ErrNotManaged)
		}
	}
	ss, err := e.sightAll(ctx, only)
	if err != nil {
		return Applied{}, err
	}
	ops, err := e.ask(ctx, ss, q, content)
	unlock()
	if err != nil {
		return Applied{}, err
	}
	ops, err = e.await(ctx, ops)
	return Applied{Ops: ops}, err
}

// already answers a key that was used before: with the outcome, once there is
// one.
func (e *Engine) already(ctx context.Context, used ledger.Key, content string) (Applied, error) {
	if used.Content != content {
		return Applied{}, fmt.Errorf("key %q: %w", used.Key, ErrKeyReused)
	}
	for {
		_, more := e.led.Since(math.MaxUint64 - 1)
		ops, open := e.keptOps(used.Ops)
		if !open {
			return Applied{Ops: ops, Already: true}, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Applied{}, context.Cause(ctx)
		}
	}
}

// keptOps are the ops that are still remembered, and whether one is to be
// waited for.
func (e *Engine) keptOps(ids []string) (ops []op.Op, open bool) {
	ops = []op.Op{}
	for _, id := range ids {
		if o, ok := e.led.Op(id); ok {
			ops = append(ops, o)
			waits := o.State == op.Awaiting || o.State == op.Granted // for a person, or for days
			open = open || !o.State.Ended() && !waits
		}
	}
	return ops, open
}

// ask journals the planned ops, and their key with them, before anybody is
// told of them.
func (e *Engine) ask(ctx context.Context, ss []sighting, q Asked, content string) ([]op.Op, error) {
	ops := []op.Op{}
	var recs []ledger.Record
	key := ledger.Key{Key: q.Key, Content: content}
	for _, s := range ss {
		for _, a := range s.plan.Actions {
			o := e.newOp(s, a, q.By)
			if err := o.Move(op.Planned); err != nil {
				return nil, err
			}
			j := o.Journalled()
			ops = append(ops, j)
			recs = append(recs, ledger.Record{Type: ledger.TypeOp, Op: &j})
			key.Ops = append(key.Ops, j.ID)
		}
	}
	if q.Key != "" {
		recs = append(recs, ledger.Record{Type: ledger.TypeKey, Key: &key})
	}
	if len(recs) == 0 {
		return ops, nil
	}
	return ops, e.append(ctx, recs...)
}

// await submits ops and waits for their ends.
func (e *Engine) await(ctx context.Context, ops []op.Op) ([]op.Op, error) {
	tickets := make([]*queue.Ticket, len(ops))
	for i, o := range ops {
		t, err := e.queue.Submit(o.Guest.VMID, request{id: o.ID})
		if err != nil {
			for _, rest := range ops[i:] { // none is to be done at some later time
				e.abandon(context.WithoutCancel(ctx), rest.ID, "not taken: "+err.Error())
			}
			return nil, fmt.Errorf("guest %s: %w", o.Guest, err)
		}
		tickets[i] = t
	}
	return e.waitFor(ctx, ops, tickets)
}

// waitFor waits for the ends of ops that have their place, and of those that
// have none for nothing.
func (e *Engine) waitFor(ctx context.Context, ops []op.Op, tickets []*queue.Ticket) ([]op.Op, error) {
	for i, t := range tickets {
		if t == nil {
			continue
		}
		if _, err := t.Wait(ctx); err != nil {
			return nil, fmt.Errorf("guest %s: op %s: %w", ops[i].Guest, ops[i].ID, err)
		}
	}
	for i := range ops {
		if o, ok := e.led.Op(ops[i].ID); ok {
			ops[i] = o
		}
	}
	return ops, nil
}

// carryOut is a lane's handling of an op that somebody asked for. The op is
// checked against the present first: if the plan no longer has it, it is
// abandoned.
func (e *Engine) carryOut(ctx context.Context, id guest.VMID, r request) queue.Result {
	if res, open := e.settle(ctx, id); open {
		return queue.Result{Again: max(res.Again, 100*time.Millisecond)}
	}
	o, ok := e.led.Op(r.id)
	if !ok || o.State.Ended() {
		return queue.Result{Done: o.State}
	}
	if isOrder(o) {
		return e.carryOrder(ctx, id, o)
	}
	want := e.wanted(id)
	if want == nil {
		return e.notWanted(ctx, o)
	}
	s, err := e.sight(ctx, want)
	if err != nil {
		return queue.Result{Again: 2 * time.Second}
	}
	if another(s, o) {
		return e.abandon(ctx, o.ID, errAnother.Error())
	}
	a, why := stillPlanned(s.plan, o)
	switch {
	case a != nil:
	case slices.ContainsFunc(s.plan.Withheld, func(w plan.Withheld) bool { return w.Waiting }), unreadable(s) && time.Now().Before(worthUntil(o)):
		return queue.Result{Again: 2 * time.Second, Idle: true}
	default:
		return e.abandon(ctx, o.ID, why)
	}
	fresh := e.newOp(s, *a, o.Asker)
	fresh.ID, fresh.State, fresh.Attempt, fresh.Planned = o.ID, o.State, o.Attempt, o.Planned
	e.mu.Lock()
	e.last[id] = attempt{config: s.obs.Config}
	e.mu.Unlock()
	state, res := e.run(ctx, fresh, e.stillDue(s, fresh, *a, true))
	return e.carried(ctx, fresh, state, res)
}

// carried is what becomes of the place of an op that somebody asked for, after
// it was run: it is there until the op has ended.
func (e *Engine) carried(ctx context.Context, o *op.Op, state op.State, res queue.Result) queue.Result {
	switch {
	case state.Ended(), state == op.Unknown:
		e.queue.Look(o.Guest.VMID, "op ended")
		return queue.Result{Done: state}
	case state.InFlight():
		return queue.Result{Again: max(res.Again, 500*time.Millisecond)}
	case errors.Is(res.Err, plugin.ErrUnsupported): // nobody could ever carry it out
		return e.abandon(ctx, o.ID, res.Err.Error())
	case state == op.Retried:
		return queue.Result{Again: max(res.Again, 500*time.Millisecond)}
	}
	return queue.Result{Again: 2 * time.Second, Idle: true} // it could not even be written down
}

// notWanted is for an op about a guest that no document in force names. Soon
// after the start one may still come.
func (e *Engine) notWanted(ctx context.Context, o op.Op) queue.Result {
	if e.unheard() {
		return queue.Result{Again: 2 * time.Second, Idle: true}
	}
	return e.abandon(ctx, o.ID, ErrNotManaged.Error())
}

// unheardFor is how long after the start an op waits for the desired state it
// rests on.
const unheardFor = 10 * time.Minute

// unheard: the agent started not long ago, and not every provider's desired
// state is in force yet.
func (e *Engine) unheard() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range e.set.Required {
		if e.sets[name] == nil {
			return time.Since(e.began) < unheardFor
		}
	}
	return false
}

var errAnother = errors.New("another guest has this VMID by now")

// another: the op is not for the guest that is there. What needs a signature
// is bound to it by that.
func another(s sighting, o op.Op) bool {
	return !o.Gated() && o.Incarnation != "" && o.Incarnation != s.led.Incarnation
}

// stillPlanned finds the op's action in the present plan, or says why it is
// not there.
func stillPlanned(p plan.Guest, o op.Op) (*plan.Action, string) {
	for i, a := range p.Actions {
		if a.Kind == o.Kind && slices.Equal(a.Delete, o.Delete) && slices.Equal(sorted(a.Set), sorted(o.Set)) {
			return &p.Actions[i], ""
		}
	}
	for _, w := range p.Withheld {
		return nil, "no longer planned: " + w.What + ": " + w.Why
	}
	return nil, "no longer planned: the guest changed since this was asked for"
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func (e *Engine) abandon(ctx context.Context, id, why string) queue.Result {
	o, ok := e.led.Op(id)
	if !ok || o.State.Ended() {
		return queue.Result{Done: o.State}
	}
	if err := e.step(ctx, &o, op.Abandoned, ledger.Step{Message: why}); err != nil {
		return queue.Result{Again: time.Second}
	}
	e.report(&o, op.Abandoned, why)
	return queue.Result{Done: op.Abandoned}
}

// Pause stops the agent from changing a guest, or any guest when id is 0.
func (e *Engine) Pause(ctx context.Context, id guest.VMID, by string) error {
	return e.append(ctx, ledger.Record{Type: ledger.TypePaused, Paused: &ledger.Paused{VMID: id, On: true, By: by}})
}

// Resume ends a pause, a hold and a tripped breaker of a guest, or the host's
// pause and breaker when id is 0.
func (e *Engine) Resume(ctx context.Context, id guest.VMID, by string) error {
	recs := []ledger.Record{{Type: ledger.TypePaused, Paused: &ledger.Paused{VMID: id, By: by}}}
	if id != 0 {
		recs = append(recs, ledger.Record{Type: ledger.TypeReleased, Released: &ledger.Released{VMID: id, By: by}})
	}
	if err := e.append(ctx, recs...); err != nil {
		return err
	}
	e.release(id)
	e.takeUp()
	if id == 0 {
		e.Resync("resumed")
		return nil
	}
	e.queue.Look(id, "resumed")
	return nil
}
