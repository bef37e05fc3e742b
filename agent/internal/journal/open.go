// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// Report says what Open found.
type Report struct {
	// Fresh: there was no journal; a new one begins.
	Fresh bool
	// Head is the last entry found, Entries how many were replayed after the snapshot at entry Snapshot (0: none).
	Head     Head
	Entries  int
	Snapshot uint64
	// CutFile and CutBytes are the torn tail that was cut; what it held was never acknowledged.
	CutFile  string
	CutBytes int64
	// LastBatch is the first entry of the last batch. If the agent did not end in order, that batch may be one whose
	// Append never returned or returned ErrUnknown. It counts from now on.
	LastBatch uint64
	// Damage is the *DamageError that keeps the journal from being written, if any.
	Damage error
	// Warnings are for the log and the operator, the cut and the damage included.
	Warnings []string
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// Journal is an open log. Its methods may be called from any goroutine.
type Journal struct {
	o        Options
	id, host string
	lock     io.Closer
	// closing ends waiting and background work; background is what Close waits for.
	closing    chan struct{}
	closeOnce  sync.Once
	background sync.WaitGroup

	// write is the right to use the fields of this group; it is a channel so that waiting for it can be given up.
	write chan struct{}
	file  fsys.File
	size  int64
	at    cursor
	buf   []byte
	// adopt is the content that has to be written anew before the first append, nil when that is done.
	adopt     []byte
	segments  []segment
	snapshots []uint64
	// since counts the bytes after the last snapshot, compactAt when the next is due.
	since, compactAt int64

	// compacting is the right to write a snapshot.
	compacting chan struct{}

	// mu guards what follows, and is held while the fold is called.
	mu      sync.Mutex
	pending []*request
	head    Head
	err     *WriteError
	changed chan struct{}
	probing bool
}

// Open replays the journal and makes it ready for writing. The error is for what leaves no state at all: another
// process holds the directory (fsys.ErrLocked), another host's or a newer version's journal, a directory that cannot be
// read, a fold that refuses. A damaged journal, or one on a full disk, is returned with Err set.
func Open(ctx context.Context, o Options) (*Journal, Report, error) {
	var report Report
	if err := o.validate(); err != nil {
		return nil, report, err
	}
	o.setDefaults()
	if err := ctx.Err(); err != nil {
		return nil, report, err
	}
	lock, err := lockDir(o)
	if err != nil {
		return nil, report, fmt.Errorf("open journal %s: %w", o.Dir, err)
	}
	j, err := open(o, &report)
	if err != nil {
		return nil, report, errors.Join(fmt.Errorf("open journal %s: %w", o.Dir, err), closeLock(lock))
	}
	j.lock = lock
	for _, w := range report.Warnings {
		o.Logger.Warn("journal opened with a warning", "dir", o.Dir, "warning", w)
	}
	return j, report, nil
}

// lockDir makes the directory and takes its lock.
func lockDir(o Options) (io.Closer, error) {
	if err := o.FS.MkdirAll(opOpen, o.Dir, dirPerm); err != nil {
		return nil, err
	}
	holder := fmt.Sprintf("pid %d on %s", os.Getpid(), o.Host)
	return o.FS.Lock(opOpen, filepath.Join(o.Dir, lockName), holder)
}

func closeLock(lock io.Closer) error {
	if lock == nil {
		return nil
	}
	return lock.Close()
}

func open(o Options, report *Report) (*Journal, error) {
	files, err := list(o.FS, opOpen, o.Dir, false)
	if err != nil {
		return nil, err
	}
	for _, name := range files.unknown {
		report.warn("%s is not the journal's and is left alone", name)
	}
	l := loader{o: &o, report: report}
	if err := l.load(files); err != nil {
		return nil, err
	}
	report.Head = l.at.head()
	j := newJournal(o, l.loaded)
	if l.damage != nil {
		report.Damage = l.damage
		report.warn("%v", l.damage)
		j.err = &WriteError{Kind: ErrDamaged, Err: l.damage}
		return j, nil
	}
	if err := j.begin(files, report); err != nil {
		return nil, err
	}
	return j, nil
}

func newJournal(o Options, l loaded) *Journal {
	j := &Journal{
		o: o, id: l.id, host: l.host, at: l.at, head: l.at.head(), adopt: l.tail,
		segments: l.segments, snapshots: l.snapshots, since: l.sinceSnapshot,
		closing: make(chan struct{}), write: make(chan struct{}, 1), compacting: make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	j.setCompactAt(l.snapshotBytes)
	return j
}

// begin removes what was not finished and makes the last segment ready for appending.
func (j *Journal) begin(files listing, report *Report) error {
	if j.adopt == nil {
		report.Fresh = true
		j.create()
	}
	for _, name := range files.temps {
		if err := j.o.FS.Remove(opOpen, j.path(name)); err != nil && !fsys.IsFull(err) {
			return err
		}
	}
	if err := j.ready(); err != nil {
		report.warn("%v", err)
		j.stop(err)
	}
	return nil
}

// create makes the first segment's content, with a new id.
func (j *Journal) create() {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	j.id, j.host = hex.EncodeToString(id), j.o.Host
	j.at = cursor{hash: genesis(j.id, j.host)}
	j.segments = []segment{{name: segmentName(1), first: 1}}
	j.adopt = headerLine(j.segmentHeader())
}

func (j *Journal) segmentHeader() segmentHeader {
	return segmentHeader{
		Version: Version, ID: j.id, Host: j.host, First: j.at.seq + 1, Batch: j.at.batch,
		Prev: j.at.hash, Time: time.Now().UTC().Format(timeLayout),
	}
}

// ready writes the last segment's verified prefix to a new file, unless that was done, and opens it for appending. What
// was read may have been in the page cache only, from a process that died or failed before its sync; a sync of the old
// file would prove nothing, for the kernel reports a lost page once.
func (j *Journal) ready() *WriteError {
	if j.file != nil {
		return nil
	}
	name := j.path(j.segments[len(j.segments)-1].name)
	if j.adopt != nil {
		if err := fsys.WriteFileAtomic(j.o.FS, opAdopt, name, j.adopt, filePerm); err != nil {
			return replaceError(err)
		}
		j.size, j.adopt = int64(len(j.adopt)), nil
	}
	f, err := j.o.FS.OpenFile(opAppend, name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return replaceError(err)
	}
	j.file = f
	return nil
}

// replaceError judges an error of making or replacing a file: no space is harmless as long as the old name stands.
func replaceError(err error) *WriteError {
	var renamed *fsys.RenamedError
	if fsys.IsFull(err) && !errors.As(err, &renamed) {
		return &WriteError{Kind: ErrFull, Err: err}
	}
	return &WriteError{Kind: ErrFailed, Err: err}
}

func (j *Journal) path(name string) string { return filepath.Join(j.o.Dir, name) }

// Close ends the journal. Appends that wait get ErrClosed; one that is being written is finished.
func (j *Journal) Close() error {
	j.closeOnce.Do(func() { close(j.closing) })
	j.write <- struct{}{} // the batch in hand ends with the disk, not with us
	j.background.Wait()
	defer func() { <-j.write }()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.pending {
		r.finish(Head{}, &WriteError{Kind: ErrClosed})
	}
	j.pending = nil
	j.setErr(&WriteError{Kind: ErrClosed})
	var err error
	if j.file != nil {
		err = j.file.Close()
		j.file = nil
	}
	lock := j.lock
	j.lock = nil
	return errors.Join(err, closeLock(lock))
}
