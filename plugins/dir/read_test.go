// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace writes a file in one step: nobody sees half of it.
func replace(t *testing.T, dir, name, text string) {
	t.Helper()
	write(t, dir, "."+name+".new", text)
	must(t, os.Rename(filepath.Join(dir, "."+name+".new"), filepath.Join(dir, name)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(s plugin.Snapshot) []string {
	out := []string{}
	for _, f := range s.Files {
		out = append(out, f.Name)
	}
	return out
}

func TestWhatIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{
		"b.toml", "a.json", "z.toml", "C.TOML", // these are; of the last the core says what is wrong
		".hidden.toml", ".a.toml.swp", "a.toml~", "#a.toml#", "a.toml.bak", "a.toml.dpkg-new", "README", "4913", "toml", "orphan.toml.sig",
	} {
		write(t, dir, name, name)
	}
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	const one = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
	write(t, dir, "b.toml.sig", one)
	write(t, dir, "felhom.index", "index")
	write(t, dir, "felhom.index.sig", one)
	write(t, dir, "z.toml.sig", one+one)
	s := newReader(dir).snapshot()
	want := plugin.Snapshot{Revision: s.Revision, Files: []plugin.File{
		{Name: "C.TOML", Data: []byte("C.TOML")},
		{Name: "a.json", Data: []byte("a.json")},
		{Name: "b.toml", Data: []byte("b.toml"), Signatures: [][]byte{[]byte(one)}},
		{Name: "felhom.index", Data: []byte("index"), Signatures: [][]byte{[]byte(one)}},
		{Name: "z.toml", Data: []byte("z.toml"), Signatures: [][]byte{[]byte(one), []byte(one)}},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	if len(s.Revision) != 64 {
		t.Errorf("revision %q", s.Revision)
	}
}

func TestRevisionTellsContentsApart(t *testing.T) {
	t.Parallel()
	f := func(name, data string, sigs ...string) plugin.File {
		out := plugin.File{Name: name, Data: []byte(data)}
		for _, s := range sigs {
			out.Signatures = append(out.Signatures, []byte(s))
		}
		return out
	}
	sets := [][]plugin.File{
		{},
		{f("a", "")},
		{f("", "a")},
		{f("a", "b")},
		{f("ab", "")},
		{f("a", "b"), f("c", "d")},
		{f("a", "bcd")},
		{f("a", "b", "c")},
		{f("a", "b", "c", "d")},
		{f("a", "b", "cd")},
		{f("a", "b", "")},
		{f("a", "b"), f("", "")},
	}
	seen := map[string]int{}
	for i, set := range sets {
		r := revision(set)
		if j, ok := seen[r]; ok {
			t.Errorf("sets %d and %d have one revision", j, i)
		}
		seen[r] = i
	}
}

func TestWhatMakesAnError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"link":              {func(t *testing.T, d string) { must(t, os.Symlink("good.toml", filepath.Join(d, "l.toml"))) }, "l.toml is a symbolic link"},
		"link out":          {func(t *testing.T, d string) { must(t, os.Symlink("/etc/passwd", filepath.Join(d, "l.toml"))) }, "l.toml is a symbolic link"},
		"directory as file": {func(t *testing.T, d string) { must(t, os.Mkdir(filepath.Join(d, "d.toml"), 0o755)) }, "d.toml is not a regular file"},
		"pipe":              {func(t *testing.T, d string) { must(t, syscall.Mkfifo(filepath.Join(d, "p.toml"), 0o644)) }, "p.toml is not a regular file"},
		"big file":          {func(t *testing.T, d string) { write(t, d, "b.toml", strings.Repeat("x", maxFile+1)) }, "b.toml has 1048577 bytes"},
		"big signature":     {func(t *testing.T, d string) { write(t, d, "good.toml.sig", strings.Repeat("x", maxSig+1)) }, "good.toml.sig has"},
		"open to all":       {func(t *testing.T, d string) { must(t, os.Chmod(filepath.Join(d, "good.toml"), 0o666)) }, "good.toml is writable by every user"},
		"directory open":    {func(t *testing.T, d string) { must(t, os.Chmod(d, 0o777)) }, "is writable by every user"},
		"bad name":          {func(t *testing.T, d string) { write(t, d, "a\xff.toml", "") }, "not valid UTF-8"},
		"gone":              {func(t *testing.T, d string) { must(t, os.RemoveAll(d)) }, "no such file"},
		"a file in its place": {func(t *testing.T, d string) {
			must(t, os.RemoveAll(d))
			write(t, filepath.Dir(d), filepath.Base(d), "")
		}, "not a directory"},
		"many files": {func(t *testing.T, d string) {
			for i := range maxFiles + 1 {
				write(t, d, fmt.Sprintf("%d.toml", i), "")
			}
		}, "more than 2000 files"},
		"much in all": {func(t *testing.T, d string) {
			for i := range 9 {
				write(t, d, fmt.Sprintf("%d.toml", i), strings.Repeat("x", maxFile))
			}
		}, "more than 8 MiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "desired.d")
			must(t, os.Mkdir(dir, 0o755))
			write(t, dir, "good.toml", "x = 1\n")
			r := newReader(dir)
			if s := r.snapshot(); s.Err != "" || len(s.Files) != 1 {
				t.Fatalf("before: %+v", s)
			}
			tt.spoil(t, dir)
			s := r.snapshot()
			if !strings.Contains(s.Err, tt.want) || len(s.Files) > 0 || s.Revision != "" {
				t.Errorf("got %q with %d files, want %q", s.Err, len(s.Files), tt.want)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	write(t, dir, "a.toml", "x = 1\n")
	must(t, os.Chmod(filepath.Join(dir, "a.toml"), 0))
	if s := newReader(dir).snapshot(); !strings.Contains(s.Err, "permission denied") {
		t.Errorf("%+v", s)
	}
}

func TestEmptiedIsNotReplaced(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir, other := filepath.Join(parent, "d"), filepath.Join(parent, "other")
	must(t, os.Mkdir(dir, 0o755))
	write(t, dir, "a.toml", "x = 1\n")
	r := newReader(dir)
	expect := func(what, wantErr string, files int) {
		t.Helper()
		s := r.snapshot()
		if (wantErr == "") != (s.Err == "") || !strings.Contains(s.Err, wantErr) || len(s.Files) != files {
			t.Errorf("%s: error %q, %d files; want %q, %d", what, s.Err, len(s.Files), wantErr, files)
		}
	}
	expect("at first", "", 1)
	must(t, os.Remove(filepath.Join(dir, "a.toml")))
	expect("emptied", "", 0)
	write(t, dir, "a.toml", "x = 1\n")
	expect("filled again", "", 1)

	must(t, os.Rename(dir, other))
	expect("moved away", "no such file", 0)
	must(t, os.Mkdir(dir, 0o755))
	if !r.moved() {
		t.Error("the replacement is not noticed")
	}
	expect("an empty one in its place", "is another directory than before, and empty", 0)
	if r.moved() {
		t.Error("the replacement is noticed again and again")
	}
	must(t, os.Remove(dir))
	must(t, os.Rename(other, dir))
	expect("moved back", "", 1)

	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o755)) // most file systems give it the same inode
	expect("made anew, empty", "is another directory than before, and empty", 0)
	write(t, dir, "b.toml", "x = 2\n")
	expect("made anew, filled", "", 1)
	must(t, os.Remove(filepath.Join(dir, "b.toml")))
	expect("emptied", "", 0)

	fresh := newReader(dir)
	if s := fresh.snapshot(); s.Err != "" || len(s.Files) != 0 {
		t.Errorf("empty from the start: %+v", s)
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	const b = "-----BEGIN SSH SIGNATURE-----\n"
	tests := map[string][]string{
		"":                  {""},
		"raw":               {"raw"},
		b + "1":             {b + "1"},
		"note\n" + b + "1":  {b + "1"},
		b + "1\n" + b + "2": {b + "1\n", b + "2"},
		b + b:               {b, b},
	}
	for in, want := range tests {
		var got []string
		for _, s := range split([]byte(in)) {
			got = append(got, string(s))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

// Two files that are always written one after the other are at most one step
// apart in every snapshot.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	step := func(n int) {
		for _, name := range []string{"a.toml", "b.toml"} {
			write(t, dir, "."+name, fmt.Sprint(n))
			must(t, os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name)))
		}
	}
	step(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
				step(n)
			}
		}
	}()
	defer func() {
		close(stop)
		<-done
	}()
	good := 0
	for range 3000 {
		s := newReader(dir).snapshot()
		if s.Err != "" {
			continue // it changes too fast
		}
		good++
		var a, b int
		_, errA := fmt.Sscan(string(s.Files[0].Data), &a)
		_, errB := fmt.Sscan(string(s.Files[1].Data), &b)
		if errA != nil || errB != nil || a-b < 0 || a-b > 1 {
			t.Fatalf("a is at %d (%v), b at %d (%v)", a, errA, b, errB)
		}
	}
	if good == 0 {
		t.Error("no snapshot at all")
	}
}
