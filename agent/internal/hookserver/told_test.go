// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// A helper that has spooled its event leaves as soon as it has told of it.
func TestToldEventIsTakenInThoughHelperLeft(t *testing.T) {
	t.Parallel()
	left, in := make(chan struct{}), make(chan []hook.Event, 1)
	spool := t.TempDir()
	socket, stop := start(t, Options{
		Spool: spool,
		Gate:  func(hook.Event) string { t.Error("nobody waits for the gate"); return "" },
		Sink: sinkFunc(func(ctx context.Context, events []hook.Event) error {
			<-left
			in <- events
			return ctx.Err()
		}),
	})
	want, other := hook.New(101, "pre-start", ""), hook.New(102, "pre-start", "")
	if err := errors.Join(hook.Spool(spool, want), hook.Spool(spool, other), hook.Tell(socket, want)); err != nil {
		t.Fatal(err)
	}
	close(left)
	if d := cmp.Diff([]hook.Event{want}, <-in); d != "" {
		t.Error(d)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if rest, err := hook.ReadSpool(spool); err != nil || len(rest) != 1 || rest[0].Event != other {
		t.Errorf("in the spool: %+v, %v", rest, err)
	}
}

// P7: what the sink did not take stays in the spool.
func TestToldEventThatIsNotTakenInStays(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	spool := t.TempDir()
	socket, stop := start(t, Options{Spool: spool, Sink: sinkFunc(func(context.Context, []hook.Event) error {
		close(asked)
		return errors.New("the disk is full")
	})})
	want := hook.New(101, "pre-start", "")
	if err := errors.Join(hook.Spool(spool, want), hook.Tell(socket, want)); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := stop(); err != nil {
		t.Error(err)
	}
	if rest, err := hook.ReadSpool(spool); err != nil || len(rest) != 1 || rest[0].Event != want {
		t.Errorf("in the spool: %+v, %v", rest, err)
	}
}

func TestStopEndsWhatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	entered, ended := make(chan struct{}), make(chan error, 1)
	socket, stop := start(t, Options{Sink: sinkFunc(func(ctx context.Context, _ []hook.Event) error {
		close(entered)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})})
	if err := hook.Tell(socket, hook.New(101, "pre-stop", "")); err != nil {
		t.Fatal(err)
	}
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// tell passes one event through the handler as a helper that does not wait, and
// has left already.
func tell(t *testing.T, s *Server, e hook.Event) (status int) {
	t.Helper()
	ctx, leave := context.WithCancel(context.WithValue(t.Context(), peerKey{}, peer{cred: &unix.Ucred{Uid: uint32(os.Getuid())}}))
	leave()
	r := httptest.NewRequestWithContext(ctx, "POST", "http://felhom"+hook.EventPath, bytes.NewReader(e.AppendJSON(nil)))
	r.Header.Set("Prefer", hook.RespondAsync)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Code
}

// TestToldEventsAreGathered: the first is taken in at once, those that come
// meanwhile together, in order and at most maxBatch at a time; what is more than
// the server keeps waits in the spool.
func TestToldEventsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what follows
		var sizes []int
		var got []guest.VMID
		s, err := New(Options{PeerUIDs: []int{os.Getuid()}, Sink: sinkFunc(func(_ context.Context, events []hook.Event) error {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(events))
			for _, e := range events {
				got = append(got, e.VMID)
			}
			return nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.gather(ctx) }()
		var want []guest.VMID
		for i := range 1 + maxTold + 1 {
			id := guest.VMID(100 + i)
			status := tell(t, s, hook.New(id, guest.PreStart, ""))
			if i == 0 {
				synctest.Wait() // the gatherer has it, and pauses
			}
			if keeps := i <= maxTold; (status == 202) != keeps || (status == 503) == keeps {
				t.Errorf("event %d: status %d", i, status)
			}
			if status == 202 {
				want = append(want, id)
			}
		}
		mu.Lock()
		if d := cmp.Diff([]int{1}, sizes); d != "" {
			t.Errorf("taken in at once: %s", d)
		}
		mu.Unlock()
		for range maxTold / maxBatch {
			pause(t.Context(), gatherTime)
			synctest.Wait()
		}
		end()
		<-done
		if d := cmp.Diff([]int{1, maxBatch, maxBatch, maxBatch, maxBatch}, sizes); d != "" {
			t.Errorf("batches: %s", d)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}
