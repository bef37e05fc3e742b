// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

func TestReopenOnARealDisk(t *testing.T) {
	real := t.TempDir()
	var before Head
	for round := range 3 {
		fold := &texts{}
		j, report, err := Open(t.Context(), Options{Dir: real, Fold: fold, Host: "h"})
		if err != nil {
			t.Fatal(err)
		}
		want := Report{Fresh: round == 0, Head: before}
		if round > 0 {
			want.Snapshot = before.Seq - 1
			want.Entries, want.LastBatch = 1, before.Seq
		}
		if diff := cmp.Diff(want, report); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
		wantTexts(t, fold, 3*round, 1)
		mustAppend(t, j, payloads(3*round+1, 3*round+2, 1)...)
		if err := j.Compact(t.Context()); err != nil {
			t.Error(err)
		}
		before = mustAppend(t, j, payload(3*round+3, 1))
		if before != j.Head() || before.Seq != uint64(3*round+3) {
			t.Errorf("round %d: head %+v, %+v", round, before, j.Head())
		}
		mustClose(t, j)
		check, err := Check(fsys.OS{}, real)
		if err != nil || !check.OK() || check.Head != before {
			t.Errorf("check: %+v, %v", check, err)
		}
	}
}

func TestAppendReturnsAfterTheSyncAndTheFold(t *testing.T) {
	f, fold := fault.New(), &texts{}
	j, _ := mustOpen(t, options(f, fold))
	f.Reset()
	mustAppend(t, j, payload(1, 10), payload(2, 10))
	var got []string
	for _, c := range f.Calls() {
		got = append(got, c.Op)
	}
	if diff := cmp.Diff([]string{"APPEND:WRITE", "APPEND:DATASYNC"}, got); diff != "" {
		t.Error(diff)
	}
	wantTexts(t, fold, 2, 10)
	f.PowerCut(nil)
	again := &texts{}
	mustOpen(t, options(f, again))
	wantTexts(t, again, 2, 10)
}

func TestPayloadsAreStoredCompact(t *testing.T) {
	fold := &texts{}
	j, _ := mustOpen(t, options(fault.New(), fold))
	mustAppend(t, j, json.RawMessage("{ \"a\" :\n [1,\t2] }"))
	if diff := cmp.Diff([]string{`{"a":[1,2]}`}, fold.Got); diff != "" {
		t.Error(diff)
	}
}

func TestPayloadsThatAreRefused(t *testing.T) {
	o := options(fault.New(), &texts{})
	o.MaxPayload = 100
	j, _ := mustOpen(t, o)
	for _, p := range []string{"", "{", "1 2", string(payload(1, 200))} {
		if _, err := j.Append(t.Context(), payload(1, 1), json.RawMessage(p)); !errors.Is(err, ErrPayload) {
			t.Errorf("payload %.20q: %v", p, err)
		}
	}
	if head, err := j.Append(t.Context()); err != nil || head != (Head{}) {
		t.Errorf("nothing to append: %+v, %v", head, err)
	}
}

// TestConcurrentAppendsShareASync is about order and sharing; how fast that is, the benchmarks say.
func TestConcurrentAppendsShareASync(t *testing.T) {
	const writers, each = 64, 20
	f, fold := fault.New(), &texts{}
	j, _ := mustOpen(t, options(f, fold))
	f.Reset()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				p := []json.RawMessage{fmt.Appendf(nil, `"%d.%d.a"`, w, i), fmt.Appendf(nil, `"%d.%d.b"`, w, i)}
				if _, err := j.Append(t.Context(), p...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	next := make([]int, writers)
	for i := 0; i < len(fold.Got); i += 2 {
		var w, n int
		if _, err := fmt.Sscanf(fold.Got[i], `"%d.%d.a"`, &w, &n); err != nil || n != next[w] {
			t.Fatalf("%s after %d of its writer, %v", fold.Got[i], next[w], err)
		}
		if want := strings.Replace(fold.Got[i], "a", "b", 1); fold.Got[i+1] != want {
			t.Fatalf("the batch of %s is torn apart by %s", fold.Got[i], fold.Got[i+1])
		}
		next[w]++
	}
	if len(fold.Got) != 2*writers*each {
		t.Errorf("%d entries", len(fold.Got))
	}
	syncs := 0
	for _, c := range f.Calls() {
		if c.Op == "APPEND:DATASYNC" {
			syncs++
		}
	}
	if syncs > writers*each {
		t.Errorf("%d syncs for %d appends", syncs, writers*each)
	}
}

// TestWaitingAppends is about who waits while a batch is written: they share the next batch, and only they can give up.
func TestWaitingAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fault.New()
		fold := &texts{}
		j, _ := mustOpen(t, options(slowFS{f}, fold))
		begin := time.Now()
		var all sync.WaitGroup
		errs := make([]error, 5)
		for i := range errs {
			all.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("had enough"))
				if i != 3 {
					ctx = t.Context()
				}
				defer cancel()
				_, errs[i] = j.Append(ctx, payload(i, 1))
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if took := time.Since(begin).Round(time.Second); took != 2*time.Second {
			t.Errorf("two batches took %s", took)
		}
		for i, err := range errs {
			if (i == 3) != (err != nil) {
				t.Errorf("append %d: %v", i, err)
			}
		}
		if want := []string{`"0 x"`, `"1 x"`, `"2 x"`, `"4 x"`}; !slices.Equal(fold.Got, want) {
			t.Errorf("got %q", fold.Got)
		}
	})
}

// slowFS sleeps outside the file system's lock.
type slowFS struct{ *fault.FS }

type slowFile struct{ fsys.File }

func (s slowFS) OpenFile(op, name string, flag int, perm fs.FileMode) (fsys.File, error) {
	f, err := s.FS.OpenFile(op, name, flag, perm)
	return slowFile{f}, err
}

func (s slowFile) Datasync() error {
	time.Sleep(time.Second)
	return s.File.Datasync()
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fold := &texts{}
		j, _ := mustOpen(t, options(slowFS{fault.New()}, fold))
		errs := make([]error, 3)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { _, errs[i] = j.Append(t.Context(), payload(1, 1)) })
			time.Sleep(time.Millisecond)
		}
		mustClose(t, j)
		all.Wait()
		if errs[0] != nil || !errors.Is(errs[1], ErrClosed) || !errors.Is(errs[2], ErrClosed) {
			t.Errorf("want the first written, the others refused: %v", errs)
		}
		_, err := j.Append(t.Context(), payload(1, 1))
		for _, err := range []error{err, j.Err(), j.Ready(t.Context()), j.Compact(t.Context())} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		mustClose(t, j)
		wantTexts(t, fold, 1, 1)
	})
}

func TestFoldThatRefusesStopsTheJournal(t *testing.T) {
	f := fault.New()
	j, _ := mustOpen(t, options(f, &texts{refuse: string(payload(2, 1))}))
	mustAppend(t, j, payload(1, 1))
	_, err := j.Append(t.Context(), payload(2, 1))
	if !errors.Is(err, ErrUnknown) || !errors.Is(j.Err(), ErrFailed) || j.Head().Seq != 1 {
		t.Errorf("%v, %v", err, j.Err())
	}
	mustClose(t, j)
	if _, _, err := Open(t.Context(), options(f, &texts{refuse: string(payload(2, 1))})); err == nil || !strings.Contains(err.Error(), "entry 2") {
		t.Errorf("reopened: %v", err)
	}
}
