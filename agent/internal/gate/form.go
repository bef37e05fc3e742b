// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a signed text and of its lines (without the newline). An index
// lists files and may be longer.
const (
	maxText  = 64 << 10
	maxIndex = 1 << 20
	maxLine  = 1000
)

// field is a line that a form may have. The order of a form's fields is the
// order of its lines.
type field struct {
	key            string
	many, optional bool
}

type line struct{ key, value string }

// form is a signed text taken apart. Its getters keep the first refusal.
type form struct {
	lines []line
	err   error
}

// readForm takes text apart: a header line, then "key: value" lines in the
// order of fields. Each way to be malformed has a reason of its own.
func readForm(text []byte, limit int, header string, fields []field) (*form, error) {
	if err := checkBytes(text, limit); err != nil {
		return nil, err
	}
	raw := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if raw[0] != header {
		return nil, refuse(ErrTextHeader, "want %q", header)
	}
	f := &form{}
	for i, s := range raw[1:] {
		key, value, ok := strings.Cut(s, ": ")
		if !ok || value == "" || len(s) > maxLine || strings.TrimSpace(value) != value {
			return nil, refuse(ErrTextLine, "line %d", i+2)
		}
		f.lines = append(f.lines, line{key, value})
	}
	return f, f.checkKeys(fields)
}

func checkBytes(text []byte, limit int) error {
	switch {
	case len(text) > limit:
		return refuse(ErrTextLong, "%d bytes, at most %d", len(text), limit)
	case bytes.ContainsRune(text, '\r'):
		return refuse(ErrTextCRLF, "line %d", 1+bytes.Count(text[:bytes.IndexByte(text, '\r')], []byte("\n")))
	case !bytes.HasSuffix(text, []byte("\n")):
		return refuse(ErrTextCut, "%d bytes", len(text))
	case bytes.HasSuffix(text, []byte("\n\n")):
		return refuse(ErrTextTrailing, "%d bytes", len(text))
	}
	if i := slices.IndexFunc(text, func(b byte) bool { return b != '\n' && (b < ' ' || b > '~') }); i >= 0 {
		return refuse(ErrTextChar, "byte %d is 0x%02x", i, text[i])
	}
	return nil
}

func (f *form) checkKeys(fields []field) error {
	seen := map[string]int{}
	for i, l := range f.lines {
		at := slices.IndexFunc(fields, func(x field) bool { return x.key == l.key })
		if at < 0 {
			return refuse(ErrTextUnknown, "line %d: %q", i+2, l.key)
		}
		if seen[l.key]++; seen[l.key] > 1 && !fields[at].many {
			return refuse(ErrTextRepeated, "line %d: %q", i+2, l.key)
		}
	}
	for _, x := range fields {
		if seen[x.key] == 0 && !x.optional {
			return refuse(ErrTextMissing, "%q", x.key)
		}
	}
	pos := func(key string) int { return slices.IndexFunc(fields, func(x field) bool { return x.key == key }) }
	for i := 1; i < len(f.lines); i++ {
		if pos(f.lines[i].key) < pos(f.lines[i-1].key) {
			return refuse(ErrTextOrder, "line %d: %q", i+2, f.lines[i].key)
		}
	}
	return nil
}

// all are the values of a key, in order.
func (f *form) all(key string) []string {
	var out []string
	for _, l := range f.lines {
		if l.key == key {
			out = append(out, l.value)
		}
	}
	return out
}

// one is the value of a key, "" if it is not there.
func (f *form) one(key string) string {
	if v := f.all(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (f *form) bad(key, format string, args ...any) {
	if f.err == nil {
		f.err = prefix(refuse(ErrTextValue, format, args...), "%s", key)
	}
}

// token is a value of letters, digits and a few marks, at most 200 long.
func (f *form) token(key string) string {
	v := f.one(key)
	if !isToken(v) {
		f.bad(key, "%q is not a word of letters, digits and ._:@/+-", v)
	}
	return v
}

func isToken(s string) bool {
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:@/+-", r)
	})
}

// hex is a value of exactly n lower-case hexadecimal digits.
func (f *form) hex(key, v string, n int) string {
	if !isHex(v, n) {
		f.bad(key, "%q is not %d lower-case hexadecimal digits", v, n)
	}
	return v
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// number is a decimal number without sign or leading zero.
func (f *form) number(key, v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != v {
		f.bad(key, "%q is not a number", v)
	}
	return n
}

// timeForm is UTC in whole seconds, the only form of a time in a signed text.
const timeForm = "2006-01-02T15:04:05Z"

// time is the value of key; the zero time if the line is not there.
func (f *form) time(key string) time.Time {
	v := f.one(key)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(timeForm, v)
	if err != nil || t.Format(timeForm) != v {
		f.bad(key, "%q is not a time like 2026-01-02T15:04:05Z", v)
	}
	return t
}

// printer builds a signed text.
type printer struct{ strings.Builder }

func newPrinter(header string) *printer {
	p := &printer{}
	p.WriteString(header + "\n")
	return p
}

func (p *printer) add(key, value string) { p.WriteString(key + ": " + value + "\n") }

// addTime adds t, or nothing if t is zero.
func (p *printer) addTime(key string, t time.Time) {
	if !t.IsZero() {
		p.add(key, t.UTC().Format(timeForm))
	}
}

// Plain makes s fit for a line of a signed text: what is not printable ASCII
// is escaped, so that no character can look like another or hide.
func Plain(s string) string {
	q := strconv.QuoteToASCII(s)
	return strings.TrimSpace(strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`))
}

// dash prints what is not there.
const dash = "-"

func orDash(s string) string {
	if s == "" {
		return dash
	}
	return s
}

func fromDash(s string) string {
	if s == dash {
		return ""
	}
	return s
}
