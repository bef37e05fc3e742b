// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// Read yields the entries from a sequence number on, archived ones included, until there are no more or yield returns
// false; from 0 is the earliest that is kept. It needs no lock and may run beside the agent: a batch that is just being
// written is not yielded. Each entry's place in the chain is verified; a *DamageError ends the reading after what is
// before it. ErrGone says that the entries were deleted from the archive.
func Read(fsystem fsys.FS, dir string, from uint64, yield func(Entry, Frame) bool) error {
	r := reader{fs: fsystem, dir: dir, from: from, yield: yield}
	seen := map[string]bool{}
	for attempt := 1; ; attempt++ {
		from := r.from
		files, err := list(fsystem, opRead, dir, true)
		if err == nil {
			err = r.read(files)
		}
		if r.from != from {
			attempt = 1
		}
		if mayBeLook(err) && attempt < attempts && !seen[err.Error()] && changed(fsystem, dir, files) {
			seen[err.Error()] = true
			continue // with the entry after the last one that was yielded
		}
		if err != nil && !errors.Is(err, errStop) {
			return fmt.Errorf("read journal %s: %w", dir, err)
		}
		return nil
	}
}

var errStop = errors.New("stop")

// mayBeLook tells an error that may come from looking while files come and go: then another look has none, or another.
func mayBeLook(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrGone) }

// attempts is how often a directory is looked at that seems damaged and changes all the time.
const attempts = 5

// changed tells whether files came or went since they were listed. A listing made meanwhile may have missed some.
func changed(fsystem fsys.FS, dir string, before listing) bool {
	now, err := list(fsystem, opRead, dir, true)
	return err == nil && !slices.Equal(before.all(), now.all())
}

// all are the journal's files, but for those that are being written.
func (l *listing) all() []listed {
	return slices.Concat(l.segments, l.archived, l.snapshots, l.stubs)
}

type reader struct {
	fs    fsys.FS
	dir   string
	from  uint64
	yield func(Entry, Frame) bool
	// at is the end of the last segment read, the zero cursor before the first.
	at cursor
}

func (r *reader) read(files listing) error {
	segments := files.allSegments()
	if len(segments) > 0 && r.from > 0 && segments[0].seq > r.from {
		return fmt.Errorf("%w: the earliest that is kept is entry %d", ErrGone, segments[0].seq)
	}
	for len(segments) > 1 && segments[1].seq <= r.from {
		segments = segments[1:]
	}
	r.at = cursor{}
	for i, f := range segments {
		if err := r.segment(f, i == len(segments)-1); err != nil {
			return err
		}
	}
	return nil
}

// allSegments are those in the directory and in the archive, in order. One that is being moved counts once.
func (l *listing) allSegments() []listed {
	all := slices.Concat(l.archived, l.segments)
	slices.SortStableFunc(all, func(a, b listed) int {
		switch {
		case a.seq < b.seq:
			return -1
		case a.seq > b.seq:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(all, func(a, b listed) bool { return a.seq == b.seq })
}

func (r *reader) segment(f listed, isLast bool) error {
	data, err := readSegment(r.fs, r.dir, f.name)
	if err != nil {
		return err
	}
	h, rest, err := takeSegmentHeader(data)
	if errors.Is(err, ErrVersion) {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	if err != nil {
		return &DamageError{File: f.name, Reason: err.Error()}
	}
	if (r.at != cursor{}) && h.before() != r.at {
		return &DamageError{File: f.name, Reason: fmt.Sprintf("it begins after entry %d, the one before ended with entry %d",
			h.First-1, r.at.seq)}
	}
	s, err := scan(data, int64(len(data)-len(rest)), h.before(), func(batch []item) error { return r.batch(f.name, batch) })
	if err != nil {
		return err
	}
	r.at = s.at
	if s.bad == nil {
		return nil
	}
	if !isLast {
		return &DamageError{File: f.name, Offset: s.bad.offset, Reason: s.bad.reason}
	}
	return s.torn(f.name, data)
}

func (r *reader) batch(name string, batch []item) error {
	for _, it := range batch {
		if it.entry.Seq < r.from {
			continue
		}
		it.frame.File = name
		r.from = it.entry.Seq + 1
		if !r.yield(it.entry, it.frame) {
			return errStop
		}
	}
	return nil
}

// readSegment reads a segment wherever it is: it may be moved to the archive, or deleted there, at any moment.
func readSegment(fsystem fsys.FS, dir, name string) ([]byte, error) {
	data, err := fsys.ReadFile(fsystem, opRead, filepath.Join(dir, name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = fsys.ReadFile(fsystem, opRead, filepath.Join(dir, archiveName, filepath.Base(name)), maxFile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s", ErrGone, name)
	}
	return data, err
}
