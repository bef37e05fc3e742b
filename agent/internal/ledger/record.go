// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package ledger is what the journal's records mean: their types, and the
// state they add up to.
//
// The state is a pure fold of the records in order, so replaying the journal
// after a crash gives exactly what was in memory before. It guarantees that
// an event id counts once (P7) and that a record that would break an op's
// life is an error.
package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Type names a record.
type Type string

// The record types. To add one see CONTRIBUTING.md.
const (
	TypeAgent    Type = "agent"     // the agent started or stopped
	TypeEvent    Type = "event"     // a hook event was accepted
	TypeDesired  Type = "desired"   // a provider's snapshot was accepted
	TypeOp       Type = "op"        // an op was planned, or its intent written
	TypeStep     Type = "step"      // an op moved on
	TypeKey      Type = "key"       // ops were asked for under an idempotency key
	TypeSeen     Type = "seen"      // a guest was seen for the first time
	TypeSettled  Type = "settled"   // a guest was found as wanted
	TypeHeld     Type = "held"      // a manual change of the run state is left alone, or no longer
	TypeReleased Type = "released"  // the operator ended a guest's hold
	TypePaused   Type = "paused"    // the operator paused or resumed a guest or the host
	TypeSetAside Type = "set-aside" // PVE refused a key

	TypeIdentity   Type = "identity"   // the verdict on who a guest is, or its evidence, changed
	TypeAccepted   Type = "accepted"   // the operator accepted a guest as the one that is meant
	TypeForgot     Type = "forgot"     // the operator had a guest forgotten
	TypeGone       Type = "gone"       // a guest that was known is not here any more
	TypeApproval   Type = "approval"   // signatures for an op's request were handed in
	TypePermit     Type = "permit"     // a standing permit was handed in, or withdrawn
	TypeQuarantine Type = "quarantine" // a guest went into quarantine, or left it
)

// Record is one entry's payload. Exactly the field that Type names is set.
type Record struct {
	Type     Type        `json:"type"`
	Agent    *Agent      `json:"agent,omitempty"`
	Event    *hook.Event `json:"event,omitempty"`
	Desired  *Desired    `json:"desired,omitempty"`
	Op       *op.Op      `json:"op,omitempty"`
	Step     *Step       `json:"step,omitempty"`
	Key      *Key        `json:"key,omitempty"`
	Seen     *Seen       `json:"seen,omitempty"`
	Settled  *Settled    `json:"settled,omitempty"`
	Held     *Held       `json:"held,omitempty"`
	Released *Released   `json:"released,omitempty"`
	Paused   *Paused     `json:"paused,omitempty"`
	SetAside *SetAside   `json:"set_aside,omitempty"`

	Identity   *Identity   `json:"identity,omitempty"`
	Accepted   *Accepted   `json:"accepted,omitempty"`
	Forgot     *Forgot     `json:"forgot,omitempty"`
	Gone       *Gone       `json:"gone,omitempty"`
	Approval   *Approval   `json:"approval,omitempty"`
	Permit     *Permit     `json:"permit,omitempty"`
	Quarantine *Quarantine `json:"quarantine,omitempty"`
}

// What an Agent record tells of.
const (
	Started = "started"
	Stopped = "stopped"
)

// Agent marks a start or stop of the daemon.
type Agent struct {
	What    string `json:"what"` // Started or Stopped
	Version string `json:"version"`
	Mode    string `json:"mode"`
	Boot    string `json:"boot,omitempty"` // the host's boot id
}

// Desired is an accepted snapshot. The files themselves are in the cache,
// under the hash that Revision is.
type Desired struct {
	Provider string                `json:"provider"`
	Revision string                `json:"revision"`
	Serial   uint64                `json:"serial,omitempty"`
	NotAfter time.Time             `json:"not_after,omitzero"`
	Guests   map[guest.VMID]string `json:"guests"` // revision per guest
	// Accepted is when the source last gave it, roughly: it is written again
	// only now and then.
	Accepted time.Time `json:"accepted,omitzero"`
	// Signed: this revision is the one that Index lists. Index is kept by a
	// later revision that is not signed, so that no older one is ever taken.
	Signed bool   `json:"signed,omitempty"`
	Index  *Index `json:"index,omitempty"`
}

// Index is the last signed index that was accepted from an issuer.
type Index struct {
	Issuer string `json:"issuer"`
	Serial uint64 `json:"serial"`
	Hash   string `json:"hash"`
}

// Step moves an op on. Fields that do not change are left out.
type Step struct {
	ID      string         `json:"id"`
	Guest   guest.ID       `json:"guest"`
	State   op.State       `json:"state"`
	From    op.State       `json:"-"` // where the op is believed to be, see Ledger.Check
	Handle  string         `json:"handle,omitempty"`
	Message string         `json:"message,omitempty"`
	Undo    *plugin.Action `json:"undo,omitempty"`
	// Made is what came of it, by the action kind's names.
	Made map[string]string `json:"made,omitempty"`
}

// Key binds an idempotency key to what was asked for under it and to the ops
// that came of it, maybe none.
type Key struct {
	Key     string   `json:"key"`
	Content string   `json:"content"` // hash of what was asked for
	Ops     []string `json:"ops"`
}

// Seen binds a VMID to an incarnation.
type Seen struct {
	Guest       guest.ID           `json:"guest"`
	Incarnation string             `json:"incarnation"`
	Evidence    *identity.Evidence `json:"evidence,omitempty"`
	// Looked is when that was seen, by the node's clock.
	Looked time.Time `json:"looked,omitzero"`
}

// Settled says that a guest was as wanted at this revision of its desire.
type Settled struct {
	VMID     guest.VMID `json:"vmid"`
	Revision string     `json:"revision"`
}

// Held says why a guest's run state is left alone; an empty Why ends it. PVE
// forgets its tasks within days, so who stopped a guest is kept here.
type Held struct {
	VMID guest.VMID `json:"vmid"`
	Why  string     `json:"why,omitempty"`
}

// Released ends a guest's hold: manual changes before it do not count.
type Released struct {
	VMID guest.VMID `json:"vmid"`
	By   string     `json:"by"`
}

// Paused pauses or resumes a guest, or the whole host when VMID is 0.
type Paused struct {
	VMID guest.VMID `json:"vmid,omitempty"`
	On   bool       `json:"on"`
	By   string     `json:"by"`
}

// SetAside says that PVE refused a key's change. It holds as long as Want,
// Have and PVE stay what they were.
type SetAside struct {
	VMID  guest.VMID `json:"vmid"`
	Key   string     `json:"key"`
	Want  string     `json:"want"` // hash of the wanted value
	Have  string     `json:"have"` // hash of the actual value
	PVE   string     `json:"pve"`  // PVE's version
	Words string     `json:"words"`
}

// Encode is the payload of r.
func (r Record) Encode() (json.RawMessage, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", r.Type, err)
	}
	return b, nil
}

// Decode reads a payload.
func Decode(payload json.RawMessage) (Record, error) {
	var r Record
	if err := json.Unmarshal(payload, &r); err != nil {
		return r, fmt.Errorf("decode record: %w", err)
	}
	return r, nil
}
