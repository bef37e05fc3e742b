// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Order is one action on one guest that somebody asks for.
type Order struct {
	Guest  guest.VMID
	Action plugin.ActionKind
	Params map[string]string
	// Key, if not empty, makes the order idempotent, as in Asked.
	Key string
	By  string
	// As is the asker's name among the signers, for the four-eyes rule; empty
	// if the asker is none of them.
	As string
}

// ErrOrder is returned when an order makes no sense or may not be given.
var ErrOrder = errors.New("this cannot be asked for")

// orderParams are the parameters that each action kind takes when it is asked
// for; those that end in "!" are needed.
var orderParams = map[plugin.ActionKind][]string{
	plugin.TakeSnapshot:   {"name!", "description"},
	plugin.Backup:         {"storage!", "mode", "notes"},
	plugin.Rollback:       {"name!"},
	plugin.Restore:        {"source!", "storage"},
	plugin.DeleteSnapshot: {"name!"},
	plugin.DeleteBackup:   {"volume!"},
	plugin.DeleteVolume:   {"volume!"},
	plugin.Destroy:        {"backup", "without_backup", "purge"},
}

// classOf is the class of each kind that can be asked for. A vendor's own kind
// is irreversible unless the operator declared it benign.
func (e *Engine) classOf(k plugin.ActionKind) guest.Class {
	switch k {
	case plugin.TakeSnapshot, plugin.Backup:
		return guest.Benign
	}
	if vendors(k) && e.benignKind(k) {
		return guest.Benign
	}
	return guest.Irreversible
}

// vendors reports whether a kind is not the core's: those have a dot.
func vendors(k plugin.ActionKind) bool { return strings.Contains(string(k), ".") }

func (e *Engine) benignKind(k plugin.ActionKind) bool {
	b, ok := e.opt.Executors.(interface{ Benign(plugin.ActionKind) bool })
	return ok && b.Benign(k)
}

