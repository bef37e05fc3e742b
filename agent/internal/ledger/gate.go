// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Identity is a new verdict on a guest, or new evidence of one that is the
// same. What broke its continuity is carried along: PVE forgets its tasks.
type Identity struct {
	VMID       guest.VMID           `json:"vmid"`
	Verdict    identity.Verdict     `json:"verdict"`
	Why        []string             `json:"why,omitempty"`
	Evidence   *identity.Evidence   `json:"evidence,omitempty"` // nil: what was known stays
	Continuity *identity.Continuity `json:"continuity,omitempty"`
	Looked     time.Time            `json:"looked,omitzero"` // when Evidence was seen, by the node's clock
}

// Accepted says that the guest as it was seen is the one that is meant. A
// stranger gets a new incarnation with it.
type Accepted struct {
	VMID        guest.VMID         `json:"vmid"`
	Guest       guest.ID           `json:"guest"`
	Incarnation string             `json:"incarnation"`
	Evidence    *identity.Evidence `json:"evidence"`
	Looked      time.Time          `json:"looked"`
	By          string             `json:"by"`
}

// Forgot wipes what is known of a guest, so that it may be made anew.
type Forgot struct {
	VMID guest.VMID `json:"vmid"`
	By   string     `json:"by"`
}

// Gone says that a guest is proven not to be here: destroyed by somebody, or
// on another node.
type Gone struct {
	VMID      guest.VMID `json:"vmid"`
	Elsewhere bool       `json:"elsewhere,omitempty"`
}

// Signature is one signature as it was handed in.
type Signature struct {
	Principal string `json:"principal,omitempty"`
	Armored   string `json:"armored"`
}

