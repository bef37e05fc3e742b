// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/hook"
)

// sink keeps what it is given, in order.
type sink struct {
	mu     sync.Mutex
	events []hook.Event
	fail   func(hook.Event) error // nil = never
}

func (s *sink) Events(_ context.Context, events []hook.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		if s.fail != nil {
			if err := s.fail(e); err != nil {
				return err
			}
		}
	}
	s.events = append(s.events, events...)
	return nil
}

func (s *sink) got() []hook.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]hook.Event(nil), s.events...)
}

// sinkFunc is a sink that is one function.
type sinkFunc func(context.Context, []hook.Event) error

func (f sinkFunc) Events(ctx context.Context, events []hook.Event) error { return f(ctx, events) }

// start serves opt on a new socket until the returned stop is called, or the
// test ends.
func start(tb testing.TB, opt Options) (socket string, stop func() error) {
	tb.Helper()
	socket = filepath.Join(tb.TempDir(), "hook.sock")
	ln, err := Listen(socket, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	if opt.PeerUIDs == nil {
		opt.PeerUIDs = []int{os.Getuid()}
	}
	s, err := New(opt)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Error(err)
		}
	})
	return socket, stop
}

func TestEventReachesSink(t *testing.T) {
	t.Parallel()
	var in sink
	socket, stop := start(t, Options{Sink: &in})
	want := hook.New(101, "pre-start", "pve2")
	if err := hook.Post(socket, want, time.Minute); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]hook.Event{want}, in.got()); d != "" {
		t.Error(d)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := hook.Post(socket, want, time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Errorf("after the stop: %v", err)
	}
}

// P7: acknowledged means taken in; everything else makes the helper spool.
func TestSinkRefuses(t *testing.T) {
	t.Parallel()
	socket, _ := start(t, Options{Sink: &sink{fail: func(hook.Event) error { return errors.New("the journal is full of secrets") }}})
	err := hook.Post(socket, hook.New(101, "pre-start", ""), time.Minute)
	if !errors.Is(err, hook.ErrNotAcknowledged) || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
}

func TestAnswerWaitsForSink(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	socket, _ := start(t, Options{Sink: sinkFunc(func(context.Context, []hook.Event) error {
		close(entered)
		<-release
		return nil
	})})
	posted := make(chan error, 1)
	go func() { posted <- hook.Post(socket, hook.New(101, "pre-start", ""), time.Minute) }()
	<-entered
	select {
	case err := <-posted:
		t.Errorf("acknowledged before the sink had it: %v", err)
	default:
	}
	close(release)
	if err := <-posted; err != nil {
		t.Error(err)
	}
}

func TestUnknownPeerIsRefused(t *testing.T) {
	t.Parallel()
	var in sink
	socket, _ := start(t, Options{Sink: &in, PeerUIDs: []int{os.Getuid() + 1}})
	err := hook.Post(socket, hook.New(101, "pre-start", ""), time.Minute)
	if !errors.Is(err, hook.ErrNotAcknowledged) || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v", err)
	}
	if len(in.got()) > 0 {
		t.Error("the event was taken in")
	}
}

func TestPeerNotKnown(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Sink: &sink{}, PeerUIDs: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for name, ctx := range map[string]context.Context{"none": t.Context(), "no unix socket": withPeer(t.Context(), a)} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("POST", hook.EventPath, nil).WithContext(ctx))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

// request passes one request through the handler as a known peer.
func request(t *testing.T, in Sink, method, path string, body []byte) int {
	t.Helper()
	s, err := New(Options{Sink: in, PeerUIDs: []int{7}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), peerKey{}, peer{cred: &unix.Ucred{Uid: 7}})
	r := httptest.NewRequestWithContext(ctx, method, "http://felhom"+hook.EventPath, bytes.NewReader(body))
	r.URL.Path = path
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Code
}

func TestRequests(t *testing.T) {
	t.Parallel()
	good := hook.New(101, "pre-start", "").AppendJSON(nil)
	for name, tt := range map[string]struct {
		method, path string
		body         []byte
		want         int
	}{
		"good":           {"POST", hook.EventPath, good, 204},
		"another method": {"GET", hook.EventPath, good, 405},
		"another path":   {"POST", "/v2/event", good, 404},
		"no body":        {"POST", hook.EventPath, nil, 400},
		"not an event":   {"POST", hook.EventPath, []byte("{}"), 400},
		"too long":       {"POST", hook.EventPath, append(good, bytes.Repeat([]byte(" "), hook.MaxSize)...), 400},
		"two events":     {"POST", hook.EventPath, append(append([]byte(nil), good...), good...), 400},
	} {
		t.Run(name, func(t *testing.T) {
			var in sink
			if got := request(t, &in, tt.method, tt.path, tt.body); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
			if taken := len(in.got()); (taken == 1) != (tt.want == 204) {
				t.Errorf("%d events taken in", taken)
			}
		})
	}
}

