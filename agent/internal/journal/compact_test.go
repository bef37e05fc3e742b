// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// names are the journal's files, shortened: seg-1, snap-4, archive/seg-1.
func names(f *fault.FS) (out []string) {
	for _, name := range f.Names() {
		name, _ = filepath.Rel(dir, name)
		head, digits, _ := strings.Cut(name, "-")
		digits, _, _ = strings.Cut(digits, ".")
		if digits = strings.TrimLeft(digits, "0"); digits != "" {
			head += "-" + digits
		}
		out = append(out, head)
	}
	return out
}

func wantNames(t *testing.T, f *fault.FS, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, names(f)); diff != "" {
		t.Errorf("files want, got:\n%s", diff)
	}
}

func TestCompact(t *testing.T) {
	f, fold := fault.New(), &texts{}
	o := options(f, fold)
	o.Keep, o.KeepArchived = 1, 2
	j, _ := mustOpen(t, o)
	compact := func(want ...string) {
		t.Helper()
		if err := j.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantNames(t, f, want...)
		mustCheck(t, f)
	}
	add := func() {
		n := len(fold.Got)
		mustAppend(t, j, payload(n+1, 10), payload(n+2, 10))
	}
	compact("lock", "seg-1") // nothing to be replaced
	add()
	compact("lock", "seg-1", "seg-3", "snap-2")
	compact("lock", "seg-1", "seg-3", "snap-2") // nothing new
	add()
	compact("lock", "seg-1", "seg-3", "seg-5", "snap-2", "snap-4") // the older snapshot needs seg-3, one more is kept
	add()
	compact("archive/seg-1", "lock", "seg-3", "seg-5", "seg-7", "snap-4", "snap-6", "stub-1")
	add()
	add()
	compact("archive/seg-1", "archive/seg-3", "lock", "seg-5", "seg-7", "seg-11", "snap-6", "snap-10", "stub-1", "stub-3")
	add()
	compact("archive/seg-3", "archive/seg-5", "lock", "seg-7", "seg-11", "seg-13", "snap-10", "snap-12", "stub-1", "stub-3", "stub-5")
	mustClose(t, j)
	f.PowerCut(nil)
	again := &texts{}
	_, report := mustOpen(t, options(f, again))
	wantTexts(t, again, 12, 10)
	if report.Snapshot != 12 || report.Entries != 0 || report.Head.Seq != 12 {
		t.Errorf("%+v", report)
	}
}

// TestSnapshotThatIsDamaged falls back to the one before, and to the whole log if there is none.
func TestSnapshotThatIsDamaged(t *testing.T) {
	f, fold := fault.New(), &texts{}
	j, _ := mustOpen(t, options(f, fold))
	for n := 1; n <= 3; n++ {
		mustAppend(t, j, payload(n, 10))
		if err := j.Compact(t.Context()); n < 3 && err != nil {
			t.Fatal(err)
		}
	}
	mustAppend(t, j, payload(4, 10))
	mustClose(t, j)
	wantNames(t, f, "lock", "seg-1", "seg-2", "seg-3", "seg-4", "snap-2", "snap-3")
	for _, seq := range []uint64{3, 2} {
		name := filepath.Join(dir, snapshotName(seq))
		data := f.Content(name)
		data[len(data)-3] ^= 1
		f.SetContent(name, data)
		if check, err := Check(f, dir); err != nil || len(check.Problems) != int(4-seq) {
			t.Errorf("check: %+v, %v", check.Problems, err)
		}
		again := &texts{}
		j, report, err := Open(t.Context(), options(f, again))
		if err != nil || j.Err() != nil {
			t.Fatal(err, j.Err())
		}
		wantTexts(t, again, 4, 10)
		if len(report.Warnings) != int(4-seq) || report.Entries != int(4-seq+1) && seq == 3 {
			t.Errorf("%+v", report)
		}
		mustClose(t, j)
	}
	// the next two compactions replace the damaged ones
	again := &texts{}
	j, _, err := Open(t.Context(), options(f, again))
	if err != nil {
		t.Fatal(err)
	}
	for n := 5; n <= 6; n++ {
		mustAppend(t, j, payload(n, 10))
		if err := j.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, j)
	mustCheck(t, f)
}

