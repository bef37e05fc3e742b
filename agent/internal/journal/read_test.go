// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// archived returns a journal of 12 batches of two entries, of which segments were archived and the oldest deleted.
func archived(t *testing.T) *fault.FS {
	t.Helper()
	f := fault.New()
	o := options(f, &texts{})
	o.Keep, o.KeepArchived = 2, 2
	j, _ := mustOpen(t, o)
	for n := range 6 {
		mustAppend(t, j, payloads(4*n+1, 4*n+2, 10)...)
		mustAppend(t, j, payloads(4*n+3, 4*n+4, 10)...)
		if err := j.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantNames(t, f, "archive/seg-5", "archive/seg-9", "lock", "seg-13", "seg-17", "seg-21", "seg-25", "snap-20", "snap-24",
		"stub-1", "stub-5", "stub-9")
	return f
}

func TestRead(t *testing.T) {
	f := archived(t)
	for name, c := range map[string]struct {
		from        uint64
		stop        int
		first, last uint64
	}{
		"all that is kept":     {0, 0, 5, 24},
		"from the archive":     {7, 0, 7, 24},
		"from the middle":      {14, 0, 14, 24},
		"from the end":         {24, 0, 24, 24},
		"after the end":        {25, 0, 0, 0},
		"until enough is read": {6, 3, 6, 8},
	} {
		t.Run(name, func(t *testing.T) {
			var first, last uint64
			n := 0
			err := Read(f, dir, c.from, func(e Entry, fr Frame) bool {
				if first == 0 {
					first = e.Seq
				}
				if last = e.Seq; string(e.Payload) != string(payload(int(e.Seq), 10)) || fr.Batch != (e.Seq+1)/2 {
					t.Errorf("entry %d: %s, %+v", e.Seq, e.Payload, fr)
				}
				n++
				return n != c.stop
			})
			if err != nil || first != c.first || last != c.last {
				t.Errorf("entries %d to %d, %v", first, last, err)
			}
		})
	}
	err := Read(f, dir, 4, func(Entry, Frame) bool { return true })
	if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "entry 5") {
		t.Errorf("what was deleted: %v", err)
	}
}

func TestFrameTellsWhereAnEntryIs(t *testing.T) {
	f := archived(t)
	prev := ""
	err := Read(f, dir, 0, func(e Entry, fr Frame) bool {
		data := f.Content(filepath.Join(dir, fr.File))[fr.Offset:]
		if !strings.HasPrefix(string(data), string(fr.Line)+"\n") {
			t.Errorf("entry %d is not at byte %d of %s", e.Seq, fr.Offset, fr.File)
		}
		if prev != "" && fr.Prev != prev || fr.Hash != link(fr.Prev, fr.Digest) {
			t.Errorf("entry %d: hashes", e.Seq)
		}
		prev = fr.Hash
		return true
	})
	if err != nil {
		t.Error(err)
	}
}

// TestReadBesideAWriter reads while a batch is written and while a segment is moved.
func TestReadBesideAWriter(t *testing.T) {
	f := archived(t).Clone()
	last := filepath.Join(dir, segmentName(21))
	if err := f.Remove("T", filepath.Join(dir, segmentName(25))); err != nil {
		t.Fatal(err)
	}
	data := f.Content(last)
	f.SetContent(last, data[:len(data)-30])
	count := 0
	f.Inject(func(c fault.Call) fault.Action {
		if c.Op == "READ:OPEN" && strings.HasSuffix(c.Name, segmentName(13)) && !strings.Contains(c.Name, archiveName) {
			return fault.Action{Err: syscall.ENOENT}
		}
		return fault.Action{}
	})
	if err := Read(f, dir, 17, func(Entry, Frame) bool { count++; return true }); err != nil || count != 6 {
		t.Errorf("%d entries, %v", count, err)
	}
	err := Read(f, dir, 13, func(Entry, Frame) bool { return true })
	if !errors.Is(err, ErrGone) {
		t.Errorf("a segment that was moved and deleted meanwhile: %v", err)
	}
	f.SetContent(filepath.Join(dir, archiveName, segmentName(13)), f.Content(filepath.Join(dir, segmentName(13))))
	if err := Read(f, dir, 13, func(Entry, Frame) bool { return true }); err != nil {
		t.Errorf("a segment that was moved meanwhile: %v", err)
	}
}

