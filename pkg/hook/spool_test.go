// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpoolAndRead(t *testing.T) {
	dir := t.TempDir()
	want := []Event{event("0001"), event("0002"), event("0010")}
	for _, i := range []int{2, 0, 1} {
		if err := Spool(dir, want[i]); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := ReadSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []Event
	for _, e := range entries {
		if e.Err != nil {
			t.Errorf("%s: %v", e.Path, e.Err)
		}
		got = append(got, e.Event)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, err := Lost(dir); n != 0 || err != nil {
		t.Errorf("lost %d, %v", n, err)
	}
}

// Not parallel: the umask is the process's.
func TestSpoolModesWhateverTheUmask(t *testing.T) {
	dir := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o777))
	if err := Spool(dir, event("0001")); err != nil {
		t.Fatal(err)
	}
	if err := count(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{event("0001").ID + ".json": 0o640, "lost": 0o660} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", name, st.Mode(), err, want)
		}
	}
}

func TestSpoolFollowsAndOverwritesNothing(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for name, plant := range map[string]func(path string) error{
		"a link":                func(p string) error { return os.Symlink(victim, p) },
		"a link to nowhere":     func(p string) error { return os.Symlink(victim+"x", p) },
		"another name":          func(p string) error { return os.Link(victim, p) },
		"a pipe without reader": func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"a directory":           func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, place := range []string{"." + event("0001").ID, "lost"} {
				if err := plant(filepath.Join(dir, place)); err != nil {
					t.Fatal(err)
				}
			}
			if err := Spool(dir, event("0001")); !errors.Is(err, ErrNotCounted) {
				t.Errorf("got %v, want ErrNotCounted", err)
			}
			got, err := os.ReadFile(victim)
			st, serr := os.Stat(victim)
			if string(got) != "precious" || err != nil || serr != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("the victim is now %q, %v, %v, %v", got, st.Mode(), err, serr)
			}
			if _, err := os.Lstat(victim + "x"); err == nil {
				t.Error("a file was made through the link")
			}
		})
	}
}

func TestSpoolCountsWhatItCannotHold(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, event("0001").ID+".json"), 0o700); err != nil {
		t.Fatal(err)
	}
	for want := int64(1); want <= 3; want++ {
		err := Spool(dir, event("0001"))
		if err == nil || errors.Is(err, ErrNotCounted) {
			t.Fatalf("got %v", err)
		}
		if n, err := Lost(dir); n != want || err != nil {
			t.Errorf("lost %d, %v; want %d", n, err, want)
		}
	}
	if err := ForgetLost(dir, 2); err != nil {
		t.Fatal(err)
	}
	if n, err := Lost(dir); n != 1 || err != nil {
		t.Errorf("after forgetting two of three: %d, %v", n, err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".*")); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestCountTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := count(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, err := Lost(dir); n < 1 || n > 50 || err != nil {
		t.Errorf("lost %d, %v", n, err)
	}
}

func TestForgetLostWaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	if err := count(dir); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "lost"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := ForgetLost(dir, 1); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("forgot under somebody's lock: %v", err)
	}
	if err := count(dir); err != nil {
		t.Errorf("a helper was held up by a lock: %v", err)
	}
	if n, err := Lost(dir); n != 2 || err != nil {
		t.Errorf("lost %d, %v; want 2", n, err)
	}
}

func TestSpoolWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	err := Spool(dir, event("0001"))
	if !errors.Is(err, ErrNotCounted) || !errors.Is(err, syscall.ENOENT) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %q", err)
	}
	if _, err := ReadSpool(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadSpool: %v", err)
	}
}

func TestReadSpoolTellsGarbageApart(t *testing.T) {
	good := string(event("0001").AppendJSON(nil))
	name := event("0001").ID + ".json"
	for what, tt := range map[string]struct {
		make func(dir string) error
		want error // nil: not listed
	}{
		"empty":         {write(name, ""), ErrInvalid},
		"not JSON":      {write(name, "\x00\x01"), ErrInvalid},
		"cut":           {write(name, good[:40]), ErrInvalid},
		"huge":          {write(name, good+strings.Repeat(" ", 1<<20)), ErrInvalid},
		"another name":  {write("x.json", good), ErrInvalid},
		"foreign":       {write("README", "hello"), ErrInvalid},
		"a link":        {func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, name)) }, syscall.ELOOP},
		"a pipe":        {func(d string) error { return syscall.Mkfifo(filepath.Join(d, name), 0o600) }, errNotRegular},
		"a directory":   {func(d string) error { return os.Mkdir(filepath.Join(d, name), 0o700) }, errNotRegular},
		"half, old":     {aged("." + event("0001").ID), ErrUnfinished},
		"half, fresh":   {write("."+event("0001").ID, good), nil},
		"count of lost": {count, nil},
		"set aside":     {func(d string) error { return os.Mkdir(filepath.Join(d, "bad"), 0o700) }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			if err := Spool(dir, event("0002")); err != nil {
				t.Fatal(err)
			}
			entries, err := ReadSpool(dir)
			if err != nil {
				t.Fatal(err)
			}
			good, bad := split(entries)
			if d := cmp.Diff([]Event{event("0002")}, good); d != "" {
				t.Errorf("the good event beside it: %s", d)
			}
			if tt.want == nil && len(bad) == 0 {
				return
			}
			if len(bad) != 1 || !errors.Is(bad[0].Err, tt.want) || bad[0].Event != (Event{}) {
				t.Fatalf("got %v, want %v", bad, tt.want)
			}
			if err := SetAside(dir, bad[0]); err != nil {
				t.Fatal(err)
			}
			if entries, _ = ReadSpool(dir); len(entries) != 1 {
				t.Errorf("still there: %v", entries)
			}
			if _, err := os.Lstat(filepath.Join(dir, "bad", filepath.Base(bad[0].Path))); err != nil {
				t.Errorf("not set aside: %v", err)
			}
		})
	}
}

