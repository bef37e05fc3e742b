// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// encodeText is the form in which PVE keeps one line of a description:
// control and non-ASCII bytes, ':' and '%' as %XX.
func encodeText(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !plainRune(r) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plainRune(rune(c)) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}

func plainRune(r rune) bool { return r >= 0x20 && r <= 0x7e && r != ':' && r != '%' }

// decodeText undoes encodeText. A '%' that is not followed by two hex digits
// stays; bytes that are no UTF-8 become the replacement character.
func decodeText(s string) string {
	if strings.IndexByte(s, '%') < 0 && utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// trimSpaceRight cuts trailing white space of every script, as PVE does to the
// description of a virtual machine.
func trimSpaceRight(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }

func isBlank(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

// trimBlank cuts ASCII white space at both ends.
func trimBlank(s string) string {
	for len(s) > 0 && isBlank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// splitList is how PVE takes a list apart: at commas, semicolons, NUL and
// white space; empty items do not count.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool {
		return r == ',' || r == ';' || r == 0 || (r < 0x80 && isBlank(byte(r)))
	})
}

// splitLines is the text's lines without trailing empty ones.
func splitLines(s string) []string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
