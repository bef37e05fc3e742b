// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package wire is the connection of a client to a simulated node in a test:
// TLS in memory, so that it works in a testing/synctest bubble.
//
// It is not a part of the simulator, which knows nothing of the client.
package wire

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// buffer is the capacity of a connection, in bytes. Without one, as with
// net.Pipe, both ends of a TLS connection may wait for each other when they
// close.
const buffer = 64 << 10

// Client serves srv, mostly a Sim's Server, until the test ends, and returns a
// client of it with a token, "USER@REALM!ID=SECRET".
func Client(t testing.TB, srv *http.Server, token string) *pve.Client {
	t.Helper()
	o := Serve(t, srv)
	var err error
	if o.Token, err = pve.ParseToken(token); err != nil {
		t.Fatal(err)
	}
	c, err := pve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Serve is Client for who makes the clients; what it returns lacks a token.
func Serve(t testing.TB, srv *http.Server) pve.Options {
	t.Helper()
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	if srv.ErrorLog == nil {
		srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // clients that give up are no news
	}
	l := bufconn.Listen(buffer)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(tls.NewListener(lasting{l}, &tls.Config{Certificates: []tls.Certificate{certs.TLS}}))
	}()
	t.Cleanup(func() { _ = srv.Close(); <-served })
	return pve.Options{
		URL: "https://" + node, CA: certs.CA,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) },
	}
}

// node is whom every server's certificate is for, whatever the Sim is called.
const node = "pve1"

var made struct {
	sync.Mutex
	certs []*pvetest.Certificates
}

// certificates are those that were made before if they are valid now: the
// clock of a bubble is another one.
func certificates() (*pvetest.Certificates, error) {
	made.Lock()
	defer made.Unlock()
	now := time.Now()
	for _, c := range made.certs {
		if leaf := c.TLS.Leaf; now.After(leaf.NotBefore) && now.Before(leaf.NotAfter) {
			return c, nil
		}
	}
	c, err := pvetest.NewCertificates(node)
	if err == nil {
		made.certs = append(made.certs, c)
	}
	return c, err
}
