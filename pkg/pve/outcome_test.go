// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type certainty int

const (
	never certainty = iota
	perhaps
	always
)

// points are the places of an exchange at which a server may fail. Each
// function goes that far.
var points = []struct {
	name  string
	sent  certainty // that the client has handed over something by then
	reach func(raw net.Conn, c *tls.Conn) error
}{
	{"accepted", never, func(net.Conn, *tls.Conn) error { return nil }},
	{"hello read", never, func(raw net.Conn, _ *tls.Conn) error {
		_, err := raw.Read(make([]byte, 64))
		return err
	}},
	{"hello answered by garbage", never, func(raw net.Conn, _ *tls.Conn) error {
		if _, err := raw.Read(make([]byte, 64)); err != nil {
			return err
		}
		_, err := io.WriteString(raw, "HTTP/1.1 400 plain HTTP\r\n\r\n")
		return err
	}},
	{"handshake done", perhaps, func(_ net.Conn, c *tls.Conn) error { return c.Handshake() }},
	{"request begun", always, func(_ net.Conn, c *tls.Conn) error { return readSome(c, 20) }},
	{"request read", always, func(_ net.Conn, c *tls.Conn) error { return readSome(c, 1) }},
	{"status line begun", always, answerWith("HTTP/1.1 20")},
	{"headers begun", always, answerWith("HTTP/1.1 200 OK\r\nContent-Length: 13\r\nDa")},
	{"headers done", always, answerWith("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n")},
	{"body begun", always, answerWith("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"data")},
	{"chunk begun", always, answerWith("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"data")},
	{"chunk without an end", always, answerWith("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"data\":null}\r\n")},
	{"body without length", always, answerWith("HTTP/1.1 200 OK\r\n\r\n{\"data")},
}

// readSome reads one n-th of a buffer that holds a whole request.
func readSome(c *tls.Conn, n int) error {
	_, err := c.Read(make([]byte, 4096/n))
	return err
}

func answerWith(text string) func(net.Conn, *tls.Conn) error {
	return func(_ net.Conn, c *tls.Conn) error {
		if err := readSome(c, 1); err != nil {
			return err
		}
		_, err := io.WriteString(c, text)
		return err
	}
}

// ways are how a server may fail at a point.
var ways = map[string]func(raw net.Conn, gone <-chan struct{}){
	"closes": func(raw net.Conn, _ <-chan struct{}) { _ = raw.Close() },
	"resets": func(raw net.Conn, _ <-chan struct{}) {
		_ = raw.(*net.TCPConn).SetLinger(0)
		_ = raw.Close()
	},
	"stalls": func(raw net.Conn, gone <-chan struct{}) { <-gone; _ = raw.Close() },
}

// failingServer is a real TLS server whose every connection goes as far as
// reach and then fails. It says so on reached.
type failingServer struct {
	addr    string
	conns   atomic.Int32
	reached chan struct{}
}

func newFailingServer(t *testing.T, reach func(net.Conn, *tls.Conn) error, way func(net.Conn, <-chan struct{})) *failingServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &failingServer{addr: l.Addr().String(), reached: make(chan struct{}, 10)}
	gone := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			f.conns.Add(1)
			wg.Go(func() {
				c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{testCert()}})
				if err := reach(raw, c); err != nil {
					t.Errorf("server: %v", err)
				}
				f.reached <- struct{}{}
				way(raw, gone)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); close(gone); wg.Wait() })
	return f
}

