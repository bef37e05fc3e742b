// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

const (
	lockName    = "lock"
	archiveName = "archive"
	dirPerm     = 0o700
	filePerm    = 0o640
	// maxFile bounds what is read into memory at once.
	maxFile = 1 << 30
)

// The names under which the journal goes to disk; a call on a file is NAME:CALL, for example "APPEND:DATASYNC".
const (
	opOpen     = "OPEN"     // directory, lock, listing, removal of unfinished replacements
	opLoad     = "LOAD"     // snapshots and segments are read for replay
	opAdopt    = "ADOPT"    // the last segment's verified prefix is written anew, or the first segment made
	opAppend   = "APPEND"   // a batch; TRUNCATE takes one back that did not fit on the disk
	opRotate   = "ROTATE"   // the next segment
	opSnapshot = "SNAPSHOT" // the fold is written, older snapshots are removed
	opStub     = "STUB"     // what a segment held is noted before it leaves
	opArchive  = "ARCHIVE"  // a segment is moved to the archive
	opDrop     = "DROP"     // an archived segment is deleted
	opProbe    = "PROBE"    // is there space again?
	opRead     = "READ"     // check, show and export
)

// segmentHeader is the first line of a segment. Batch and Prev are of the entry before First.
type segmentHeader struct {
	Version int    `json:"felhom-journal"`
	ID      string `json:"id"`
	Host    string `json:"host"`
	First   uint64 `json:"first"`
	Batch   uint64 `json:"batch"`
	Prev    string `json:"prev"`
	Time    string `json:"time"`
}

func (h segmentHeader) before() cursor {
	return cursor{seq: h.First - 1, batch: h.Batch, hash: h.Prev}
}

// snapshotHeader is the first line of a snapshot; Bytes of the fold's state follow it.
type snapshotHeader struct {
	Version int    `json:"felhom-snapshot"`
	ID      string `json:"id"`
	Host    string `json:"host"`
	Seq     uint64 `json:"seq"`
	Batch   uint64 `json:"batch"`
	Hash    string `json:"hash"`
	Bytes   int    `json:"bytes"`
	SHA256  string `json:"sha256"`
	Time    string `json:"time"`
}

func (h snapshotHeader) cursor() cursor { return cursor{seq: h.Seq, batch: h.Batch, hash: h.Hash} }

// stubHeader is the only line of a stub: what a segment held that is no longer in the journal's directory.
type stubHeader struct {
	Version   int    `json:"felhom-stub"`
	ID        string `json:"id"`
	Host      string `json:"host"`
	First     uint64 `json:"first"`
	Last      uint64 `json:"last"`
	Batch     uint64 `json:"batch"`
	LastBatch uint64 `json:"last_batch"`
	Prev      string `json:"prev"`
	Hash      string `json:"hash"`
	Bytes     int    `json:"bytes"`
	SHA256    string `json:"sha256"`
	Time      string `json:"time"`
}

// headerLine frames a header.
func headerLine(header any) []byte {
	body, err := json.Marshal(header)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return appendLine(append(make([]byte, prefixLen, prefixLen+len(body)+1), body...), 0)
}

// takeHeader reads the header line of the given kind at the start of data and returns what follows it. A newer version
// is ErrVersion, whatever else is in the line.
func takeHeader(data []byte, kind string, header any) (rest []byte, err error) {
	body, n, err := cutLine(data)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var version int
	if err := json.Unmarshal(fields[kind], &version); err != nil {
		return nil, fmt.Errorf("header: not a %s", kind)
	}
	if version > Version {
		return nil, fmt.Errorf("%w: %d, this agent reads up to %d", ErrVersion, version, Version)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return data[n:], nil
}

func takeSegmentHeader(data []byte) (h segmentHeader, rest []byte, err error) {
	rest, err = takeHeader(data, "felhom-journal", &h)
	if err == nil && (h.First == 0 || !isHash([]byte(h.Prev))) {
		err = errors.New("header: first or prev out of range")
	}
	if err == nil && h.First == 1 && (h.Batch != 0 || h.Prev != genesis(h.ID, h.Host)) {
		err = errors.New("header: the chain does not begin with this journal's id and host")
	}
	return h, rest, err
}

func takeSnapshot(data []byte) (h snapshotHeader, state []byte, err error) {
	state, err = takeHeader(data, "felhom-snapshot", &h)
	if err == nil && (len(state) != h.Bytes || sum(state) != h.SHA256 || !isHash([]byte(h.Hash))) {
		err = errors.New("the content does not fit the header")
	}
	return h, state, err
}

func takeStub(data []byte) (h stubHeader, err error) {
	rest, err := takeHeader(data, "felhom-stub", &h)
	if err == nil && (len(rest) > 0 || h.First == 0 || h.Last < h.First || !isHash([]byte(h.Prev)) || !isHash([]byte(h.Hash))) {
		err = errors.New("range or hashes out of form")
	}
	return h, err
}

// listed is a file of the journal with the number in its name.
type listed struct {
	name string
	seq  uint64
}

// listing is a journal's directory, each list in order of the numbers.
type listing struct {
	segments, snapshots, stubs, archived []listed
	temps, unknown                       []string
}

func segmentName(first uint64) string { return fmt.Sprintf("seg-%020d.jsonl", first) }
func snapshotName(seq uint64) string  { return fmt.Sprintf("snap-%020d.json", seq) }
func stubName(first uint64) string    { return fmt.Sprintf("stub-%020d.json", first) }

// list reads the directory; with archive also the archive's.
func list(fsystem fsys.FS, op, dir string, archive bool) (l listing, err error) {
	entries, err := fsystem.ReadDir(op, dir)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		l.add(e.Name())
	}
	if !archive {
		return l, nil
	}
	entries, err = fsystem.ReadDir(op, filepath.Join(dir, archiveName))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	for _, e := range entries {
		if seq, ok := numbered(e.Name(), "seg-", ".jsonl"); ok {
			l.archived = append(l.archived, listed{filepath.Join(archiveName, e.Name()), seq})
		}
	}
	return l, err
}

func (l *listing) add(name string) {
	if seq, ok := numbered(name, "seg-", ".jsonl"); ok {
		l.segments = append(l.segments, listed{name, seq})
	} else if seq, ok := numbered(name, "snap-", ".json"); ok {
		l.snapshots = append(l.snapshots, listed{name, seq})
	} else if seq, ok := numbered(name, "stub-", ".json"); ok {
		l.stubs = append(l.stubs, listed{name, seq})
	} else if strings.HasSuffix(name, fsys.TempSuffix) {
		l.temps = append(l.temps, name)
	} else if name != lockName && name != archiveName {
		l.unknown = append(l.unknown, name)
	}
}

// numbered takes the 20 digits between prefix and suffix.
func numbered(name, prefix, suffix string) (uint64, bool) {
	rest, ok1 := strings.CutPrefix(name, prefix)
	digits, ok2 := strings.CutSuffix(rest, suffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok1 && ok2 && len(digits) == 20 && err == nil
}
