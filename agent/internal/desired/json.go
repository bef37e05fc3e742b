// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
)

// parseJSON reads a JSON document. A key twice in one object is an error, which
// the standard decoder would let pass.
func parseJSON(text string) (*node, *syntaxError) {
	d := &jsonReader{dec: json.NewDecoder(strings.NewReader(text)), text: text}
	d.dec.UseNumber()
	for i := range len(text) {
		if text[i] == '\n' {
			d.ends = append(d.ends, int64(i))
		}
	}
	n, err := d.value(0)
	if err == nil {
		if _, last := d.dec.Token(); last != io.EOF {
			err = fmt.Errorf("something follows the end of the document")
		}
	}
	if err != nil {
		return nil, d.failed(err)
	}
	if _, ok := n.val.(*table); !ok {
		return nil, &syntaxError{line: n.line, wrong: "not a JSON object but " + n.kind()}
	}
	return n, nil
}

// jsonReader builds a tree from a stream of tokens.
type jsonReader struct {
	dec  *json.Decoder
	text string
	ends []int64 // offsets of the line ends
}

// line is where the last token ended. No token spans lines.
func (d *jsonReader) line() int { return d.lineAt(d.dec.InputOffset()) }

func (d *jsonReader) lineAt(offset int64) int {
	return 1 + sort.Search(len(d.ends), func(i int) bool { return d.ends[i] >= offset })
}

// failed gives an error its line.
func (d *jsonReader) failed(err error) *syntaxError {
	var bad *syntaxError
	if errors.As(err, &bad) {
		return bad
	}
	line := d.line()
	var se *json.SyntaxError
	if errors.As(err, &se) {
		line = d.lineAt(max(se.Offset, 1))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		line, err = d.lineAt(int64(len(strings.TrimRight(d.text, "\n")))), errors.New("the document ends too early")
	}
	return &syntaxError{line: line, wrong: "not valid JSON: " + err.Error()}
}

// value reads the next value.
func (d *jsonReader) value(depth int) (*node, error) {
	tok, err := d.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &node{line: d.line(), val: tok}
	if depth > maxDepth {
		return nil, &syntaxError{line: n.line, wrong: errDeep.Error()}
	}
	switch v := tok.(type) {
	case json.Delim:
		if v == '{' {
			n.val, err = d.object(depth)
		} else {
			n.val, err = d.list(depth)
		}
	case json.Number:
		n.val = number(v)
	}
	return n, err
}

func (d *jsonReader) object(depth int) (*table, error) {
	tab := newTable()
	for d.dec.More() {
		tok, err := d.dec.Token()
		if err != nil {
			return nil, err
		}
		key, line := tok.(string), d.line()
		if err := checkKey(key); err != nil {
			return nil, &syntaxError{line: line, wrong: err.Error()}
		}
		if first, ok := tab.m[key]; ok {
			return nil, &syntaxError{
				line:  line,
				wrong: fmt.Sprintf("key %q was already given on line %d", key, first.line),
			}
		}
		n, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.line = line
		tab.keys = append(tab.keys, key)
		tab.m[key] = n
	}
	_, err := d.dec.Token()
	return tab, err
}

func (d *jsonReader) list(depth int) ([]*node, error) {
	list := []*node{}
	for d.dec.More() {
		n, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if len(list) == maxItems {
			return nil, &syntaxError{line: n.line, wrong: errLong.Error()}
		}
		list = append(list, n)
	}
	_, err := d.dec.Token()
	return list, err
}

// number reads a JSON number as TOML would: whole numbers and fractions are two
// kinds.
func number(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if !strings.ContainsAny(n.String(), ".eE") {
		return badNumber("a number beyond 64 bits")
	}
	if f, err := strconv.ParseFloat(n.String(), 64); err == nil {
		return f
	}
	return badNumber("a number that is too large")
}
