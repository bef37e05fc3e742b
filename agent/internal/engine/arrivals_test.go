// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

var errDisk = errors.New("the disk does not answer")

// slowJournal takes its time for each record; the first so many fail.
type slowJournal struct {
	*journal.Journal
	fail atomic.Int32
}

const slow = 300 * time.Millisecond // more than a helper waits

func (j *slowJournal) Append(ctx context.Context, payloads ...json.RawMessage) (journal.Head, error) {
	time.Sleep(slow)
	if j.fail.Add(-1) >= 0 {
		return journal.Head{}, errDisk
	}
	return j.Journal.Append(ctx, payloads...)
}

// slowEngine takes in events on a slow disk, of which fail are lost.
func slowEngine(t *testing.T, fail int32) (e *Engine, events func() int) {
	t.Helper()
	led, dir := ledger.New(), t.TempDir()
	j, _, err := journal.Open(t.Context(), journal.Options{Dir: dir, Fold: led})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	s := &slowJournal{Journal: j}
	s.fail.Store(fail)
	e, err = New(Options{Settings: settings(Observe), Journal: s, Ledger: led, Logger: slog.New(slog.DiscardHandler), QueueSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	return e, func() (n int) {
		if err := journal.Read(fsys.OS{}, dir, 0, func(journal.Entry, journal.Frame) bool { n++; return true }); err != nil {
			t.Error(err)
		}
		return n
	}
}

func startsOf(ids ...string) (events []hook.Event) {
	for _, id := range ids {
		events = append(events, hook.Event{ID: id, VMID: 101, Phase: guest.PreStart, Time: 1})
	}
	return events
}

// TestEventTwiceAtOnce (P7): an event that comes from the spool while it is
// still being synced is in the journal once, and holds up no other.
func TestEventTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, events := slowEngine(t, 0)
		done, begun := make(chan error), time.Now()
		for _, id := range []string{"a", "a", "b", "a"} {
			go func() { done <- e.Events(t.Context(), startsOf(id)) }()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took != slow {
			t.Errorf("it took %v, want %v", took, slow)
		}
		if n := events(); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
		if n := len(e.arrivals.at); n != 0 {
			t.Errorf("%d events are still arriving", n)
		}
	})
}

// TestEventTwiceFirstFails: what waited for a first copy that was not taken in
// is taken in by itself; who no longer waits is told.
func TestEventTwiceFirstFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, events := slowEngine(t, 1)
		first, second := make(chan error), make(chan error)
		go func() { first <- e.Events(t.Context(), startsOf("a")) }()
		synctest.Wait()
		go func() { second <- e.Events(t.Context(), startsOf("a")) }()
		brief, cancel := context.WithTimeout(t.Context(), slow/2)
		defer cancel()
		if err := e.Events(brief, startsOf("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the one that waited briefly: %v", err)
		}
		if err := <-first; !errors.Is(err, errDisk) {
			t.Errorf("the first: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
		if n := events(); n != 1 {
			t.Errorf("%d records, want 1", n)
		}
	})
}

// TestBatchesThatOverlap: what two batches share, or one holds twice, is in the
// journal once, and a batch holds up no other that has nothing of it.
func TestBatchesThatOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, events := slowEngine(t, 0)
		done, begun := make(chan error), time.Now()
		for _, ids := range [][]string{{"a", "b"}, {"b", "c", "c"}, {"d", "d"}} {
			go func() { done <- e.Events(t.Context(), startsOf(ids...)) }()
			synctest.Wait() // they are under way, in this order
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(begun); took != 2*slow {
			t.Errorf("it took %v, want %v", took, 2*slow)
		}
		if n := events(); n != 4 {
			t.Errorf("%d records, want 4", n)
		}
		if n := len(e.arrivals.at); n != 0 {
			t.Errorf("%d events are still arriving", n)
		}
	})
}
