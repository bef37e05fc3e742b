// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// testCert is a certificate for example.com and 127.0.0.1 that httptest brings
// along, valid from 1970 to 2084, so in a synctest bubble too.
var testCert = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
})

func testCA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCert().Certificate[0]})
}

// pipeServer answers each connection with what handle does to it, over TLS and
// an in-memory pipe, so that it works in a synctest bubble.
type pipeServer struct {
	t      testing.TB
	handle func(raw net.Conn, c *tls.Conn)
	wg     sync.WaitGroup
	dials  int
	mu     sync.Mutex
}

func (p *pipeServer) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.mu.Lock()
	p.dials++
	p.mu.Unlock()
	p.wg.Go(func() {
		defer func() { _ = server.Close() }()
		c := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{testCert()}})
		p.handle(server, c)
	})
	return client, nil
}

func (p *pipeServer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}

// clientOf is a client of the server, closed before the server is waited for.
func clientOf(t testing.TB, p *pipeServer, change func(*Options)) *Client {
	t.Helper()
	o := Options{URL: "https://example.com:8006", Token: testToken(t), CA: testCA(), Dial: p.dial}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); p.wg.Wait() })
	return c
}

// handleHTTP serves requests of one connection until it ends.
func handleHTTP(h http.HandlerFunc) func(net.Conn, *tls.Conn) {
	return func(_ net.Conn, c *tls.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(strings.NewReader(string(body)))
			rec := httptest.NewRecorder()
			h(rec, req)
			res := rec.Result()
			if reason := res.Header.Get("X-Reason"); reason != "" {
				res.Status = fmt.Sprintf("%d %s", res.StatusCode, reason)
				res.Header.Del("X-Reason")
			}
			res.ContentLength = int64(rec.Body.Len())
			if res.Write(c) != nil || req.Close {
				return
			}
		}
	}
}

// player is a client and a server that answers with a recorded exchange.
type player struct {
	client  *Client
	current atomic.Pointer[exchange]
}

func newPlayer(t testing.TB) *player {
	t.Helper()
	p := &player{}
	p.client = clientOf(t, &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, _ *http.Request) {
		e := p.current.Load()
		_, reason, _ := strings.Cut(e.Status, " ")
		w.Header().Set("X-Reason", reason)
		w.WriteHeader(e.code())
		_, _ = io.WriteString(w, e.Body)
	})}, nil)
	return p
}

// play makes e the answer to every call from now on.
func (p *player) play(e exchange) *Client {
	p.current.Store(&e)
	return p.client
}

// serveOne is a client whose every call is answered by one exchange.
func serveOne(t testing.TB, e exchange) *Client {
	t.Helper()
	return newPlayer(t).play(e)
}
