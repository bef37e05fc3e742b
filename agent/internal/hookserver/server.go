// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package hookserver takes in hook events, over the hook socket and from the
// spool that helpers leave while no agent answers.
//
// It guarantees that an event is acknowledged, or removed from the spool, only
// after the sink took it in (promise P7), that only the users it is told about
// are heard, and that input is bounded and strict. It may hand over an event
// twice, with the same id; telling them apart is the sink's business. It never
// waits for anything but the sink.
package hookserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// Sink takes in events.
type Sink interface {
	// Events returns nil once all of them are on disk, or were before.
	Events(ctx context.Context, events []hook.Event) error
}

// Options are what a Server needs.
type Options struct {
	Sink Sink
	// PeerUIDs are the users who may post events.
	PeerUIDs []int
	// Gate says why a guest shall not start, "" if it may. It is asked after
	// the event of a pre-start is taken in, and must not wait; nil lets all
	// start.
	Gate   func(hook.Event) string
	Logger *slog.Logger
	// Spool is where an event that a helper tells of is removed once it is taken
	// in; "" leaves that to the spool's reader.
	Spool string
	// Drain bounds how long a stopping server waits for its requests; 0 means
	// one second. A helper has spooled its event long before.
	Drain time.Duration
}

// Server serves the hook socket. Make one with New.
type Server struct {
	opt  Options
	log  *slog.Logger
	told chan hook.Event // nobody waits for them
}

// New checks the options and makes a server.
func New(opt Options) (*Server, error) {
	switch {
	case opt.Sink == nil:
		return nil, errors.New("hookserver: no sink")
	case len(opt.PeerUIDs) == 0:
		return nil, errors.New("hookserver: no user may post events")
	case opt.Drain < 0:
		return nil, errors.New("hookserver: a negative time to drain")
	case opt.Logger == nil:
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Drain == 0 {
		opt.Drain = time.Second
	}
	return &Server{opt: opt, log: opt.Logger, told: make(chan hook.Event, maxTold)}, nil
}

// Serve answers on ln until ctx ends, closes it and returns when every request
// has ended. The error is nil if ctx ended it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var gatherer sync.WaitGroup
	defer gatherer.Wait()
	gathering, end := context.WithCancel(ctx)
	defer end()
	gatherer.Go(func() { s.gather(gathering) })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the hook socket: %w", errors.Join(err, srv.Close()))
	case <-ctx.Done():
	}
	// The parent has ended: what is left gets a time of its own.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opt.Drain)
	defer cancel()
	err := srv.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-served // what closing met is in err
	if err != nil {
		return fmt.Errorf("close the hook socket: %w", err)
	}
	return nil
}

// Handler answers requests whose context holds the peer, as Serve has it.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+hook.EventPath, s.event)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.admit(r.Context()); err != nil {
			s.log.Warn("hook socket: peer refused", "err", err)
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// event answers 204 only after the sink has the event. Any other answer makes
// a helper that waits spool it; one that does not wait has.
func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, hook.MaxSize))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e, err := hook.Parse(body)
	if err != nil {
		s.log.Warn("hook socket: event refused", "err", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.Header.Get("Prefer") == hook.RespondAsync {
		w.WriteHeader(s.tell(e)) // for nobody
		return
	}
	ctx := r.Context()
	if err := s.opt.Sink.Events(ctx, []hook.Event{e}); err != nil {
		if ctx.Err() != nil {
			s.log.Info("hook socket: the helper no longer waited, its event is in the spool", "guest", e.VMID, "phase", e.Phase)
			return
		}
		s.log.Error("hook socket: event not taken in", "guest", e.VMID, "phase", e.Phase, "err", err)
		http.Error(w, "the event is not taken in", http.StatusServiceUnavailable)
		return
	}
	s.log.Debug("hook event", "guest", e.VMID, "phase", e.Phase, "id", e.ID)
	if why := s.veto(e); why != "" {
		s.log.Warn("start vetoed", "guest", e.VMID, "why", why)
		http.Error(w, why, http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// veto says why a start shall not be. An incoming migration is none: the guest
// runs already, elsewhere.
func (s *Server) veto(e hook.Event) string {
	if s.opt.Gate == nil || e.Phase != guest.PreStart || e.MigratedFrom != "" {
		return ""
	}
	return s.opt.Gate(e)
}

// peer is who is at the other end of a connection.
type peer struct {
	cred *unix.Ucred
	err  error
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	cred, err := PeerCred(c)
	return context.WithValue(ctx, peerKey{}, peer{cred, err})
}

// PeerCred asks the kernel who connected a unix socket.
func PeerCred(c net.Conn) (*unix.Ucred, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("peer credentials: %T is not a unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, cerr); err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	return cred, nil
}

func (s *Server) admit(ctx context.Context) error {
	p, ok := ctx.Value(peerKey{}).(peer)
	switch {
	case !ok:
		return errors.New("the peer is not known")
	case p.err != nil:
		return p.err
	case !slices.Contains(s.opt.PeerUIDs, int(p.cred.Uid)):
		return fmt.Errorf("user %d (process %d) may not post hook events", p.cred.Uid, p.cred.Pid)
	}
	return nil
}
