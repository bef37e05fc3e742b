// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	t.Parallel()
	const doc = `l1 = 1 # l9 = 9
"l2 \u00e9\x41\e" = "# = [ { \" \\"
'l3"#' = 'c:\'
l4.x . "y.z" = [1, # one
  [2, "]"], # l5
  { k = 3, # l6
    m.n = """
] } = "" \"""" }, # l7
  '''
' '' ]''''',
]

[ t12 ] # [x]
  k = 1979-05-27 07:32:00
[t12 . sub.deep]
k = {}
[[arr]]
k = 1
[arr.in]
k = 1
[[arr]]
k = 2
[t12.sub]
k = 1
[late.x]
k=1
[late]
k=1
j=-inf`
	want := map[string]int{
		"l1": 1, "l2 éA\x1b": 2, `l3"#`: 3,
		"l4": 4, "l4/x": 4, "l4/x/y.z": 4, "l4/x/y.z[0]": 4, "l4/x/y.z[1]": 5, "l4/x/y.z[1][0]": 5, "l4/x/y.z[1][1]": 5,
		"l4/x/y.z[2]": 6, "l4/x/y.z[2]/k": 6, "l4/x/y.z[2]/m": 7, "l4/x/y.z[2]/m/n": 7, "l4/x/y.z[3]": 9,
		"t12": 13, "t12/k": 14, "t12/sub": 23, "t12/sub/deep": 15, "t12/sub/deep/k": 16, "t12/sub/k": 24,
		"arr": 21, "arr[0]": 17, "arr[0]/k": 18, "arr[0]/in": 19, "arr[0]/in/k": 20, "arr[1]": 21, "arr[1]/k": 22,
		"late": 27, "late/x": 25, "late/x/k": 26, "late/k": 28, "late/j": 29,
	}
	root, bad := parseTOML(doc)
	if bad != nil {
		t.Fatal(bad)
	}
	got := map[string]int{}
	flatten(got, "", root)
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("lines (-got +want):\n%s", d)
	}
}

func TestLinesJSON(t *testing.T) {
	t.Parallel()
	doc := strings.Join([]string{
		`{ "a": 1, "b":`, `  {"c":`, ``, `"x"`, `}, "d": [`, `1,`, `{`, `"e"`, `:`, `null } ] }`,
	}, "\n")
	root, bad := parseJSON(doc)
	if bad != nil {
		t.Fatal(bad)
	}
	got := map[string]int{}
	flatten(got, "", root)
	want := map[string]int{"a": 1, "b": 1, "b/c": 2, "d": 5, "d[0]": 6, "d[1]": 7, "d[1]/e": 8}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("lines (-got +want):\n%s", d)
	}
}

// flatten collects the lines of everything below n.
func flatten(into map[string]int, path string, n *node) {
	if path != "" {
		into[path] = n.line
	}
	switch v := n.val.(type) {
	case *table:
		for _, k := range v.keys {
			flatten(into, strings.TrimPrefix(path+"/"+k, "/"), v.m[k])
		}
	case []*node:
		for i, item := range v {
			flatten(into, fmt.Sprintf("%s[%d]", path, i), item)
		}
	}
}

// checkLines holds the scanner against the library: whatever both take, the
// scanner knows the line of.
func checkLines(t *testing.T, text string) {
	t.Helper()
	lines, stop := scanLines(text)
	if stop != nil && (stop.safe > len(text) || stop.line < 1) {
		t.Fatalf("the scan stopped at %+v of %d bytes", stop, len(text))
	}
	if stop != nil {
		return
	}
	var m map[string]any
	if _, err := toml.Decode(text, &m); err != nil {
		return
	}
	last := 1 + strings.Count(text, "\n")
	for _, path := range paths("", m) {
		if l := lines[path]; l < 1 || l > last {
			t.Fatalf("no line of %q in %q", path, text)
		}
	}
}

func paths(path string, v any) []string {
	var out []string
	if path != "" {
		out = append(out, path)
	}
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			out = append(out, paths(keyPath(path, k), x)...)
		}
	case []map[string]any:
		for i, x := range v {
			out = append(out, paths(itemPath(path, i), x)...)
		}
	case []any:
		for i, x := range v {
			out = append(out, paths(itemPath(path, i), x)...)
		}
	}
	return out
}
