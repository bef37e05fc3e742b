// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
	"github.com/felhom/felhom-agent/plugins/hub/refhub"
)

const token = "geheim-geheim-geheim"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bed is a reference hub on a port of its own, behind a switch.
type bed struct {
	t       *testing.T
	dir     string
	hub     *refhub.Hub
	srv     *httptest.Server
	dial    func(context.Context) (net.Conn, error) // to srv; nil: over TCP
	handler atomic.Value                            // http.HandlerFunc in front of the hub
	asked   atomic.Int64
}

func newBed(t *testing.T) *bed {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return newBedOn(t, ln)
}

// newBedInMemory is for a bubble: there, who waits for a socket stops the clock.
func newBedInMemory(t *testing.T) *bed {
	t.Helper()
	ln := bufconn.Listen(1 << 20)
	b := newBedOn(t, named{ln})
	b.dial = ln.DialContext
	return b
}

// named is a listener with the address that the server's certificate is for.
type named struct{ *bufconn.Listener }

func (named) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func newBedOn(t *testing.T, ln net.Listener) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir()}
	must(t, os.MkdirAll(filepath.Join(b.dir, "sets", "pve1"), 0o700))
	must(t, os.MkdirAll(filepath.Join(b.dir, "reports"), 0o700))
	b.hub = &refhub.Hub{
		Sets: filepath.Join(b.dir, "sets"), Reports: filepath.Join(b.dir, "reports"),
		Tokens: map[string]string{"pve1": token}, Logger: slog.New(slog.DiscardHandler),
	}
	b.answer(b.hub.ServeHTTP)
	b.srv = &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		b.handler.Load().(http.HandlerFunc)(w, r)
	})}}
	b.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	b.srv.EnableHTTP2 = true
	b.srv.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: x509.NewCertPool()}
	b.srv.StartTLS()
	t.Cleanup(func() { b.srv.CloseClientConnections(); b.srv.Close() })
	b.file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.srv.Certificate().Raw}))
	b.set("a.toml", "x = 1\n")
	return b
}

func (b *bed) answer(f http.HandlerFunc) { b.handler.Store(f) }

func (b *bed) file(name string, data []byte) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	must(b.t, os.WriteFile(path, data, 0o600))
	return path
}

func (b *bed) set(name, text string) { b.file("sets/pve1/"+name, []byte(text)) }

func (b *bed) config(more string) plugin.Config {
	return plugin.Config{
		JSON:    fmt.Appendf(nil, `{"url": %q, "host": "pve1", "ca_file": %q, "wait": "1s"%s}`, b.srv.URL, filepath.Join(b.dir, "ca.pem"), more),
		Secrets: map[string]plugin.Secret{"token": token},
	}
}

func (b *bed) provider(more ...string) *Provider {
	b.t.Helper()
	p := New("1", slog.New(slog.DiscardHandler))
	must(b.t, p.Configure(b.t.Context(), b.config(strings.Join(more, ""))))
	if b.dial != nil {
		p.client.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dial(ctx) }
	}
	return p
}

// watch runs a watch; the snapshots come one by one.
func (b *bed) watch(p *Provider, verdict error) <-chan plugin.Snapshot {
	snaps := make(chan plugin.Snapshot)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(snaps)
		_ = p.Watch(ctx, func(s plugin.Snapshot) error {
			select {
			case snaps <- s:
			case <-ctx.Done():
			}
			return verdict
		})
	}()
	b.t.Cleanup(func() { cancel(); <-done })
	return snaps
}

func (b *bed) next(snaps <-chan plugin.Snapshot) plugin.Snapshot {
	b.t.Helper()
	select {
	case s := <-snaps:
		return s
	case <-time.After(5 * time.Minute): // a busy machine
		b.t.Fatal("no snapshot comes")
	}
	return plugin.Snapshot{}
}

