// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestMovesThatComeTooLate: whoever decides on an op by what it was a moment
// ago (undo, reject, a new request) is refused once the lane has moved it. In
// the journal such a record would be one that no replay accepts.
func TestMovesThatComeTooLate(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		awaiting := r.askDestroy()
		r.must(r.approve(p, awaiting, alice))
		after(time.Minute)
		granted := r.op(awaiting.ID)
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			return plugintest.Behaviour{Delay: time.Second, Task: time.Minute}
		})
		after(time.Hour - time.Second/2 - time.Minute)
		for d := time.Duration(0); r.op(granted.ID).State != op.Intent && d < time.Minute; d += 100 * time.Millisecond {
			after(100 * time.Millisecond)
		}
		if got := r.op(granted.ID).State; got != op.Intent {
			t.Fatalf("the destroy is %s", got)
		}
		if err := r.eng.step(r.t.Context(), &granted, op.Abandoned, ledger.Step{Message: "undone"}); err == nil {
			t.Error("a destroy that was just sent was abandoned")
		}
		if err := r.eng.append(r.t.Context(), ledger.Record{Type: ledger.TypeOp, Op: &awaiting}); err == nil {
			t.Error("an op in flight got a new request")
		}
		after(10 * time.Minute)
		if got := r.op(granted.ID).State; got != op.Succeeded {
			t.Errorf("the destroy is %s", got)
		}
		r.stop()
		r.start(Enforce) // every record is accepted again
	})
}
