// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind is what an [*Error] means for whoever made the call. Each Kind is an
// error of its own, so that errors.Is(err, pve.ErrLocked) works.
type Kind string

// Error is the kind's name.
func (k Kind) Error() string { return string(k) }

// The kinds of errors.
const (
	// ErrOther: PVE refused with words that belong to no other kind. If the
	// call was a change, something may have changed all the same.
	ErrOther Kind = "refused"
	// ErrDenied: 401 or 403, or a 500 that says "only root can".
	ErrDenied Kind = "denied"
	// ErrInvalid: 400; Error.Params names the parameters. Nothing changed
	// unless Error.Late.
	ErrInvalid Kind = "invalid"
	// ErrNoGuest: the guest has no config on that node, in PVE's own words. The
	// caller was allowed to know.
	ErrNoGuest Kind = "no such guest"
	// ErrNoTask: PVE does not keep this task's log any more, or never had it.
	ErrNoTask Kind = "no such task"
	// ErrNotFound: something else does not exist (storage, bridge, snapshot).
	ErrNotFound Kind = "not found"
	// ErrExists: the VMID is taken.
	ErrExists Kind = "exists"
	// ErrRunning: the guest runs already.
	ErrRunning Kind = "already running"
	// ErrNotRunning: the guest does not run.
	ErrNotRunning Kind = "not running"
	// ErrLocked: the config carries a lock; Error.Lock names it.
	ErrLocked Kind = "locked"
	// ErrBusy: PVE did not get a process lock in time (10 s).
	ErrBusy Kind = "busy"
	// ErrChanged: the digest sent along is not that of the config any more.
	ErrChanged Kind = "changed"
	// ErrNoQuorum: the cluster file system takes nothing: it is read-only
	// without quorum, or the file system under it is full or broken.
	ErrNoQuorum Kind = "no quorum"
	// ErrTransient: PVE could not answer just now; the same read may work in a
	// moment. Of a change it says only that PVE reported an error of that kind.
	ErrTransient Kind = "transient"
	// ErrUnreachable: the API answered, the node or daemon behind it could not
	// be reached (595, unknown node name). Nothing was done.
	ErrUnreachable Kind = "unreachable"
	// ErrUnsupported: 501, this PVE does not know the call.
	ErrUnsupported Kind = "unsupported"
	// ErrUnknownOutcome: a change was sent and may or may not take effect, now
	// or later (596 to 599, 502, 504, timeout, broken connection or answer).
	ErrUnknownOutcome Kind = "outcome unknown"
	// ErrNotSent: no byte of the request left this process.
	ErrNotSent Kind = "not sent"
)

// Error is every error of a call.
type Error struct {
	Kind   Kind
	Method string
	Path   string // below /api2/json, without the query
	Status int    // HTTP status, 0 without an answer
	// Reason is the reason phrase of the status line: all that PVE before 8.4
	// says, and the first line of Message since.
	Reason string
	// Message is PVE's text in full, without the newline at its end.
	Message string
	// Params are PVE's words per parameter.
	Params map[string]string
	// Lock names the config lock of ErrLocked: "backup".
	Lock string
	// Err is the cause below HTTP, nil if PVE answered.
	Err error
	// broken: what PVE said in detail did not arrive, or not whole.
	broken bool
}

// KindOf is the kind of an error of this package, "" of any other.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return ""
}

// Words is what PVE said, word for word; "" if it did not answer.
func (e *Error) Words() string {
	text := e.Text()
	if len(e.Params) == 0 {
		return text
	}
	parts := make([]string, 0, len(e.Params))
	for _, k := range slices.Sorted(maps.Keys(e.Params)) {
		parts = append(parts, k+": "+strings.TrimSpace(e.Params[k]))
	}
	return text + " " + strings.Join(parts, "; ")
}

// Text is what PVE said without what it said of parameters.
func (e *Error) Text() string {
	if e.Message != "" {
		return e.Message
	}
	return e.Reason
}

// Error is what was tried, the kind where it is more than a refusal, and what
// PVE answered.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pve: %s %s", e.Method, e.Path)
	if e.Kind == ErrNotSent || e.Kind == ErrUnknownOutcome || e.Status == 0 {
		fmt.Fprintf(&b, ": %s", e.Kind)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %d", e.Status)
	}
	if w := e.Words(); w != "" {
		fmt.Fprintf(&b, " %s", w)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap makes errors.Is find the kind as well as the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Late reports whether PVE refused only while applying the change, so that a
// part of it may have been stored or applied. Schema and permission errors
// are not late, unless their details are lost: they may have been others.
func (e *Error) Late() bool {
	switch e.Kind {
	case ErrInvalid:
		return e.broken || slices.ContainsFunc(slices.Collect(maps.Values(e.Params)), lateParam)
	case ErrOther, ErrNotFound, ErrTransient, ErrUnknownOutcome:
		return true
	}
	return false
}

// lateParam tells the parameter errors that PVE raises after it has stored or
// tried the value.
func lateParam(words string) bool {
	return strings.Contains(words, "hotplug") || strings.Contains(words, "unable to apply pending change")
}
