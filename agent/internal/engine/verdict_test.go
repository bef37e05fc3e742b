// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"testing"
	"time"

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
