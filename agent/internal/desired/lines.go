// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// scanLines returns the line of every key and list item of a TOML document, by
// path (see keyPath). It reads the structure only and leaves it to the library
// to say what is wrong with a document: of one that is not well formed it reads
// as much as it understands.
func scanLines(text string) (map[string]int, *scanStop) {
	s := &scanner{text: text, line: 1, lines: map[string]int{}, last: map[string]int{}}
	s.document()
	return s.lines, s.stop
}

// scanStop is why a scan ended early.
type scanStop struct {
	line int
	// wrong is set if the document is beyond our bounds.
	wrong string
	// safe is how much of the text may be handed to the library: what was
	// scanned and a little more, for the library to see what is wrong.
	safe int
}

// slack is how far beyond the end of a scan the library may read. Whatever
// stands there is too short to hurt.
const slack = 512

// keyPath is the path of a key below a table. The separators cannot be part of
// a key that means anything.
func keyPath(path, key string) string { return path + "\x00" + key }

// itemPath is the path of an item of a list.
func itemPath(path string, i int) string { return path + "\x01" + strconv.Itoa(i) }

// scanner walks over a TOML text.
type scanner struct {
	text  string
	pos   int
	line  int
	lines map[string]int
	last  map[string]int // path of an array of tables: index of its last item
	stop  *scanStop
}

// place is a path with the number of its parts.
type place struct {
	path  string
	depth int
}

func (s *scanner) document() {
	var base place
	for s.blank(); s.stop == nil && s.pos < len(s.text); s.blank() {
		if s.peek() == '[' {
			base = s.header()
		} else {
			s.pair(base)
		}
		s.endOfLine()
	}
}

// fail ends the scan. With an empty wrong the library has the say.
func (s *scanner) fail(wrong string) {
	if s.stop != nil {
		return
	}
	safe := min(len(s.text), s.pos+slack)
	for safe < len(s.text) && !utf8.RuneStart(s.text[safe]) {
		safe++
	}
	s.stop = &scanStop{line: s.line, wrong: wrong, safe: safe}
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// next consumes a byte and keeps the line count.
func (s *scanner) next() byte {
	c := s.peek()
	if c == '\n' {
		s.line++
	}
	s.pos++
	return c
}

// accept consumes c if it comes next.
func (s *scanner) accept(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.next()
		return true
	}
	return false
}

// want consumes c or ends the scan.
func (s *scanner) want(c byte) {
	if !s.accept(c) {
		s.fail("")
	}
}

func (s *scanner) spaces() {
	for s.accept(' ') || s.accept('\t') {
	}
}

func (s *scanner) comment() {
	if s.peek() != '#' {
		return
	}
	for s.pos < len(s.text) && s.peek() != '\n' {
		s.next()
	}
}

// blank skips white space, line ends and comments.
func (s *scanner) blank() {
	for s.pos < len(s.text) && s.stop == nil {
		s.spaces()
		s.comment()
		if !s.accept('\n') {
			return
		}
	}
}

func (s *scanner) endOfLine() {
	s.spaces()
	s.comment()
	if s.stop == nil && s.pos < len(s.text) {
		s.want('\n')
	}
}

// header reads [a.b] or [[a.b]] and returns the place of what follows.
func (s *scanner) header() place {
	line := s.line
	s.want('[')
	array := s.accept('[')
	parts := s.dotted()
	s.want(']')
	if array {
		s.want(']')
	}
	if s.stop != nil {
		return place{}
	}
	var at place
	for i, part := range parts {
		at = s.child(at, part)
		s.note(at, line, i == len(parts)-1)
		if n, ok := s.last[at.path]; ok && i < len(parts)-1 {
			at.path = itemPath(at.path, n)
		}
	}
	if array {
		at = s.nextItem(at, line)
	}
	return at
}

// nextItem starts a new item of an array of tables.
func (s *scanner) nextItem(at place, line int) place {
	n, ok := s.last[at.path]
	if ok {
		n++
	}
	s.last[at.path] = n
	at.path = itemPath(at.path, n)
	s.note(at, line, true)
	return at
}

// pair reads "a.b = value".
func (s *scanner) pair(base place) {
	line := s.line
	parts := s.dotted()
	s.want('=')
	s.spaces()
	at := base
	for i, part := range parts {
		at = s.child(at, part)
		s.note(at, line, i == len(parts)-1)
	}
	if s.stop == nil {
		s.value(at)
	}
}

