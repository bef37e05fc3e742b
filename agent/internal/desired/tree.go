// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of a document. They are far above what a host needs and far below
// what could hurt the agent.
const (
	maxDepth = 8  // keys and list items above a value
	maxKey   = 64 // bytes of one part of a key
)

// node is one value of a document with the line it stands on. val is one of
// string, int64, float64, bool, time.Time, *table, []*node, or nil (JSON null).
type node struct {
	line int
	val  any
}

// table is a TOML table or JSON object.
type table struct {
	keys []string // in document order
	m    map[string]*node
}

func newTable() *table { return &table{m: map[string]*node{}} }

// sort brings the keys into document order.
func (t *table) sort() {
	slices.SortFunc(t.keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.m[a].line, t.m[b].line), strings.Compare(a, b))
	})
}

// kind names what a node holds in words of both formats.
func (n *node) kind() string {
	switch v := n.val.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a time"
	case *table:
		return "a table"
	case []*node:
		return "a list"
	case badNumber:
		return string(v)
	}
	return "null"
}

// badNumber is a JSON number that is no int64 and no float64; it holds why.
type badNumber string

// syntaxError is a file that cannot be read as its format.
type syntaxError struct {
	line  int
	wrong string
	do    string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.wrong) }

// parseFile reads a file of either format into a tree.
func parseFile(name string, data []byte) (*node, *syntaxError) {
	text, err := plainText(data)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasSuffix(name, ".toml"):
		return parseTOML(text)
	case strings.HasSuffix(name, ".json"):
		return parseJSON(text)
	}
	return nil, &syntaxError{
		wrong: "not known whether this is TOML or JSON",
		do:    "let the file's name end in .toml or .json",
	}
}

// plainText returns data as UTF-8 without a byte order mark and with line feeds
// for line ends. A file without anything in it is what an interrupted write
// leaves behind: it must not read as "manage nothing".
func plainText(data []byte) (string, *syntaxError) {
	if hasUTF16Mark(data) {
		return "", &syntaxError{line: 1, wrong: "the file is UTF-16", do: "save it as UTF-8"}
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if strings.Trim(text, " \t\r\n\x00") == "" {
		return "", &syntaxError{
			wrong: "the file is empty, as after an interrupted write",
			do:    "to manage nothing, remove the file or leave a comment in it",
		}
	}
	if line := invalidUTF8(text); line > 0 {
		return "", &syntaxError{line: line, wrong: "not valid UTF-8", do: "save the file as UTF-8"}
	}
	return strings.ReplaceAll(text, "\r\n", "\n"), nil
}

func hasUTF16Mark(data []byte) bool {
	return len(data) >= 2 && (data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff)
}

// invalidUTF8 returns the line of the first invalid byte, 0 if there is none.
func invalidUTF8(s string) int {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			return 1 + strings.Count(s[:i], "\n")
		}
		i += n
	}
	return 0
}

// The ways a document can be beyond bounds.
var (
	errDeep = fmt.Errorf("nested deeper than %d keys", maxDepth)
	errLong = fmt.Errorf("a list of more than %d items", maxItems)
)

// checkKey refuses a part of a key that no document needs.
func checkKey(part string) error {
	if len(part) > maxKey {
		return fmt.Errorf("a key of %d bytes (at most %d)", len(part), maxKey)
	}
	return nil
}
