// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"
)

// Provider carries desired state. It only carries bytes: the core parses and
// checks them, and says what was wrong with file, line and key.
type Provider interface {
	Describe(ctx context.Context) (Info, error)
	// Watch emits a snapshot at once and after each change, until ctx ends or
	// emit fails. emit's error says why the core rejected the snapshot; the
	// provider goes on, unless ctx ended. A source that cannot be read at the
	// moment is a Snapshot with Err set, never one without files.
	Watch(ctx context.Context, emit func(Snapshot) error) error
}

// Snapshot is the whole of a provider's desired state, never a difference: a
// lost message heals itself.
type Snapshot struct {
	// Revision names this state; equal revisions have equal files.
	Revision string
	Files    []File
	// Err, when not empty, says why the source could not be read. The last
	// good snapshot stays in force.
	Err string
}

// File is one file of a snapshot.
type File struct {
	Name       string
	Data       []byte
	Signatures [][]byte // SSHSIG, over Data
}

// IndexName is the name of the file that lists the others of a signed set:
// issuer, host, serial, not-after, and each file's SHA-256. Its signatures are
// the set's. A provider carries it like any other file.
const IndexName = "felhom.index"

// Reporter is a provider that can carry a report back to where the desired
// state comes from.
type Reporter interface {
	// Report returns once the source has the report. ErrInvalid says that it
	// will never take this one, ErrUnsupported that it takes none, and any
	// other error that it should be tried again later.
	Report(ctx context.Context, r Report) error
}

// Report is what the agent tells a provider's source.
type Report struct {
	Time time.Time
	// JSON is a ReportBody.
	JSON []byte
}
