// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/journal"
)

func TestHeadIsLoggedEachHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var seq atomic.Uint64
		seq.Store(2)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			logHeads(ctx, slog.New(slog.NewTextHandler(&out, nil)), func() journal.Head {
				return journal.Head{Seq: seq.Load(), Hash: strings.Repeat("a", int(seq.Load()))}
			})
		}()
		synctest.Wait()
		time.Sleep(90 * time.Minute) // nothing new after an hour
		seq.Store(3)
		time.Sleep(time.Hour)
		cancel()
		<-done
		if s := out.String(); strings.Count(s, "\n") != 2 || !strings.Contains(s, "journal_seq=2 journal_hash=aa\n") || !strings.Contains(s, "journal_seq=3 journal_hash=aaa\n") {
			t.Errorf("logged:\n%s", s)
		}
	})
}