// check says what is wrong with an order by itself.
func (e *Engine) checkOrder(q Order) error {
	if len(q.Key) > maxKey {
		return fmt.Errorf("the key has %d bytes, at most %d are allowed", len(q.Key), maxKey)
	}
	names, known := orderParams[q.Action]
	if !known {
		if !vendors(q.Action) {
			return fmt.Errorf("%w: %q is no action that can be asked for; there are %s", ErrOrder, q.Action, orderKinds())
		}
		return nil // a vendor's: its executor checks the parameters
	}
	for _, n := range names {
		if name, needed := strings.CutSuffix(n, "!"); needed && q.Params[name] == "" {
			return fmt.Errorf("%w: %s needs the parameter %s", ErrOrder, q.Action, name)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(q.Params)) {
		if !slices.Contains(names, p) && !slices.Contains(names, p+"!") {
			return fmt.Errorf("%w: %s has no parameter %q; it takes %s", ErrOrder, q.Action, p, strings.ReplaceAll(strings.Join(names, ", "), "!", ""))
		}
	}
	return nil
}

func orderKinds() string {
	var out []string
	for k := range orderParams {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// Ask takes an order. What is benign is carried out, whatever the host's mode;
// what is irreversible becomes a request that waits for signatures, or goes
// ahead under a standing permit.
func (e *Engine) Ask(ctx context.Context, q Order) (Applied, error) {
	if err := e.checkOrder(q); err != nil {
		return Applied{}, err
	}
	content := fmt.Sprint("ask ", q.Guest, " ", q.Action, " ", q.Params)
	unlock := e.oneAtATime(q.Key)
	defer unlock()
	if used, ok := e.led.Key(q.Key); ok && q.Key != "" {
		unlock()
		return e.already(ctx, used, content)
	}
	s, err := e.inspect(ctx, q.Guest)
	if err != nil {
		return Applied{}, err
	}
	if why := mayAsk(s, q); why != "" {
		return Applied{}, fmt.Errorf("guest %s: %w: %s", q.Guest, ErrOrder, why)
	}
	if err := e.note(ctx, s); err != nil {
		return Applied{}, err
	}
	s.led = e.led.Guest(q.Guest)
	a, err := e.ordered(s, q.Action, q.Params)
	if err != nil {
		return Applied{}, err
	}
	o := e.newOp(s, a.Action, q.By)
	if o.Gated() && o.Incarnation == "" {
		return Applied{}, fmt.Errorf("guest %s: %w: it cannot be told yet which guest this is: %s", q.Guest, ErrOrder, cmp.Or(identity.Unsteady(s.obs), "it was not seen before"))
	}
	if err := e.takeOrder(ctx, s, o, a, q, content); err != nil {
		return Applied{}, err
	}
	unlock()
	if o.State == op.Awaiting && !e.hasPermits() {
		return Applied{Ops: []op.Op{o.Journalled()}}, nil
	}
	ops, err := e.await(ctx, []op.Op{o.Journalled()})
	return Applied{Ops: ops}, err
}

// takeOrder journals an op that was asked for, before anybody is told.
func (e *Engine) takeOrder(ctx context.Context, s sighting, o *op.Op, a gated, q Order, content string) error {
	next := op.Planned
	if o.Gated() {
		next = op.Awaiting
		if err := e.roomToAsk(o.Guest.VMID); err != nil {
			return err
		}
		if err := e.request(s, o, a, q.As); err != nil {
			return err
		}
	}
	if err := o.Move(next); err != nil {
		return err
	}
	j := o.Journalled()
	recs := []ledger.Record{{Type: ledger.TypeOp, Op: &j}}
	if q.Key != "" {
		recs = append(recs, ledger.Record{Type: ledger.TypeKey, Key: &ledger.Key{Key: q.Key, Content: content, Ops: []string{o.ID}}})
	}
	return e.append(ctx, recs...)
}

// mayAsk says why nothing may be asked of the guest, or "".
func mayAsk(s sighting, q Order) string {
	half := q.Action == plugin.Destroy && (s.who.half || s.led.HalfMade != "" && s.led.Incarnation == "")
	class := guest.Irreversible
	if q.Action == plugin.TakeSnapshot || q.Action == plugin.Backup {
		class = guest.Benign
	}
	switch {
	case s.obs.Presence != plugin.Here:
		return "it is not here (" + string(s.obs.Presence) + ")"
	case s.who.verdict != "" && !s.who.verdict.Allows(class) && !half:
		var pol plan.Policy
		doubt(&pol, &s)
		return cmp.Or(pol.Identity, pol.Changed)
	case s.obs.Config == nil:
		return "its config could not be read: " + s.obs.ConfigError
	case s.obs.HA.Managed && q.Action == plugin.Destroy:
		return "the HA stack manages it (state " + s.obs.HA.State + "): take it out of HA first"
	case s.obs.State.Template && class != guest.Benign:
		return "a template is left alone: clones may hang on it"
	case s.led.Quarantine != nil && q.Action != plugin.Backup:
		return "it is in quarantine for op " + s.led.Quarantine.Op
	}
	return ""
}

// inspect looks at a guest with everything that hangs on it, whether a
// document names it or not.
func (e *Engine) inspect(ctx context.Context, id guest.VMID) (sighting, error) {
	s := sighting{want: e.wanted(id)}
	obs, err := e.observe(ctx, plugin.GuestQuery{VMID: id, TasksSince: e.tasksSince(id), Inventory: true})
	if err != nil {
		return s, err
	}
	if s.want == nil {
		s.want = &desired.Guest{VMID: id, Kind: obs.State.ID.Kind}
	}
	s.obs, s.led = obs, e.led.Guest(id)
	e.noticeTwin(id, obs.Tasks)
	e.planGuest(&s, true)
	s.inactive = e.inactive(s.want)
	return s, nil
}

// carryOrder is a lane's handling of an op that was asked for by itself, or
// that waits for an approval. It is checked against the present first.
func (e *Engine) carryOrder(ctx context.Context, id guest.VMID, o op.Op) queue.Result {
	if o.State == op.Granted {
		return queue.Result{Done: o.State}
	}
	s, err := e.inspect(ctx, id)
	if err != nil || e.notNow(s) != "" || unreadable(s) && time.Now().Before(worthUntil(o)) {
		return queue.Result{Again: 2 * time.Second}
	}
	if why := e.heldBack(s, o); why != "" {
		e.log.Info("an op waits", "guest", o.Guest.String(), "op", o.ID, "why", why)
		return queue.Result{Done: o.State} // taken up again by takeUp
	}
	if o.Asker == op.Reconciler && e.wanted(id) == nil {
		return e.notWanted(ctx, o)
	}
	a, err := e.again(s, o)
	if err != nil {
		return e.abandon(ctx, o.ID, err.Error())
	}
	fresh := e.renew(s, o, a.Action)
	if why := notAsAsked(s, o, fresh); why != nil {
		return e.abandon(ctx, o.ID, why.Error())
	}
	if o.Gated() {
		if res, yes := e.mayGo(ctx, s, fresh, a); !yes {
			return res
		}
	}
	state, res := e.run(ctx, fresh, e.stillSo(id, fresh, a))
	if errors.Is(res.Err, errStale) {
		return queue.Result{Again: 500 * time.Millisecond}
	}
	return e.carried(ctx, fresh, state, res)
}

// mayGo tells whether what needs a signature goes out now, and if not what
// becomes of its place. A destroy does not: it is granted.
func (e *Engine) mayGo(ctx context.Context, s sighting, o *op.Op, a gated) (queue.Result, bool) {
	allowed, err := e.allow(ctx, s, o, a)
	switch {
	case errors.Is(err, errKeys): // which says nothing against the approval
		return queue.Result{Again: 10 * time.Second, Idle: true}, false
	case err != nil, !allowed:
		return queue.Result{Done: o.State, Err: err}, false
	case o.Kind == plugin.Destroy:
		return e.grant(ctx, o, a), false
	}
	return queue.Result{}, true
}

// errNotBenign: a vendor's kind was declared benign when it was asked for.
var errNotBenign = errors.New("it needs a signature by now: ask again")

// notAsAsked says why an op is not what was asked for any more, or nil.
func notAsAsked(s sighting, o op.Op, fresh *op.Op) error {
	switch {
	case another(s, o):
		return errAnother
	case fresh.Gated() && !o.Gated():
		return errNotBenign
	}
	return nil
}

// unreadable: it cannot be told at the moment what is there. PVE answers so now
// and then, which is no reason to give up what somebody asked for.
func unreadable(s sighting) bool {
	return s.obs.Presence == plugin.Unsure || s.obs.Presence == plugin.Here && s.obs.Config == nil
}

// worthUntil is how long an op waits for a guest that cannot be read: as long
// as its request is good, or a while.
func worthUntil(o op.Op) time.Time {
	if r, err := gate.ParseRequest([]byte(o.Request)); err == nil {
		return r.NotAfter
	}
	return o.Planned.Add(10 * time.Minute)
}

// errStale: the guest is not what it was when the op was last looked at.
var errStale = errors.New("the guest changed while the op waited for its turn")

// freshFor is how old the last look at a guest may be when something that was
// asked for is sent. The executor reads once more; that it is the same guest is
// known only here.
const freshFor = time.Second

// stillSo looks at the guest again if the op had to wait for its turn.
func (e *Engine) stillSo(id guest.VMID, o *op.Op, a gated) func(context.Context) error {
	seen := time.Now()
	return func(ctx context.Context) error {
		if o.Gated() && e.paused(id) != "" {
			return errStale
		}
		if time.Since(seen) < freshFor {
			return nil
		}
		s, err := e.inspect(ctx, id)
		if err != nil {
			return errors.Join(errStale, err)
		}
		now, err := e.again(s, *o)
		if err != nil || e.notNow(s) != "" || e.heldBack(s, *o) != "" || s.led.Incarnation != o.Incarnation || now.hash(o.Incarnation) != a.hash(o.Incarnation) {
			return errStale
		}
		if err := e.stillAllowed(ctx, s, o); err != nil {
			return errors.Join(errStale, err)
		}
		o.Digest = now.Digest
		return nil
	}
}

// heldBack says why what needs a signature is not done now although it may have
// one, or "". What a document wants waits for the mode as well.
func (e *Engine) heldBack(s sighting, o op.Op) string {
	switch {
	case !o.Gated():
		return ""
	case o.Asker == op.Reconciler:
		return s.inactive
	}
	return e.paused(o.Guest.VMID)
}

// paused says why nothing irreversible goes on about a guest, whoever asked for
// it, or "".
func (e *Engine) paused(id guest.VMID) string {
	e.mu.Lock()
	twin := e.twin
	e.mu.Unlock()
	switch {
	case twin != "":
		return twin
	case e.led.Paused():
		return "the host is paused by the operator"
	case e.led.Guest(id).Paused:
		return "the guest is paused by the operator"
	}
	return ""
}

// notNow says why a call about the guest must wait, or "".
func (e *Engine) notNow(s sighting) string {
	if s.obs.State.Lock != "" {
		return "the guest is locked (" + s.obs.State.Lock + ")"
	}
	why, _ := e.busy(&s, true)
	return why
}

// again plans the op's action anew from what is there now.
func (e *Engine) again(s sighting, o op.Op) (gated, error) {
	if why := mayAsk(s, Order{Guest: o.Guest.VMID, Action: o.Kind}); why != "" {
		return gated{}, errors.New(why)
	}
	if o.Undoes != "" {
		return e.undoAgain(s, o)
	}
	if o.Kind != plugin.SetConfig {
		return e.ordered(s, o.Kind, o.Params)
	}
	a := gatedOf(s.plan, o.Kind)
	if a == nil {
		return gated{}, errors.New("no longer wanted")
	}
	return gated{Action: *a, effects: configEffects(*a)}, nil
}

// renew is the op with what its action is now.
func (e *Engine) renew(s sighting, o op.Op, a plan.Action) *op.Op {
	fresh := e.newOp(s, a, o.Asker)
	fresh.ID, fresh.State, fresh.Attempt, fresh.Planned = o.ID, o.State, o.Attempt, o.Planned
	fresh.Request, fresh.Parent, fresh.Undoes, fresh.Approval = o.Request, o.Parent, o.Undoes, o.Approval
	return fresh
}

func (e *Engine) hasPermits() bool {
	return slices.ContainsFunc(e.led.Permits(), func(p ledger.Permit) bool { return !p.Withdrawn })
}
