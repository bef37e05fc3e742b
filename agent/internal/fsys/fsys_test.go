// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fsys_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

var oldData, newData = bytes.Repeat([]byte("old"), 300), bytes.Repeat([]byte("new!"), 300)

// TestWriteFileAtomicLeavesOldOrNew fails, tears and crashes every call, and tries every outcome of a power cut.
func TestWriteFileAtomicLeavesOldOrNew(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	points := 0
	for k := 1; ; k++ {
		reached := false
		for _, act := range []fault.Action{
			{Err: syscall.EIO},
			{Err: syscall.EIO, Part: 400},
			{Err: syscall.ENOSPC},
			{Crash: fault.Before},
			{Crash: fault.After},
		} {
			f := fault.New()
			f.SetContent("/d/x", oldData)
			if err := f.MkdirAll("T", "/d", 0o700); err != nil {
				t.Fatal(err)
			}
			f.Reset()
			f.Inject(func(c fault.Call) fault.Action {
				if c.N == k {
					reached = true
					return act
				}
				return fault.Action{}
			})
			err := fsys.WriteFileAtomic(f, "T", "/d/x", newData, 0o644)
			for choice := range fault.Outcomes(f.Choices(), 200, random) {
				points++
				g := f.Clone()
				g.PowerCut(choice)
				checkOldOrNew(t, fmt.Sprintf("call %d, %+v, outcome %v", k, act, choice), g, err)
			}
		}
		if !reached {
			break
		}
	}
	t.Logf("%d points", points)
	if points < 300 {
		t.Errorf("only %d points", points)
	}
}

func checkOldOrNew(t *testing.T, when string, f *fault.FS, err error) {
	t.Helper()
	got := f.Content("/d/x")
	isNew := bytes.Equal(got, newData)
	if !isNew && !bytes.Equal(got, oldData) {
		t.Errorf("%s: neither old nor new: %q", when, got)
	}
	var renamed *fsys.RenamedError
	switch {
	case err == nil && !isNew:
		t.Errorf("%s: no error, but the old content", when)
	case err != nil && !errors.As(err, &renamed) && isNew && !errors.Is(err, fault.ErrCrashed):
		t.Errorf("%s: %v, but the new content", when, err)
	}
	// whatever is left over does not keep the next one from working
	if err := fsys.WriteFileAtomic(f, "T", "/d/x", newData, 0o644); err != nil {
		t.Errorf("%s: afterwards: %v", when, err)
	}
}

func TestWriteFileAtomicOnARealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := (fsys.OS{}).MkdirAll("T", dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "x")
	if err := os.WriteFile(name+fsys.TempSuffix, []byte("left over"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{oldData, newData} {
		if err := fsys.WriteFileAtomic(fsys.OS{}, "T", name, data, 0o646); err != nil {
			t.Fatal(err)
		}
		got, err := fsys.ReadFile(fsys.OS{}, "T", name, 1<<20)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode() != 0o646 {
		t.Errorf("mode %v, %v: the umask must not change it", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

func TestReadFileRefusesWhatIsTooLarge(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(name, oldData, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.ReadFile(fsys.OS{}, "T", name, 10); !errors.Is(err, fsys.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := fsys.ReadFile(fsys.OS{}, "T", name+"no", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	for fsystem, name := range map[fsys.FS]string{fsys.OS{}: name, fault.New(): "/lock"} {
		first, err := fsystem.Lock("T", name, "pid 7")
		if err != nil {
			t.Fatal(err)
		}
		_, err = fsystem.Lock("T", name, "pid 8")
		if !errors.Is(err, fsys.ErrLocked) || !strings.Contains(err.Error(), "pid 7") {
			t.Errorf("second lock: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := fsystem.Lock("T", name, "pid 8")
		if err != nil {
			t.Fatalf("after the first was given back: %v", err)
		}
		_ = again.Close()
	}
}

func TestCreateFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := (fsys.OS{}).OpenFile("T", filepath.Join(dir, "link"), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		t.Error("a symbolic link was followed")
	}
}
