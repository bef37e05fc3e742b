// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
)

// item is an entry with its frame.
type item struct {
	entry Entry
	frame Frame
}

// defect is the first place of a segment that does not go on from what is before it.
type defect struct {
	offset int64
	reason string
}

// scanned is what a segment's entries came to.
type scanned struct {
	// at is the point after the last whole batch, end its offset in the file, batchFirst that batch's first entry (0:
	// the segment has none).
	at         cursor
	end        int64
	batchFirst uint64
	// bad is nil if the segment ends with a whole batch.
	bad *defect
}

// scan reads the entries of a segment from offset on, which continue the chain at the given point, and yields batch by
// batch. It ends at the first thing that is not the next batch, or with yield's error.
func scan(data []byte, offset int64, at cursor, yield func([]item) error) (scanned, error) {
	s := scanned{at: at, end: offset}
	for s.end < int64(len(data)) {
		batch, next, bad := takeBatch(data, s.end, s.at)
		if bad != nil {
			s.bad = bad
			return s, nil
		}
		if err := yield(batch); err != nil {
			return s, err
		}
		last := batch[len(batch)-1]
		s.at = cursor{seq: last.entry.Seq, batch: last.frame.Batch, hash: last.frame.Hash}
		s.batchFirst, s.end = batch[0].entry.Seq, next
	}
	return s, nil
}

// takeBatch reads one whole batch that continues at.
func takeBatch(data []byte, offset int64, at cursor) (batch []item, next int64, bad *defect) {
	for next = offset; ; {
		body, n, err := cutLine(data[next:])
		if err != nil {
			return nil, 0, &defect{next, err.Error()}
		}
		e, f, err := parseEntry(body)
		if err == nil {
			err = continues(at, batch, e, f)
		}
		if err != nil {
			return nil, 0, &defect{next, err.Error()}
		}
		f.Prev, f.Offset, f.Line = at.hash, next, data[next:next+int64(n)-1]
		at.seq, at.hash = e.Seq, f.Hash
		batch = append(batch, item{e, f})
		next += int64(n)
		if f.Part == f.Parts {
			return batch, next, nil
		}
	}
}

// continues tells whether an entry is the next one of the chain and of the batch begun.
func continues(at cursor, begun []item, e Entry, f Frame) error {
	switch {
	case e.Seq != at.seq+1:
		return fmt.Errorf("entry %d follows entry %d", e.Seq, at.seq)
	case f.Batch != at.batch+1:
		return fmt.Errorf("batch %d follows batch %d", f.Batch, at.batch)
	case f.Part != len(begun)+1, len(begun) > 0 && f.Parts != begun[0].frame.Parts:
		return fmt.Errorf("part %d/%d of a batch is out of place", f.Part, f.Parts)
	case f.Hash != link(at.hash, f.Digest):
		return fmt.Errorf("the chain of hashes breaks at entry %d", e.Seq)
	}
	return nil
}

// laterBatch looks at each line of data for an intact entry of a batch after the given one. A batch is written only
// after the sync of the one before, so such an entry proves that what is missing before it had been on disk.
func laterBatch(data []byte, batch uint64) (uint64, bool) {
	for len(data) > 0 {
		if body, _, err := cutLine(data); err == nil {
			if _, f, err := parseEntry(body); err == nil && f.Batch > batch {
				return f.Batch, true
			}
		}
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		data = data[i+1:]
	}
	return 0, false
}

// torn tells what a defect in the last segment is: nil if the tail holds nothing but the one batch that was being
// written, else damage.
func (s scanned) torn(name string, data []byte) error {
	if batch, later := laterBatch(data[s.bad.offset:], s.at.batch+1); later {
		return &DamageError{
			File: name, Offset: s.bad.offset,
			Reason: fmt.Sprintf("%s, yet the later batch %d is intact", s.bad.reason, batch),
		}
	}
	return nil
}
