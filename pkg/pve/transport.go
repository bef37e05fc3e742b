// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// idleTimeout is below the 5 s after which PVE drops an idle connection.
const idleTimeout = 4 * time.Second

// maxReasonBytes bounds status line and headers of an answer.
const maxReasonBytes = 256 << 10

// transports are the two ways to send: reads share connections, while every
// change gets one of its own. PVE may close a kept connection at any moment
// (5 s idle, 100 requests, every error); for a change that would turn into an
// unknown outcome, which costs far more than a handshake.
type transports struct {
	read, change *http.Transport
}

func newTransports(o Options, conf *tls.Config) transports {
	one := func(timeout time.Duration) *http.Transport {
		return &http.Transport{
			DialTLSContext:         dialTLS(o.Dial, conf, timeout),
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    4,
			DisableCompression:     true, // the node is near, its CPU is not ours
			MaxResponseHeaderBytes: maxReasonBytes,
			ForceAttemptHTTP2:      false,
			TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	}
	t := transports{read: one(o.ReadTimeout), change: one(o.WriteTimeout)}
	t.change.DisableKeepAlives = true
	return t
}

func (t transports) of(method string) *http.Transport {
	if method == http.MethodGet {
		return t.read
	}
	return t.change
}

func (t transports) closeIdle() {
	t.read.CloseIdleConnections()
	t.change.CloseIdleConnections()
}

// conn is a TLS connection that knows whether anything was handed to it after
// the handshake, and can be closed to that for good.
type conn struct {
	net.Conn
	state atomic.Int32
}

// The states of a conn.
const (
	fresh int32 = iota
	used
	sealed
)

func (c *conn) Write(p []byte) (int, error) {
	if !c.state.CompareAndSwap(fresh, used) && c.state.Load() == sealed {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// seal reports whether nothing was ever written, and sees to it that nothing
// will be: the goroutine that writes outlives a call whose context ended.
func (c *conn) seal() bool { return c.state.CompareAndSwap(fresh, sealed) }

// dialTLS connects and completes the handshake in time. The time is its own: a
// Transport goes on dialling when the call has ended, and would do so for ever
// where a server takes connections and says nothing.
func dialTLS(dial func(context.Context, string, string) (net.Conn, error), conf *tls.Config, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := tls.Client(raw, conf)
		if err := c.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		return &conn{Conn: c}, nil
	}
}

// sending watches one request of the change transport, whose connections
// carry one request each.
type sending struct {
	conn atomic.Pointer[conn]
}

// trace makes s learn which connection the request got.
func (s *sending) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			if c, ok := i.Conn.(*conn); ok {
				s.conn.Store(c)
			}
		},
	})
}

// notSent reports whether no byte of the request has left or will leave.
func (s *sending) notSent() bool {
	c := s.conn.Load()
	return c == nil || c.seal()
}
