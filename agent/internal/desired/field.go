// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// The bounds of a value.
const (
	maxText  = 65536 // bytes of a string
	maxItems = 1024  // items of a list
)

// field is one key of a document while it is read: its value, its place, and
// where to report what is wrong with it.
type field struct {
	*node
	report func(Problem)
	guest  guest.VMID // 0 outside of a guest
	key    string     // path below the guest or the top, with dots
	name   string     // last part of key
}

// fail reports what is wrong with f.
func (f field) fail(wrong, allowed, do string) {
	f.report(Problem{Line: f.line, Guest: f.guest, Key: f.key, Wrong: wrong, Allowed: allowed, Do: do})
}

// wrongKind reports that f does not hold what it should.
func (f field) wrongKind(want, do string) {
	f.fail("holds "+f.kind(), "want "+want, do)
}

// members lists the keys of a table in document order.
func (f field) members() ([]field, bool) {
	t, ok := f.val.(*table)
	if !ok {
		f.wrongKind("a table", "")
		return nil, false
	}
	out := make([]field, len(t.keys))
	for i, name := range t.keys {
		out[i] = f.member(name, t.m[name])
	}
	return out, true
}

func (f field) member(name string, n *node) field {
	m := field{node: n, report: f.report, guest: f.guest, name: name, key: printable(name)}
	if f.key != "" {
		m.key = f.key + "." + m.key
	}
	return m
}

// printable keeps a key from breaking a message up.
func printable(key string) string {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
		return fmt.Sprintf("%q", key)
	}
	return key
}

// unknown reports a key that has no meaning here.
func (f field) unknown(known []string) {
	if near := nearest(f.name, known); near != "" {
		f.fail("unknown key", "", "did you mean "+near+"?")
		return
	}
	f.fail("unknown key", "known here: "+strings.Join(known, ", "), "")
}

// text reads a string that is not empty.
func (f field) text() (string, bool) {
	s, ok := f.val.(string)
	if !ok {
		f.wrongKind("a string", "")
		return "", false
	}
	wrong, do := badText(s, f.name)
	if s == "" && f.guest == 0 {
		do = "leave the key out"
	}
	if wrong != "" {
		f.fail(wrong, "", do)
	}
	return s, wrong == ""
}

// badText says what makes a string unfit for a key. PVE separates the items of
// env by NUL; everywhere else control characters are accidents.
func badText(s, key string) (wrong, do string) {
	control := func(r rune) bool {
		allowed := r == '\n' || r == '\t' || r == '\r' || r == 0 && key == "env"
		return unicode.IsControl(r) && !allowed
	}
	switch {
	case s == "":
		return "is empty", "leave the key out, or name it in delete to have it removed"
	case len(s) > maxText:
		return fmt.Sprintf("holds %d bytes, at most %d are allowed", len(s), maxText), ""
	case strings.ContainsFunc(s, control):
		return "holds a control character", "remove it"
	case strings.ContainsRune(s, unicode.ReplacementChar):
		return "holds U+FFFD, the mark of text that was damaged on its way", "write the text anew"
	}
	return "", ""
}

// textLine reads a string of one line without blanks around it.
func (f field) textLine() (string, bool) {
	s, ok := f.text()
	if !ok {
		return "", false
	}
	wrong := badLine(s)
	if wrong != "" {
		f.fail(wrong, "", "remove it")
	}
	return s, wrong == ""
}

func badLine(s string) string {
	switch {
	case strings.ContainsAny(s, "\n\r"):
		return "holds a line break"
	case strings.TrimSpace(s) != s:
		return "has blanks around it, which PVE does not keep"
	}
	return ""
}

// word reads one of a few words.
func (f field) word(allowed ...string) (string, bool) {
	want := "want " + orList(allowed)
	s, ok := f.val.(string)
	if !ok {
		f.wrongKind(strings.TrimPrefix(want, "want "), "")
		return "", false
	}
	if slices.Contains(allowed, s) {
		return s, true
	}
	do := ""
	if near := nearest(s, allowed); near != "" {
		do = fmt.Sprintf("did you mean %q?", near)
	}
	f.fail(quote(s)+" is not known", want, do)
	return "", false
}

// orList writes "a", "b" or "c".
func orList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	last := len(quoted) - 1
	if last < 1 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// quote shows a value in a message, cut if it is long.
func quote(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:57]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// words reads a list of strings without repetition; fold ignores letter case.
func (f field) words(fold bool) ([]field, bool) {
	list, ok := f.val.([]*node)
	if !ok {
		f.wrongKind("a list of strings", "")
		return nil, false
	}
	if len(list) > maxItems {
		f.fail(fmt.Sprintf("holds %d items, at most %d are allowed", len(list), maxItems), "", "")
		return nil, false
	}
	seen := map[string]bool{}
	out := make([]field, 0, len(list))
	for i, n := range list {
		item := field{node: n, report: f.report, guest: f.guest, key: fmt.Sprintf("%s[%d]", f.key, i)}
		s, good := item.textLine()
		same := s
		if fold {
			same = strings.ToLower(s)
		}
		if good && seen[same] {
			item.fail(quote(s)+" is in the list twice", "", "remove one")
			good = false
		}
		ok = ok && good
		seen[same] = true
		item.name = s
		out = append(out, item)
	}
	return out, ok
}

// duration reads "60s": a Go duration of whole seconds.
func (f field) duration(least, most time.Duration) (time.Duration, bool) {
	want := fmt.Sprintf("want whole seconds from %s to %s with a unit, as in \"90s\" or \"5m\"",
		shortDuration(least), shortDuration(most))
	s, ok := f.val.(string)
	if !ok {
		f.wrongKind(strings.TrimPrefix(want, "want "), "")
		return 0, false
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most || d%time.Second != 0 {
		f.fail(quote(s)+" is not allowed", want, "")
		return 0, false
	}
	return d, true
}

// shortDuration writes "24h", where String has "24h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// whole reads a whole number.
func (f field) whole(least, most int64) (int64, bool) {
	i, ok := f.val.(int64)
	want := fmt.Sprintf("a whole number from %d to %d", least, most)
	if !ok {
		f.wrongKind(want, "")
		return 0, false
	}
	if i < least || i > most {
		f.fail(fmt.Sprintf("%d is out of range", i), "want "+want, "")
		return 0, false
	}
	return i, true
}

// flag reads a boolean as PVE writes it.
func (f field) flag() (string, bool) {
	b, ok := f.val.(bool)
	if !ok {
		f.wrongKind("true or false", "")
		return "", false
	}
	return flagText(b), true
}

func flagText(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// moment reads a point in time: a TOML date-time with its zone, or the same as
// a string.
func (f field) moment() (time.Time, bool) {
	const want = "a date and time with its zone, as in 2027-01-01T00:00:00Z"
	t, ok := f.val.(time.Time)
	if s, isText := f.val.(string); isText {
		var err error
		t, err = time.Parse(time.RFC3339, s)
		ok = err == nil
	}
	switch {
	case !ok && f.kind() == "a string":
		f.fail(quote(f.val.(string))+" is not a time", "want "+want, "")
	case !ok:
		f.wrongKind(want, "")
	case localTime(t):
		f.fail("has no time zone", "want "+want, "")
		ok = false
	case t.UTC().Year() < 1970 || t.UTC().Year() > 9999:
		f.fail("is out of range", "want a year from 1970 to 9999", "")
		ok = false
	}
	return t.UTC(), ok
}

// localTime reports whether t comes from a TOML value without a zone. The
// library marks those by the location's name.
func localTime(t time.Time) bool {
	return strings.HasSuffix(t.Location().String(), "-local")
}
