// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// activatedEnv makes the test binary a process that systemd started.
const activatedEnv = "HOOKSERVER_TEST_ACTIVATED"

func TestMain(m *testing.M) {
	if os.Getenv(activatedEnv) != "" {
		os.Exit(printActivated())
	}
	goleak.VerifyTestMain(m)
}

// printActivated says which sockets were passed, as a child process.
func printActivated() int {
	for range 2 {
		lns, err := Activated()
		if err != nil {
			fmt.Println("error:", err)
		}
		var names []string
		for name, ln := range lns {
			names = append(names, name+"="+filepath.Base(ln.Addr().String()))
			if err := ln.Close(); err != nil {
				fmt.Println("error:", err)
			}
		}
		slices.Sort(names)
		fmt.Println(strings.Join(names, " "))
	}
	return 0
}

// Not parallel: a process that is being started holds what the others have open,
// for a moment; a lock or a socket that was closed would seem to be in use.
func TestActivated(t *testing.T) {
	for name, tt := range map[string]struct{ names, want string }{
		"two":            {"hook:control", "control=1.sock hook=0.sock\n\n"},
		"one name twice": {"hook:hook", "error: sockets from systemd: two are named \"hook\"\n\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// systemd says for which process the sockets are; only a shell that
			// becomes the process knows in time.
			cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
			cmd.Env = append(os.Environ(), activatedEnv+"=1", "LISTEN_FDS=2", "LISTEN_FDNAMES="+tt.names)
			for i := range 2 {
				ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, fmt.Sprint(i, ".sock")), Net: "unix"})
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				f, err := ln.File()
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			out, err := cmd.Output()
			if err != nil || string(out) != tt.want {
				t.Errorf("got %q, %v; want %q", out, err, tt.want)
			}
			for i := range 2 {
				if _, err := os.Stat(filepath.Join(dir, fmt.Sprint(i, ".sock"))); err != nil {
					t.Errorf("closing took systemd's socket away: %v", err)
				}
			}
		})
	}
}

func TestNotActivated(t *testing.T) {
	for _, pid := range []string{"", "1", "x"} {
		t.Setenv("LISTEN_PID", pid)
		t.Setenv("LISTEN_FDS", "1")
		if lns, err := Activated(); len(lns) > 0 || err != nil {
			t.Errorf("%q: %v, %v", pid, lns, err)
		}
	}
}

func TestListenModeAndClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	for _, mode := range []os.FileMode{0o600, 0o660} { // the second finds the first one's lock file
		ln, err := Listen(path, mode)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != mode|os.ModeSocket {
			t.Errorf("%v, %v; want %o", st.Mode(), err, mode)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); !slices.Equal(left, []string{path + ".lock"}) {
			t.Errorf("left: %v", left)
		}
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	ln, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	for name, occupy := range map[string]func(t *testing.T, path string){
		"another agent": func(t *testing.T, path string) {
			ln, err := Listen(path, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
		},
		"somebody without the lock": func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "s")
			occupy(t, path)
			if ln, err := Listen(path, 0o600); !errors.Is(err, ErrInUse) {
				t.Errorf("got %v, %v", ln, err)
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatalf("the one who was there is gone: %v", err)
			}
			c.Close()
		})
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, 0o600); err == nil {
		t.Error("a file was taken for a stale socket")
	}
	if b, _ := os.ReadFile(path); !bytes.Equal(b, []byte("precious")) {
		t.Errorf("the file is now %q", b)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no/such/s"), 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// Many that start at once: one serves, and no one's socket is lost.
func TestListenTogether(t *testing.T) {
	t.Parallel()
	for range 20 {
		path := filepath.Join(t.TempDir(), "s")
		var wg sync.WaitGroup
		var won atomic.Pointer[net.Listener]
		var count atomic.Int32
		for range 8 {
			wg.Go(func() {
				ln, err := Listen(path, 0o600)
				switch {
				case err == nil:
					won.Store(&ln)
					count.Add(1)
				case !errors.Is(err, ErrInUse):
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if count.Load() != 1 {
			t.Fatalf("%d serve the socket", count.Load())
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		(*won.Load()).Close()
	}
}
