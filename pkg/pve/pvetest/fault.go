// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"
)

// FaultKind says what goes wrong.
type FaultKind string

// The faults that meet a request or a task. What happens to a guest or to
// the node as a whole has methods of its own (see guestfault.go).
const (
	// FaultDelay holds the request for Delay before it is worked on.
	FaultDelay FaultKind = "delay"
	// FaultLost closes the connection without an answer after Hang; the
	// request takes effect after Delay.
	FaultLost FaultKind = "lost"
	// FaultTimeout answers 596 after Hang (default 30 s) while the request,
	// begun after Delay, goes on.
	FaultTimeout FaultKind = "timeout"
	// FaultStatus answers Status and Reason; the request is not executed,
	// unless Execute is set.
	FaultStatus FaultKind = "status"
	// FaultTask makes a task of type Task end with Reason ("unexpected
	// status" loses its last line) without doing its work.
	FaultTask FaultKind = "task"
)

// Fault is one thing that is to go wrong. The zero Method and Path match
// every request.
type Fault struct {
	ID     int       `json:"id"`
	Kind   FaultKind `json:"kind"`
	Method string    `json:"method,omitempty"` // GET, POST, ...
	// Path below /api2/json; "*" stands for anything within one segment.
	Path string `json:"path,omitempty"`
	// Task and VMID choose the task of a FaultTask; VMID 0 is any.
	Task string `json:"task,omitempty"`
	VMID int    `json:"vmid,omitempty"`

	Delay   time.Duration `json:"delay,omitempty"`
	Hang    time.Duration `json:"hang,omitempty"`
	Status  int           `json:"status,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Execute bool          `json:"execute,omitempty"`
	// Times is how often it happens; 0 means once, negative forever.
	Times int `json:"times,omitempty"`
}

// Inject arms a fault and returns its id.
func (s *Sim) Inject(f Fault) (int, error) {
	if err := f.validate(); err != nil {
		return 0, err
	}
	if f.Times == 0 {
		f.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.faults {
		f.ID = max(f.ID, old.ID)
	}
	f.ID++
	s.faults = append(s.faults, &f)
	return f.ID, nil
}

func (f *Fault) validate() error {
	switch f.Kind {
	case FaultDelay, FaultLost, FaultTimeout:
	case FaultStatus:
		if f.Status < 100 || f.Status > 999 {
			return fmt.Errorf("fault %s: status %d is not an HTTP status", f.Kind, f.Status)
		}
	case FaultTask:
		if f.Task == "" || f.Reason == "" {
			return fmt.Errorf("fault %s: wants a task type and a reason", f.Kind)
		}
	default:
		return fmt.Errorf("fault %q: no such kind", f.Kind)
	}
	if _, err := path.Match(f.Path, "/"); err != nil {
		return fmt.Errorf("fault %s: path %q: %w", f.Kind, f.Path, err)
	}
	return nil
}

// Faults lists what is still armed.
func (s *Sim) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Fault{}
	for _, f := range s.faults {
		out = append(out, *f)
	}
	return out
}

// ClearFaults disarms everything.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// faultFor takes the first fault that matches a request; nil if none does.
func (s *Sim) faultFor(method, uri string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeFault(func(f *Fault) bool {
		if f.Kind == FaultTask || f.Method != "" && !strings.EqualFold(f.Method, method) {
			return false
		}
		ok, err := path.Match(f.Path, uri)
		return f.Path == "" || err == nil && ok
	})
}

// taskFaultLocked returns the status a new task is to end with, or "".
func (s *Sim) taskFaultLocked(typ, id string) string {
	f := s.takeFault(func(f *Fault) bool {
		return f.Kind == FaultTask && f.Task == typ && (f.VMID == 0 || itoa(f.VMID) == id)
	})
	if f == nil {
		return ""
	}
	return f.Reason
}

func (s *Sim) takeFault(match func(*Fault) bool) *Fault {
	for i, f := range s.faults {
		if !match(f) {
			continue
		}
		taken := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		s.log.Info("fault", "kind", taken.Kind, "id", taken.ID)
		return &taken
	}
	return nil
}

// before answers in place of the call, if the fault says so.
func (f *Fault) before(ctx context.Context) (result, error, bool) { //nolint:revive // ok goes last
	if f == nil || f.Kind != FaultStatus || f.Execute {
		return result{}, nil, false
	}
	sleep(ctx, f.Hang)
	return result{}, &apiError{status: f.Status, reason: f.Reason, bare: true}, true
}

// hold delays the beginning of the work; false means the node went down.
func (f *Fault) hold(ctx context.Context) bool {
	if f == nil {
		return true
	}
	return sleep(ctx, f.Delay)
}

// patience is when the front gives up on the work.
func (f *Fault) patience(protected bool) (<-chan time.Time, func()) {
	wait := proxyTimeout
	switch {
	case f != nil && f.Kind == FaultLost:
		wait = f.Hang
	case f != nil && f.Kind == FaultTimeout:
		wait = either(f.Hang, proxyTimeout)
	case !protected:
		return nil, func() {}
	}
	t := time.NewTimer(wait)
	return t.C, func() { t.Stop() }
}

// dropsReply reports whether the front closes the connection when its
// patience ends.
func (f *Fault) dropsReply() bool { return f != nil && f.Kind == FaultLost }

// after changes the answer of a call that was executed.
func (f *Fault) after(res result) result {
	if f.dropsReply() {
		return result{drop: true}
	}
	return res
}
