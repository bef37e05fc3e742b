// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// TestFullDisk fills the disk at every byte of a batch: the batch is refused, not half there, and comes back later.
func TestFullDisk(t *testing.T) {
	for room := int64(0); ; room += 37 {
		f, fold := fault.New(), &texts{}
		j, _ := mustOpen(t, options(f, fold))
		mustAppend(t, j, payload(1, 100))
		before := f.Content(firstSegment)
		f.SetQuota(f.Used() + room)
		_, err := j.Append(t.Context(), payload(2, 100), payload(3, 100))
		if err == nil {
			break
		}
		if !errors.Is(err, ErrFull) || !errors.Is(err, ErrReadOnly) || errors.Is(err, ErrUnknown) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("room %d: %v", room, err)
		}
		if !errors.Is(j.Err(), ErrFull) || !bytes.Equal(f.Content(firstSegment), before) {
			t.Fatalf("room %d: err %v, or something is left of the batch", room, j.Err())
		}
		if _, err := j.Append(t.Context(), payload(2, 100)); !errors.Is(err, ErrFull) && room < 200 {
			t.Fatalf("room %d, again: %v", room, err)
		} else if err == nil {
			continue // a smaller batch had room
		}
		f.SetQuota(-1)
		mustAppend(t, j, payload(2, 100))
		if err := j.Err(); err != nil {
			t.Fatalf("room %d: space came back, but %v", room, err)
		}
		f.PowerCut(nil)
		again := &texts{}
		mustOpen(t, options(f, again))
		wantTexts(t, again, 2, 100)
	}
}

// TestSpaceComesBackByItself has nobody append: the journal finds out, and those who wait are woken.
func TestSpaceComesBackByItself(t *testing.T) {
	for name, c := range map[string]struct{ spoil, heal func(f *fault.FS) }{
		"full":      {func(f *fault.FS) { f.SetQuota(f.Used() + 10) }, func(f *fault.FS) { f.SetQuota(-1) }},
		"read-only": {func(f *fault.FS) { f.SetReadOnly(true) }, func(f *fault.FS) { f.SetReadOnly(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, fold := fault.New(), &texts{}
				j, _ := mustOpen(t, options(f, fold))
				mustAppend(t, j, payload(1, 100))
				c.spoil(f)
				if _, err := j.Append(t.Context(), payload(2, 100)); !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				short, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := j.Ready(short); !errors.Is(err, context.DeadlineExceeded) || j.Err() == nil {
					t.Errorf("while full: %v, %v", err, j.Err())
				}
				var waiting sync.WaitGroup
				waiting.Go(func() {
					if err := j.Ready(t.Context()); err != nil {
						t.Error(err)
					}
				})
				c.heal(f)
				healed := time.Now()
				waiting.Wait()
				if took := time.Since(healed); took > probeMax {
					t.Errorf("noticed after %s", took)
				}
				if err := j.Err(); err != nil {
					t.Error(err)
				}
				mustAppend(t, j, payload(2, 100))
				wantTexts(t, fold, 2, 100)
				mustClose(t, j)
			})
		})
	}
}

func TestCloseWhileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fault.New()
		j, _ := mustOpen(t, options(f, &texts{}))
		f.SetQuota(f.Used())
		if _, err := j.Append(t.Context(), payload(1, 1)); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		mustClose(t, j) // the bubble ends with a complaint if something still runs
	})
}

