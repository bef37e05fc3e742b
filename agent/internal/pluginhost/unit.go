// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The ways in which a plugin is kept apart from the agent.
const (
	// IsolationUnit: a unit of systemd's, with a user, limits and a control
	// group of its own.
	IsolationUnit = "unit"
	// IsolationGroup: the agent's user and unit, a process group of its own.
	IsolationGroup = "process group"
)

// unitSocket is the socket of the plugin's unit, "" if there is none: the
// operator enables felhom-plugin@NAME.socket. First-party plugins are the
// agent's own and have no unit.
func (o Options) unitSocket(s Spec) string {
	if o.UnitDir == "" || s.Source == "" {
		return ""
	}
	path := filepath.Join(o.UnitDir, manifestName(s)+".sock")
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return ""
	}
	return path
}

func manifestName(s Spec) string { return strings.TrimSuffix(filepath.Base(s.Source), ".toml") }

// unitName is the plugin's unit.
func unitName(s Spec) string { return "felhom-plugin@" + manifestName(s) }

// startUnit reaches a plugin through its unit's launcher, which checks and
// executes it by itself: of the spec it is told nothing.
func (l *processLauncher) startUnit(ctx context.Context, sock string, s Spec, cfg plugin.Config) (*instance, error) {
	own, err := newIdentity()
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
	if err != nil {
		return nil, fmt.Errorf("the plugin's unit: %w", err)
	}
	conn := &carried{Conn: raw, over: make(chan struct{})}
	p, err := l.bringUpUnit(ctx, conn, own, s, cfg)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil
}

func (l *processLauncher) bringUpUnit(ctx context.Context, conn *carried, own *identity, s Spec, cfg plugin.Config) (*instance, error) {
	reply, err := greet(ctx, conn, own, cfg)
	if err != nil {
		return nil, fmt.Errorf("the plugin's unit: %w", err)
	}
	tlsConfig, err := own.trusting(reply.Handshake)
	if err != nil {
		return nil, err
	}
	once := make(chan net.Conn, 1)
	once <- conn
	r := &running{log: newOutput(l.opts, s.Name, revealed(cfg.Secrets))}
	r.conn, err = grpc.NewClient("passthrough:///plugin", append(plugin.DialOptions(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default: // the unit ended with its connection
				return nil, errors.New("the connection to the plugin's unit has ended")
			}
		}), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithIdleTimeout(0))...)
	if err != nil {
		return nil, err
	}
	r.calls = newDiscreet(r.conn, cfg.Secrets)
	r.watchStdio()
	client := plugin.NewClient(r.calls)
	kinds, info, err := introduce(ctx, client, s, cfg, l.opts.Version)
	stop := func(ask bool) error { return r.endUnit(ask, conn, l.opts.StopTimeout) }
	if err != nil {
		return nil, errors.Join(err, stop(false))
	}
	return &instance{
		client: client, kinds: kinds, info: info, pid: reply.PID, isolation: IsolationUnit, exited: conn.over, health: r.health, stop: stop,
		why: func() error {
			return fmt.Errorf("its unit ended; remedy: journalctl -u %s", unitName(s))
		},
	}, nil
}

// greet has the launcher start the plugin.
func greet(ctx context.Context, c net.Conn, own *identity, cfg plugin.Config) (r carryReply, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	q := carryRequest{Version: carryVersion, ClientCert: string(own.pem)}
	for _, s := range revealed(cfg.Secrets) {
		q.Mask = append(q.Mask, []byte(s))
	}
	if err := sendCarry(c, q); err != nil {
		return r, err
	}
	if err := readCarry(c, &r, maxReply); err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return r, fmt.Errorf("its launcher does not answer: %w", err)
	}
	if err := r.err(); err != nil {
		return r, err
	}
	return r, checkHandshakeLine(r.Handshake)
}

// trusting is the configuration for a plugin with this handshake line.
func (i *identity) trusting(line string) (*tls.Config, error) {
	f := strings.Split(strings.TrimSpace(line), "|")
	if len(f) < 6 || f[5] == "" {
		return nil, refuse("update the plugin's kit: see PROTOCOL.md", "the plugin does not speak AutoMTLS")
	}
	der, err := base64.RawStdEncoding.DecodeString(f[5])
	if err != nil {
		return nil, fmt.Errorf("the plugin's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the plugin's certificate: %w", err)
	}
	cfg := i.config()
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(cert)
	return cfg, nil
}

// endUnit closes the connection, with which the unit ends.
func (r *running) endUnit(ask bool, conn *carried, grace time.Duration) error {
	if ask {
		r.askUntil(grace, conn.over)
	}
	err := r.conn.Close()
	_ = conn.Close() // grpc closed it, if it ever had it
	r.wg.Wait()
	return err
}

// carried notes the end of a connection.
type carried struct {
	net.Conn
	once sync.Once
	over chan struct{}
}

func (c *carried) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(func() { close(c.over) })
	}
	return n, err
}

func (c *carried) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}
