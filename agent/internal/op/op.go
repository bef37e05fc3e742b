// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package op is an operation's life: an action with an id, an asker and a
// state, and the moves between states that are legal.
//
// It guarantees that an illegal move is an error, so that nothing can be sent
// twice or end twice by accident.
package op

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// State is where an op is in its life.
type State string

// The states. An op that is succeeded, failed, refused or abandoned has ended.
const (
	Planned  State = "planned"
	Awaiting State = "awaiting-approval"
	// Granted: approved in two phases, the approval is spent and the op waits
	// for its time (a destroy whose guest is in quarantine).
	Granted State = "granted"
	Intent  State = "intent"  // on disk; its effect may have been asked for
	Started State = "started" // PVE works on it under Handle
	// Unknown: it may have happened. Observation settles it; what leaves no mark
	// that could be observed is abandoned.
	Unknown   State = "unknown"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Refused   State = "refused"
	Abandoned State = "abandoned"
	// Retried ends an attempt, not the op: nothing happened and it goes back
	// to be planned.
	Retried State = "retried"
)

var moves = map[State][]State{
	"":      {Planned, Awaiting, Intent},
	Planned: {Awaiting, Intent, Refused, Abandoned},
	// Awaiting again: with a new request, the old one is worth nothing.
	Awaiting: {Awaiting, Granted, Intent, Refused, Abandoned},
	// Failed: one of its steps, each an op of its own, goes wrong for good.
	Granted: {Intent, Failed, Refused, Abandoned},
	Intent:  {Started, Succeeded, Failed, Refused, Unknown, Retried, Abandoned},
	// Abandoned: its task ended before it did anything, as on a guest that was
	// locked meanwhile.
	Started: {Succeeded, Failed, Refused, Unknown, Retried, Abandoned},
	Unknown: {Succeeded, Failed, Abandoned},
	Retried: {Intent, Failed, Refused, Abandoned},
}

// Can reports whether a move from s to next is legal.
func (s State) Can(next State) bool { return slices.Contains(moves[s], next) }

// Ended reports whether an op in state s will not move any more. Unknown has
// not ended: observation may still settle it.
func (s State) Ended() bool { return s != "" && len(moves[s]) == 0 }

// InFlight reports whether an op in state s may be taking effect.
func (s State) InFlight() bool { return s == Intent || s == Started }

// The askers that are not a person.
const (
	Reconciler = "reconciler"
	Operator   = "operator"
)

// Op is an operation. Action.Set has masks instead of secret values once the
// op has been journalled.
type Op struct {
	ID       string            `json:"id"`
	Asker    string            `json:"asker"`
	Guest    guest.ID          `json:"guest"`
	Kind     plugin.ActionKind `json:"kind"`
	Class    guest.Class       `json:"class"`
	Reason   string            `json:"reason"`
	Set      map[string]string `json:"set,omitempty"`
	Delete   []string          `json:"delete,omitempty"`
	Digest   string            `json:"digest,omitempty"`
	Params   map[string]string `json:"params,omitempty"`
	Secret   []string          `json:"secret,omitempty"`
	Revision string            `json:"revision,omitempty"` // of the desire behind it
	State    State             `json:"state"`
	Attempt  int               `json:"attempt,omitempty"`
	Handle   string            `json:"handle,omitempty"` // UPID
	Node     string            `json:"node,omitempty"`
	Planned  time.Time         `json:"planned"`
	Sent     time.Time         `json:"sent,omitzero"`
	Ended    time.Time         `json:"ended,omitzero"`
	Message  string            `json:"message,omitempty"` // how it ended, PVE's words
	Undo     *plugin.Action    `json:"undo,omitempty"`
	// Made is what came of it, by the action kind's names (a backup's volume).
	Made map[string]string `json:"made,omitempty"`

	// Incarnation is the guest's that is meant, and Explains the evidence of
	// it that the op may change (package identity).
	Incarnation string   `json:"incarnation,omitempty"`
	Explains    []string `json:"explains,omitempty"`
	// Parent is the op whose part this one is: a destroy's, for the steps of
	// its quarantine.
	Parent string `json:"parent,omitempty"`
	// Undoes is the op that this one takes back.
	Undoes string `json:"undoes,omitempty"`
	// Request is the exact text that is to be signed, Effects what it says
	// will happen, Basis those of them that must still hold at a later phase.
	Request string   `json:"request,omitempty"`
	Effects []string `json:"effects,omitempty"`
	Basis   []string `json:"basis,omitempty"`
	Plan    string   `json:"plan,omitempty"` // hash of what is planned
	// NotBefore and NotAfter bound a granted op.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// Approval is what allowed it. It is set in the record that consumes it.
	Approval *Approval `json:"approval,omitempty"`
}

// Approval is a consumed approval or a use of a standing permit.
type Approval struct {
	Nonce   string   `json:"nonce,omitempty"`
	Hash    string   `json:"hash"` // of the signed text
	Permit  bool     `json:"permit,omitempty"`
	Signers []string `json:"signers"` // "alice SHA256:..."
	// At is when it was verified and consumed.
	At time.Time `json:"at,omitzero"`
}

// Gated reports whether the op needs somebody's signature.
func (o *Op) Gated() bool { return o.Class == guest.Irreversible }

// Move changes the state, or says why it cannot.
func (o *Op) Move(next State) error {
	if !o.State.Can(next) {
		return fmt.Errorf("op %s of guest %s cannot go from %q to %q", o.ID, o.Guest, o.State, next)
	}
	o.State = next
	return nil
}

// Action is the op as an executor gets it.
func (o *Op) Action() plugin.Action {
	return plugin.Action{
		OpID: o.ID, Attempt: o.Attempt, Node: o.Node, Guest: o.Guest, Kind: o.Kind,
		Set: o.Set, Delete: o.Delete, Digest: o.Digest, Params: o.Params,
		Reason: o.Reason, Secret: o.Secret,
	}
}

// Masked stands for a secret value in the journal.
const Masked = "(secret)"

// Journalled returns a copy of o fit for the journal: without secret values.
func (o *Op) Journalled() Op {
	c := *o
	c.Set = mask(o.Set, o.Secret)
	if o.Undo != nil {
		u := *o.Undo
		u.Set = mask(u.Set, o.Secret)
		c.Undo = &u
	}
	return c
}

func mask(set map[string]string, secret []string) map[string]string {
	if set == nil {
		return nil
	}
	out := make(map[string]string, len(set))
	for k, v := range set {
		if slices.Contains(secret, k) {
			v = Masked
		}
		out[k] = v
	}
	return out
}

// HasSecrets reports whether the op carries values that the journal does not
// keep, so that it cannot be sent again after a restart.
func (o *Op) HasSecrets() bool {
	return slices.ContainsFunc(o.Secret, func(k string) bool { _, ok := o.Set[k]; return ok })
}

// NewID returns an id that sorts by time (milliseconds, then 40 random bits).
func NewID(now time.Time) string {
	var b [11]byte
	ms := now.UnixMilli()
	for i := range 6 {
		b[i] = byte(ms >> (8 * (5 - i)))
	}
	rand.Read(b[6:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