func TestContract(t *testing.T) {
	for _, way := range []string{"direct", "pipe"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			var p plugin.Provider = b.provider()
			if way == "pipe" {
				p = plugintest.Pipe(t, plugin.Set{Provider: b.provider()}).Provider()
			}
			var n atomic.Int64
			plugintest.TestProvider(t, plugintest.ProviderCase{
				Provider: p, Change: func() { b.set("b.toml", fmt.Sprintf("x = %d\n", n.Add(1))) },
			})
		})
	}
}

func TestConfigure(t *testing.T) {
	b := newBed(t)
	for more, want := range map[string]string{
		``:                                 "",
		`, "proxy": "http://127.0.0.1:1"`:  "",
		`, "wait": "10m"`:                  "wait",
		`, "proxy": "socks5://127.0.0.1"`:  "proxy",
		`, "url": "http://127.0.0.1"`:      "url",
		`, "url": "https://a@127.0.0.1"`:   "url",
		`, "url": "https://127.0.0.1?a=b"`: "url",
		`, "host": "../x"`:                 "host",
		`, "host": "a.b"`:                  "host",
		`, "ca_file": "/nowhere"`:          "ca_file",
		`, "cert_file": "/nowhere"`:        "client_key",
		`, "tocken": "x"`:                  "tocken",
	} {
		err := New("1", slog.New(slog.DiscardHandler)).Configure(t.Context(), b.config(more))
		if (want == "") != (err == nil) || err != nil && (!errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", more, err)
		}
	}
	c := b.config("")
	c.Secrets = nil
	if err := New("1", slog.New(slog.DiscardHandler)).Configure(t.Context(), c); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("without a secret: %v", err)
	}
	c.Secrets = map[string]plugin.Secret{"password": token}
	if err := New("1", slog.New(slog.DiscardHandler)).Configure(t.Context(), c); !errors.Is(err, plugin.ErrInvalid) || strings.Contains(err.Error(), token) {
		t.Errorf("with an unknown secret: %v", err)
	}
	if err := New("1", slog.New(slog.DiscardHandler)).Watch(t.Context(), nil); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("Watch without a configuration: %v", err)
	}
}

// A signed set arrives as it was written: each file, each signature.
func TestSetWithSignatures(t *testing.T) {
	b := newBed(t)
	const one = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
	b.set("felhom.index", "the index\n")
	b.set("felhom.index.sig", one+one)
	b.set("orphan.toml.sig", one)
	b.set("README", "not a document")
	s := b.next(b.watch(b.provider(), nil))
	if len(s.Files) != 2 || s.Files[1].Name != plugin.IndexName || string(s.Files[1].Data) != "the index\n" || len(s.Files[1].Signatures) != 2 ||
		string(s.Files[1].Signatures[1]) != one {
		t.Errorf("%+v", s)
	}
}

// Whatever is wrong with the hub is an error and never a set with less in it;
// and when it is right again, its set is given again though it is the same.
func TestHubThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"no set":         {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) }, "has no set for this host"},
		"refused":        {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) }, "401 Unauthorized: who are you"},
		"broken":         {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh\x00\x1b[31m", 500) }, "500 Internal Server Error: oh"},
		"no tag":         {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"files":[]}`) }, "no ETag"},
		"empty":          {tagged(""), "not in its form"},
		"another object": {tagged(`{}`), "no list of files"},
		"null":           {tagged(`{"files":null}`), "no list of files"},
		"not JSON":       {tagged(`<html>login</html>`), "not in its form"},
		"a file twice":   {tagged(`{"files":[{"name":"a","data":""},{"name":"a","data":""}]}`), "twice"},
		"without a name": {tagged(`{"files":[{"data":""}]}`), "not the name"},
		"too long":       {tagged(`{"files":[]}` + strings.Repeat(" ", 13<<20)), "more than"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.org/", http.StatusFound)
		}, "302 Found"},
		"cut in the body": {cut, "read the hub's answer"},
		"not modified": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") == "" {
				w.WriteHeader(http.StatusNotModified)
			} else {
				http.Error(w, "304 Not Modified", 500)
			}
		}, "304 Not Modified"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { cannotBeRead(t, c.answer, c.want) })
		})
	}
}

func cannotBeRead(t *testing.T, answer http.HandlerFunc, want string) {
	b := newBedInMemory(t)
	snaps := b.watch(b.provider(), nil)
	first := b.next(snaps)
	b.answer(answer)
	b.srv.CloseClientConnections()
	s := b.next(snaps)
	if !strings.Contains(s.Err, want) || len(s.Files) > 0 || strings.Contains(s.Err, token) || strings.ContainsAny(s.Err, "\x00\x1b") {
		t.Errorf("got %q with %d files, want %q", s.Err, len(s.Files), want)
	}
	b.answer(b.hub.ServeHTTP)
	if again := b.next(snaps); again.Err != "" || again.Revision != first.Revision {
		t.Errorf("when it is back: %+v", again)
	}
	fresh := newBedInMemory(t)
	fresh.answer(answer)
	if s := fresh.next(fresh.watch(fresh.provider(), nil)); s.Err == "" {
		t.Errorf("at the first question: %+v", s)
	}
}

func tagged(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"x"`)
		fmt.Fprint(w, body)
	}
}

