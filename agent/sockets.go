// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/agent/internal/hookserver"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// The names by which systemd's socket units hand the sockets over.
const (
	hookSocket    = "hook"
	controlSocket = "control"
)

type sockets struct{ hook, control net.Listener }

// listen takes the sockets from systemd, or makes those that it did not pass.
func (a *Agent) listen(context.Context) error {
	given, err := hookserver.Activated()
	if err != nil {
		return err
	}
	if a.socks.hook, err = a.socket(given, hookSocket, a.cfg.Hook.Socket); err != nil {
		return err
	}
	a.socks.control, err = a.socket(given, controlSocket, a.cfg.Control.Socket)
	return err
}

func (a *Agent) socket(given map[string]net.Listener, name, path string) (net.Listener, error) {
	ln := given[name]
	if ln == nil {
		var err error
		if ln, err = hookserver.Listen(path, fs.FileMode(0o600)); err != nil {
			return nil, err
		}
	}
	a.down.add(name+" socket", func() error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // its server has closed it
	})
	return ln, nil
}

// serveHooks takes in events over the socket and from the spool.
func (a *Agent) serveHooks(ctx context.Context) error {
	srv, err := hookserver.New(hookserver.Options{
		Sink: a.eng, PeerUIDs: a.cfg.Hook.PeerUIDs, Gate: a.gate, Spool: a.cfg.Hook.Spool, Logger: a.log,
	})
	if err != nil {
		return err
	}
	spool := hookserver.Spool{Dir: a.cfg.Hook.Spool, Sink: a.eng, Logger: a.log, Resync: func(_ context.Context, n int64) error {
		a.log.Warn("hook events were lost, looking at everything", "events", n)
		a.eng.Resync("hook events were lost")
		return nil
	}}
	a.markGated()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { spool.Run(ctx); return nil })
	g.Go(func() error { return srv.Serve(ctx, a.socks.hook) })
	return g.Wait()
}

// markGated tells the hook helper whose starts the agent wants to be asked for:
// of no other it waits for an answer.
func (a *Agent) markGated() {
	cfg := a.config()
	var vmids []guest.VMID
	if cfg.Agent.Mode == config.Enforce {
		for _, v := range cfg.Hook.Gated {
			vmids = append(vmids, guest.VMID(v))
		}
	}
	if err := hook.MarkGated(cfg.Hook.Spool, vmids); err != nil {
		a.log.Error("the guests that [hook] gated names are not marked: their starts are not asked for", "err", err)
	}
}

// gate says why a guest shall not start: the host is in mode enforce, [hook]
// gated names the guest and its document wants it stopped. It reads what is in memory and waits for nothing.
func (a *Agent) gate(e hook.Event) string {
	cfg := a.config()
	if cfg.Agent.Mode != config.Enforce || !slices.Contains(cfg.Hook.Gated, int(e.VMID)) ||
		a.led.Paused() || a.led.Guest(e.VMID).Paused {
		return ""
	}
	v, err := a.eng.View(e.VMID)
	if err != nil || v.Wanted != guest.Stopped {
		return "" // no document says that it shall not run
	}
	return fmt.Sprintf("%s wants it stopped ([hook] gated names it)", v.Doc.File)
}

type peerKey struct{}

// serveControl answers the operator: root, and the user the agent runs as.
func (a *Agent) serveControl(ctx context.Context) error {
	srv := &http.Server{
		Handler: control.Handler(api{a}, operator),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			cred, err := hookserver.PeerCred(c)
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, cred)
		},
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	if err := control.Serve(ctx, srv, func() error { return srv.Serve(a.socks.control) }); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// operator names the peer of a control request, or refuses it.
func operator(r *http.Request) (string, error) {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return "", errors.New("the control socket does not know who you are")
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
		return "", fmt.Errorf("user %d may not use the control socket; root may", cred.Uid)
	}
	return "operator (uid " + strconv.Itoa(int(cred.Uid)) + ")", nil
}
