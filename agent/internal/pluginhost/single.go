// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Process is one plugin process that nobody supervises: what a Host starts,
// without the restarts. It is for tests of a plugin and for measurements.
type Process struct {
	p    *instance
	r    *running
	stop func()
	once sync.Once
	err  error
}

// Launch starts a plugin once, as a Host does: file checked, executed by
// descriptor or from a copy, handshake, TLS, configuration. The socket
// directory is made if it is not there, but not swept. A spec without kinds
// takes what the plugin serves. The caller stops the process.
func Launch(ctx context.Context, o Options, s Spec) (*Process, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("pluginhost: options: %w", err)
	}
	if err := s.validateFile(); err != nil {
		return nil, err
	}
	if len(o.TrustedUIDs) == 0 {
		o.TrustedUIDs = []uint32{0}
	}
	if err := os.MkdirAll(o.SocketDir, 0o700); err != nil {
		return nil, err
	}
	l := &processLauncher{opts: o, spawn: &spawner{jobs: make(chan func())}}
	stop := l.spawn.background()
	r, p, err := l.start(ctx, s)
	if err != nil {
		stop()
		return nil, err
	}
	return &Process{p: p, r: r, stop: stop}, nil
}

// Client is the connection to the configured plugin.
func (p *Process) Client() *plugin.Client { return p.p.client }

// Conn is the connection itself.
func (p *Process) Conn() grpc.ClientConnInterface { return p.r.conn }

// Kinds are the kinds that it serves.
func (p *Process) Kinds() []plugin.Kind { return p.p.kinds }

// Info is what the plugin says of itself.
func (p *Process) Info() plugin.Info { return p.p.info }

// PID is the process's number.
func (p *Process) PID() int { return p.p.pid }

// Dir is the private directory in which its socket is.
func (p *Process) Dir() string { return p.r.dir }

// Exited is closed when the process is gone; Why says how it ended then.
func (p *Process) Exited() <-chan struct{} { return p.p.exited }

// Why says how the process ended. Only after Exited was closed.
func (p *Process) Why() error { return p.p.why() }

// Health asks the plugin whether it lives.
func (p *Process) Health(ctx context.Context) error { return p.p.health(ctx) }

// Disconnect closes the connection and leaves the process alone. No call is
// possible afterwards.
func (p *Process) Disconnect() error {
	conn := p.r.conn
	p.r.conn = nil
	return conn.Close()
}

// Stop ends the process, asking it first if ask says so, and waits for it. It
// takes a bounded time. Calling it again does nothing.
func (p *Process) Stop(ask bool) error {
	p.once.Do(func() {
		p.err = p.p.stop(ask)
		p.stop()
	})
	return p.err
}