// call makes one call; a server that stalls is given up once it does.
func (f *failingServer) call(t *testing.T, method string, stalls bool) error {
	t.Helper()
	c, err := New(Options{URL: "https://" + f.addr, Token: testToken(t), CA: testCA()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if stalls {
		go func() { <-f.reached; cancel() }()
	}
	_, err = c.Call(ctx, method, "/x", url.Values{"a": {strings.Repeat("b", 100)}})
	return err
}

// TestServerFails lets real TLS servers close, reset and stall at every point
// of an exchange. A change is not sent, or its outcome is unknown, and it is
// tried once; a read is tried again unless the caller gave up.
func TestServerFails(t *testing.T) {
	t.Parallel()
	for _, p := range points {
		for name, way := range ways {
			for _, method := range []string{"POST", "PUT", "DELETE", "GET"} {
				t.Run(fmt.Sprintf("%s/%s/%s", p.name, name, method), func(t *testing.T) {
					t.Parallel()
					f := newFailingServer(t, p.reach, way)
					err := f.call(t, method, name == "stalls")
					kind := KindOf(err)
					switch {
					case p.sent == never && kind != ErrNotSent,
						p.sent == always && kind != lost(method),
						kind != ErrNotSent && kind != lost(method), !errors.Is(err, kind):
						t.Errorf("%q: %v", kind, err)
					}
					if strings.Contains(err.Error(), testSecret) {
						t.Errorf("the secret is in %v", err)
					}
					n, retried := f.conns.Load(), method == "GET" && name != "stalls"
					switch {
					case n != 1 && !retried, n > 2, n != 2 && retried && p.sent == always, n != 1 && p.sent == never:
						t.Errorf("%d connections", n)
					}
				})
			}
		}
	}
}

// TestNobodyListens: a refused connection is not sent.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	// Bound and not listening: nobody else gets the port meanwhile.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{URL: fmt.Sprintf("https://127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port), Token: testToken(t), CA: testCA()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Call(t.Context(), "POST", "/x", nil)
	if KindOf(err) != ErrNotSent || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%q: %v", KindOf(err), err)
	}
}

// TestProxyErrors: what PVE's own proxy reports when it lost the daemon, and
// one in front of PVE.
func TestProxyErrors(t *testing.T) {
	for status, kinds := range map[int][2]Kind{ // of a change, of a read
		595: {ErrUnreachable, ErrUnreachable},
		596: {ErrUnknownOutcome, ErrTransient},
		597: {ErrUnknownOutcome, ErrTransient},
		598: {ErrUnknownOutcome, ErrTransient},
		599: {ErrUnknownOutcome, ErrTransient},
		502: {ErrUnknownOutcome, ErrTransient},
		504: {ErrUnknownOutcome, ErrTransient},
	} {
		e := exchange{Status: fmt.Sprintf("%d Connection timed out", status)}
		for i, method := range []string{"POST", "GET"} {
			_, err := serveOne(t, e).Call(t.Context(), method, "/x", nil)
			var pe *Error
			if !errors.As(err, &pe) || pe.Kind != kinds[i] || pe.Status != status || pe.Reason != "Connection timed out" {
				t.Errorf("%s answered by %s: %#v", method, e.Status, err)
			}
		}
	}
}

// TestTaskLockTimeout: this 500 comes after the worker has begun.
func TestTaskLockTimeout(t *testing.T) {
	e := exchange{Status: "500 can't lock file '/var/log/pve/tasks/.active.lock' - got timeout"}
	_, err := serveOne(t, e).Call(t.Context(), "POST", "/x", nil)
	if KindOf(err) != ErrUnknownOutcome {
		t.Errorf("%q: %v", KindOf(err), err)
	}
	e.Status = "500 can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout"
	_, err = serveOne(t, e).Call(t.Context(), "POST", "/x", nil)
	if KindOf(err) != ErrBusy {
		t.Errorf("%q: %v", KindOf(err), err)
	}
}

// TestOddAnswers: a success that cannot be read is not known, an error is
// still an error.
func TestOddAnswers(t *testing.T) {
	tests := []struct {
		name   string
		answer exchange
		want   Kind
	}{
		{"no JSON", exchange{Status: "200 OK", Body: "<html>"}, ErrUnknownOutcome},
		{"empty", exchange{Status: "200 OK"}, ErrUnknownOutcome},
		{"too large", exchange{Status: "200 OK", Body: `{"data":"` + strings.Repeat("x", 2000) + `"}`}, ErrUnknownOutcome},
		{"a broken UPID", exchange{Status: "200 OK", Body: `{"data":"UPID:x"}`}, ErrUnknownOutcome},
		{"no envelope", exchange{Status: "200 OK", Body: `{"status":"maintenance"}`}, ErrUnknownOutcome},
		{"null", exchange{Status: "200 OK", Body: `null`}, ErrUnknownOutcome},
		{"a list", exchange{Status: "200 OK", Body: `{"data":[1]}`}, ErrUnknownOutcome},
		{"a redirect", exchange{Status: "301 Moved", Body: ""}, ErrOther},
		{"error without JSON", exchange{Status: "500 CT is locked (backup)", Body: "CT is locked"}, ErrLocked},
		{"error with odd details", exchange{Status: "400 Parameter verification failed.", Body: `{"errors":[1]}`}, ErrInvalid},
		{"error that is too large", exchange{Status: "500 CT is locked (disk)", Body: strings.Repeat("x", 2000)}, ErrLocked},
	}
	for _, tt := range tests {
		c := serveOne(t, tt.answer)
		c.opts.MaxAnswer = 1000
		u, err := c.Power(t.Context(), ref101, Start, 0)
		if KindOf(err) != tt.want || !u.IsZero() {
			t.Errorf("%s: %q %v, want %q", tt.name, KindOf(err), err, tt.want)
		}
	}
}