// TestCheckBesideAnAgent checks and reads all the time while a journal is written, compacted and archived.
func TestCheckBesideAnAgent(t *testing.T) {
	o := Options{Dir: t.TempDir(), Fold: &texts{}, SegmentBytes: 2000, CompactBytes: 4000, Keep: 1, KeepArchived: 2}
	j, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	var done atomic.Bool
	writer.Go(func() {
		defer done.Store(true)
		for n := range 200 {
			mustAppend(t, j, payload(n+1, 50))
		}
	})
	for rounds := 0; !done.Load() || rounds == 0; rounds++ {
		if report, err := Check(fsys.OS{}, o.Dir); err != nil || !report.OK() {
			t.Fatalf("%v, %v", err, report.Problems)
		}
		last := uint64(0)
		err := Read(fsys.OS{}, o.Dir, 0, func(e Entry, _ Frame) bool {
			if last != 0 && e.Seq != last+1 {
				t.Errorf("entry %d after %d", e.Seq, last)
			}
			last = e.Seq
			return true
		})
		if err != nil && !errors.Is(err, ErrGone) {
			t.Fatal(err)
		}
	}
	writer.Wait()
	mustClose(t, j)
}

func TestReadEndsAtDamage(t *testing.T) {
	f := archived(t).Clone()
	name := filepath.Join(dir, segmentName(17))
	data := f.Content(name)
	data[ends(data)[3]-5] ^= 1
	f.SetContent(name, data)
	last := uint64(0)
	err := Read(f, dir, 0, func(e Entry, _ Frame) bool { last = e.Seq; return true })
	var damage *DamageError
	if !errors.As(err, &damage) || damage.File != segmentName(17) || last != 18 {
		t.Errorf("up to %d, %v", last, err)
	}
}

func TestCheckReportsWhatIsThere(t *testing.T) {
	f := archived(t)
	report := mustCheck(t, f)
	if report.First != 5 || report.Entries != 20 || report.Head.Seq != 24 || report.Host != "h" || len(report.Notes) > 0 {
		t.Errorf("%+v", report)
	}
	if len(report.Files) != 11 {
		t.Errorf("%d files: %+v", len(report.Files), report.Files)
	}
}

// TestCheckFindsWhatIsWrong spoils one file at a time.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	flip := func(name string) func(f *fault.FS) {
		return func(f *fault.FS) {
			data := f.Content(filepath.Join(dir, name))
			data[len(data)/2] ^= 1
			f.SetContent(filepath.Join(dir, name), data)
		}
	}
	remove := func(name string) func(f *fault.FS) {
		return func(f *fault.FS) { _ = f.Remove("T", filepath.Join(dir, name)) }
	}
	inArchive := func(first uint64) string { return filepath.Join(archiveName, segmentName(first)) }
	for name, c := range map[string]struct {
		spoil func(f *fault.FS)
		want  string
	}{
		"archived segment changed": {flip(inArchive(5)), "seg-00000000000000000005"},
		"archived segment replaced": {func(f *fault.FS) {
			f.SetContent(filepath.Join(dir, inArchive(5)), f.Content(filepath.Join(dir, inArchive(9))))
		}, "the name does not fit"},
		"stub changed":              {flip(stubName(5)), "stub-00000000000000000005"},
		"only stub of a range gone": {remove(stubName(1)), "before 5 are missing"},
		"snapshot changed":          {flip(snapshotName(24)), "snap-00000000000000000024"},
		"snapshot of another chain": {func(f *fault.FS) {
			h, state, _ := takeSnapshot(f.Content(filepath.Join(dir, snapshotName(24))))
			h.Hash = strings.Repeat("0", 64)
			f.SetContent(filepath.Join(dir, snapshotName(24)), append(headerLine(h), state...))
		}, "not in the chain"},
		"middle segment gone": {remove(segmentName(17)), "begins after entry 20"},
		"segment unreadable":  {flip(segmentName(13)), "seg-00000000000000000013"},
	} {
		t.Run(name, func(t *testing.T) {
			f := archived(t).Clone()
			c.spoil(f)
			report, err := Check(f, dir)
			if err != nil || report.OK() || !strings.Contains(report.Problems[0].String(), c.want) {
				t.Errorf("%v, %v", err, report.Problems)
			}
		})
	}
}

func TestCheckNotesWhatIsHarmless(t *testing.T) {
	f := archived(t).Clone()
	f.SetContent(filepath.Join(dir, "x.tmp"), nil)
	f.SetContent(filepath.Join(dir, "stranger"), nil)
	last := filepath.Join(dir, segmentName(25))
	f.SetContent(last, append(f.Content(last), "half a li"...))
	report := mustCheck(t, f)
	if len(report.Notes) != 3 {
		t.Errorf("%q", report.Notes)
	}
	f.Inject(only("READ:OPEN", fault.Action{Err: syscall.EIO}))
	if _, err := Check(f, dir); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
	empty := fault.New()
	if err := empty.MkdirAll("T", dir, 0); err != nil {
		t.Fatal(err)
	}
	if report, err := Check(empty, dir); err != nil || !report.OK() {
		t.Errorf("an empty directory: %+v, %v", report, err)
	}
	if diff := cmp.Diff(Problem{File: "x", Text: "y"}.String(), "x: y"); diff != "" {
		t.Error(diff)
	}
}
