// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// keepAlive is how long pveproxy keeps an idle connection.
const keepAlive = 5 * time.Second

// Pipe is a server for a Sim that is reached over in-memory pipes.
type Pipe struct {
	l   *pipeListener
	srv *http.Server
	tr  *http.Transport
	wg  sync.WaitGroup
}

// Pipe starts a server for in-process clients. It works inside a synctest
// bubble. Close it before the Sim.
func (s *Sim) Pipe() *Pipe {
	p := &Pipe{l: newPipeListener(), srv: s.Server()}
	p.tr = &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx) },
		IdleConnTimeout: keepAlive - time.Second,
	}
	p.wg.Go(func() { _ = p.srv.Serve(p.l) }) // ends with ErrServerClosed
	return p
}

// Dial opens a connection to the Sim.
func (p *Pipe) Dial(ctx context.Context) (net.Conn, error) { return p.l.dial(ctx) }

// Transport returns an HTTP transport whose connections end in the Sim,
// whatever host the URL names; plain HTTP, so use "http://pve".
func (p *Pipe) Transport() *http.Transport { return p.tr }

// Client returns an HTTP client over Transport.
func (p *Pipe) Client() *http.Client { return &http.Client{Transport: p.tr} }

// Close ends the server and its connections and waits for it.
func (p *Pipe) Close() {
	p.tr.CloseIdleConnections()
	_ = p.srv.Close()
	p.wg.Wait()
}

// Server returns an HTTP server for the Sim with pveproxy's habits.
func (s *Sim) Server() *http.Server {
	return &http.Server{Handler: s, IdleTimeout: keepAlive, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
}

// pipeListener is a net.Listener whose connections are pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, errors.New("pvetest: connection refused: the node is gone")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pve" }