func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("ETag", `"x"`)
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, `{"files":[`)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// closedPort is an address at which nobody listens, nor anybody else can: it is
// taken until the test ends.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	addr, err := syscall.Getsockname(fd)
	must(t, err)
	return fmt.Sprintf("127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port)
}

func TestNoServer(t *testing.T) {
	url := "https://" + closedPort(t)
	b := newBed(t)
	p := New("1", slog.New(slog.DiscardHandler))
	must(t, p.Configure(t.Context(), b.config(fmt.Sprintf(`, "url": %q`, url))))
	if s := b.next(b.watch(p, nil)); !strings.Contains(s.Err, "connection refused") {
		t.Errorf("%+v", s)
	}
	err := p.Report(t.Context(), plugin.Report{JSON: []byte(`{"host": "pve1"}`)})
	if !errors.Is(err, plugin.ErrUnavailable) || strings.Contains(err.Error(), token) {
		t.Errorf("report: %v", err)
	}
}

// silenced are connections that may fall silent, as those of a NAT that has
// forgotten them: what is sent is lost, and nothing comes.
type silenced struct {
	dial func(context.Context) (net.Conn, error)
	mu   sync.Mutex // guards all
	all  []*mute
}

type mute struct {
	net.Conn
	silent atomic.Bool
}

func (s *silenced) next(ctx context.Context) (net.Conn, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	m := &mute{Conn: c}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, m)
	return m, nil
}

// fallSilent silences the connections that there are, and counts them.
func (s *silenced) fallSilent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.all {
		m.silent.Store(true)
	}
	return len(s.all)
}

func (m *mute) Read(p []byte) (int, error) {
	for {
		n, err := m.Conn.Read(p)
		if err != nil || !m.silent.Load() {
			return n, err
		}
	}
}

func (m *mute) Write(p []byte) (int, error) {
	if m.silent.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// A connection that was lost without a word is left: the next question goes
// over another one.
func TestSilentConnectionIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedInMemory(t)
		s := &silenced{dial: b.dial}
		b.dial = s.next
		snaps := b.watch(b.provider(`, "wait": "5m"`), nil)
		first := b.next(snaps)
		if first.Err != "" {
			t.Fatal(first.Err)
		}
		if s.fallSilent() == 0 {
			t.Fatal("there is no connection")
		}
		begun := time.Now()
		b.set("a.toml", "x = 2\n")
		got := b.next(snaps)
		if got.Err != "" || got.Revision == first.Revision {
			t.Errorf("%+v", got)
		}
		// Not only when the answer is due.
		if took := time.Since(begun); took > 3*silence {
			t.Errorf("after %s", took)
		}
	})
}

// A hub that answers at once although nothing is new is not asked all the time.
func TestHubThatDoesNotWaitIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedInMemory(t)
		b.answer(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Prefer")
			b.hub.ServeHTTP(w, r)
		})
		b.spared(b.watch(b.provider(`, "wait": "20s"`), nil), 20*time.Second)
	})
}

