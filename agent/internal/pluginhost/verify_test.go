// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// copyTo copies an executable.
func copyTo(t *testing.T, dst, src string) {
	t.Helper()
	b, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func me() []uint32 { return []uint32{0, uint32(os.Getuid())} }

func TestOpenExecutableRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(t *testing.T, path string)
		why   string
	}{
		"writable by others": {func(t *testing.T, p string) { chmod(t, p, 0o757) }, "remedy: chmod go-w "},
		"writable by group":  {func(t *testing.T, p string) { chmod(t, p, 0o775) }, "remedy: chmod go-w "},
		"directory writable": {func(t *testing.T, p string) { chmod(t, filepath.Dir(p), 0o777) }, "is writable by group or others"},
		"not executable":     {func(t *testing.T, p string) { chmod(t, p, 0o644) }, "remedy: chmod a+x "},
		"setuid":             {func(t *testing.T, p string) { chmod(t, p, 0o755|os.ModeSetuid) }, "remedy: chmod ug-s "},
		"missing":            {func(t *testing.T, p string) { remove(t, p) }, "no such file"},
		"a link":             {func(t *testing.T, p string) { remove(t, p); link(t, "/bin/true", p) }, "is a symbolic link"},
		"a directory":        {func(t *testing.T, p string) { remove(t, p); mkdir(t, p) }, "is not a regular file"},
		"a pipe":             {func(t *testing.T, p string) { remove(t, p); fifo(t, p) }, "is not a regular file"},
		"another content":    {func(t *testing.T, p string) { copyTo(t, p, "/bin/false") }, "is not the pinned file"},
		"directory is a link": {func(t *testing.T, p string) {
			if err := os.Rename(filepath.Dir(p), filepath.Dir(p)+".real"); err != nil {
				t.Fatal(err)
			}
			link(t, filepath.Dir(p)+".real", filepath.Dir(p))
		}, "on the way to"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "p")
			mkdir(t, dir)
			path := filepath.Join(dir, "plugin")
			copyTo(t, path, "/bin/true")
			s := Spec{Path: path, SHA256: []string{sumOf(t, path)}}
			exe, err := openExecutable(s, me())
			if err != nil {
				t.Fatalf("before: %v", err)
			}
			exe.file.Close()
			tt.spoil(t, path)
			_, err = openExecutable(s, me())
			if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), tt.why) || !strings.Contains(err.Error(), "remedy: ") {
				t.Errorf("got %v, want %q", err, tt.why)
			}
		})
	}
}

func chmod(t *testing.T, p string, m os.FileMode) {
	t.Helper()
	if err := os.Chmod(p, m); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, p string) {
	t.Helper()
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, p string) {
	t.Helper()
	if err := os.Symlink(to, p); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, p string) {
	t.Helper()
	if err := os.Mkdir(p, 0o755); err != nil {
		t.Fatal(err)
	}
}

func fifo(t *testing.T, p string) {
	t.Helper()
	if err := syscall.Mkfifo(p, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestOwnerMustBeTrusted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plugin")
	copyTo(t, path, "/bin/true")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkOwner(path, info, []uint32{4242}); err == nil || !strings.Contains(err.Error(), "remedy: chown root:root "+path) {
		t.Errorf("got %v", err)
	}
	if err := checkParents(path, []uint32{4242}); err == nil || !strings.Contains(err.Error(), "is owned by uid") {
		t.Errorf("parents: %v", err)
	}
}

// What is executed is what was checked, whatever stands under the name by then.
func TestRenamedFileIsNotExecuted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plugin")
	copyTo(t, path, "/bin/true")
	exe, err := openExecutable(Spec{Path: path}, me())
	if err != nil {
		t.Fatal(err)
	}
	defer exe.file.Close()
	copyTo(t, path+".new", "/bin/false")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	cmd := command(byDescriptor(exe), Spec{}, nil, "/")
	if err := cmd.Run(); err != nil {
		t.Errorf("the replacement was executed: %v", err)
	}
	if cmd.Args[0] != path {
		t.Errorf("it is called %q", cmd.Args[0])
	}
}

// A file that is written between the check and the execution is noticed before
// the plugin gets anything.
func TestFileWrittenInPlaceIsNoticed(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "plugin")
	mine, err := self()
	if err != nil {
		t.Fatal(err)
	}
	copyTo(t, path, mine)
	o := testOptions(t)
	o.SocketDir, o.TrustedUIDs, o.StartTimeout = shortDir(t), me(), patience
	l := &processLauncher{opts: o, spawn: &spawner{jobs: make(chan func())}}
	result := make(chan error, 1)
	go func() {
		_, err := l.launch(t.Context(), Spec{Name: "a", Kinds: []plugin.Kind{plugin.KindExecutor}, Path: path, Args: []string{"good"}})
		result <- err
	}()
	start := <-l.spawn.jobs // checked, and about to be executed
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	start()
	if err := <-result; !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "was changed while it was being started") {
		t.Errorf("got %v", err)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"/a/b-1.x": "/a/b-1.x", "/a b": "'/a b'", "/it's": `'/it'\''s'`} {
		if got := quote(in); got != want {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
	}
}

// TestStickyDirectoryOfAStranger: its owner may rename what is in it, whosever
// that is.
func TestStickyDirectoryOfAStranger(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "sticky") // every directory on the way is root's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := checkParents(filepath.Join(dir, "x"), []uint32{0}); err == nil || !strings.Contains(err.Error(), dir+" is owned by uid") {
		t.Errorf("got %v", err)
	}
}
