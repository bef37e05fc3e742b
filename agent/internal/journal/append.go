// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

const (
	// maxGroup bounds what one batch takes together, in bytes of payload; a larger Append is a batch of its own.
	maxGroup = 1 << 20
	// maxAppend bounds one Append, so that a segment stays within what a reader takes into memory.
	maxAppend = 64 << 20
)

// request is an Append that waits for its batch.
type request struct {
	payloads []json.RawMessage
	bytes    int
	done     chan struct{}
	head     Head
	err      error
}

func (r *request) finish(head Head, err error) {
	r.head, r.err = head, err
	close(r.done)
}

// Append writes the payloads as one atomic batch and returns the head with them when they are on disk and folded.
// Calls at the same time share a batch and its sync. It gives up with ctx's cause as long as its batch was not begun;
// after that it waits for the disk. For the errors see the package comment.
func (j *Journal) Append(ctx context.Context, payloads ...json.RawMessage) (Head, error) {
	r, err := j.newRequest(payloads)
	if err != nil || len(payloads) == 0 {
		return j.Head(), err
	}
	j.mu.Lock()
	j.pending = append(j.pending, r)
	j.mu.Unlock()
	select {
	case <-r.done:
		return r.head, r.err
	case j.write <- struct{}{}:
		j.lead(r)
		<-j.write
	case <-j.closing:
		j.withdraw(r, &WriteError{Kind: ErrClosed})
	case <-ctx.Done():
		j.withdraw(r, context.Cause(ctx))
	}
	<-r.done
	return r.head, r.err
}

func (j *Journal) newRequest(payloads []json.RawMessage) (*request, error) {
	r := &request{done: make(chan struct{})}
	for i, p := range payloads {
		var buf bytes.Buffer
		if err := json.Compact(&buf, p); err != nil {
			return nil, fmt.Errorf("%w: payload %d: %w", ErrPayload, i, err)
		}
		if buf.Len() > j.o.MaxPayload {
			return nil, fmt.Errorf("%w: payload %d has %d bytes, the limit is %d", ErrPayload, i, buf.Len(), j.o.MaxPayload)
		}
		r.payloads = append(r.payloads, buf.Bytes())
		if r.bytes += buf.Len(); r.bytes > maxAppend {
			return nil, fmt.Errorf("%w: %d bytes and more at once, the limit is %d", ErrPayload, r.bytes, maxAppend)
		}
	}
	return r, nil
}

// withdraw takes a request back whose batch was not begun.
func (j *Journal) withdraw(r *request, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, p := range j.pending {
		if p == r {
			j.pending = append(j.pending[:i], j.pending[i+1:]...)
			r.finish(Head{}, err)
			return
		}
	}
}

// lead commits batches until r's is done. The caller holds write.
func (j *Journal) lead(r *request) {
	for {
		select {
		case <-r.done:
			return
		default:
			j.commit(j.take())
		}
	}
}

// take removes the next batch's requests from those that wait.
func (j *Journal) take() []*request {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, size := 0, 0
	for n < len(j.pending) && (n == 0 || size+j.pending[n].bytes <= maxGroup) {
		size += j.pending[n].bytes
		n++
	}
	group := j.pending[:n:n]
	j.pending = j.pending[n:]
	return group
}

// commit writes one batch: room for it, one write, one sync, the fold, the answers; in this order.
func (j *Journal) commit(group []*request) {
	now := time.Now().UTC()
	first := j.at.seq + 1
	werr := j.writable()
	if werr == nil {
		werr = j.writeBatch(group, now)
	}
	if werr == nil {
		werr = j.applyAll(group, first, now)
	}
	if werr != nil {
		j.stop(werr)
	}
	for _, r := range group {
		if werr != nil {
			r.finish(Head{}, werr)
		} else {
			r.finish(r.head, nil)
		}
	}
	j.compactIfDue()
}

// writable tells whether a batch may be written, after making the file ready and beginning the next segment where that
// is due. A full disk does not keep it from trying again.
func (j *Journal) writable() *WriteError {
	j.mu.Lock()
	err := j.err
	j.mu.Unlock()
	if err != nil && !errors.Is(err.Kind, ErrFull) {
		return &WriteError{Kind: err.Kind, Err: err.Err}
	}
	if err := j.ready(); err != nil {
		return err
	}
	if j.size >= j.o.SegmentBytes {
		return j.rotate()
	}
	return nil
}

// writeBatch puts the batch on disk and moves j.at over it.
func (j *Journal) writeBatch(group []*request, now time.Time) *WriteError {
	at := j.at
	at.batch++
	parts, part := 0, 0
	for _, r := range group {
		parts += len(r.payloads)
	}
	buf := j.buf[:0]
	for _, r := range group {
		for _, p := range r.payloads {
			part++
			buf = appendEntry(buf, &at, part, parts, now, p)
		}
		r.head = at.head()
	}
	if cap(buf) <= maxGroup {
		j.buf = buf // kept for the next batch, unless it is unusually large
	}
	if n, err := j.file.Write(buf); err != nil {
		return j.writeFailed(n, len(buf), err)
	}
	if err := j.file.Datasync(); err != nil {
		return &WriteError{Kind: ErrFailed, Unknown: true, Err: fmt.Errorf("sync: %w", err)}
	}
	j.at = at
	j.size += int64(len(buf))
	j.since += int64(len(buf))
	j.segments[len(j.segments)-1].last = at.seq
	return nil
}

// writeFailed judges a failed write. Where there was no space for all of it, what was written is taken back, so that
// the next batch follows the last whole one.
func (j *Journal) writeFailed(n, want int, err error) *WriteError {
	if !fsys.IsFull(err) || n >= want {
		return &WriteError{Kind: ErrFailed, Unknown: true, Err: err}
	}
	if n > 0 {
		if cerr := errors.Join(j.file.Truncate(j.size), j.file.Datasync()); cerr != nil {
			return &WriteError{Kind: ErrFailed, Err: errors.Join(err, fmt.Errorf("take the batch back: %w", cerr))}
		}
	}
	return &WriteError{Kind: ErrFull, Err: err}
}

// applyAll folds a batch that is on disk.
func (j *Journal) applyAll(group []*request, seq uint64, now time.Time) *WriteError {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range group {
		for _, p := range r.payloads {
			if err := j.o.Fold.Apply(Entry{Seq: seq, Time: now, Payload: p}); err != nil {
				return &WriteError{Kind: ErrFailed, Unknown: true, Err: fmt.Errorf("fold entry %d: %w", seq, err)}
			}
			seq++
		}
	}
	j.head = j.at.head()
	j.setErr(nil)
	return nil
}

// rotate begins the next segment. The one before ends with a synced batch.
func (j *Journal) rotate() *WriteError {
	next := segment{name: segmentName(j.at.seq + 1), first: j.at.seq + 1}
	header := headerLine(j.segmentHeader())
	if err := fsys.WriteFileAtomic(j.o.FS, opRotate, j.path(next.name), header, filePerm); err != nil {
		return replaceError(err)
	}
	if err := j.file.Close(); err != nil { // all of it was synced
		j.o.Logger.Warn("close of a finished journal segment failed", "err", err)
	}
	j.file, j.size = nil, int64(len(header))
	j.segments = append(j.segments, next)
	return j.ready()
}
