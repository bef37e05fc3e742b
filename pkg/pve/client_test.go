// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

var ref101 = Ref{Node: "pve1", ID: guest.ID{Kind: guest.LXC, VMID: 101}}

func TestOptions(t *testing.T) {
	ok := Options{URL: "https://localhost", Token: testToken(t)}
	tests := []struct {
		name   string
		change func(*Options)
		want   string // part of the error, "" for none
	}{
		{"least", func(*Options) {}, ""},
		{"port", func(o *Options) { o.URL = "https://10.0.0.1:443/" }, ""},
		{"IPv6", func(o *Options) { o.URL = "https://[::1]" }, ""},
		{"no URL", func(o *Options) { o.URL = "" }, "https"},
		{"plain HTTP", func(o *Options) { o.URL = "http://localhost:8006" }, `scheme "http"`},
		{"path", func(o *Options) { o.URL = "https://localhost/api2" }, "nothing but"},
		{"password", func(o *Options) { o.URL = "https://root:geheim@localhost" }, "nothing but"},
		{"not a URL", func(o *Options) { o.URL = "https://root:geheim@local host" }, "not a URL"},
		{"no host", func(o *Options) { o.URL = "https://:8006" }, "no host"},
		{"no token", func(o *Options) { o.Token = Token{} }, "none given"},
		{"CA without certificate", func(o *Options) { o.CA = []byte("x") }, "no PEM certificate"},
		{"bad pin", func(o *Options) { o.Pins = []string{"sha256:AAAA"} }, "pin"},
	}
	for _, tt := range tests {
		o := ok
		tt.change(&o)
		_, err := New(o)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "geheim")):
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		}
	}
}

// TestServerIsVerified: the right server is believed, any other is not, and
// nothing is sent to it.
func TestServerIsVerified(t *testing.T) {
	leaf, err := x509.ParseCertificate(testCert().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pin := PinOf(leaf)
	sum, _ := parsePin(pin)
	other := "sha256:" + strings.Repeat("A", 43) + "="
	tests := []struct {
		name   string
		change func(*Options)
		want   func(error) bool // nil = believed
	}{
		{"CA", func(*Options) {}, nil},
		{"CA, another name", func(o *Options) { o.ServerName = "pve1" }, isA[x509.HostnameError]},
		{"CA, name given", func(o *Options) { o.URL, o.ServerName = "https://pve1", "example.com" }, nil},
		{"system roots", func(o *Options) { o.CA = nil }, isA[x509.UnknownAuthorityError]},
		{"pin", func(o *Options) { o.CA, o.Pins = nil, []string{pin} }, nil},
		{"pin in hex", func(o *Options) { o.CA, o.Pins = nil, []string{hex.EncodeToString(sum)} }, nil},
		{"second pin", func(o *Options) { o.CA, o.Pins = nil, []string{other, pin} }, nil},
		{"pin, any name", func(o *Options) { o.CA, o.Pins, o.ServerName = nil, []string{pin}, "pve1" }, nil},
		{"wrong pin", func(o *Options) { o.CA, o.Pins = nil, []string{other} }, isPin},
		{"CA and pin", func(o *Options) { o.Pins = []string{pin} }, nil},
		{"CA and wrong pin", func(o *Options) { o.Pins = []string{other} }, isPin},
		{"CA and pin, another name", func(o *Options) { o.Pins, o.ServerName = []string{pin}, "pve1" }, isA[x509.HostnameError]},
	}
	for _, tt := range tests {
		asked := false
		p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, _ *http.Request) {
			asked = true
			_, _ = io.WriteString(w, `{"data":null}`)
		})}
		c := clientOf(t, p, tt.change)
		_, err := c.Call(t.Context(), "POST", "/x", nil)
		p.wg.Wait()
		switch {
		case tt.want == nil:
			if err != nil || !asked {
				t.Errorf("%s: %v", tt.name, err)
			}
		case KindOf(err) != ErrNotSent || asked || !tt.want(err):
			t.Errorf("%s: asked %v, %q %v", tt.name, asked, KindOf(err), err)
		}
	}
}

// isA reports whether an E is among what err wraps.
func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func isPin(err error) bool { return errors.Is(err, ErrPin) }

// seen is what a server sees of a request.
type seen struct {
	Method, URI, Body, ContentType, Auth string
	Length                               int64
	Chunked                              bool
}

