// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// The bounds of a manifest: the TOML library has none of its own.
const (
	maxManifest = 64 << 10 // bytes
	maxTOMLLine = 4 << 10  // bytes
	maxTOMLDots = 32       // in a line
	maxTOMLTabs = 128      // inline tables
)

// document is a TOML file on its way to being understood. It collects what is
// wrong, with file, line and key.
type document struct {
	file     string
	meta     toml.MetaData
	top      map[string]toml.Primitive
	problems []error
}

// parseTOML reads data. Nil means that it is not TOML, or beyond the bounds.
func parseTOML(file string, data []byte) (*document, error) {
	if line, wrong := beyondBounds(data); wrong != "" {
		return nil, fmt.Errorf("%s:%d: %s", file, line, wrong)
	}
	d := &document{file: file}
	var err error
	d.meta, err = toml.Decode(string(data), &d.top)
	var pe toml.ParseError
	if errors.As(err, &pe) {
		return nil, fmt.Errorf("%s:%d: not valid TOML: %s", file, pe.Position.Line, pe.Message)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not valid TOML: %w", file, err)
	}
	return d, nil
}

func beyondBounds(data []byte) (line int, wrong string) {
	if len(data) > maxManifest {
		return 1, fmt.Sprintf("the file has more than %d bytes", maxManifest)
	}
	if n := bytes.Count(data, []byte("{")); n > maxTOMLTabs {
		return 1, fmt.Sprintf("the file has %d inline tables, more than %d", n, maxTOMLTabs)
	}
	line = 1
	for text := range bytes.Lines(data) {
		switch {
		case len(text) > maxTOMLLine:
			return line, fmt.Sprintf("the line has more than %d bytes", maxTOMLLine)
		case bytes.Count(text, []byte(".")) > maxTOMLDots:
			return line, fmt.Sprintf("the line has more than %d dots", maxTOMLDots)
		case !utf8.Valid(text):
			return line, "not valid UTF-8"
		}
		line++
	}
	return 0, ""
}

// section is a table of a document.
type section struct {
	doc  *document
	path []string
	keys map[string]toml.Primitive
}

func (d *document) root() section { return section{doc: d, keys: d.top} }

// err is what was wrong, as one error.
func (d *document) err() error { return errors.Join(d.problems...) }

// wrong notes what is wrong with a key.
func (s section) wrong(key, format string, args ...any) {
	where := s.doc.file
	if line := s.line(key); line > 0 {
		where = fmt.Sprintf("%s:%d", where, line)
	}
	full := toml.Key(append(slices.Clone(s.path), key)).String()
	s.doc.problems = append(s.doc.problems, fmt.Errorf("%s: %s: %s", where, full, fmt.Sprintf(format, args...)))
}

// line is where a key stands. The library tells only when a value does not
// decode; for a table that has no header of its own, the first line in it is
// taken.
func (s section) line(key string) int {
	prim, ok := s.keys[key]
	if !ok {
		return 0
	}
	var pe toml.ParseError
	if errors.As(s.doc.meta.PrimitiveDecode(prim, &undecodable{}), &pe) && pe.Position.Line > 0 {
		return pe.Position.Line
	}
	first := 0
	if sub, ok := s.subsection(key); ok {
		for k := range sub.keys {
			if l := sub.line(k); l > 0 && (first == 0 || l < first) {
				first = l
			}
		}
	}
	return first
}

type undecodable struct{}

func (*undecodable) UnmarshalTOML(any) error { return errors.New("no") }

// value is a key's value: string, int64, float64, bool, time.Time, []any,
// []map[string]any or map[string]any; nil if the key is not there.
func (s section) value(key string) any {
	prim, ok := s.keys[key]
	if !ok {
		return nil
	}
	var v any
	if err := s.doc.meta.PrimitiveDecode(prim, &v); err != nil {
		return nil // not reached: any value decodes into any
	}
	return v
}

func (s section) subsection(key string) (section, bool) {
	sub := section{doc: s.doc, path: append(slices.Clone(s.path), key)}
	if _, ok := s.value(key).(map[string]any); !ok {
		return sub, false
	}
	return sub, s.doc.meta.PrimitiveDecode(s.keys[key], &sub.keys) == nil
}

// only notes every key that is not among known.
func (s section) only(known ...string) {
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		if !slices.Contains(known, key) {
			s.wrong(key, "no such key; known are %s", strings.Join(known, ", "))
		}
	}
}

// text is a string; "" if it is not there or wrong.
func (s section) text(key string) string {
	v := s.value(key)
	str, ok := v.(string)
	if v != nil && !ok {
		s.wrong(key, "want a string")
	}
	return str
}

// texts is a list of strings, or one string.
func (s section) texts(key string) []string {
	switch v := s.value(key).(type) {
	case nil:
		return nil
	case string:
		return []string{v}
	case []any:
		out := make([]string, 0, len(v))
		for _, item := range v {
			str, ok := item.(string)
			if !ok {
				s.wrong(key, "want a list of strings")
				return nil
			}
			out = append(out, str)
		}
		return out
	}
	s.wrong(key, "want a string or a list of strings")
	return nil
}

// number is a whole number from low to high; 0 if it is not there or wrong.
func (s section) number(key string, low, high int64) int {
	v := s.value(key)
	n, ok := v.(int64)
	if v != nil && (!ok || n < low || n > high) {
		s.wrong(key, "want a whole number from %d to %d", low, high)
		return 0
	}
	return int(n)
}

// table is a table, which is empty if it is not there or wrong.
func (s section) table(key string) section {
	if _, ok := s.keys[key]; !ok {
		return section{doc: s.doc, path: append(slices.Clone(s.path), key)}
	}
	sub, ok := s.subsection(key)
	if !ok {
		s.wrong(key, "want a table, once: [%s]", toml.Key(sub.path))
	}
	return sub
}

// textTable is a table of strings.
func (s section) textTable(key string) map[string]string {
	sub := s.table(key)
	if len(sub.keys) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(sub.keys)) {
		out[k] = sub.text(k)
	}
	return out
}