func write(name, content string) func(dir string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
}

func aged(name string) func(dir string) error {
	return func(dir string) error {
		old := time.Now().Add(-time.Hour)
		return errors.Join(write(name, "{")(dir), os.Chtimes(filepath.Join(dir, name), old, old))
	}
}

func split(entries []Entry) (good []Event, bad []Entry) {
	for _, e := range entries {
		if e.Err == nil {
			good = append(good, e.Event)
		} else {
			bad = append(bad, e)
		}
	}
	return good, bad
}

func TestSetAsideKeepsEnoughToLookAt(t *testing.T) {
	dir := t.TempDir()
	for i := range maxBad + 10 {
		name := fmt.Sprintf("garbage%03d", i)
		if err := write(name, "")(dir); err != nil {
			t.Fatal(err)
		}
		if err := SetAside(dir, Entry{Path: dir + "/" + name}); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadDir(filepath.Join(dir, "bad"))
	if err != nil || len(kept) != maxBad {
		t.Errorf("kept %d, %v; want %d", len(kept), err, maxBad)
	}
}

// The helper writes as root, whatever its umask; the agent's user reads,
// removes and forgets through the directory's group. Not parallel: the umask
// is the process's.
func TestAgentsUserTakesOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be two users")
	}
	const agent = 54321
	dir := t.TempDir()
	err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Chown(dir, 0, agent), os.Chmod(dir, 0o770|os.ModeSetgid))
	if err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	err = errors.Join(Spool(dir, event("0001")), write("garbage", "")(dir), count(dir))
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	asUser(t, agent, func() error {
		entries, err := ReadSpool(dir)
		good, bad := split(entries)
		if err != nil || len(good) != 1 || len(bad) != 1 {
			return fmt.Errorf("read %v: %w", entries, err)
		}
		return errors.Join(os.Remove(dir+"/"+good[0].ID+".json"), SetAside(dir, bad[0]), ForgetLost(dir, 1))
	})
	if n, err := Lost(dir); n != 0 || err != nil {
		t.Errorf("lost %d, %v", n, err)
	}
	if err := count(dir); err != nil {
		t.Errorf("root counts in the file after that: %v", err)
	}
}

// asUser runs f on a thread of its own that is another user's.
func asUser(t *testing.T, id uintptr, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends as that user
		for _, call := range []uintptr{syscall.SYS_SETGROUPS, syscall.SYS_SETRESGID, syscall.SYS_SETRESUID} {
			a, b := id, id
			if call == syscall.SYS_SETGROUPS {
				a, b = 0, 0
			}
			if _, _, errno := syscall.RawSyscall(call, a, b, id); errno != 0 {
				done <- errno
				return
			}
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// onTmpfs runs f in a tmpfs of its own with the given mount options.
func onTmpfs(t *testing.T, options string, f func(dir string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a tmpfs")
	}
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its mounts
		err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS)
		if err == nil {
			err = syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
		}
		if err == nil {
			err = syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
		}
		if err != nil {
			t.Logf("no mount namespace here, not tested: %v", err)
			return
		}
		f(dir)
	}()
	<-done
}

func TestSpoolOnFullTmpfs(t *testing.T) {
	onTmpfs(t, "size=4k", func(dir string) {
		if err := write("filler", strings.Repeat("x", 4096))(dir); err != nil {
			t.Error(err)
			return
		}
		for want := int64(1); want <= 2; want++ {
			if err := Spool(dir, event("0001")); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNotCounted) {
				t.Errorf("got %v, want ENOSPC, counted", err)
			}
			if n, err := Lost(dir); n != want || err != nil {
				t.Errorf("lost %d, %v; want %d", n, err, want)
			}
		}
		if entries, err := ReadSpool(dir); len(entries) != 1 || err != nil {
			t.Errorf("left behind beside the filler: %v, %v", entries, err)
		}
	})
}

func TestSpoolWithoutInodes(t *testing.T) {
	onTmpfs(t, "nr_inodes=3", func(dir string) {
		if err := errors.Join(write("filler", "")(dir), write("lost", "")(dir)); err != nil {
			t.Error(err)
			return
		}
		if err := Spool(dir, event("0001")); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNotCounted) {
			t.Errorf("got %v, want ENOSPC, counted", err)
		}
	})
}

func TestSpoolReadOnly(t *testing.T) {
	onTmpfs(t, "ro", func(dir string) {
		if err := Spool(dir, event("0001")); !errors.Is(err, syscall.EROFS) || !errors.Is(err, ErrNotCounted) {
			t.Errorf("got %v, want EROFS, not counted", err)
		}
	})
}

func TestSpoolIsBounded(t *testing.T) {
	onTmpfs(t, "size=64m", func(dir string) {
		held := 0
		for held <= 9000 {
			if err := write(fmt.Sprintf("filler%05d", held), "")(dir); err != nil {
				t.Error(err)
				return
			}
			if held++; held%512 == 0 && errors.Is(Spool(dir, event("0001")), ErrSpoolFull) {
				break
			}
		}
		if held < 4096 || held > 8704 {
			t.Errorf("full at %d files, want about 8192", held)
		}
		if n, err := Lost(dir); n != 1 || err != nil {
			t.Errorf("lost %d, %v; want 1", n, err)
		}
	})
}