func TestRequestsOnTheWire(t *testing.T) {
	var got []seen
	p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, seen{
			r.Method, r.RequestURI, string(body), r.Header.Get("Content-Type"), r.Header.Get("Authorization"),
			r.ContentLength, len(r.TransferEncoding) > 0,
		})
		_, _ = io.WriteString(w, `{"data":null}`)
	})}
	c, ctx := clientOf(t, p, nil), t.Context()
	u, _ := ParseUPID("UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:")
	calls := []func() error{
		func() error { _, err := c.Power(ctx, ref101, Start, 0); return err },
		func() error { _, err := c.Power(ctx, ref101, Shutdown, 90*time.Second); return err },
		func() error {
			_, err := c.SetConfig(ctx, ref101, ConfigChange{
				Set: map[string]string{"description": "a b&c\nü"}, Delete: []string{"tags", "cores"}, Digest: "d1",
			})
			return err
		},
		func() error { return c.AbortTask(ctx, u) },
		func() error { _, err := c.Call(ctx, "DELETE", "/x", map[string][]string{"purge": {"1"}}); return err },
		func() error { _, err := c.Permissions(ctx, "/vms/101"); return err },
	}
	for i, call := range calls {
		if err := call(); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	const form, auth = "application/x-www-form-urlencoded", "PVEAPIToken=agent@pve!full=" + testSecret
	want := []seen{
		{"POST", "/api2/json/nodes/pve1/lxc/101/status/start", "", "", auth, 0, false},
		{"POST", "/api2/json/nodes/pve1/lxc/101/status/shutdown", "timeout=90", form, auth, 10, false},
		{"PUT", "/api2/json/nodes/pve1/lxc/101/config", "delete=tags%2Ccores&description=a+b%26c%0A%C3%BC&digest=d1", form, auth, 58, false},
		{"DELETE", "/api2/json/nodes/pve1/tasks/UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve%21full:", "", "", auth, 0, false},
		{"DELETE", "/api2/json/x?purge=1", "", "", auth, 0, false},
		{"GET", "/api2/json/access/permissions?path=%2Fvms%2F101", "", "", auth, 0, false},
	}
	for i := range got {
		got[i].URI = strings.ReplaceAll(got[i].URI, "!", "%21")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestConnections: reads share a connection and let go of it before PVE does;
// each change has its own.
func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"data":{"version":"9.2"}}`)
		})}
		c := clientOf(t, p, nil)
		read := func() { _, _ = c.Version(t.Context()) }
		change := func() { _, _ = c.Call(t.Context(), "POST", "/x", nil) }
		for i, step := range []struct {
			do    func()
			dials int
		}{
			{read, 1},
			{read, 1},
			{change, 2},
			{change, 3},
			{read, 3},
			{func() { time.Sleep(4900 * time.Millisecond); read() }, 4},
		} {
			step.do()
			if p.count() != step.dials {
				t.Errorf("step %d: %d connections, want %d", i, p.count(), step.dials)
			}
		}
	})
}

// TestNoHTTP2: the server is never offered it.
func TestNoHTTP2(t *testing.T) {
	var offered []string
	p := &pipeServer{t: t, handle: func(raw net.Conn, _ *tls.Conn) {
		_ = tls.Server(raw, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = h.SupportedProtos
			return nil, errors.New("enough")
		}}).Handshake()
	}}
	c := clientOf(t, p, nil)
	_, _ = c.Call(t.Context(), "POST", "/x", nil)
	p.wg.Wait()
	if diff := cmp.Diff([]string{"http/1.1"}, offered); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNodeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 3 * time.Hour
		p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			_, _ = io.WriteString(w, `{"data":{}}`)
		})}
		c := clientOf(t, p, nil)
		if !c.NodeTime().IsZero() {
			t.Errorf("before any answer: %v", c.NodeTime())
		}
		_, _ = c.Version(t.Context())
		time.Sleep(5 * time.Second)
		if off := time.Until(c.NodeTime()); off != ahead {
			t.Errorf("the node is %v ahead, want %v", off, ahead)
		}
	})
}

// TestNodeTimeOfSlowAnswer: the header says when the node answered, not when
// it was asked. An estimate that is late would hide tasks from a search.
func TestNodeTimeOfSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(20 * time.Second)
			w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
			_, _ = io.WriteString(w, `{"data":{}}`)
		})}
		c := clientOf(t, p, nil)
		_, _ = c.Version(t.Context())
		if off := time.Until(c.NodeTime()); off > 0 || off <= -time.Second {
			t.Errorf("the node's clock is ours, the estimate is off by %v", off)
		}
	})
}

// TestGoesNowhereElse: neither a proxy of the environment nor a redirect takes
// the token to another host.
func TestGoesNowhereElse(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://proxy.invalid:3128")
	}
	var asked []string
	p := &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host+r.URL.Path)
		w.Header().Set("Location", "https://elsewhere.invalid/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})}
	var dialled []string
	c := clientOf(t, p, func(o *Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled = append(dialled, addr)
			return p.dial(ctx, network, addr)
		}
	})
	for _, method := range []string{"GET", "POST"} {
		if _, err := c.Call(t.Context(), method, "/x", nil); KindOf(err) != ErrOther {
			t.Errorf("%s: %v", method, err)
		}
	}
	if diff := cmp.Diff([]string{"GET example.com:8006/api2/json/x", "POST example.com:8006/api2/json/x"}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"example.com:8006", "example.com:8006"}, dialled); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

func TestRefIsChecked(t *testing.T) {
	p := &pipeServer{t: t, handle: func(net.Conn, *tls.Conn) { t.Error("something was sent") }}
	c := clientOf(t, p, nil)
	for _, r := range []Ref{
		{},
		{Node: "pve1"},
		{Node: "../x", ID: ref101.ID},
		{Node: "pve1", ID: guest.ID{Kind: "x", VMID: 101}},
		{Node: "pve1", ID: guest.ID{Kind: guest.LXC, VMID: 1}},
		{Node: "pve-", ID: ref101.ID},
	} {
		_, err := c.Power(t.Context(), r, Start, 0)
		_, err2 := c.Config(t.Context(), r)
		if KindOf(err) != ErrNotSent || KindOf(err2) != ErrNotSent {
			t.Errorf("%+v: %v, %v", r, err, err2)
		}
	}
}
