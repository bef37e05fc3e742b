// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"unicode/utf8"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

func readFull(r io.Reader, b []byte) (int, error) { return io.ReadFull(r, b) }

// toUTF8 reads bytes that are not UTF-8 as Latin-1, as Perl does when it
// prints them.
func toUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// perlJSONError is what PVE's JSON parser says of a body that starts like an
// object and is none.
func perlJSONError(major int, body []byte) string {
	at, rest := 0, string(body)
	want := "malformed JSON string, neither tag, array, object, number, string or atom"
	if strings.HasPrefix(rest, "{") {
		at, rest, want = 1, rest[1:], `'"' expected`
	}
	if i := strings.IndexAny(rest, "}\n"); i >= 0 {
		rest = rest[:i]
	}
	if rest == "" {
		rest = "(end of string)"
	}
	line := 917
	if major >= 9 {
		line = 934
	}
	return fmt.Sprintf("%s, at character offset %d (before \"%s\") at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line %d.", want, at, rest, line)
}

// closeWrite lets the client read all of the answer before the connection
// goes.
func closeWrite(c net.Conn) {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite()
	}
}

// pathParams are the schema of a path's own parameters.
func pathParams(path string) []schema.Param {
	var out []schema.Param
	for seg := range strings.SplitSeq(path, "/") {
		if !strings.HasPrefix(seg, "{") {
			continue
		}
		name := strings.Trim(seg, "{}")
		p := schema.Param{Name: name, Required: true}
		if name == "vmid" {
			p.Type, p.Min, p.Max = schema.Integer, schema.F(100), schema.F(999999999)
		}
		out = append(out, p)
	}
	return out
}
