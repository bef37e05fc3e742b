// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/journal"
)

// headEvery is how often the journal's head is put where it is seen elsewhere.
const headEvery = time.Hour

// logHeads writes the journal's head to the main log, now and every hour if it
// is another, until ctx ends: what is altered or removed in the journal later
// shows against it (promise P10), also where no hub is told.
func logHeads(ctx context.Context, log *slog.Logger, head func() journal.Head) {
	var last journal.Head
	ticker := time.NewTicker(headEvery)
	defer ticker.Stop()
	for {
		if h := head(); h != last {
			log.Info("the journal's head", "journal_seq", h.Seq, "journal_hash", h.Hash)
			last = h
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