// TestTokenEcho: PVE's words are kept, the secret in them is not.
func TestTokenEcho(t *testing.T) {
	e := exchange{
		Status: "400 bad " + testSecret,
		Body:   `{"message":"bad ` + testSecret + `\n","errors":{"x":"got '` + testSecret + `'"}}`,
	}
	_, err := serveOne(t, e).Call(t.Context(), "POST", "/x", nil)
	if s := fmt.Sprintf("%v %#v", err, err); strings.Contains(s, testSecret) || !strings.Contains(s, "bad ***") {
		t.Errorf("%s", s)
	}
}

// TestSecretInGarbage: what a server says that makes no sense is quoted in
// errors, the secret in it is not.
func TestSecretInGarbage(t *testing.T) {
	raw := func(answer string) *Client {
		return clientOf(t, &pipeServer{t: t, handle: func(_ net.Conn, c *tls.Conn) { _ = answerWith(answer)(nil, c) }}, nil)
	}
	body := func(text string) *Client { return serveOne(t, ok(text)) }
	power := func(c *Client) error { _, err := c.Power(t.Context(), ref101, Start, 0); return err }
	status := func(c *Client) error { _, err := c.Status(t.Context(), ref101); return err }
	tests := map[string]error{
		"status line": power(raw("HTTP/1.1 " + testSecret + "\r\n\r\n")),
		"header":      power(raw("HTTP/1.1 200 OK\r\nx " + testSecret + "\r\n\r\n")),
		"length":      power(raw("HTTP/1.1 200 OK\r\nContent-Length: " + testSecret + "\r\n\r\n")),
		"UPID":        power(body(`{"data":"UPID:` + testSecret + `"}`)),
		"total":       power(body(`{"data":null,"total":"` + testSecret + `"}`)),
		"number":      status(body(`{"data":{"vmid":"` + testSecret + `"}}`)),
	}
	for name, err := range tests {
		if err == nil || strings.Contains(fmt.Sprintf("%v %#v", err, err), testSecret) || !strings.Contains(err.Error(), "***") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCutOffRefusal: of a 400 whose details did not arrive it is not known
// that nothing was stored.
func TestCutOffRefusal(t *testing.T) {
	const whole = `{"data":null,"errors":{"memory":"hotplug problem - x"}}`
	for name, answer := range map[string]string{
		"whole":          fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(whole), whole),
		"cut off":        fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(whole), whole[:30]),
		"chunks cut off": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n1e\r\n%s\r\n", whole[:30]),
		"until the end":  "Connection: close\r\n\r\n" + whole[:30],
		"nothing":        "Content-Length: 0\r\n\r\n",
	} {
		p := &pipeServer{t: t, handle: func(_ net.Conn, c *tls.Conn) {
			_ = answerWith("HTTP/1.1 400 Parameter verification failed.\r\n"+answer)(nil, c)
		}}
		_, err := clientOf(t, p, nil).Power(t.Context(), ref101, Start, 0)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != ErrInvalid || !e.Late() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCallerGivesUp: the caller's context ends before, while and after
// sending.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeServer{t: t, handle: func(_ net.Conn, c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }}
		c := clientOf(t, p, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Call(ctx, "POST", "/x", nil)
		if KindOf(err) != ErrNotSent || !errors.Is(err, context.Canceled) {
			t.Errorf("ended before: %q %v", KindOf(err), err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = c.Call(ctx, "POST", "/x", nil)
		if KindOf(err) != ErrUnknownOutcome || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended while waiting: %q %v", KindOf(err), err)
		}
	})
}

// TestDeadlines: without a deadline of the caller's, a call ends all the same,
// and later than PVE's own proxy gives up.
func TestDeadlines(t *testing.T) {
	for method, want := range map[string]time.Duration{"POST": DefaultWriteTimeout, "GET": DefaultReadTimeout} {
		synctest.Test(t, func(t *testing.T) {
			p := &pipeServer{t: t, handle: func(_ net.Conn, c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }}
			c := clientOf(t, p, nil)
			start := time.Now()
			_, err := c.Call(t.Context(), method, "/x", nil)
			if KindOf(err) != lost(method) || time.Since(start) != want || want <= 30*time.Second {
				t.Errorf("%s ended after %s: %v", method, time.Since(start), err)
			}
			if p.count() != 1 {
				t.Errorf("%s was tried %d times", method, p.count())
			}
		})
	}
}

// TestStalledHandshakeEnds: a server that accepts and then says nothing holds
// no connection longer than a call may take, though the transport goes on
// dialling when the call has ended.
func TestStalledHandshakeEnds(t *testing.T) {
	for _, method := range []string{"POST", "GET"} {
		synctest.Test(t, func(t *testing.T) {
			held, start := make(chan time.Duration, 1), time.Now()
			p := &pipeServer{t: t, handle: func(raw net.Conn, _ *tls.Conn) {
				_, _ = io.Copy(io.Discard, raw)
				held <- time.Since(start)
			}}
			c := clientOf(t, p, nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := c.Call(ctx, method, "/x", nil); KindOf(err) != ErrNotSent {
				t.Errorf("%s: %v", method, err)
			}
			if d := <-held; d > DefaultWriteTimeout {
				t.Errorf("%s: the connection was held for %v", method, d)
			}
		})
	}
}

// TestSealedConnection: once a call was declared not sent, its connection
// takes nothing any more.
func TestSealedConnection(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = server.Close() }()
	c := &conn{Conn: client}
	var s sending
	s.conn.Store(c)
	if !s.notSent() {
		t.Fatal("a fresh connection counts as used")
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a sealed connection took a byte: %v", err)
	}
	used := &conn{Conn: client}
	go func() { _, _ = server.Read(make([]byte, 1)) }()
	if _, err := used.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	s.conn.Store(used)
	if s.notSent() {
		t.Error("a used connection counts as fresh")
	}
}

func TestTransientReadIsRetriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		fail := int32(1)
		p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) <= fail {
				w.Header().Set("X-Reason", "failed to read from command socket: Connection reset by peer")
				w.WriteHeader(500)
				return
			}
			_, _ = io.WriteString(w, `{"data":{"version":"8.4.21"}}`)
		})}
		c := clientOf(t, p, nil)
		if v, err := c.Version(t.Context()); err != nil || v.Major() != 8 || calls.Load() != 2 {
			t.Errorf("%+v, %v after %d calls", v, err, calls.Load())
		}
		calls.Store(0)
		if _, err := c.Power(t.Context(), ref101, Stop, 0); KindOf(err) != ErrTransient || calls.Load() != 1 {
			t.Errorf("a change: %v after %d calls", err, calls.Load())
		}
		calls.Store(0)
		fail = 9
		if _, err := c.Version(t.Context()); KindOf(err) != ErrTransient || calls.Load() != 2 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
	})
}

