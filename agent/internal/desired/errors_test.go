// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

var testOptions = Options{Provider: "dir", Host: "pve1", Forms: guest.Standard(), Now: testNow}

// files makes a snapshot of pairs of name and text.
func files(pairs ...string) plugin.Snapshot {
	var snap plugin.Snapshot
	for i := 0; i < len(pairs); i += 2 {
		snap.Files = append(snap.Files, plugin.File{Name: pairs[i], Data: []byte(pairs[i+1])})
	}
	return snap
}

// TestErrors compares what is said about bad documents with golden texts: each
// testdata/errors/*.txtar is a snapshot and, in its part "want", the problems.
func TestErrors(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testGolden(t, name)
		})
	}
}

func testGolden(t *testing.T, name string) {
	ar, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var snap plugin.Snapshot
	var want string
	var kept []txtar.File
	for _, f := range ar.Files {
		if f.Name == "want" {
			want = string(f.Data)
			continue
		}
		kept = append(kept, f)
		snap.Files = append(snap.Files, plugin.File{Name: f.Name, Data: f.Data})
	}
	set, err := Parse(testOptions, snap)
	if set != nil {
		t.Fatalf("accepted, with %d guests", len(set.Guests))
	}
	var ps Problems
	if !errors.As(err, &ps) {
		t.Fatalf("error is a %T, want Problems", err)
	}
	got := err.Error() + "\n"
	if *update {
		ar.Files = append(kept, txtar.File{Name: "want", Data: []byte(got)})
		if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("problems (-got +want):\n%s", d)
	}
}

// TestErrorsOutside has the problems that a text archive cannot hold.
func TestErrorsOutside(t *testing.T) {
	t.Parallel()
	many := plugin.Snapshot{Files: make([]plugin.File, maxFiles+1)}
	tests := []struct {
		name string
		snap plugin.Snapshot
		want string
	}{
		{"source unreadable", plugin.Snapshot{Err: "no such directory"}, "the source could not be read: no such directory"},
		{"source unreadable, in two lines", plugin.Snapshot{Err: "a\nb"}, `the source could not be read: a\nb`},
		{"source unreadable, files all the same", plugin.Snapshot{Err: "stale", Files: files("a.toml", "# x\n").Files}, "the source could not be read: stale"},
		{"too many files", many, "4097 files; at most 4096 are allowed"},
		{"no name", files("", "# x\n"), `file name "" is not allowed; want at most 255 printable bytes`},
		{"line break in a name", files("a\n.toml", "# x\n"), `file name "a\n.toml" is not allowed; want at most 255 printable bytes`},
		{"name twice", files("a.toml", "# x\n", "a.toml", "# x\n"), "file a.toml is in the snapshot twice"},
		{"large file", files("a.toml", strings.Repeat("#", maxFile+1)), "a.toml: the file has 1048577 bytes; at most 1048576 are allowed; split it"},
		{"unknown format", files("a.yaml", "a: 1\n"), "a.yaml: not known whether this is TOML or JSON; let the file's name end in .toml or .json"},
		{"empty", files("a.toml", ""), "a.toml: the file is empty, as after an interrupted write; to manage nothing, remove the file or leave a comment in it"},
		{"zero bytes", files("a.toml", "\x00\x00\x00\x00"), "a.toml: the file is empty, as after an interrupted write; to manage nothing, remove the file or leave a comment in it"},
		{"UTF-16", files("a.toml", "\xff\xfea\x00"), "a.toml:1: the file is UTF-16; save it as UTF-8"},
		{"Latin-1", files("a.toml", "# fine\n# b\xfcro\n"), "a.toml:2: not valid UTF-8; save the file as UTF-8"},
		{"bare CR", files("a.toml", "a = 1\rb = 2\n"), "a.toml:1: not valid TOML: TOML files cannot contain control characters: '0x0d'"},
		{"ends in an escape", files("a.toml", "\"\\"), `a.toml:1: not valid TOML: invalid escape in string '\\\x00'`},
		{"deep table", files("a.toml", "a = 1\n\n[a.b.c.d.e.f.g.h.i]\n"), "a.toml:3: nested deeper than 8 keys"},
		{"deep dots", files("a.toml", "a"+strings.Repeat(".a", 100_000)+" = 1\n"), "a.toml:1: nested deeper than 8 keys"},
		{"deep lists", files("a.toml", "a = "+strings.Repeat("[", 100_000)), "a.toml:1: nested deeper than 8 keys"},
		{"deep inline tables", files("a.toml", "a = "+strings.Repeat("{a=", 100_000)), "a.toml:1: nested deeper than 8 keys"},
		{"deep objects", files("a.json", strings.Repeat(`{"a":`, 100_000)), "a.json:1: nested deeper than 8 keys"},
		{"deep JSON lists", files("a.json", strings.Repeat(`[`, 100_000)), "a.json:1: nested deeper than 8 keys"},
		{"long key", files("a.toml", "\n"+strings.Repeat("k", 65)+" = 1\n"), "a.toml:2: a key of 65 bytes (at most 64)"},
		{"long JSON key", files("a.json", "{\n\""+strings.Repeat("k", 65)+"\": 1}"), "a.json:2: a key of 65 bytes (at most 64)"},
		{"long list", files("a.toml", "a = ["+strings.Repeat("1,", 1025)+"]\n"), "a.toml:1: a list of more than 1024 items"},
		{"long JSON list", files("a.json", `{"a": [1`+strings.Repeat(",1", 1024)+"]}"), "a.json:1: a list of more than 1024 items"},
		{"long text", files("a.toml", "issuer = \""+strings.Repeat("x", maxText+1)+"\"\n"), "a.toml:1: issuer: holds 65537 bytes, at most 65536 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set, err := Parse(testOptions, tt.snap)
			if set != nil || err == nil {
				t.Fatal("accepted")
			}
			if d := cmp.Diff(err.Error(), tt.want); d != "" {
				t.Errorf("problem (-got +want):\n%s", d)
			}
		})
	}
}

func TestTooManyGuests(t *testing.T) {
	t.Parallel()
	var a, b strings.Builder
	for i := range maxGuests/2 + 1 {
		fmt.Fprintf(&a, "[guest.%d]\nkind = \"lxc\"\n", 10_000+i)
		fmt.Fprintf(&b, "[guest.%d]\nkind = \"lxc\"\n", 20_000+i)
	}
	_, err := Parse(testOptions, files("a.toml", a.String(), "b.toml", b.String()))
	if err == nil || err.Error() != "more than 10000 guests" {
		t.Errorf("got %v", err)
	}
}

func TestTooManyProblems(t *testing.T) {
	t.Parallel()
	var doc strings.Builder
	for i := range maxProblems + 7 {
		fmt.Fprintf(&doc, "nonsense%d = 1\n", i)
	}
	_, err := Parse(testOptions, files("a.toml", doc.String()))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != maxProblems+1 {
		t.Fatalf("%d problems, want %d", len(ps), maxProblems+1)
	}
	if last := ps[maxProblems].String(); last != "and 7 more problems" {
		t.Errorf("last problem %q", last)
	}
}