// note keeps the line of a path: where it is defined, and until that is seen
// where it is first mentioned.
func (s *scanner) note(at place, line int, defines bool) {
	if _, seen := s.lines[at.path]; !seen || defines {
		s.lines[at.path] = line
	}
}

// child goes one key deeper, within bounds.
func (s *scanner) child(at place, part string) place {
	if err := checkKey(part); err != nil {
		s.fail(err.Error())
	}
	return s.deeper(place{keyPath(at.path, part), at.depth + 1})
}

func (s *scanner) deeper(at place) place {
	if at.depth > maxDepth {
		s.fail(errDeep.Error())
	}
	return at
}

// dotted reads a dotted key with the spaces around it. It stops at maxDepth
// parts.
func (s *scanner) dotted() []string {
	var parts []string
	for s.stop == nil {
		s.spaces()
		parts = append(parts, s.key())
		s.spaces()
		if !s.accept('.') {
			break
		}
		if len(parts) > maxDepth {
			s.fail(errDeep.Error())
		}
	}
	return parts
}

// key reads one bare or quoted part of a key.
func (s *scanner) key() string {
	start := s.pos
	switch s.peek() {
	case '"':
		s.quoted('"')
		if s.stop != nil {
			return ""
		}
		return unescape(s.text[start+1 : s.pos-1])
	case '\'':
		s.quoted('\'')
		if s.stop != nil {
			return ""
		}
		return s.text[start+1 : s.pos-1]
	}
	for s.pos < len(s.text) && !strings.ContainsRune(" \t\n.=[]{},#\"'", rune(s.peek())) {
		s.next()
	}
	if s.pos == start {
		s.fail("")
	}
	return s.text[start:s.pos]
}

// quoted skips a one-line string.
func (s *scanner) quoted(quote byte) {
	s.next()
	for s.pos < len(s.text) && s.peek() != '\n' {
		c := s.next()
		if c == quote {
			return
		}
		if c == '\\' && quote == '"' && s.pos < len(s.text) {
			s.next()
		}
	}
	s.fail("")
}

// value skips a value and notes what is inside.
func (s *scanner) value(at place) {
	if s.stop != nil {
		return
	}
	switch c := s.peek(); c {
	case '{':
		s.inline(at)
	case '[':
		s.array(at)
	case '"', '\'':
		if strings.HasPrefix(s.text[s.pos:], strings.Repeat(string(c), 3)) {
			s.longString(c)
		} else {
			s.quoted(c)
		}
	default:
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\n", rune(s.peek())) {
			s.next()
		}
	}
}

// longString skips a string in three quotes. It may end in up to two quotes of
// its own.
func (s *scanner) longString(quote byte) {
	end := strings.Repeat(string(quote), 3)
	s.pos += 3
	for !strings.HasPrefix(s.text[s.pos:], end) {
		c := s.next()
		if c == '\\' && quote == '"' && s.pos < len(s.text) {
			s.next()
		}
		if s.pos >= len(s.text) {
			s.pos = len(s.text)
			s.fail("")
			return
		}
	}
	s.pos += 3
	for range 2 {
		s.accept(quote)
	}
}

// inline reads an inline table; line ends and a last comma are allowed in it.
func (s *scanner) inline(at place) {
	s.want('{')
	for s.blank(); s.stop == nil && !s.accept('}'); s.blank() {
		s.pair(at)
		s.blank()
		if !s.accept(',') && s.peek() != '}' {
			s.fail("")
		}
	}
}

func (s *scanner) array(at place) {
	s.want('[')
	i := 0
	for s.blank(); s.stop == nil && !s.accept(']'); s.blank() {
		if i == maxItems {
			s.fail(errLong.Error())
		}
		item := s.deeper(place{itemPath(at.path, i), at.depth + 1})
		s.note(item, s.line, true)
		s.value(item)
		s.blank()
		if !s.accept(',') && s.peek() != ']' {
			s.fail("")
		}
		i++
	}
}

// unescape undoes the escapes of a basic string. What it does not know it
// leaves as it is: the library refuses that document.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if n, ok := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]; ok && i+n < len(s) {
			if r, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32); err == nil {
				b.WriteRune(rune(r))
			}
			i += n
			continue
		}
		if j := strings.IndexByte(`btnfre"\`, s[i]); j >= 0 {
			b.WriteByte("\b\t\n\f\r\x1b\"\\"[j])
			continue
		}
		fmt.Fprintf(&b, `\%c`, s[i])
	}
	return b.String()
}
