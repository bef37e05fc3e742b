// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// Fold is the state that the entries make. The journal calls it under its own lock, so never twice at once.
type Fold interface {
	// Apply takes the next entry, in order, after it is on disk. An error stops the journal: what memory holds would no
	// longer be what the log says.
	Apply(Entry) error
	// Snapshot returns the state in a form that Restore takes.
	Snapshot() ([]byte, error)
	// Restore replaces the state. It is called at most once, before the entries that follow the snapshot.
	Restore([]byte) error
}

// Options say where a journal is and how large it may become. A zero number means its default.
type Options struct {
	// FS is the file system; nil is the operating system's.
	FS fsys.FS
	// Dir is the journal's directory; it is made if missing.
	Dir string
	// Fold is replayed at Open and follows each Append.
	Fold Fold
	// Logger is told what is cut, compacted or wrong; nil tells nobody.
	Logger *slog.Logger
	// Host names this host. A journal of another host is refused.
	Host string
	// SegmentBytes is the size at which the next segment begins. Default 4 MiB.
	SegmentBytes int64
	// CompactBytes is how much is appended before the fold is written as a snapshot, if that is more than twice the
	// last snapshot's size. Default 16 MiB; negative: only when Compact is called.
	CompactBytes int64
	// Keep is how many segments that a snapshot replaces stay in the directory. Default 8; negative: none.
	Keep int
	// KeepArchived is how many segments stay in the archive; older ones are deleted and their stubs remain.
	// Default 64; negative: none.
	KeepArchived int
	// MaxPayload bounds one payload, in bytes. Default 8 MiB, at most 16 MiB.
	MaxPayload int
}

// DefaultOptions are the defaults for a directory and its fold.
func DefaultOptions(dir string, fold Fold) Options {
	o := Options{Dir: dir, Fold: fold}
	o.setDefaults()
	return o
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = fsys.OS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.SegmentBytes = orDefault(o.SegmentBytes, 4<<20)
	o.CompactBytes = orDefault(o.CompactBytes, 16<<20)
	o.Keep = orDefault(o.Keep, 8)
	o.KeepArchived = orDefault(o.KeepArchived, 64)
	o.MaxPayload = orDefault(o.MaxPayload, 8<<20)
}

func orDefault[N int | int64](v, def N) N {
	if v == 0 {
		return def
	}
	return v
}

func (o *Options) validate() error {
	switch {
	case o.Dir == "":
		return errors.New("journal: Dir is empty")
	case o.Fold == nil:
		return errors.New("journal: Fold is nil")
	case o.SegmentBytes < 0 || o.SegmentBytes > 256<<20:
		return fmt.Errorf("journal: SegmentBytes is %d, want 1 to 256 MiB", o.SegmentBytes)
	case o.MaxPayload < 0 || o.MaxPayload > 16<<20:
		return fmt.Errorf("journal: MaxPayload is %d, want 1 to 16 MiB", o.MaxPayload)
	}
	return nil
}
