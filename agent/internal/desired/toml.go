// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"errors"
	"strings"

	"github.com/BurntSushi/toml"
)

// parseTOML reads a TOML document. The library decides what is valid TOML and
// what the values are; scanLines says where they stand, and goes first because
// the library has no bounds (a small file of nested inline tables takes it all
// memory there is).
func parseTOML(text string) (*node, *syntaxError) {
	lines, stop := scanLines(text)
	if stop != nil && stop.wrong != "" {
		return nil, &syntaxError{line: stop.line, wrong: stop.wrong}
	}
	if stop != nil {
		text = text[:stop.safe]
	}
	m, err := decodeTOML(text)
	if err != nil {
		bad := tomlError(err)
		if bad.line == 0 && stop != nil { // the library loses it at the end of a file
			bad.line = stop.line
		}
		return nil, bad
	}
	if stop != nil {
		return nil, &syntaxError{line: stop.line, wrong: "not valid TOML"}
	}
	return tree{lines}.node("", 1, m), nil
}

// decodeTOML calls the library, whose parser panics where it finds a mistake of
// its own. A document must not be able to stop the agent.
func decodeTOML(text string) (m map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the TOML library cannot read it")
		}
	}()
	_, err = toml.Decode(text, &m)
	return m, err
}

// tomlError words the library's error. Its message quotes pieces of the file;
// beside a key that may hold a secret it is left out.
func tomlError(err error) *syntaxError {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		return &syntaxError{wrong: "not valid TOML: " + err.Error()}
	}
	e := &syntaxError{line: pe.Position.Line, wrong: "not valid TOML: " + pe.Message}
	key := pe.LastKey[strings.LastIndexByte(pe.LastKey, '.')+1:]
	if soundsSecret(key) {
		e.wrong = "not valid TOML beside the key " + key
	}
	if strings.HasPrefix(pe.Message, "expected value but found") {
		e.do = "put text in quotes"
	}
	return e
}

// tree turns the library's maps into nodes.
type tree struct{ lines map[string]int }

// node turns v into a node; line is that of its parent, for want of a better.
func (t tree) node(path string, line int, v any) *node {
	if l, ok := t.lines[path]; ok {
		line = l
	}
	n := &node{line: line, val: v}
	switch v := v.(type) {
	case map[string]any:
		n.val = t.table(path, line, v)
	case []map[string]any:
		list := make([]*node, len(v))
		for i := range v {
			list[i] = t.node(itemPath(path, i), line, v[i])
		}
		n.val = list
	case []any:
		list := make([]*node, len(v))
		for i := range v {
			list[i] = t.node(itemPath(path, i), line, v[i])
		}
		n.val = list
	}
	return n
}

func (t tree) table(path string, line int, m map[string]any) *table {
	tab := newTable()
	for k, v := range m {
		tab.keys = append(tab.keys, k)
		tab.m[k] = t.node(keyPath(path, k), line, v)
	}
	tab.sort()
	return tab
}