// Approval is what was handed in for an op's request. It allows nothing by
// itself: it is verified again before the op's intent, which consumes it.
type Approval struct {
	Op         string      `json:"op"`
	Guest      guest.ID    `json:"guest"`
	Text       string      `json:"text"`
	Signatures []Signature `json:"signatures"`
	Signers    []string    `json:"signers"` // as they were verified then
	By         string      `json:"by"`      // who handed it in
	// Refused says why it was not taken; Reason is that in one word (package
	// gate). With Void it had been taken before and is worth nothing any more.
	Refused string `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Void    bool   `json:"void,omitempty"`
}

// Permit is a standing permit that was handed in, or with Withdrawn its end.
type Permit struct {
	Hash       string      `json:"hash"` // of the text
	ID         string      `json:"id"`
	Text       string      `json:"text,omitempty"`
	Signatures []Signature `json:"signatures,omitempty"`
	Signers    []string    `json:"signers,omitempty"`
	Withdrawn  bool        `json:"withdrawn,omitempty"`
	By         string      `json:"by"`
	// Used counts the intents under it; only the state has it.
	Used int `json:"used,omitempty"`
}

// Quarantine is a guest's state before it went into quarantine for an op. With
// Over it ends.
type Quarantine struct {
	Op         string         `json:"op"`
	VMID       guest.VMID     `json:"vmid"`
	Run        guest.RunState `json:"run,omitempty"`
	Onboot     string         `json:"onboot,omitempty"` // "" = not set
	Protection string         `json:"protection,omitempty"`
	Tags       string         `json:"tags,omitempty"`
	NotBefore  time.Time      `json:"not_before,omitzero"` // of the deletion
	Over       string         `json:"over,omitempty"`      // why it ended
}

// applyGate folds the records that are about who a guest is and what was
// allowed.
func (l *Ledger) applyGate(r Record, at time.Time) {
	switch r.Type {
	case TypeIdentity:
		g := l.guest(r.Identity.VMID)
		g.Verdict, g.VerdictWhy, g.Continuity = r.Identity.Verdict, r.Identity.Why, r.Identity.Continuity
		if r.Identity.Evidence != nil {
			g.Evidence, g.Looked, g.Explained, g.Lost = r.Identity.Evidence, r.Identity.Looked, nil, ""
		}
	case TypeAccepted:
		a := r.Accepted
		g := l.guest(a.VMID)
		if g.Incarnation != a.Incarnation {
			g.Quarantine = nil // that was another guest
		}
		g.ID, g.Incarnation, g.Evidence, g.Looked = a.Guest, a.Incarnation, a.Evidence, a.Looked
		g.Verdict, g.VerdictWhy, g.Explained = identity.Same, nil, nil
		g.Lost, g.HalfMade, g.Continuity = "", "", nil
	case TypeForgot:
		l.forgot(r.Forgot.VMID)
	case TypeGone:
		l.gone(r.Gone)
	case TypeApproval:
		switch {
		case r.Approval.Refused == "":
			l.s.Approvals[r.Approval.Op] = r.Approval
		case r.Approval.Void:
			delete(l.s.Approvals, r.Approval.Op)
		}
	case TypePermit:
		l.permit(r.Permit)
	case TypeQuarantine:
		g := l.guest(r.Quarantine.VMID)
		g.Quarantine = r.Quarantine
		if r.Quarantine.Over != "" {
			g.Quarantine = nil
		}
	}
}

// forgot keeps the desire and the pause: they are not about the guest that was.
func (l *Ledger) forgot(v guest.VMID) {
	old := l.guest(v)
	l.s.Guests[v] = &Guest{ID: guest.ID{VMID: v}, Revision: old.Revision, Since: old.Since, Paused: old.Paused}
}

func (l *Ledger) gone(r *Gone) {
	g := l.guest(r.VMID)
	g.Lost = "it was here and is gone"
	switch {
	case r.Elsewhere:
		g.Lost = "it was seen on another node of the cluster"
	case g.Removed != "":
		g.Lost = "it was destroyed by op " + g.Removed
	}
	g.Quarantine = nil
}

func (l *Ledger) permit(p *Permit) {
	old := l.s.Permits[p.Hash]
	if p.Withdrawn {
		if old != nil {
			c := *old
			c.Withdrawn, c.By = true, p.By
			l.s.Permits[p.Hash] = &c
		}
		return
	}
	c := *p
	if old != nil {
		c.Used = old.Used // handed in again: its uses count on
	}
	l.s.Permits[p.Hash] = &c
}

// consume notes what an op's record uses up: a nonce, or one use of a permit.
func (l *Ledger) consume(o *op.Op, before *op.Op) {
	if o.Approval == nil || before != nil && before.Approval != nil && before.Approval.Hash == o.Approval.Hash {
		return // nothing, or what its former attempt used up already
	}
	if o.Approval.Permit {
		if p := l.s.Permits[o.Approval.Hash]; p != nil {
			c := *p
			c.Used++
			l.s.Permits[p.Hash] = &c
		}
		return
	}
	l.s.Nonces = append(l.s.Nonces, o.Approval.Nonce)
	if n := len(l.s.Nonces) - keepKeys; n > 0 {
		l.s.Nonces = slices.Delete(l.s.Nonces, 0, n)
	}
}

// endedGate draws the conclusions of an op's end for identity and gate.
func (l *Ledger) endedGate(o *op.Op) {
	delete(l.s.Approvals, o.ID)
	g := l.guest(o.Guest.VMID)
	switch {
	case o.Kind == plugin.Destroy && o.State == op.Succeeded:
		g.Removed, g.Lost = o.ID, "it was destroyed by op "+o.ID
		g.Quarantine = nil
	case o.Kind == plugin.Provision && (o.State == op.Failed || o.State == op.Refused):
		g.HalfMade = o.ID
	case o.Kind == plugin.Provision && o.State == op.Succeeded:
		g.HalfMade, g.Verdict, g.VerdictWhy = "", "", nil
	}
}

// Approval returns what was handed in for an op that has not ended.
func (l *Ledger) Approval(id string) (Approval, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	a := l.s.Approvals[id]
	if a == nil {
		return Approval{}, false
	}
	return *a, true
}

// NonceUsed reports whether an intent with the nonce was journalled.
func (l *Ledger) NonceUsed(nonce string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Contains(l.s.Nonces, nonce)
}

// Permits returns the standing permits, by hash.
func (l *Ledger) Permits() []Permit {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := []Permit{}
	for _, h := range slices.Sorted(maps.Keys(l.s.Permits)) {
		out = append(out, *l.s.Permits[h])
	}
	return out
}

// Permit returns a standing permit by its hash.
func (l *Ledger) Permit(hash string) (Permit, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.s.Permits[hash]
	if p == nil {
		return Permit{}, false
	}
	return *p, true
}

// Waiting returns the guest's ops that wait for a signature or for their time,
// oldest first.
func (l *Ledger) Waiting(v guest.VMID) []op.Op {
	out := l.OpsOf(v)
	out = slices.DeleteFunc(out, func(o op.Op) bool { return o.State != op.Awaiting && o.State != op.Granted })
	slices.SortFunc(out, func(a, b op.Op) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// gateText tells a record of this file in one line.
func (r Record) gateText() string {
	switch r.Type {
	case TypeIdentity:
		switch r.Identity.Verdict {
		case identity.Same:
			return "the same guest"
		case identity.Changed, identity.Unsure:
			return "not surely the same guest" + becauseOf(r.Identity.Why)
		}
		return "another guest has this VMID" + becauseOf(r.Identity.Why)
	case TypeAccepted:
		return "accepted as it is by " + r.Accepted.By
	case TypeForgot:
		return "forgotten by " + r.Forgot.By
	case TypeGone:
		if r.Gone.Elsewhere {
			return "seen on another node"
		}
		return "gone"
	case TypeApproval:
		if r.Approval.Refused != "" {
			return fmt.Sprintf("approval of op %s refused (%s): %s", r.Approval.Op, r.Approval.Reason, r.Approval.Refused)
		}
		return fmt.Sprintf("op %s approved by %s", r.Approval.Op, strings.Join(r.Approval.Signers, ", "))
	case TypePermit:
		if r.Permit.Withdrawn {
			return fmt.Sprintf("permit %s withdrawn by %s", r.Permit.ID, r.Permit.By)
		}
		return fmt.Sprintf("permit %s (%.12s) signed by %s", r.Permit.ID, r.Permit.Hash, strings.Join(r.Permit.Signers, ", "))
	case TypeQuarantine:
		if r.Quarantine.Over != "" {
			return "quarantine over: " + r.Quarantine.Over
		}
		return fmt.Sprintf("quarantine for op %s begins, it was %s; deletion not before %s",
			r.Quarantine.Op, r.Quarantine.Run, r.Quarantine.NotBefore.UTC().Format(time.RFC3339))
	}
	return "record of a type this version does not know: " + string(r.Type)
}

func becauseOf(why []string) string {
	if len(why) == 0 {
		return ""
	}
	return ": " + strings.Join(why, "; ")
}
