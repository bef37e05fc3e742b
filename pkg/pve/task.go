// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Exit is how a task ended: one of four ways.
type Exit string

// The ends of a task.
const (
	ExitOK       Exit = "ok"
	ExitWarnings Exit = "warnings" // it succeeded, with warnings
	ExitError    Exit = "error"
	// ExitUnknown: nobody wrote an end. The worker was killed, the node went
	// down, or something else wrote into its log last.
	ExitUnknown Exit = "unknown"
)

// TaskStatus is the state of a task.
type TaskStatus struct {
	UPID    UPID
	Running bool
	// Text is the exit status in PVE's words, without blanks at its ends;
	// "" while the task runs.
	Text string
}

var warningsPattern = regexp.MustCompile(`^WARNINGS: (\d+)$`)

// Exit is how the task ended; "" while it runs.
func (s TaskStatus) Exit() Exit {
	switch {
	case s.Running:
		return ""
	case s.Text == "OK":
		return ExitOK
	case warningsPattern.MatchString(s.Text):
		return ExitWarnings
	case s.Text == "" || kindOfWords(s.Text) == ErrUnknownOutcome:
		return ExitUnknown
	}
	return ExitError
}

// Warnings is how many warnings a task that succeeded ended with.
func (s TaskStatus) Warnings() int {
	m := warningsPattern.FindStringSubmatch(s.Text)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // out of range: Atoi's maximum is as good
	return n
}

// Err is nil unless the task ended with an error or in an unknown way. Its
// Kind is that of the words, so that a task which failed at a lock is
// ErrLocked; Method is "TASK" and Path the UPID.
func (s TaskStatus) Err() error {
	switch s.Exit() {
	case ExitError:
		return &Error{Kind: kindOfWords(s.Text), Method: "TASK", Path: s.UPID.String(), Message: s.Text, Lock: lockOf(s.Text)}
	case ExitUnknown:
		return &Error{Kind: ErrUnknownOutcome, Method: "TASK", Path: s.UPID.String(), Message: s.Text}
	}
	return nil
}

func taskPath(u UPID) string { return "/nodes/" + u.Node + "/tasks/" + u.String() }

// TaskStatus reads the state of a task. A task whose log is not kept any more
// is ErrNoTask.
func (c *Client) TaskStatus(ctx context.Context, u UPID) (TaskStatus, error) {
	var raw struct {
		Status     text `json:"status"`
		ExitStatus text `json:"exitstatus"`
	}
	path := taskPath(u) + "/status"
	if err := c.get(ctx, path, nil, &raw); err != nil {
		return TaskStatus{}, err
	}
	switch raw.Status {
	case "running":
		return TaskStatus{UPID: u, Running: true}, nil
	case "stopped":
		return TaskStatus{UPID: u, Text: c.exitText(raw.ExitStatus)}, nil
	}
	return TaskStatus{}, c.garbled(path, fmt.Errorf("status is %q, want running or stopped", raw.Status))
}

// exitText is a task's exit status in PVE's words.
func (c *Client) exitText(t text) string { return c.opts.Token.redact(strings.TrimSpace(string(t))) }

// Poll is how often Wait asks. The zero Poll stands for DefaultPoll.
type Poll struct {
	First, Max time.Duration // the interval grows from First to Max
}

// DefaultPoll notices a short task soon and asks about a long one every other
// second.
var DefaultPoll = Poll{First: 100 * time.Millisecond, Max: 2 * time.Second}

// Wait asks for the state of a task until it has ended or ctx has. It goes on
// when PVE does not answer for a while. The error is never about how the task
// ended; see TaskStatus.Err for that.
func (c *Client) Wait(ctx context.Context, u UPID, p Poll) (TaskStatus, error) {
	if p.First <= 0 || p.Max < p.First {
		p = DefaultPoll
	}
	for every := p.First; ; every = min(every*3/2, p.Max) {
		s, err := c.TaskStatus(ctx, u)
		switch {
		case err == nil && !s.Running:
			return s, nil
		case err != nil && !passes(err):
			return s, err
		case err != nil:
			every = p.Max
		}
		select {
		case <-ctx.Done():
			return TaskStatus{UPID: u, Running: true}, fmt.Errorf("pve: waiting for %s: %w", u, context.Cause(ctx))
		case <-time.After(every):
		}
	}
}

// passes reports whether a read that failed with err may work later as it is.
func passes(err error) bool {
	switch KindOf(err) {
	case ErrTransient, ErrNotSent, ErrUnreachable, ErrBusy, ErrNoQuorum, ErrOther:
		return true
	}
	return false
}

// TaskLog reads up to limit lines of a task's log from line start (counting
// from 0) and says how many lines there are.
func (c *Client) TaskLog(ctx context.Context, u UPID, start, limit int) (lines []string, total int, err error) {
	q := url.Values{"start": {strconv.Itoa(start)}, "limit": {strconv.Itoa(limit)}}
	type line struct {
		T text `json:"t"`
	}
	entries, total, err := getList[line](ctx, c, taskPath(u)+"/log", q)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		lines = append(lines, string(e.T))
	}
	return lines, total, nil
}

// AbortTask asks PVE to end a task. That the call succeeds does not say that
// the task ended because of it, nor what is left behind.
func (c *Client) AbortTask(ctx context.Context, u UPID) error {
	_, err := c.Call(ctx, http.MethodDelete, taskPath(u), nil)
	return err
}

// upidOf reads the answer to a change: a UPID, or none (null and what else
// says "done").
func (c *Client) upidOf(method, path string, data json.RawMessage) (UPID, error) {
	s, err := scalar(data)
	if err == nil && !strings.HasPrefix(s, "UPID:") {
		return UPID{}, nil
	}
	var u UPID
	if err == nil {
		u, err = ParseUPID(s)
	}
	if err != nil {
		return UPID{}, &Error{Kind: ErrUnknownOutcome, Method: method, Path: path, Status: http.StatusOK, Err: c.opts.Token.hide(err)}
	}
	return u, nil
}
