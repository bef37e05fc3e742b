// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Gate is what the server needs of the agent for orders and signatures.
type Gate interface {
	Op(id string) (op.Op, bool)
	Ask(ctx context.Context, q engine.Order) (engine.Applied, error)
	Approve(ctx context.Context, id, text string, sigs []ledger.Signature, by string) (engine.Applied, error)
	Reject(ctx context.Context, id, by string) error
	Undo(ctx context.Context, id, by string) (engine.Applied, error)
	Accept(ctx context.Context, id guest.VMID, by string) error
	Forget(ctx context.Context, id guest.VMID, by string) error
	Permits() []ledger.Permit
	Permit(ctx context.Context, text string, sigs []ledger.Signature, by string) (ledger.Permit, error)
	WithdrawPermit(ctx context.Context, name, by string) error
}

// Ask is the body of an order.
type Ask struct {
	Guest  guest.VMID        `json:"guest"`
	Action plugin.ActionKind `json:"action"`
	Params map[string]string `json:"params,omitempty"`
	Key    string            `json:"key,omitempty"`
	// As is the asker's name among the signers, for the four-eyes rule.
	As string `json:"as,omitempty"`
}

// Signed is the body of an approval and of a permit: the exact text that was
// signed, and the signatures.
type Signed struct {
	Text       string             `json:"text"`
	Signatures []ledger.Signature `json:"signatures"`
}

func (s *server) gateRoutes(mux *http.ServeMux) {
	api := s.api
	mux.Handle("GET /v1/ops/{id}", s.json(func(r *http.Request) (any, error) {
		o, ok := api.Op(r.PathValue("id"))
		if !ok {
			return nil, fmt.Errorf("op %s: %w", r.PathValue("id"), engine.ErrNoOp)
		}
		return o, nil
	}))
	mux.Handle("GET /v1/permits", s.json(func(*http.Request) (any, error) { return api.Permits(), nil }))
	mux.Handle("POST /v1/ask", s.json(body(func(r *http.Request, q Ask, by string) (any, error) {
		return api.Ask(r.Context(), engine.Order{Guest: q.Guest, Action: q.Action, Params: q.Params, Key: q.Key, By: by, As: q.As})
	})))
	mux.Handle("POST /v1/ops/{id}/approve", s.json(body(func(r *http.Request, q Signed, by string) (any, error) {
		return api.Approve(r.Context(), r.PathValue("id"), q.Text, q.Signatures, by)
	})))
	mux.Handle("POST /v1/ops/{id}/reject", s.json(body(func(r *http.Request, _ struct{}, by string) (any, error) {
		return done, api.Reject(r.Context(), r.PathValue("id"), by)
	})))
	mux.Handle("POST /v1/ops/{id}/undo", s.json(body(func(r *http.Request, _ struct{}, by string) (any, error) {
		return api.Undo(r.Context(), r.PathValue("id"), by)
	})))
	mux.Handle("POST /v1/permits", s.json(body(func(r *http.Request, q Signed, by string) (any, error) {
		return api.Permit(r.Context(), q.Text, q.Signatures, by)
	})))
	mux.Handle("POST /v1/permits/{name}/withdraw", s.json(body(func(r *http.Request, _ struct{}, by string) (any, error) {
		return done, api.WithdrawPermit(r.Context(), r.PathValue("name"), by)
	})))
}

// body decodes a request's body strictly, if there is one, and names the asker.
func body[T any](f func(*http.Request, T, string) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var v T
		if r.ContentLength != 0 {
			dec := json.NewDecoder(r.Body)
			dec.DisallowUnknownFields()
			if err := dec.Decode(&v); err != nil {
				return nil, fmt.Errorf("%w: body: %w", errBadRequest, err)
			}
		}
		by, _ := r.Context().Value(peerKey{}).(string)
		return f(r, v, by)
	}
}
