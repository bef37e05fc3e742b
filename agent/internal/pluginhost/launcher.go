// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ServeUnit is the whole of the launcher that a plugin's unit runs: it takes
// one connection, executes the plugin of the manifest, checked as the host
// would, hands its handshake over and then carries bytes between the two. It
// returns when either side has ended and nothing of the plugin is left.
//
// Of the secrets, which cross inside of the TLS connection, it is told only so
// that it masks them in what it logs. What it executes is what the manifest
// says, whoever connects.
func ServeUnit(ctx context.Context, l net.Listener, manifest string, o Options) error {
	if err := o.validate(); err != nil {
		return fmt.Errorf("pluginhost: options: %w", err)
	}
	if len(o.TrustedUIDs) == 0 {
		o.TrustedUIDs = []uint32{0}
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	conn, err := l.Accept()
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	defer conn.Close()
	if err := o.prepare(); err != nil {
		return err
	}
	u := &unit{opts: o, conn: conn, log: o.Logger}
	err = u.serve(ctx, manifest)
	if err != nil {
		_ = sendCarry(conn, carryReply{Error: strings.TrimPrefix(err.Error(), errRefused.Error()+": "), Refused: errors.Is(err, errRefused)})
	}
	return err
}

// unit is one life of a plugin under its launcher.
type unit struct {
	opts Options
	conn net.Conn
	log  *slog.Logger
}

// serve returns an error only before the reply was sent.
func (u *unit) serve(ctx context.Context, manifest string) error {
	var q carryRequest
	if err := errors.Join(u.conn.SetReadDeadline(time.Now().Add(carryPause)), readCarry(u.conn, &q, maxRequest), u.conn.SetReadDeadline(time.Time{})); err != nil {
		return fmt.Errorf("the agent's request: %w", err)
	}
	if q.Version != carryVersion {
		return refuse("install agent and launcher of one version", "the agent speaks version %d with the launcher", q.Version)
	}
	s := readManifest(manifest, strings.TrimSuffix(filepath.Base(manifest), ".toml"), u.opts.TrustedUIDs)
	if s.Refused != "" {
		return fmt.Errorf("%w: %s", errRefused, s.Refused)
	}
	spawn := &spawner{jobs: make(chan func())}
	defer spawn.background()()
	l := &processLauncher{opts: u.opts, spawn: spawn}
	r, line, err := l.startCarried(ctx, s, q)
	if err != nil {
		return err
	}
	err = sendCarry(u.conn, carryReply{Handshake: line, PID: r.child.pid()})
	if err == nil {
		err = u.carry(ctx, r, strings.Split(line, "|")[3])
	}
	u.log.Info("plugin ends", "error", err)
	if err := r.end(false, u.opts.StopTimeout); err != nil {
		u.log.Error("plugin leaves something", "error", err)
	}
	return nil
}

// startCarried executes the plugin and waits for its handshake line. On an
// error nothing of it is left.
func (l *processLauncher) startCarried(ctx context.Context, s Spec, q carryRequest) (*running, string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opts.StartTimeout)
	defer cancel()
	exe, err := openExecutable(s, l.opts.TrustedUIDs)
	if err != nil {
		return nil, "", err
	}
	defer exe.file.Close()
	r := &running{log: newOutput(l.opts, s.Name, q.secrets())}
	r.child = newChild(l.spawn, r.log.line)
	line, err := l.executeCarried(ctx, r, s, exe, q.ClientCert)
	if err != nil {
		return nil, "", errors.Join(err, r.end(false, 0))
	}
	return r, line, nil
}

func (l *processLauncher) executeCarried(ctx context.Context, r *running, s Spec, exe *executable, cert string) (string, error) {
	limits, err := s.ceilings()
	if err != nil {
		return "", refuse("correct the table limits", "%v", err)
	}
	r.child.hold = limits.hold
	prog, err := l.program(s, exe)
	if err != nil {
		return "", err
	}
	r.files = prog.staged
	if r.dir, err = os.MkdirTemp(l.opts.SocketDir, dirPrefix); err != nil {
		return "", err
	}
	env := []string{
		handshakeCookie(), "PLUGIN_MIN_PORT=0", "PLUGIN_MAX_PORT=0", protocolVersions(),
		"PLUGIN_CLIENT_CERT=" + cert, "PLUGIN_UNIX_SOCKET_DIR=" + r.dir,
	}
	r.child.prepare(command(prog, s, env, r.dir), func(line string) error { return checkHandshake(line, r.dir) })
	if err := r.child.Start(ctx); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.child.Kill(ctx) }) // end reports what this could not do
	line, err := bufio.NewReader(r.child.first).ReadString('\n')
	stop()
	if err != nil {
		return "", r.startError(errors.Join(err, ctx.Err()))
	}
	if prog.staged == "" {
		err = exe.recheck()
	}
	return strings.TrimSpace(line), err
}

// carry copies both ways until either side ends.
func (u *unit) carry(ctx context.Context, r *running, sock string) error {
	inner, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
	if err != nil {
		return err
	}
	defer inner.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan error, 3)
	closeAll := func() { _ = inner.Close(); _ = u.conn.Close() }
	defer closeAll()
	wg.Go(func() { _, err := io.Copy(inner, u.conn); over <- err; closeAll() })
	wg.Go(func() { _, err := io.Copy(u.conn, inner); over <- err; closeAll() })
	select {
	case err := <-over:
		return err
	case <-r.child.exited:
		return fmt.Errorf("the process ended: %w", r.child.why())
	case <-ctx.Done():
		return ctx.Err()
	}
}
