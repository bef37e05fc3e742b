// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import "errors"

// The errors of this package, for errors.Is.
var (
	// ErrInvalid: the event is not one, or its JSON is not as this package
	// writes it.
	ErrInvalid = errors.New("not a hook event")
	// ErrBudget: the agent did not answer within the budget. Whether it has the
	// event is not known; the event's id makes a second delivery harmless.
	ErrBudget = errors.New("no answer within the budget")
	// ErrBusy: as many wait for the agent as may wait.
	ErrBusy = errors.New("the agent takes no more at the moment")
	// ErrNotAcknowledged: the agent answered, but not that it has the event.
	ErrNotAcknowledged = errors.New("not acknowledged")
	// ErrVeto: the agent has the event and says that this start shall not be.
	ErrVeto = errors.New("vetoed by the agent")
	// ErrSpoolFull: the spool holds as many events as it may.
	ErrSpoolFull = errors.New("the spool is full")
	// ErrNotCounted: the event could not be spooled, and that it is lost could
	// not be counted either.
	ErrNotCounted = errors.New("lost without being counted")
	// ErrUnfinished: the helper died while it wrote the event.
	ErrUnfinished = errors.New("left unfinished")
)

// failure is an error with what was being done; fmt.Errorf would link package
// reflect into the helper.
type failure struct {
	what string
	err  error
}

func (f *failure) Error() string { return f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// both is two errors in one line; those of errors.Join take two.
type both struct{ first, second error }

func (b *both) Error() string   { return b.first.Error() + "; " + b.second.Error() }
func (b *both) Unwrap() []error { return []error{b.first, b.second} }

func fail(what string, err error) error { return &failure{what, err} }

func invalid(field, want string) error { return &failure{"hook: " + field + ": " + want, ErrInvalid} }