// endless is a body without an end; it counts what was read of it.
type endless int

func (n *endless) Read(p []byte) (int, error) {
	if *n += endless(len(p)); *n > 1<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

func TestBodyIsBounded(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Sink: &sink{}, PeerUIDs: []int{7}})
	if err != nil {
		t.Fatal(err)
	}
	var body endless
	ctx := context.WithValue(t.Context(), peerKey{}, peer{cred: &unix.Ucred{Uid: 7}})
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", hook.EventPath, &body))
	if w.Code != http.StatusBadRequest || body > 64<<10 {
		t.Errorf("%d after %d bytes", w.Code, body)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("POST", hook.EventPath, hook.New(101, "pre-start", "pve2").AppendJSON(nil))
	f.Add("POST", hook.EventPath, []byte(`{"vmid":101}`))
	f.Add("GET", "/", []byte(""))
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		if strings.ContainsFunc(method, func(r rune) bool { return r < 'A' || r > 'Z' }) || method == "" {
			return // no request of that method reaches a handler
		}
		var in sink
		code := request(t, &in, method, path, body)
		e, err := hook.Parse(body)
		want := method == "POST" && path == hook.EventPath && err == nil
		if (code == 204) != want {
			t.Fatalf("%d for %s %s %q (%v)", code, method, path, body, err)
		}
		if got := in.got(); want && (len(got) != 1 || got[0] != e) || !want && len(got) > 0 {
			t.Fatalf("taken in: %v", got)
		}
	})
}

// A stopping server lets its requests end, but not for ever.
func TestStopWaitsForRequests(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	socket, stop := start(t, Options{Drain: time.Minute, Sink: sinkFunc(func(context.Context, []hook.Event) error {
		close(entered)
		<-release
		return nil
	})})
	posted, stopped := make(chan error, 1), make(chan error, 1)
	go func() { posted <- hook.Post(socket, hook.New(101, "pre-stop", ""), time.Minute) }()
	<-entered
	go func() { stopped <- stop() }()
	close(release)
	if err := <-posted; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	socket, stop := start(t, Options{Drain: 10 * time.Millisecond, Sink: sinkFunc(func(ctx context.Context, _ []hook.Event) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	})})
	posted := make(chan error, 1)
	go func() { posted <- hook.Post(socket, hook.New(101, "pre-stop", ""), time.Minute) }()
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-posted; err == nil {
		t.Error("acknowledged what the sink did not take in")
	}
}

// A helper whose budget ran out is gone; the sink learns of it.
func TestSinkLearnsThatHelperLeft(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan error, 1)
	socket, _ := start(t, Options{Sink: sinkFunc(func(ctx context.Context, _ []hook.Event) error {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	})})
	// By hand: a real budget may run out before the sink has the event.
	helper, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	body := hook.New(101, "pre-start", "").AppendJSON(nil)
	if _, err := fmt.Fprintf(helper, "POST %s HTTP/1.1\r\nHost: felhom\r\nContent-Length: %d\r\n\r\n%s", hook.EventPath, len(body), body); err != nil {
		t.Fatal(err)
	}
	<-entered
	if err := helper.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the sink's context ended with %v", err)
	}
}

func TestServeFailsWithItsListener(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	s, err := New(Options{Sink: &sink{}, PeerUIDs: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for want, opt := range map[string]Options{
		"no sink": {PeerUIDs: []int{0}}, "no user": {Sink: &sink{}}, "negative": {Sink: &sink{}, PeerUIDs: []int{0}, Drain: -1},
	} {
		if _, err := New(opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func BenchmarkPost(b *testing.B) {
	socket, _ := start(b, Options{Sink: sinkFunc(func(context.Context, []hook.Event) error { return nil })})
	for b.Loop() {
		if err := hook.Post(socket, hook.New(101, "pre-start", ""), time.Minute); err != nil {
			b.Fatal(err)
		}
	}
}