// One that knows no conditions sends the whole set each time, which costs more.
func TestHubWithoutConditionsIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedInMemory(t)
		b.answer(tagged(`{"files":[{"name":"a.toml","data":""}]}`))
		b.spared(b.watch(b.provider(`, "wait": "20s"`), nil), 20*time.Second)
	})
}

// spared: the hub is asked once in each pause, and no more.
func (b *bed) spared(snaps <-chan plugin.Snapshot, pause time.Duration) {
	b.t.Helper()
	b.next(snaps)
	go func() {
		for range snaps { // one a minute
		}
	}()
	before := b.asked.Load()
	time.Sleep(10*pause + pause/2)
	if n := b.asked.Load() - before; n < 9 || n > 11 {
		b.t.Errorf("asked %d times in ten times %s", n, pause)
	}
}

func TestReport(t *testing.T) {
	b := newBed(t)
	p := b.provider()
	body, err := json.Marshal(plugin.ReportBody{Host: "pve1", Provider: "hub", To: 7})
	must(t, err)
	report := func() error { return p.Report(t.Context(), plugin.Report{Time: time.Now(), JSON: body}) }
	must(t, report())
	kept, err := os.ReadFile(filepath.Join(b.dir, "reports/pve1.jsonl"))
	if err != nil || !strings.Contains(string(kept), `"to":7`) {
		t.Errorf("kept %q, %v", kept, err)
	}
	for status, want := range map[int]error{
		200: nil, 202: nil, 204: nil, 400: plugin.ErrInvalid, 413: plugin.ErrInvalid, 422: plugin.ErrInvalid, 404: plugin.ErrUnsupported,
		405: plugin.ErrUnsupported, 501: plugin.ErrUnsupported, 401: plugin.ErrUnavailable, 302: plugin.ErrUnavailable, 500: plugin.ErrUnavailable, 429: plugin.ErrUnavailable,
	} {
		b.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if err := report(); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	b.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(503)
	})
	if err := report(); !errors.Is(err, plugin.ErrUnavailable) {
		t.Error(err)
	}
	before := b.asked.Load()
	if err := report(); !errors.Is(err, plugin.ErrUnavailable) || b.asked.Load() != before {
		t.Errorf("a hub that asked for quiet is asked: %v", err)
	}
}

// The reference hub gives a host its own set alone.
func TestWhoMayAsk(t *testing.T) {
	b := newBed(t)
	must(t, os.MkdirAll(filepath.Join(b.dir, "sets", "pve2"), 0o700))
	for name, c := range map[string]struct {
		more, token, want string
	}{
		"another's set":   {`, "host": "pve2"`, token, "401"},
		"a wrong token":   {``, "x", "401"},
		"a stranger's CA": {`, "ca_file": ""`, token, "certificate"},
		"another name":    {`, "server_name": "hub.test"`, token, "hub.test"},
	} {
		conf := b.config(c.more)
		conf.Secrets["token"] = plugin.Secret(c.token)
		p := New("1", slog.New(slog.DiscardHandler))
		must(t, p.Configure(t.Context(), conf))
		if s := b.next(b.watch(p, nil)); !strings.Contains(s.Err, c.want) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	b := newBed(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pve1"}, DNSNames: []string{"pve1"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	b.srv.TLS.ClientCAs.AddCert(cert)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	path := b.file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	secret := plugin.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	for host, want := range map[string]string{"pve1": "", "pve2": "401"} {
		conf := b.config(fmt.Sprintf(`, "cert_file": %q, "host": %q`, path, host))
		conf.Secrets = map[string]plugin.Secret{"client_key": secret}
		p := New("1", slog.New(slog.DiscardHandler))
		must(t, p.Configure(t.Context(), conf))
		if s := b.next(b.watch(p, nil)); !strings.Contains(s.Err, want) || (want == "") != (s.Err == "") {
			t.Errorf("%s: %+v", host, s)
		}
	}
	conf := b.config(fmt.Sprintf(`, "cert_file": %q`, path))
	conf.Secrets["client_key"] = "geheim"
	if err := New("1", slog.New(slog.DiscardHandler)).Configure(t.Context(), conf); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a key that is none: %v", err)
	}
}
