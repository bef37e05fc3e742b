// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

func open(t *testing.T, f *FS, name string, flag int) fsys.File {
	t.Helper()
	file, err := f.OpenFile("T", name, flag, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func write(t *testing.T, file fsys.File, data string) {
	t.Helper()
	if _, err := file.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

// synced returns a file system with a file of two pages of 'a' on disk, open for appending.
func synced(t *testing.T) (*FS, fsys.File) {
	t.Helper()
	f := New()
	file := open(t, f, "/x", os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	write(t, file, strings.Repeat("a", 2*PageSize))
	if err := errors.Join(file.Datasync(), f.SyncDir("T", "/")); err != nil {
		t.Fatal(err)
	}
	return f, file
}

func TestPowerCutKeepsWhatIsChosen(t *testing.T) {
	page := func(c string) string { return strings.Repeat(c, PageSize) }
	zeros := string(make([]byte, PageSize))
	for name, c := range map[string]struct {
		choice []int
		want   string
	}{
		"nothing":        {[]int{0, 0, 0}, page("a") + page("a")},
		"pages, no size": {[]int{1, 1, 0}, page("a") + page("a")},
		"size only":      {[]int{0, 0, 1}, page("a") + page("a") + zeros + zeros},
		"second page":    {[]int{0, 1, 1}, page("a") + page("a") + zeros + page("b")},
		"all":            {[]int{1, 1, 1}, page("a") + page("a") + page("b") + page("b")},
	} {
		t.Run(name, func(t *testing.T) {
			f, file := synced(t)
			write(t, file, page("b")+page("b"))
			if diff := cmp.Diff([]int{2, 2, 2}, f.Choices()); diff != "" {
				t.Fatal(diff)
			}
			f.PowerCut(c.choice)
			if got := string(f.Content("/x")); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if _, err := file.Write([]byte("c")); !errors.Is(err, ErrCrashed) {
				t.Errorf("a file opened before the crash still works: %v", err)
			}
		})
	}
}

func TestPageWrittenTwiceMayBeFoundInEitherState(t *testing.T) {
	got := map[string]bool{}
	for choice := range 3 {
		f, file := synced(t)
		write(t, file, "b")
		write(t, file, "c")
		f.PowerCut([]int{choice, 2})
		got[strings.TrimLeft(string(f.Content("/x")), "a")] = true
	}
	want := map[string]bool{"\x00\x00": true, "b\x00": true, "bc": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailedSyncIsReportedOnceAndShowsWhatIsNotOnDisk(t *testing.T) {
	f, file := synced(t)
	f.Inject(func(c Call) Action {
		if c.Op == "T:DATASYNC" {
			return Action{Err: syscall.EIO}
		}
		return Action{}
	})
	write(t, file, "lost")
	if err := file.Datasync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	f.Inject(nil)
	if err := file.Datasync(); err != nil {
		t.Fatalf("the second sync reports it again: %v", err)
	}
	if got := string(f.Content("/x")); !strings.HasSuffix(got, "lost") {
		t.Error("the cache does not show what was written")
	}
	if got := f.Choices(); len(got) > 0 {
		t.Errorf("pages are dirty after the failed sync: %v", got)
	}
	f.DropCaches()
	if got := string(f.Content("/x")); strings.HasSuffix(got, "lost") {
		t.Error("it was on disk after all")
	}
}

func TestNamesReachTheDiskOnTheirOwn(t *testing.T) {
	for name, c := range map[string]struct {
		choice []int // creation of /new, rename of /new to /x, removal of /y
		want   []string
	}{
		"nothing":             {nil, []string{"/x", "/y"}},
		"all":                 {[]int{1, 1, 1}, []string{"/x"}},
		"rename, no creation": {[]int{0, 1, 0}, []string{"/x", "/y"}},
		"creation only":       {[]int{1, 0, 0}, []string{"/new", "/x", "/y"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := New()
			f.SetContent("/x", []byte("old"))
			f.SetContent("/y", nil)
			file := open(t, f, "/new", os.O_WRONLY|os.O_CREATE)
			write(t, file, "new")
			if err := errors.Join(file.Sync(), f.Rename("T", "/new", "/x"), f.Remove("T", "/y")); err != nil {
				t.Fatal(err)
			}
			f.PowerCut(c.choice)
			if diff := cmp.Diff(c.want, f.Names()); diff != "" {
				t.Error(diff)
			}
			renamed := len(c.choice) > 1 && c.choice[1] > 0
			if got := string(f.Content("/x")); (got == "new") != renamed {
				t.Errorf("/x is %q", got)
			}
		})
	}
}

func TestFullAndReadOnly(t *testing.T) {
	f, file := synced(t)
	f.SetQuota(f.Used() + 2)
	if n, err := file.Write([]byte("abc")); n != 2 || !fsys.IsFull(err) {
		t.Errorf("write: %d, %v", n, err)
	}
	f.SetQuota(-1)
	f.SetReadOnly(true)
	_, err := file.Write([]byte("abc"))
	for _, err := range []error{err, file.Truncate(0), f.Remove("T", "/x"), f.Rename("T", "/x", "/y")} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("read-only: %v", err)
		}
	}
	if err := f.MkdirAll("T", "/", 0); err != nil {
		t.Error(err)
	}
}

func TestCrashStopsEverything(t *testing.T) {
	for _, moment := range []Moment{Before, After} {
		f, file := synced(t)
		f.Inject(func(c Call) Action { return Action{Crash: moment} })
		n, err := file.Write([]byte("b"))
		if !errors.Is(err, ErrCrashed) {
			t.Errorf("write: %d, %v", n, err)
		}
		if _, err := f.ReadDir("T", "/"); !errors.Is(err, ErrCrashed) || !f.Crashed() {
			t.Errorf("after the crash: %v", err)
		}
		copied := f.Clone()
		copied.Kill()
		if got := len(copied.Content("/x")) - 2*PageSize; got != int(moment)-1 {
			t.Errorf("crash at %d: %d bytes more", moment, got)
		}
		if len(copied.Choices()) != len(f.Choices()) {
			t.Error("the copy differs")
		}
	}
}

func TestOutcomesAreAllOrASample(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all [][]int
	for c := range Outcomes([]int{2, 3}, 6, random) {
		all = append(all, slices.Clone(c))
	}
	want := [][]int{{0, 0}, {1, 0}, {0, 1}, {1, 1}, {0, 2}, {1, 2}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	var some [][]int
	for c := range Outcomes([]int{2, 3}, 5, random) {
		some = append(some, slices.Clone(c))
	}
	want = [][]int{{0, 0}, {1, 2}, {1, 0}, {0, 2}, {0, 2}}
	if diff := cmp.Diff(want, some); diff != "" {
		t.Error(diff)
	}
}

func TestReadsInPieces(t *testing.T) {
	f := New()
	f.SetContent("/x", []byte("hello"))
	file := open(t, f, "/x", os.O_RDONLY)
	got, err := io.ReadAll(io.MultiReader(file, bytes.NewReader([]byte("!"))))
	if err != nil || string(got) != "hello!" {
		t.Errorf("%q, %v", got, err)
	}
}
