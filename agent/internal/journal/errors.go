// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrReadOnly: the journal cannot be written at the moment. The next four say why.
	ErrReadOnly = errors.New("journal cannot be written")
	// ErrFull: no space, or the file system is mounted read-only. It heals by itself. What was being appended is not
	// on disk.
	ErrFull = errors.New("disk is full or read-only")
	// ErrFailed: a write or sync failed. Nothing is written until the journal is opened anew.
	ErrFailed = errors.New("a write or sync failed; the agent must be restarted")
	// ErrDamaged: what is on disk is not what was written.
	ErrDamaged = errors.New("journal is damaged")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("journal is closed")

	// ErrUnknown: whether these entries are on disk shows at the next Open only.
	ErrUnknown = errors.New("it is not known whether the entries were recorded")
	// ErrPayload: a payload is no JSON or too large. Nothing was written.
	ErrPayload = errors.New("payload refused")
	// ErrVersion: a later version of the agent wrote this journal. Nothing was changed.
	ErrVersion = errors.New("journal is of a newer version")
	// ErrHost: the journal was written on another host. Nothing was changed.
	ErrHost = errors.New("journal belongs to another host")
	// ErrGone: the entries asked for were moved out of the journal and deleted.
	ErrGone = errors.New("entries are no longer kept")
)

// WriteError says why the journal cannot be written: Kind is ErrFull, ErrFailed, ErrDamaged or ErrClosed.
type WriteError struct {
	Kind error
	// Unknown: the fate of the batch in hand is not known (ErrUnknown).
	Unknown bool
	Err     error
}

func (e *WriteError) Error() string {
	text := ErrReadOnly.Error() + ": " + e.Kind.Error()
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Unknown {
		text += "; " + ErrUnknown.Error()
	}
	return text
}

// Is finds ErrReadOnly, the kind, and ErrUnknown.
func (e *WriteError) Is(target error) bool {
	return target == ErrReadOnly || target == e.Kind || e.Unknown && target == ErrUnknown
}

func (e *WriteError) Unwrap() error { return e.Err }

// DamageError says where a journal stops making sense.
type DamageError struct {
	File   string
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s at byte %d: %s; nothing was changed; see: felhom-agent journal check", e.File, e.Offset, e.Reason)
}

// Is finds ErrDamaged.
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }
