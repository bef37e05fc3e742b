// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

func leave(t *testing.T, dir string, n int) []hook.Event {
	t.Helper()
	var events []hook.Event
	for i := range n {
		e := hook.New(guest.VMID(100+i), guest.PreStart, "")
		if err := hook.Spool(dir, e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

func left(t *testing.T, dir string) []string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		out = append(out, n.Name())
	}
	return out
}

func TestIngestInOrderAndOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := leave(t, dir, 20)
	var in sink
	s := Spool{Dir: dir, Sink: &in}
	for range 2 {
		if err := s.Ingest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, in.got()); d != "" {
		t.Error(d)
	}
	if l := left(t, dir); len(l) > 0 {
		t.Errorf("left: %v", l)
	}
}

// P7: an event leaves the spool only when the sink has it, and none overtakes
// one that is older.
func TestIngestKeepsWhatIsNotTakenIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := leave(t, dir, 3*maxBatch)
	full := errors.New("the disk is full")
	in := &sink{}
	failures := 1
	in.fail = func(e hook.Event) error {
		if e == want[maxBatch+2] && failures > 0 {
			failures--
			return full
		}
		return nil
	}
	s := Spool{Dir: dir, Sink: in}
	if err := s.Ingest(t.Context()); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if d := cmp.Diff(want[:maxBatch], in.got()); d != "" {
		t.Error(d)
	}
	if l := left(t, dir); len(l) != 2*maxBatch {
		t.Errorf("left: %v", l)
	}
	if err := s.Ingest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, in.got()); d != "" {
		t.Error(d)
	}
}

func TestIngestStopsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leave(t, dir, maxBatch+3)
	ctx, cancel := context.WithCancel(t.Context())
	s := Spool{Dir: dir, Sink: sinkFunc(func(context.Context, []hook.Event) error { cancel(); return nil })}
	if err := s.Ingest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if l := left(t, dir); len(l) != 3 {
		t.Errorf("left: %v", l)
	}
}

func TestIngestMovesGarbageAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0-garbage.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := leave(t, dir, 2)
	if err := os.WriteFile(filepath.Join(dir, "z-garbage"), []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	var in sink
	var lost []int64
	s := Spool{Dir: dir, Sink: &in, Resync: func(_ context.Context, n int64) error { lost = append(lost, n); return nil }}
	for range 2 {
		if err := s.Ingest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, in.got()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int64{2}, lost); d != "" {
		t.Errorf("resyncs: %s", d)
	}
	if d := cmp.Diff([]string{"0-garbage.json", "z-garbage"}, left(t, filepath.Join(dir, "bad"))); d != "" {
		t.Error(d)
	}
}

// Garbage that cannot be moved does not keep good events.
func TestIngestPassesGarbageThatStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, content := range map[string]string{"0-garbage.json": "{", "bad": "in the way"} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := leave(t, dir, 2)
	var in sink
	s := Spool{Dir: dir, Sink: &in}
	if err := s.Ingest(t.Context()); err == nil {
		t.Error("no error")
	}
	if d := cmp.Diff(want, in.got()); d != "" {
		t.Error(d)
	}
}

func TestLostEventsMakeResyncDue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x.json"), 0o700); err != nil { // in the way of the event x
		t.Fatal(err)
	}
	e := hook.New(101, guest.PreStart, "")
	e.ID = "x"
	for range 3 {
		if err := hook.Spool(dir, e); err == nil {
			t.Fatal("spooled")
		}
	}
	os.Remove(filepath.Join(dir, "x.json"))
	busy := errors.New("busy")
	var lost []int64
	answer := busy
	s := Spool{Dir: dir, Sink: &sink{}, Resync: func(_ context.Context, n int64) error { lost = append(lost, n); return answer }}
	if err := s.Ingest(t.Context()); !errors.Is(err, busy) {
		t.Errorf("got %v", err)
	}
	answer = nil
	for range 2 {
		if err := s.Ingest(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if d := cmp.Diff([]int64{3, 3}, lost); d != "" {
		t.Errorf("forgotten before a resync was certain, or not at all: %s", d)
	}
}

func TestIngestWithoutDirectory(t *testing.T) {
	t.Parallel()
	s := Spool{Dir: filepath.Join(t.TempDir(), "absent"), Sink: &sink{}}
	if err := s.Ingest(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// running runs s until the test ends; its events arrive on the channel.
func running(t *testing.T, dir string, fail func(hook.Event) error) <-chan hook.Event {
	t.Helper()
	events := make(chan hook.Event, 1000)
	s := Spool{Dir: dir, Sink: sinkFunc(func(_ context.Context, batch []hook.Event) error {
		for _, e := range batch {
			if fail != nil {
				if err := fail(e); err != nil {
					return err
				}
			}
		}
		for _, e := range batch {
			events <- e
		}
		return nil
	})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return events
}

func TestRunSeesWhatComes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := leave(t, dir, 1)
	events := running(t, dir, nil)
	if got := <-events; got != before[0] {
		t.Errorf("got %v", got)
	}
	for range 10 { // one after the other: each is noticed by itself
		want := leave(t, dir, 1)
		if got := <-events; got != want[0] {
			t.Errorf("got %v, want %v", got, want[0])
		}
	}
}

func TestRunTakesUpManyAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	events := running(t, dir, nil)
	ids := map[string]int{}
	for i := range 200 {
		go func() {
			e := hook.New(guest.VMID(100+i), guest.PreStart, "")
			e.ID = fmt.Sprint(e.ID, ".", i) // one process stands for many
			if err := hook.Spool(dir, e); err != nil {
				t.Error(err)
			}
		}()
	}
	for range 200 {
		e := <-events
		ids[e.ID]++
	}
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

// A helper that can only count its loss is noticed by that.
func TestRunSeesWhatIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".x"), 0o700); err != nil { // in the way of the event x, while it is written
		t.Fatal(err)
	}
	e := hook.New(101, guest.PreStart, "")
	e.ID = "x"
	resynced := make(chan int64)
	s := Spool{Dir: dir, Sink: &sink{}, Resync: func(_ context.Context, n int64) error { resynced <- n; return nil }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for range 3 { // one after the other: each is noticed by itself
		if err := hook.Spool(dir, e); err == nil {
			t.Fatal("spooled")
		}
		if n := <-resynced; n != 1 {
			t.Errorf("%d lost, want 1", n)
		}
	}
}

func TestRunTriesAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := leave(t, dir, 2)
	failures := 2
	events := running(t, dir, func(hook.Event) error {
		if failures > 0 {
			failures--
			return errors.New("not now")
		}
		return nil
	})
	for _, w := range want {
		if got := <-events; got != w {
			t.Errorf("got %v, want %v", got, w)
		}
	}
}

func TestRunWaitsForDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	events := running(t, dir, nil)
	for range 2 { // made, removed and made anew
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		want := leave(t, dir, 1)
		if got := <-events; got != want[0] {
			t.Errorf("got %v, want %v", got, want[0])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
