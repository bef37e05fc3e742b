// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"fmt"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// VMID is the guest a record is about, 0 if it is about none in particular.
func (r Record) VMID() guest.VMID {
	switch r.Type {
	case TypeEvent:
		return r.Event.VMID
	case TypeOp:
		return r.Op.Guest.VMID
	case TypeStep:
		return r.Step.Guest.VMID
	case TypeSeen:
		return r.Seen.Guest.VMID
	case TypeSettled:
		return r.Settled.VMID
	case TypeHeld:
		return r.Held.VMID
	case TypeReleased:
		return r.Released.VMID
	case TypePaused:
		return r.Paused.VMID
	case TypeSetAside:
		return r.SetAside.VMID
	case TypeIdentity:
		return r.Identity.VMID
	case TypeAccepted:
		return r.Accepted.VMID
	case TypeForgot:
		return r.Forgot.VMID
	case TypeGone:
		return r.Gone.VMID
	case TypeApproval:
		return r.Approval.Guest.VMID
	case TypeQuarantine:
		return r.Quarantine.VMID
	}
	return 0
}

// OpID is the op a record is about, "" if it is about none.
func (r Record) OpID() string {
	switch r.Type {
	case TypeOp:
		return r.Op.ID
	case TypeStep:
		return r.Step.ID
	case TypeApproval:
		return r.Approval.Op
	case TypeQuarantine:
		return r.Quarantine.Op
	}
	return ""
}

// Text tells a record in one line, without time and guest.
func (r Record) Text() string {
	switch r.Type {
	case TypeAgent:
		return fmt.Sprintf("agent %s %s, mode %s", r.Agent.Version, r.Agent.What, r.Agent.Mode)
	case TypeEvent:
		return "hook " + string(r.Event.Phase)
	case TypeDesired:
		return desiredText(r.Desired)
	case TypeOp:
		return opText(r.Op)
	case TypeStep:
		return stepText(r.Step)
	case TypeKey:
		return fmt.Sprintf("key %q used for %d ops", r.Key.Key, len(r.Key.Ops))
	case TypeSeen:
		return "first seen"
	case TypeSettled:
		return "as wanted"
	case TypeHeld:
		if r.Held.Why == "" {
			return "as wanted again: not held any more"
		}
		return "held: " + r.Held.Why
	case TypeReleased:
		return "hold ended by " + r.Released.By
	case TypePaused:
		if r.Paused.On {
			return "paused by " + r.Paused.By
		}
		return "resumed by " + r.Paused.By
	case TypeSetAside:
		return fmt.Sprintf("%s set aside: %s", r.SetAside.Key, r.SetAside.Words)
	}
	return r.gateText()
}

func opText(o *op.Op) string {
	verb := string(o.State)
	switch o.State {
	case op.Awaiting:
		verb = "waits for an approval"
	case op.Granted:
		verb = "granted to " + who(o.Approval) + ", not before " + o.NotBefore.UTC().Format(time.RFC3339)
	case op.Intent:
		verb = "intent"
		if o.Attempt > 1 {
			verb = fmt.Sprintf("intent, attempt %d", o.Attempt)
		}
		if o.Approval != nil && o.NotBefore.IsZero() {
			verb += ", allowed by " + who(o.Approval)
		}
	}
	return fmt.Sprintf("op %s %s: %s, asked by %s: %s", o.ID, verb, o.Kind, o.Asker, o.Reason)
}

func stepText(s *Step) string {
	t := fmt.Sprintf("op %s %s", s.ID, s.State)
	if s.Handle != "" {
		t += " as " + s.Handle
	}
	if s.Message != "" {
		t += ": " + strings.TrimSpace(s.Message)
	}
	return t
}

// who names those that allowed an op.
func who(a *op.Approval) string {
	if a == nil {
		return "nobody"
	}
	if a.Permit {
		return fmt.Sprintf("permit %.12s", a.Hash)
	}
	return strings.Join(a.Signers, ", ")
}

func desiredText(d *Desired) string {
	text := fmt.Sprintf("desired state of %s accepted, %d guests, revision %.12s", d.Provider, len(d.Guests), d.Revision)
	if d.Signed && d.Index != nil {
		text += fmt.Sprintf(", signed: serial %d of %s", d.Index.Serial, d.Index.Issuer)
	}
	return text
}
