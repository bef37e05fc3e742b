// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"sort"
	"strings"
)

// Error is PVE's refusal of a request.
type Error struct {
	Status int // HTTP status: 400, 403 or 500
	// Message is the whole text, without the newline PVE ends it with. The
	// HTTP reason phrase is its first line: see Reason.
	Message string
	// Errors maps a parameter to what is wrong with it, as the body's "errors"
	// has it (values often end in a newline); nil if the body has none.
	Errors map[string]string
}

// Reason is the text PVE puts in the status line.
func (e *Error) Reason() string {
	line, _, _ := strings.Cut(e.Message, "\n")
	return line
}

// Error implements error.
func (e *Error) Error() string {
	keys := make([]string, 0, len(e.Errors))
	for k := range e.Errors {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", e.Status, e.Message)
	for _, k := range keys {
		fmt.Fprintf(&b, "; %s: %s", k, strings.TrimSpace(e.Errors[k]))
	}
	return b.String()
}

const verificationFailed = "Parameter verification failed."

// paramError is PVE's answer to parameters that are wrong in themselves.
func paramError(errs map[string]string) *Error {
	return &Error{Status: 400, Message: verificationFailed, Errors: errs}
}

// oneParam is paramError for a single parameter.
func oneParam(key, text string) *Error {
	return paramError(map[string]string{key: text})
}

// denied is PVE's answer to a missing privilege.
func denied(what string) *Error {
	return &Error{Status: 403, Message: "Permission check failed (" + what + ")"}
}

// died is PVE's answer when its code gives up.
func died(format string, args ...any) *Error {
	return &Error{Status: 500, Message: fmt.Sprintf(format, args...)}
}
