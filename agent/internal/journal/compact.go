// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// keepSnapshots is how many snapshots stay: one to use, one for when that is found damaged. Segments that the older one
// needs stay as well.
const keepSnapshots = 2

// Compact writes the fold as a snapshot, so that the next Open need not replay what is before it, and moves segments
// that are no longer needed to the archive. Appends go on meanwhile, but for the time the fold takes to make its
// snapshot. An error leaves the journal as usable as before.
func (j *Journal) Compact(ctx context.Context) error {
	if err := j.acquire(ctx, j.compacting); err != nil {
		return err
	}
	defer func() { <-j.compacting }()
	return j.compact(ctx)
}

// setCompactAt decides how much is appended before the next snapshot. The caller holds write.
func (j *Journal) setCompactAt(snapshotBytes int64) {
	j.compactAt = max(j.o.CompactBytes, 2*snapshotBytes)
}

// compactIfDue starts a compaction in the background, one at a time. The caller holds write.
func (j *Journal) compactIfDue() {
	if j.o.CompactBytes < 0 || j.since < j.compactAt {
		return
	}
	select {
	case j.compacting <- struct{}{}:
	default:
		return
	}
	j.background.Go(func() {
		defer func() { <-j.compacting }()
		err := j.compact(context.Background()) // ends with Close
		if err != nil && !errors.Is(err, ErrClosed) {
			j.o.Logger.Warn("journal was not compacted; it goes on growing", "err", err)
		}
	})
}

func (j *Journal) compact(ctx context.Context) error {
	at, state, since, err := j.freeze(ctx)
	if err != nil || at.seq == 0 {
		return err
	}
	err = j.writeSnapshot(at, state)
	if aerr := j.acquire(ctx, j.write); aerr != nil {
		return errors.Join(err, aerr)
	}
	if err == nil {
		j.since -= since
		j.snapshots = append(j.snapshots, at.seq)
		j.setCompactAt(int64(len(state)))
	}
	snapshots, segments := j.snapshots, append([]segment(nil), j.segments...)
	<-j.write
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return j.tidy(ctx, snapshots, segments)
}

