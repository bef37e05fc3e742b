// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve answers each connection on a new socket with handle, until the test
// ends.
func serve(t *testing.T, handle func(net.Conn)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "hook.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); handle(c) })
		}
	})
	return socket
}

func TestPostToRealHTTPServer(t *testing.T) {
	want := event("0001")
	want.MigratedFrom = "pve2"
	var got Event
	socket := filepath.Join(t.TempDir(), "hook.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var err error
		if got, err = Parse(body); err != nil || r.Method != "POST" || r.URL.Path != EventPath {
			t.Errorf("%s %s %q: %v", r.Method, r.URL, body, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(ln) }()
	if err := Post(socket, want, time.Minute); err != nil {
		t.Error(err)
	}
	srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPostBelievesOnlyStatus204(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   error
	}{
		"no content":            {"HTTP/1.1 204 No Content\r\n\r\n", nil},
		"no content, no reason": {"HTTP/1.1 204\r\n\r\n", nil},
		"HTTP/1.0":              {"HTTP/1.0 204 No Content\r\n\r\n", nil},
		"ok":                    {"HTTP/1.1 200 OK\r\n\r\n", ErrNotAcknowledged},
		"unavailable":           {"HTTP/1.1 503 Service Unavailable\r\n\r\n", ErrNotAcknowledged},
		"a longer number":       {"HTTP/1.1 2045\r\n\r\n", ErrNotAcknowledged},
		"number in the reason":  {"HTTP/1.1 500 204\r\n\r\n", ErrNotAcknowledged},
		"not HTTP":              {"SSH-2.0-OpenSSH\r\n", ErrNotAcknowledged},
		"an empty line":         {"\r\n", ErrNotAcknowledged},
		"no end of line":        {"HTTP/1.1 204 No Content", ErrNotAcknowledged},
		"nothing":               {"", ErrNotAcknowledged},
		"no end at all":         {strings.Repeat("x", 1000), ErrNotAcknowledged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := serve(t, func(c net.Conn) {
				read(c)
				_, _ = io.WriteString(c, tt.answer) // the client may have read enough
			})
			err := Post(socket, event("0001"), time.Minute)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
		})
	}
}

func TestPostReadsAnAnswerInPieces(t *testing.T) {
	t.Parallel()
	socket := serve(t, func(c net.Conn) {
		read(c)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte("HTTP/1.1 204 No Content\r\n\r\n") {
			<-tick.C
			_, _ = c.Write([]byte{b}) // likewise
		}
	})
	if err := Post(socket, event("0001"), time.Minute); err != nil {
		t.Error(err)
	}
}

// read takes a whole request off the connection, so that closing it does not
// reset it.
func read(c net.Conn) {
	var b []byte
	for buf := make([]byte, 512); !strings.HasSuffix(string(b), "}"); {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		b = append(b, buf[:n]...)
	}
}

func TestPostWithoutAgent(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	for socket, want := range map[string]error{
		filepath.Join(dir, "absent.sock"):          syscall.ENOENT,
		stale:                                      syscall.ECONNREFUSED,
		filepath.Join(dir, "no/such/dir/s"):        syscall.ENOENT,
		"/" + strings.Repeat("x", 200) + "/a.sock": syscall.EINVAL,
	} {
		if err := Post(socket, event("0001"), time.Minute); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", socket, err, want)
		}
	}
}

func TestPostSendsNothingInvalid(t *testing.T) {
	e := event("0001")
	e.MigratedFrom = "x\r\nContent-Length: 0"
	if err := Post("/nowhere", e, time.Minute); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// The budget is for the whole exchange: each of these agents would hold a
// client for ever that gives every call its own timeout.
func TestPostKeepsToItsBudget(t *testing.T) {
	const budget = 50 * time.Millisecond
	for name, handle := range map[string]func(net.Conn, <-chan struct{}){
		"accepts and hangs": func(_ net.Conn, done <-chan struct{}) { <-done },
		"reads and hangs":   func(c net.Conn, done <-chan struct{}) { read(c); <-done },
		"drips": func(c net.Conn, done <-chan struct{}) {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-done:
					return
				case <-tick.C:
					_, _ = io.WriteString(c, "x")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan struct{})
			socket := serve(t, func(c net.Conn) { handle(c, done) })
			t.Cleanup(func() { close(done) })
			if err := Post(socket, event("0001"), budget); !errors.Is(err, ErrBudget) {
				t.Errorf("got %v, want ErrBudget", err)
			}
		})
	}
}

// A stopped agent accepts nothing: first connections wait in the backlog, and
// when that is full the connect itself waits.
func TestPostToStoppedAgent(t *testing.T) {
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	socket := filepath.Join(t.TempDir(), "hook.sock")
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what   string
		budget time.Duration
	}{
		{"receive", 2 * time.Second}, // enough to connect and send on a busy machine
		{"connect", 20 * time.Millisecond},
	} {
		err := Post(socket, event("0001"), tt.budget)
		if !errors.Is(err, ErrBudget) || !strings.Contains(err.Error(), tt.what) {
			t.Errorf("got %v, want ErrBudget at %s", err, tt.what)
		}
	}
	if err := Post(socket, event("0001"), 0); !errors.Is(err, ErrBudget) {
		t.Errorf("without a budget: %v", err)
	}
}

// Tell leaves as soon as it has sent; the event arrives all the same.
func TestTellWaitsForNothing(t *testing.T) {
	t.Parallel()
	told, got := make(chan struct{}), make(chan string, 1)
	socket := serve(t, func(c net.Conn) {
		<-told // nothing is read, nor answered, while it tells
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	e := event("0001")
	if err := Tell(socket, e); err != nil {
		t.Error(err)
	}
	close(told)
	head, body, _ := strings.Cut(<-got, "\r\n\r\n")
	if !strings.Contains(head, "\r\nPrefer: respond-async\r\n") || body != string(e.AppendJSON(nil)) {
		t.Errorf("sent %q, %q", head, body)
	}
}

func TestTellGivesUpAtOnce(t *testing.T) {
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	socket := filepath.Join(t.TempDir(), "hook.sock")
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	if err := Tell(socket, event("0001")); err != nil {
		t.Errorf("the first waits in the queue: %v", err)
	}
	if err := Tell(socket, event("0002")); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if err := Tell("/nonexistent/s", event("0003")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v", err)
	}
	if err := Tell(socket, Event{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}
