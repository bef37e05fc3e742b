// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package control is the operator's API: HTTP and JSON on a unix socket, for
// the CLI and for curl.
//
// It guarantees that only the peers it is told about are served, that request
// bodies are bounded and strict, and that an answer is either what was asked
// for or {"error": "..."} with a status that is not 2xx.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// API is what the server needs of the agent.
type API interface {
	Status() any
	Plan(ctx context.Context) (plan.Plan, error)
	View(id guest.VMID) (engine.View, error)
	Ops() []op.Op
	Since(seq uint64) ([]ledger.Entry, <-chan struct{})
	Apply(ctx context.Context, q engine.Asked) (engine.Applied, error)
	Pause(ctx context.Context, id guest.VMID, by string) error
	Resume(ctx context.Context, id guest.VMID, by string) error
	Reload(ctx context.Context) error
	Selftest(ctx context.Context, id guest.VMID, by string) (any, error)
	Metrics() []byte
	Gate
}

// Guests is the body of apply, pause, resume and selftest. Key makes an apply
// idempotent.
type Guests struct {
	Guests []guest.VMID `json:"guests"`
	Key    string       `json:"key,omitempty"`
}

const maxBody = 64 << 10

// Handler serves api. who names the peer of a request, for the journal; an
// error refuses it.
func Handler(api API, who func(*http.Request) (string, error)) http.Handler {
	s := &server{api: api, who: who}
	mux := http.NewServeMux()
	get := func(path string, f func(*http.Request) (any, error)) { mux.Handle("GET "+path, s.json(f)) }
	get("/v1/status", func(*http.Request) (any, error) { return api.Status(), nil })
	get("/v1/plan", func(r *http.Request) (any, error) { return api.Plan(r.Context()) })
	get("/v1/ops", func(*http.Request) (any, error) { return api.Ops(), nil })
	get("/v1/guests/{vmid}", s.guest)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(api.Metrics())
	})
	post := func(path string, f func(*http.Request, Guests, string) (any, error)) {
		mux.Handle("POST "+path, s.json(body(f)))
	}
	post("/v1/apply", func(r *http.Request, g Guests, by string) (any, error) {
		return api.Apply(r.Context(), engine.Asked{Guests: g.Guests, Key: g.Key, By: by})
	})
	post("/v1/pause", s.each(api.Pause))
	post("/v1/resume", s.each(api.Resume))
	post("/v1/reload", func(r *http.Request, _ Guests, _ string) (any, error) { return done, api.Reload(r.Context()) })
	post("/v1/selftest", s.selftest)
	post("/v1/accept", s.named(api.Accept))
	post("/v1/forget", s.named(api.Forget))
	s.gateRoutes(mux)
	return s.guard(mux)
}

var done = map[string]bool{"ok": true}

type server struct {
	api API
	who func(*http.Request) (string, error)
}

type peerKey struct{}

// guard refuses peers that are not known and bounds bodies.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		by, err := s.who(r)
		if err != nil {
			writeError(w, http.StatusForbidden, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, by)))
	})
}

func (s *server) json(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			writeError(w, statusOf(err), err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(v) // the peer went away
	})
}

var errBadRequest = errors.New("bad request")

func statusOf(err error) int {
	switch {
	case errors.Is(err, errBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, engine.ErrKeyReused):
		return http.StatusConflict
	case errors.Is(err, engine.ErrNotManaged), errors.Is(err, engine.ErrNoOp):
		return http.StatusNotFound
	case errors.Is(err, engine.ErrOrder):
		return http.StatusUnprocessableEntity
	case gate.ReasonOf(err) != "":
		return http.StatusForbidden
	}
	return http.StatusBadGateway
}

func writeError(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

func (s *server) guest(r *http.Request) (any, error) {
	id, err := guest.ParseVMID(r.PathValue("vmid"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	v, err := s.api.View(id)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", id, err)
	}
	return v, nil
}

// each runs a command for every named guest; none named means the host.
func (s *server) each(f func(context.Context, guest.VMID, string) error) func(*http.Request, Guests, string) (any, error) {
	return func(r *http.Request, g Guests, by string) (any, error) {
		ids := g.Guests
		if len(ids) == 0 {
			ids = []guest.VMID{0}
		}
		for _, id := range ids {
			if err := f(r.Context(), id, by); err != nil {
				return nil, err
			}
		}
		return done, nil
	}
}

// named is each for a command that makes no sense for the whole host.
func (s *server) named(f func(context.Context, guest.VMID, string) error) func(*http.Request, Guests, string) (any, error) {
	return func(r *http.Request, g Guests, by string) (any, error) {
		if len(g.Guests) == 0 {
			return nil, fmt.Errorf("%w: no guest is named", errBadRequest)
		}
		return s.each(f)(r, g, by)
	}
}

func (s *server) selftest(r *http.Request, g Guests, by string) (any, error) {
	if len(g.Guests) != 1 {
		return nil, fmt.Errorf("%w: selftest needs exactly one guest", errBadRequest)
	}
	return s.api.Selftest(r.Context(), g.Guests[0], by)
}

// events streams journal records as JSON lines: those after since that are
// still in memory, and with follow=1 the ones to come.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
	if err != nil && r.FormValue("since") != "" {
		writeError(w, http.StatusBadRequest, fmt.Errorf("since: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for {
		entries, more := s.api.Since(since)
		for _, e := range entries {
			if enc.Encode(e) != nil {
				return
			}
			since = e.Seq
		}
		if r.FormValue("follow") == "" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-more:
		}
	}
}

// Serve runs the API on a listener until ctx ends, and returns when the requests
// that were being answered have ended, or were cut off.
func Serve(ctx context.Context, srv *http.Server, serve func() error) error {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := serve()
	if !stop() {
		<-over
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
