// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a file. It never holds a value that may be a
// secret.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 = the whole file
	Key  string `json:"key,omitempty"`  // with dots; empty = the whole file
	// Wrong says what was wrong, Allowed what is allowed. Wrong is never empty.
	Wrong   string `json:"wrong"`
	Allowed string `json:"allowed,omitempty"`
}

// Error is the form "file:line: key: wrong; want allowed".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.Wrong)
	if p.Allowed != "" {
		b.WriteString("; want " + p.Allowed)
	}
	return b.String()
}

// Problems is everything wrong with a file, in the order of its lines.
type Problems []Problem

// Error is one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}
