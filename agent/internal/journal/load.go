// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// loaded is what replay found on disk.
type loaded struct {
	id, host string
	at       cursor
	// files are the segments and snapshots there are; a segment's last entry is filled in as far as it is known.
	segments  []segment
	snapshots []uint64
	// tail is the last segment's verified prefix.
	tail []byte
	// sinceSnapshot counts the bytes replayed, snapshotBytes the snapshot's state.
	sinceSnapshot, snapshotBytes int64
	damage                       error
}

// segment is one file of the log.
type segment struct {
	name        string
	first, last uint64
}

// loader replays a directory into a fold.
type loader struct {
	o      *Options
	report *Report
	loaded
}

// load replays everything there is. Damage is not an error: it is noted, and what is before it is replayed. An error
// means that the state could not be built at all.
func (l *loader) load(files listing) error {
	for _, f := range files.snapshots {
		l.snapshots = append(l.snapshots, f.seq)
	}
	for _, f := range files.segments {
		l.segments = append(l.segments, segment{name: f.name, first: f.seq})
	}
	if err := l.restore(files.snapshots); err != nil {
		return err
	}
	err := l.replay(files)
	var damage *DamageError
	if errors.As(err, &damage) {
		l.damage = err
		return nil
	}
	return err
}

// restore takes the newest snapshot that is whole.
func (l *loader) restore(snapshots []listed) error {
	for i := len(snapshots) - 1; i >= 0; i-- {
		name := snapshots[i].name
		data, err := l.read(name)
		if err != nil {
			return err
		}
		h, state, err := takeSnapshot(data)
		if errors.Is(err, ErrVersion) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err == nil && h.Seq != snapshots[i].seq {
			err = errors.New("the name does not fit the header")
		}
		if err != nil {
			l.report.warn("%s is not usable: %v", name, err)
			l.snapshots = l.snapshots[:i] // the next compaction removes it
			continue
		}
		if err := l.belongs(h.ID, h.Host); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := l.o.Fold.Restore(state); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		l.at, l.snapshotBytes, l.report.Snapshot = h.cursor(), int64(len(state)), h.Seq
		return nil
	}
	return nil
}

// replay folds the segments after the snapshot.
func (l *loader) replay(files listing) error {
	rest := files.segments
	for len(rest) > 0 && rest[0].seq <= l.at.seq {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		if len(files.segments)+len(files.snapshots)+len(files.stubs) == 0 {
			return nil // a new journal
		}
		return &DamageError{File: segmentName(l.at.seq + 1), Reason: "this segment is missing"}
	}
	for i := range rest {
		if err := l.replaySegment(rest[i], i == len(rest)-1); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) replaySegment(f listed, isLast bool) error {
	data, err := l.read(f.name)
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
	if err := l.belongs(h.ID, h.Host); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	if err := l.joins(f, h); err != nil {
		return err
	}
	start := int64(len(data) - len(rest))
	s, err := scan(data, start, h.before(), l.fold)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	l.at, l.sinceSnapshot, l.tail = s.at, l.sinceSnapshot+s.end-start, data[:s.end]
	l.setLast(f.name, s.at.seq)
	return l.tailOf(f.name, data, s, isLast)
}

// tailOf judges how a segment ends.
func (l *loader) tailOf(name string, data []byte, s scanned, isLast bool) error {
	if s.bad != nil && !isLast {
		return &DamageError{File: name, Offset: s.bad.offset, Reason: s.bad.reason + ", yet a later segment exists"}
	}
	if isLast && s.batchFirst > 0 {
		l.report.LastBatch = s.batchFirst
	}
	if s.bad == nil {
		return nil
	}
	if err := s.torn(name, data); err != nil {
		return err
	}
	l.report.CutFile, l.report.CutBytes = name, int64(len(data))-s.end
	l.report.warn("%s: the last batch was torn (%s); %d bytes are cut", name, s.bad.reason, l.report.CutBytes)
	return nil
}

// joins tells whether a segment begins where the one before, or the snapshot, ended.
func (l *loader) joins(f listed, h segmentHeader) error {
	before := h.before()
	fresh := l.at == cursor{} && h.First == 1
	if h.First != f.seq || !fresh && before != l.at {
		return &DamageError{File: f.name, Reason: fmt.Sprintf(
			"it begins after entry %d of batch %d, the log before it ends with entry %d of batch %d",
			before.seq, before.batch, l.at.seq, l.at.batch)}
	}
	return nil
}

func (l *loader) fold(batch []item) error {
	for i := range batch {
		if err := l.o.Fold.Apply(batch[i].entry); err != nil {
			return fmt.Errorf("fold entry %d: %w", batch[i].entry.Seq, err)
		}
	}
	l.report.Entries += len(batch)
	return nil
}

// belongs checks that all files are of one journal, and that it is this host's.
func (l *loader) belongs(id, host string) error {
	if l.o.Host != "" && host != l.o.Host {
		return fmt.Errorf("%w: written on %q, this is %q", ErrHost, host, l.o.Host)
	}
	if l.id != "" && (l.id != id || l.host != host) {
		return &DamageError{File: l.o.Dir, Reason: "files of two journals are mixed"}
	}
	l.id, l.host = id, host
	return nil
}

func (l *loader) setLast(name string, last uint64) {
	for i := range l.segments {
		if l.segments[i].name == name {
			l.segments[i].last = last
		} else if i+1 < len(l.segments) && l.segments[i].last == 0 {
			l.segments[i].last = l.segments[i+1].first - 1
		}
	}
}

func (l *loader) read(name string) ([]byte, error) {
	return fsys.ReadFile(l.o.FS, opLoad, filepath.Join(l.o.Dir, name), maxFile)
}
