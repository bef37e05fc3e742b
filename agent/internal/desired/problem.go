// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Problem is one thing wrong with a snapshot. It never holds the value of a
// secret key.
type Problem struct {
	// File is empty if the snapshot as a whole is meant.
	File string `json:"file,omitempty"`
	// Line counts from 1; 0 = the whole file.
	Line int `json:"line,omitempty"`
	// Guest is 0 if the problem is not about one guest.
	Guest guest.VMID `json:"guest,omitempty"`
	// Key is the path below the guest, or below the file's top, with dots.
	Key string `json:"key,omitempty"`
	// Wrong says what was wrong, Allowed what is allowed, Do what to do about
	// it. Wrong is never empty.
	Wrong   string `json:"wrong"`
	Allowed string `json:"allowed,omitempty"`
	Do      string `json:"do,omitempty"`
}

// String is the form "file:line: guest 101: key: wrong; allowed; do".
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Guest != 0 {
		fmt.Fprintf(&b, "guest %s: ", p.Guest)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Wrong)
	for _, s := range []string{p.Allowed, p.Do} {
		if s != "" {
			b.WriteString("; " + s)
		}
	}
	return b.String()
}

// oneLine keeps what others worded from breaking a message up.
func oneLine(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
		s = s[1 : len(s)-1]
	}
	return s
}

// Problems is the error Parse returns: everything wrong with a snapshot, in
// the order of files and lines.
type Problems []Problem

// Error has one problem per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds what one snapshot can make us report: the rest is
// counted.
const maxProblems = 500

// sorted returns ps in the order of files and lines, cut to maxProblems.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Key, b.Key),
		)
	})
	if rest := len(ps) - maxProblems; rest > 0 {
		ps = append(ps[:maxProblems:maxProblems], Problem{
			Wrong: fmt.Sprintf("and %d more problems", rest),
		})
	}
	return ps
}
