// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Whatever a plugin says of an op in whatever state, the op can go where the
// verdict sends it: an op that cannot would hold its lane for good.
func TestEveryVerdictIsALegalMove(t *testing.T) {
	bubble(t, func(r *rig) {
		r.start(Enforce)
		defer r.stop()
		ended, cancel := context.WithCancel(r.t.Context())
		cancel()
		for _, ctx := range []context.Context{r.t.Context(), ended} {
			for _, o := range everyOp() {
				for _, out := range everyOutcome() {
					next, _ := r.eng.verdict(ctx, &o, out, nil)
					legal(r.t, o, next, string(out.Status))
				}
				for _, err := range []error{plugin.ErrInvalid, plugin.ErrUnsupported, plugin.ErrNotSent, plugin.ErrShutdown, errors.New("x")} {
					next, _ := r.eng.verdict(ctx, &o, plugin.Outcome{}, err)
					legal(r.t, o, next, err.Error())
				}
			}
		}
	})
}

func legal(t *testing.T, o op.Op, next op.State, said string) {
	t.Helper()
	if next != "" && !o.State.Can(next) {
		t.Errorf("%s op of %s (%s, parent %q) and %q: cannot go to %s", o.State, o.Asker, o.Class, o.Parent, said, next)
	}
}

// everyOp is an op in flight, of each asker, class and descent.
func everyOp() []op.Op {
	var out []op.Op
	for _, state := range []op.State{op.Intent, op.Started} {
		for _, asker := range []string{op.Reconciler, op.Operator, "hub"} {
			for _, class := range []guest.Class{guest.Benign, guest.Additive, guest.Irreversible} {
				for _, parent := range []string{"", "p"} {
					o := *crashed(plugin.Shutdown)
					o.State, o.Asker, o.Class, o.Parent = state, asker, class, parent
					out = append(out, o)
				}
			}
		}
	}
	return out
}

func everyOutcome() []plugin.Outcome {
	var out []plugin.Outcome
	for _, s := range []plugin.Status{plugin.Done, plugin.Retry, plugin.Refused, plugin.Failed, plugin.Unknown, "nonsense"} {
		out = append(out, plugin.Outcome{Status: s}, plugin.Outcome{Status: s, RetryAfter: time.Second},
			plugin.Outcome{Status: s, RefusedKeys: map[string]string{"cores": "no"}})
	}
	return out
}

// lockedOnce is an executor that finds the first task it is asked for ended,
// as the guest was locked when it began.
type lockedOnce struct {
	plugin.Executor
	told bool
}

func (l *lockedOnce) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if handle != "" && !l.told {
		l.told = true
		return plugin.Outcome{Status: plugin.Retry, Reason: "locked", RetryAfter: 10 * time.Second, Message: "CT is locked (backup)"}, nil
	}
	return l.Executor.Apply(ctx, a, handle, emit)
}

// What somebody asked for is tried again also when its first attempt was sent
// before a crash and did nothing.
func TestOpFoundAgainThatDidNothingIsTriedAgain(t *testing.T) {
	for _, asker := range []string{op.Reconciler, op.Operator} {
		t.Run(asker, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.put(101, guest.Stopped, guest.Config{"cores": "4"})
				r.wrap = func(e plugin.Executor) plugin.Executor { return &lockedOnce{Executor: e} }
				r.start(Observe) // in which nothing but what was asked for is done
				r.mustDesire(wantRunning)
				r.stop()
				o := crashed(plugin.Start)
				o.Asker = asker
				r.seed(ledger.Record{Type: ledger.TypeOp, Op: o},
					ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: o.ID, Guest: o.Guest, State: op.Started, Handle: "UPID:x"}})
				r.start(Observe)
				defer r.stop()
				after(5 * time.Minute)
				want := op.Succeeded
				if asker == op.Reconciler {
					want = op.Abandoned
				}
				if o, _ := r.led.Op("o1"); o.State != want {
					t.Errorf("op %+v", o)
				}
			})
		})
	}
}