// TestOpenOnAFullDisk: state is there, nothing can be written, and it comes back.
func TestOpenOnAFullDisk(t *testing.T) {
	for name, c := range map[string]struct{ spoil, heal func(f *fault.FS) }{
		"full":      {func(f *fault.FS) { f.SetQuota(f.Used() + 10) }, func(f *fault.FS) { f.SetQuota(-1) }},
		"read-only": {func(f *fault.FS) { f.SetReadOnly(true) }, func(f *fault.FS) { f.SetReadOnly(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := filled(t, 2, 10, nil)
			data := f.Content(firstSegment)
			f.SetContent(firstSegment, data[:len(data)-5])
			c.spoil(f)
			fold := &texts{}
			j, report, err := Open(t.Context(), options(f, fold))
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			wantTexts(t, fold, 2, 10)
			if !errors.Is(j.Err(), ErrFull) || report.Damage != nil {
				t.Errorf("%v, %+v", j.Err(), report)
			}
			if _, err := j.Append(t.Context(), payload(3, 10)); !errors.Is(err, ErrFull) {
				t.Error(err)
			}
			c.heal(f)
			mustAppend(t, j, payload(3, 10))
			wantTexts(t, fold, 3, 10)
			f.PowerCut(nil)
			again := &texts{}
			mustOpen(t, options(f, again))
			wantTexts(t, again, 3, 10)
		})
	}
}

// TestFailedSync is the rule of the failed fsync: nothing more is written, the batch is unknown, and the next Open puts
// what it finds on disk before it goes on.
func TestFailedSync(t *testing.T) {
	for name, c := range map[string]struct {
		// evicted: the page cache drops the clean page, so that the batch is not seen any more.
		evicted bool
		want    int
	}{
		"batch still in the page cache": {false, 2},
		"batch gone":                    {true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := fault.New()
			j, _ := mustOpen(t, options(f, &texts{}))
			mustAppend(t, j, payload(1, 300))
			f.Inject(only("APPEND:DATASYNC", fault.Action{Err: syscall.EIO}))
			_, err := j.Append(t.Context(), payload(2, 300))
			if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrUnknown) || !errors.Is(err, syscall.EIO) || j.Head().Seq != 1 {
				t.Fatalf("%v, head %+v", err, j.Head())
			}
			f.Inject(nil)
			f.Reset()
			_, err = j.Append(t.Context(), payload(9, 300))
			if !errors.Is(err, ErrFailed) || errors.Is(err, ErrUnknown) || len(f.Calls()) > 0 {
				t.Fatalf("after the failed sync: %v, %v", err, f.Calls())
			}
			mustClose(t, j)
			if c.evicted {
				f.DropCaches()
			}
			fold := &texts{}
			j, report := mustOpen(t, options(f, fold))
			wantTexts(t, fold, c.want, 300)
			if report.LastBatch != uint64(c.want) {
				t.Errorf("last batch %+v", report)
			}
			mustAppend(t, j, payload(c.want+1, 300))
			f.PowerCut(nil)
			again := &texts{}
			mustOpen(t, options(f, again))
			wantTexts(t, again, c.want+1, 300)
		})
	}
}

// TestWhereAFailureLeads lists what a failed call outside of a batch means.
func TestWhereAFailureLeads(t *testing.T) {
	for _, c := range []struct {
		op   string
		err  syscall.Errno
		want error
	}{
		{"APPEND:WRITE", syscall.EIO, ErrFailed},
		{"APPEND:WRITE", syscall.ENOSPC, ErrFull},
		{"APPEND:WRITE", syscall.EDQUOT, ErrFull},
		{"APPEND:DATASYNC", syscall.ENOSPC, ErrFailed},
		{"ROTATE:OPEN", syscall.ENOSPC, ErrFull},
		{"ROTATE:SYNC", syscall.ENOSPC, ErrFull},
		{"ROTATE:RENAME", syscall.EROFS, ErrFull},
		{"ROTATE:RENAME", syscall.EIO, ErrFailed},
		{"ROTATE:SYNC", syscall.EIO, ErrFailed},
		{"ROTATE:SYNCDIR", syscall.EIO, ErrFailed},
		{"ROTATE:SYNCDIR", syscall.ENOSPC, ErrFailed},
		{"APPEND:OPEN", syscall.EROFS, ErrFull},
	} {
		f := fault.New()
		o := options(f, &texts{})
		o.SegmentBytes = 300
		j, _ := mustOpen(t, o)
		mustAppend(t, j, payload(1, 100))
		f.Inject(only(c.op, fault.Action{Err: c.err}))
		_, err := j.Append(t.Context(), payload(2, 100))
		if !errors.Is(err, c.want) || !errors.Is(err, c.err) || !errors.Is(j.Err(), c.want) {
			t.Errorf("%s fails with %v: %v", c.op, c.err, err)
		}
		f.Inject(nil)
		if errors.Is(c.want, ErrFull) {
			mustAppend(t, j, payload(2, 100))
		}
	}
}
