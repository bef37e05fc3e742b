// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
)

// oneConn is a listener with one connection.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error { close(l.closed); return nil }

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "test", Net: "unix"} }

// TestServeWaitsForItsRequests: what a request uses is given back after Serve.
func TestServeWaitsForItsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		ln := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		ln.conns <- server
		entered, release := make(chan struct{}), make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release
		})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, srv, func() error { return srv.Serve(ln) }) }()
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, client) }()
		<-entered
		cancel()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("it returned (%v) while a request is being answered", err)
			close(release)
		default:
			close(release)
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		_ = client.Close()
	})
}