// freeze takes the fold's state at the end of a segment. A zero cursor says that nothing came after the last snapshot.
func (j *Journal) freeze(ctx context.Context) (at cursor, state []byte, since int64, err error) {
	if err := j.acquire(ctx, j.write); err != nil {
		return at, nil, 0, err
	}
	defer func() { <-j.write }()
	if n := len(j.snapshots); j.at.seq == 0 || n > 0 && j.snapshots[n-1] == j.at.seq {
		return at, nil, 0, nil
	}
	j.compactAt = j.since + j.o.CompactBytes/4 // if this one fails
	werr := j.writable()
	if werr == nil && j.segments[len(j.segments)-1].last != 0 {
		werr = j.rotate()
	}
	if werr != nil {
		j.stop(werr)
		return at, nil, 0, werr
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	state, err = j.o.Fold.Snapshot()
	return j.at, state, j.since, err
}

func (j *Journal) writeSnapshot(at cursor, state []byte) error {
	h := snapshotHeader{
		Version: Version, ID: j.id, Host: j.host, Seq: at.seq, Batch: at.batch, Hash: at.hash,
		Bytes: len(state), SHA256: sum(state), Time: time.Now().UTC().Format(timeLayout),
	}
	data := append(headerLine(h), state...)
	return fsys.WriteFileAtomic(j.o.FS, opSnapshot, j.path(snapshotName(at.seq)), data, filePerm)
}

// tidy removes snapshots that are no longer needed and archives segments. Nothing here is needed for the next Open.
func (j *Journal) tidy(ctx context.Context, snapshots []uint64, segments []segment) error {
	if len(snapshots) < keepSnapshots {
		return nil
	}
	kept := snapshots[len(snapshots)-keepSnapshots:]
	if err := j.dropSnapshots(kept); err != nil {
		return err
	}
	moved, err := j.retain(segments, kept[0])
	if aerr := j.acquire(ctx, j.write); aerr != nil {
		return errors.Join(err, aerr)
	}
	j.snapshots = kept
	j.segments = j.segments[moved:]
	<-j.write
	return err
}

func (j *Journal) dropSnapshots(kept []uint64) error {
	files, err := list(j.o.FS, opSnapshot, j.o.Dir, false)
	if err != nil {
		return err
	}
	removed := false
	for _, f := range files.snapshots {
		if f.seq == kept[0] || f.seq >= kept[1] {
			continue
		}
		if err := j.o.FS.Remove(opSnapshot, j.path(f.name)); err != nil {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return j.o.FS.SyncDir(opSnapshot, j.o.Dir)
}

// retain archives the oldest segments: those that the snapshot at seq replaces, but for the last Keep of them. It
// returns how many were moved.
func (j *Journal) retain(segments []segment, seq uint64) (moved int, err error) {
	replaced := 0
	for replaced < len(segments) && segments[replaced].last != 0 && segments[replaced].last <= seq {
		replaced++
	}
	for moved < replaced-max(j.o.Keep, 0) {
		if err := j.archive(segments[moved].name); err != nil {
			return moved, fmt.Errorf("archive %s: %w", segments[moved].name, err)
		}
		moved++
	}
	if moved == 0 {
		return 0, nil
	}
	return moved, j.dropArchived()
}

// archive notes what a segment holds and moves it. A segment that is not whole stays where it is.
func (j *Journal) archive(name string) error {
	dir := j.path(archiveName)
	err := j.writeStub(name)
	if err == nil {
		err = j.o.FS.MkdirAll(opArchive, dir, dirPerm)
	}
	if err == nil {
		err = j.o.FS.Rename(opArchive, j.path(name), filepath.Join(dir, name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: moved before, but not known to be on disk
		return err
	}
	return errors.Join(j.o.FS.SyncDir(opArchive, dir), j.o.FS.SyncDir(opArchive, j.o.Dir))
}

func (j *Journal) writeStub(name string) error {
	data, err := fsys.ReadFile(j.o.FS, opStub, j.path(name), maxFile)
	if err != nil {
		return err
	}
	stub, err := stubOf(data)
	if err != nil {
		return err
	}
	return fsys.WriteFileAtomic(j.o.FS, opStub, j.path(stubName(stub.First)), headerLine(stub), filePerm)
}

// stubOf verifies a segment and returns what is to be noted of it.
func stubOf(data []byte) (stubHeader, error) {
	h, rest, err := takeSegmentHeader(data)
	if err != nil {
		return stubHeader{}, err
	}
	s, _ := scan(data, int64(len(data)-len(rest)), h.before(), func([]item) error { return nil })
	if s.bad != nil {
		return stubHeader{}, &DamageError{File: segmentName(h.First), Offset: s.bad.offset, Reason: s.bad.reason}
	}
	return stubHeader{
		Version: Version, ID: h.ID, Host: h.Host, First: h.First, Last: s.at.seq,
		Batch: h.Batch, LastBatch: s.at.batch, Prev: h.Prev, Hash: s.at.hash, Bytes: len(data), SHA256: sum(data),
		Time: time.Now().UTC().Format(timeLayout),
	}, nil
}

// dropArchived deletes the oldest archived segments. Their stubs stay.
func (j *Journal) dropArchived() error {
	dir := j.path(archiveName)
	entries, err := j.o.FS.ReadDir(opDrop, dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if _, ok := numbered(e.Name(), "seg-", ".jsonl"); ok {
			names = append(names, e.Name())
		}
	}
	surplus := len(names) - max(j.o.KeepArchived, 0)
	for i := 0; i < surplus; i++ {
		err := j.o.FS.Remove(opDrop, filepath.Join(dir, names[i]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if surplus <= 0 {
		return nil
	}
	return j.o.FS.SyncDir(opDrop, dir)
}