// FuzzAnswer: whatever a server answers, an error is a *Error, a change is
// never taken for done without a readable answer, and the secret stays in.
func FuzzAnswer(f *testing.F) {
	f.Add("POST", 200, "OK", `{"data":"UPID:x"}`)
	f.Add("PUT", 400, "Parameter verification failed.", `{"errors":{"a":["b",{}]},"message":1}`)
	f.Add("GET", 500, "CT is locked (backup)", `{"data":null,"message":"CT is locked (backup)\n"}`)
	f.Add("GET", 596, "", "\xff\x00")
	c := &Client{opts: Options{Token: testToken(f)}}
	f.Fuzz(func(t *testing.T, method string, status int, reason, body string) {
		res := &http.Response{StatusCode: status, Status: fmt.Sprintf("%d %s", status, reason)}
		env, err := c.answer(method, "/x", res, []byte(body), nil)
		var e *Error
		switch {
		case err == nil && (status < 200 || status > 299 || !json.Valid([]byte(body))):
			t.Errorf("a success: %q", env.Data)
		case err != nil && (!errors.As(err, &e) || e.Kind == "" || !errors.Is(err, e.Kind)):
			t.Errorf("%#v", err)
		case err != nil && strings.Contains(err.Error(), testSecret):
			t.Errorf("the secret is in %v", err)
		}
	})
}
