// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// busyFS is a directory in which something happens right after each listing of it.
type busyFS struct {
	fsys.FS
	after func([]fs.DirEntry) []fs.DirEntry
}

func (b busyFS) ReadDir(op, d string) ([]fs.DirEntry, error) {
	entries, err := b.FS.ReadDir(op, d)
	if d == dir {
		entries = b.after(entries)
	}
	return entries, err
}

// TestFastWriterIsNoDamage lists a directory out of which, before the archive is listed, several segments are moved and
// deleted: each time.
func TestFastWriterIsNoDamage(t *testing.T) {
	o := options(fault.New(), &texts{})
	o.Keep, o.KeepArchived = 1, 1
	j, _ := mustOpen(t, o)
	n := 0
	write := func(entries []fs.DirEntry) []fs.DirEntry {
		for range 6 {
			n++
			mustAppend(t, j, payload(n, 10))
			if err := j.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return entries
	}
	write(nil)
	busy := busyFS{o.FS, write}
	if report, err := Check(busy, dir); err != nil || !report.OK() {
		t.Errorf("check: %v, %v", err, report.Problems)
	}
	// As fast as that, most of what was listed is gone when it is read; but what is read is in order.
	last := uint64(0)
	err := Read(busy, dir, 0, func(e Entry, _ Frame) bool {
		if last != 0 && e.Seq != last+1 {
			t.Errorf("entry %d after %d", e.Seq, last)
		}
		last = e.Seq
		return true
	})
	if err != nil && !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// missing returns listings that lack these names, separated by spaces, in turn, as one may that is made while they come
// and go; then nothing more is missing.
func missing(names ...string) func([]fs.DirEntry) []fs.DirEntry {
	return func(entries []fs.DirEntry) []fs.DirEntry {
		if len(names) == 0 {
			return entries
		}
		lacks := strings.Fields(names[0])
		names = names[1:]
		return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return slices.Contains(lacks, e.Name()) })
	}
}

func TestListingThatMissesANameIsNoDamage(t *testing.T) {
	o := options(fault.New(), &texts{})
	o.Keep = 20
	j, _ := mustOpen(t, o)
	for n := range 12 {
		mustAppend(t, j, payload(n+1, 10))
		if err := j.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var names []string // in each look another segment, and all of them when it is listed again
	for n := range uint64(attempts) {
		names = append(names, segmentName(n+4), "")
	}
	busy := func() busyFS { return busyFS{o.FS, missing(names...)} }
	if report, err := Check(busy(), dir); err != nil || !report.OK() {
		t.Errorf("check: %v, %v", err, report.Problems)
	}
	last := uint64(0)
	err := Read(busy(), dir, 0, func(e Entry, _ Frame) bool { last = e.Seq; return true })
	if err != nil || last != 12 {
		t.Errorf("read up to %d, %v", last, err)
	}
}

// TestDamageBesideAWriterShows spoils a segment of a journal whose listing is another each time.
func TestDamageBesideAWriterShows(t *testing.T) {
	f := archived(t).Clone()
	name := filepath.Join(dir, segmentName(17))
	data := f.Content(name)
	data[ends(data)[3]-5] ^= 1
	f.SetContent(name, data)
	busy := func() busyFS {
		return busyFS{f, missing(segmentName(13), "", segmentName(21), "", stubName(1), "", snapshotName(20), "", stubName(5), "", snapshotName(24))}
	}
	report, err := Check(busy(), dir)
	if err != nil || report.OK() || !strings.Contains(report.Problems[0].String(), segmentName(17)) || report.Problems[0].Offset == 0 {
		t.Errorf("check: %v, %v", err, report.Problems)
	}
	if err := Read(busy(), dir, 0, func(Entry, Frame) bool { return true }); !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %v", err)
	}
}
