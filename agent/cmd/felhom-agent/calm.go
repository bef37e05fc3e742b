// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"
)

// calm writes for a terminal. Much of what is printed are the words of plugins,
// hubs and guests, and none of them may move the cursor, hide a line or set the
// clipboard of the admin who reads it: what would is shown as \x1b and so on.
type calm struct{ w io.Writer }

// shown is w, calm if it is a terminal.
func shown(w io.Writer) io.Writer {
	if isTerminal(w) {
		return calm{w}
	}
	return w
}

// plain is the terminal itself, for a program of the system's that wants to
// know whether it talks to one.
func plain(w io.Writer) io.Writer {
	if c, ok := w.(calm); ok {
		return c.w
	}
	return w
}

// ownColour is what style makes.
var ownColour = regexp.MustCompile("^\x1b\\[(0|1|2|31|32|33)m")

// Write implements io.Writer.
func (c calm) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p))
	for rest := p; len(rest) > 0; {
		if own := ownColour.Find(rest); own != nil {
			out, rest = append(out, own...), rest[len(own):]
			continue
		}
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 {
			out, rest = fmt.Appendf(out, "\\x%02x", rest[0]), rest[n:]
			continue
		}
		if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			out = fmt.Appendf(out, "\\x%02x", r)
		} else {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