// TestCompactionThatFails leaves a journal that works, and the next one makes up for it.
func TestCompactionThatFails(t *testing.T) {
	for _, op := range []string{
		"SNAPSHOT:OPEN", "SNAPSHOT:WRITE", "SNAPSHOT:SYNC", "SNAPSHOT:RENAME", "SNAPSHOT:SYNCDIR", "SNAPSHOT:REMOVE",
		"SNAPSHOT:READDIR", "STUB:OPEN", "STUB:READ", "STUB:SYNC", "STUB:RENAME", "STUB:SYNCDIR", "ARCHIVE:MKDIR",
		"ARCHIVE:RENAME", "ARCHIVE:SYNCDIR", "DROP:READDIR", "DROP:REMOVE", "DROP:SYNCDIR",
	} {
		t.Run(op, func(t *testing.T) {
			f, fold := fault.New(), &texts{}
			o := options(f, fold)
			o.Keep, o.KeepArchived = -1, -1
			j, _ := mustOpen(t, o)
			for n := 1; n <= 3; n++ {
				mustAppend(t, j, payload(n, 10))
				if n == 3 {
					f.Inject(only(op, fault.Action{Err: syscall.EIO}))
				}
				if err := j.Compact(t.Context()); (n == 3) != errors.Is(err, syscall.EIO) {
					t.Errorf("compaction %d: %v", n, err)
				}
			}
			f.Inject(nil)
			mustAppend(t, j, payload(4, 10))
			if err := j.Compact(t.Context()); err != nil {
				t.Error(err)
			}
			mustAppend(t, j, payload(5, 10))
			mustClose(t, j)
			f.PowerCut(nil)
			again := &texts{}
			mustOpen(t, options(f, again))
			wantTexts(t, again, 5, 10)
		})
	}
}

func TestCompactionByItself(t *testing.T) {
	fold := &texts{}
	o := Options{Dir: t.TempDir(), Fold: fold, SegmentBytes: 2000, CompactBytes: 5000, Keep: -1, KeepArchived: 3}
	j, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 300; n++ {
		mustAppend(t, j, payload(n, 10))
	}
	mustClose(t, j) // waits for a compaction that runs
	check, err := Check(fsys.OS{}, o.Dir)
	if err != nil || !check.OK() {
		t.Errorf("%+v, %v", check, err)
	}
	again := &texts{}
	o.Fold = again
	j, report, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	wantTexts(t, again, 300, 10)
	if report.Snapshot < 200 {
		t.Errorf("the last snapshot is of entry %d", report.Snapshot)
	}
	mustClose(t, j)
}

// TestAppendsGoOnDuringACompaction has the snapshot's write wait for an append.
func TestAppendsGoOnDuringACompaction(t *testing.T) {
	f, fold := fault.New(), &texts{}
	var j *Journal
	appended := false
	o := options(hookFS{f, func(op string) {
		if op == opSnapshot && !appended {
			appended = true
			mustAppend(t, j, payload(2, 10))
		}
	}}, fold)
	j, _ = mustOpen(t, o)
	mustAppend(t, j, payload(1, 10))
	if err := j.Compact(t.Context()); err != nil || !appended {
		t.Fatalf("%v, appended %v", err, appended)
	}
	mustClose(t, j)
	again := &texts{}
	_, report := mustOpen(t, options(f, again))
	wantTexts(t, again, 2, 10)
	if report.Snapshot != 1 || report.Entries != 1 {
		t.Errorf("%+v", report)
	}
}

// hookFS calls a function before each open.
type hookFS struct {
	*fault.FS
	hook func(op string)
}

func (h hookFS) OpenFile(op, name string, flag int, perm fs.FileMode) (fsys.File, error) {
	h.hook(op)
	return h.FS.OpenFile(op, name, flag, perm)
}

// TestArchivedDamageStays: a segment that is not whole is not archived as if it were.
func TestArchivedDamageStays(t *testing.T) {
	f, fold := fault.New(), &texts{}
	o := options(f, fold)
	o.Keep = -1
	second := filepath.Join(dir, segmentName(2))
	j, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for n := 1; n <= 3; n++ {
		mustAppend(t, j, payload(n, 10))
		if n == 3 {
			data := f.Content(second)
			data[len(data)-10] ^= 1
			f.SetContent(second, data)
		}
		if err := j.Compact(t.Context()); (n == 3) != errors.Is(err, ErrDamaged) {
			t.Errorf("compaction %d: %v", n, err)
		}
	}
	if f.Content(second) == nil {
		t.Error("it was moved")
	}
}

func TestSnapshotOfTheFoldFails(t *testing.T) {
	f := fault.New()
	j, _ := mustOpen(t, options(f, badSnapshot{&texts{}}))
	mustAppend(t, j, payload(1, 10))
	if err := j.Compact(t.Context()); err == nil || j.Err() != nil {
		t.Errorf("%v, %v", err, j.Err())
	}
	mustAppend(t, j, payload(2, 10))
}

// TestCompactionThatFailsIsNotTriedAtEachAppend counts how often the fold is asked.
func TestCompactionThatFailsIsNotTriedAtEachAppend(t *testing.T) {
	asked := &countSnapshots{texts: &texts{}}
	o := Options{Dir: t.TempDir(), Fold: asked, CompactBytes: 4000}
	j, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		mustAppend(t, j, payload(n+1, 10))
	}
	mustClose(t, j)
	if n := asked.n.Load(); n < 1 || n > 25 { // 22 kB in steps of 1 kB after the first 4 kB
		t.Errorf("%d times", n)
	}
}

type countSnapshots struct {
	*texts
	n atomic.Int32
}

func (c *countSnapshots) Snapshot() ([]byte, error) {
	c.n.Add(1)
	return nil, errors.New("cannot")
}

type badSnapshot struct{ *texts }

func (badSnapshot) Snapshot() ([]byte, error) { return nil, errors.New("cannot") }
