// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// movers let the ops of a guest move one at a time. A lane moves its ops, and
// so does who calls Undo, Reject or Approve; a record of a move that is not
// legal any more would stay in the journal for good.
type movers [64]sync.Mutex

// lock waits for the turn of these guests.
func (m *movers) lock(ids []guest.VMID) (unlock func()) {
	var at []int
	for _, id := range ids {
		at = append(at, int(id)%len(m))
	}
	slices.Sort(at)
	at = slices.Compact(at)
	for _, i := range at {
		m[i].Lock()
	}
	return func() {
		for _, i := range at {
			m[i].Unlock()
		}
	}
}

// oneAtATime lets requests under one idempotency key in one after the other:
// the second must find what the first has journalled. Without a key there is
// nothing to wait for.
func (e *Engine) oneAtATime(key string) (unlock func()) {
	if key == "" {
		return func() {}
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	m := &e.keyed[h.Sum32()%uint32(len(e.keyed))]
	m.Lock()
	return sync.OnceFunc(m.Unlock)
}

// append puts records on disk and folds them. A record about an op that has
// moved on meanwhile is an error, and nothing of the batch is written.
func (e *Engine) append(ctx context.Context, recs ...ledger.Record) error {
	var about []guest.VMID
	payloads := make([]json.RawMessage, len(recs))
	for i, r := range recs {
		switch {
		case r.Op != nil:
			about = append(about, r.Op.Guest.VMID)
		case r.Step != nil:
			about = append(about, r.Step.Guest.VMID)
		case r.Quarantine != nil:
			about = append(about, r.Quarantine.VMID)
		}
		p, err := r.Encode()
		if err != nil {
			return err
		}
		payloads[i] = p
	}
	defer e.movers.lock(about)()
	for _, r := range recs {
		if err := e.led.Check(r); err != nil {
			return err
		}
	}
	if _, err := e.opt.Journal.Append(ctx, payloads...); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}
