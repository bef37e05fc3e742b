// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	// keptUnsigned is how long an op is kept after its request ran out: so long
	// an approval that comes too late is answered with a new request.
	keptUnsigned = 7 * 24 * time.Hour
	// maxUnsigned is how many ops of one guest may wait for a signature.
	maxUnsigned = 20
)

// endUnsigned ends the ops whose approval nobody waits for any more. Kept for
// ever they would fill the journal, and some permit of a later day would have
// them done after all.
func (e *Engine) endUnsigned(ctx context.Context) {
	for _, o := range e.led.Ops() {
		if o.State != op.Awaiting {
			continue
		}
		if why := e.tooOld(ctx, o); why != "" {
			e.abandon(ctx, o.ID, why)
		}
	}
}

// tooOld says why an op that waits for an approval ends, or "". What a document
// wants does not age.
func (e *Engine) tooOld(ctx context.Context, o op.Op) string {
	until := worthUntil(o)
	switch {
	case o.Asker == op.Reconciler && e.wanted(o.Guest.VMID) == nil && !e.unheard():
		return "no longer wanted: " + ErrNotManaged.Error()
	case o.Asker == op.Reconciler, time.Since(until) < keptUnsigned, !e.clockGood(ctx):
		return ""
	}
	return "not signed and done by " + utc(until) + ", when its request ran out; ask again"
}

// roomToAsk refuses one more op that waits for a signature where many do.
func (e *Engine) roomToAsk(id guest.VMID) error {
	if n := len(e.led.Waiting(id)); n >= maxUnsigned {
		return fmt.Errorf("guest %s: %w: %d ops of it wait for a signature already; end one with `felhom-agent reject OP`", id, ErrOrder, n)
	}
	return nil
}
