// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"net/http"
	"regexp"
	"strings"
)

// wording is one of PVE's texts and what it means.
type wording struct {
	kind    Kind
	pattern *regexp.Regexp
}

// wordings are tried in order. PVE reports nearly every refusal as a 500, so
// the text is all there is; a text of unknown meaning is ErrOther.
var wordings = []wording{
	// This lock is taken after the worker has begun: the call fails, the task
	// runs.
	{ErrUnknownOutcome, regexp.MustCompile(`can't lock file '/var/log/pve/tasks/\.active\.lock'`)},
	{ErrUnknownOutcome, regexp.MustCompile(`^(?:unexpected status|unable to get last line from task log.*)$`)},
	{ErrLocked, lockedPattern},
	{ErrNoQuorum, regexp.MustCompile(`no quorum|'/etc/pve/[^']*'.*(?: - | failed: )(?:Permission denied|Read-only file system|Input/output error|No space left on device)`)},
	{ErrBusy, regexp.MustCompile(`can't lock file '|got lock request timeout|Failed to obtain guest migration lock|can't acquire lock`)},
	{ErrChanged, regexp.MustCompile(`detected modified configuration|checksum mismatch \(file change by other user\?\)`)},
	{ErrNoGuest, regexp.MustCompile(`^Configuration file 'nodes/[^/']+/(?:lxc|qemu-server)/\d+\.conf' does not exist`)},
	{ErrRunning, regexp.MustCompile(`^(?:CT|VM) \d+ already running`)},
	{ErrNotRunning, regexp.MustCompile(`^(?:CT|VM) \d+ not running`)},
	{ErrExists, regexp.MustCompile(`^(?:unable to (?:create|restore) (?:CT|VM) \d+[ :].*|(?:CT|VM) \d+ )already exists|^(?:clone failed: )?close \(rename\) atomic file '/etc/pve/[^']*\.conf' failed: File exists`)},
	{ErrTransient, regexp.MustCompile(`failed to read from command socket|Connection reset by peer|ipcc_send_rec\[\d+\] failed|Transport endpoint is not connected|fork failed: `)},
	// No worker began.
	{ErrTransient, regexp.MustCompile(`got no worker upid|starting worker failed|unable to fork worker`)},
	{ErrUnreachable, regexp.MustCompile(`^hostname lookup '.*' failed`)},
	{ErrDenied, regexp.MustCompile(`(?i)^only root can `)},
	{ErrNotFound, regexp.MustCompile(`does not exist`)},
}

var lockedPattern = regexp.MustCompile(`\b(?:CT|VM) is locked \(([a-z-]+)\)`)

// kindOfWords is the meaning of an error text of a call or of a task.
func kindOfWords(words string) Kind {
	words = strings.TrimSpace(words)
	for _, w := range wordings {
		if w.pattern.MatchString(words) {
			return w.kind
		}
	}
	return ErrOther
}

// lockOf is the lock an error text names, "" if none.
func lockOf(words string) string {
	if m := lockedPattern.FindStringSubmatch(words); m != nil {
		return m[1]
	}
	return ""
}

// kindOf is the kind of an answer that is not a success.
func kindOf(method string, status int, words string, params map[string]string) Kind {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusBadRequest:
		return kindOfParams(params)
	case status == http.StatusNotImplemented:
		return ErrUnsupported
	case status == 595:
		return ErrUnreachable
	case status >= 596 && status <= 599:
		return lost(method)
	case status == http.StatusBadGateway || status == http.StatusGatewayTimeout:
		return lost(method) // not PVE's: of a proxy in front of it
	}
	k := kindOfWords(words)
	if k == ErrUnknownOutcome {
		return lost(method)
	}
	return k
}

// lost is the kind of a call whose answer is missing after it was sent.
func lost(method string) Kind {
	if method == http.MethodGet {
		return ErrTransient
	}
	return ErrUnknownOutcome
}

// kindOfParams tells the parameter errors that are no mistake of the caller.
func kindOfParams(params map[string]string) Kind {
	switch {
	case strings.Contains(params["upid"], "no such task"):
		return ErrNoTask
	case strings.Contains(params["vmid"], "already exists"):
		return ErrExists
	}
	return ErrInvalid
}
