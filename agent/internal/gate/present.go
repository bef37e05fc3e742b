// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Present is what holds at the moment of acting, from the journal and a fresh
// observation of the guest.
type Present struct {
	Now               time.Time
	ClockSynchronised bool
	// Issued is the exact text of the request that this agent issued for the
	// op and did not withdraw.
	Issued []byte
	// NonceUsed: an intent record with the request's nonce exists. For the
	// resumption of an op whose intent is proven not to have been sent, the
	// caller, who holds that proof, says false.
	NonceUsed   bool
	OpID        string
	Host        string
	Action      string
	Guest       guest.ID
	Incarnation string
	PlanHash    string
	Effects     []string
}

// Check says why an approval may not be used now; nil if it may, once. It is
// to be called right before the intent is journalled, with what was observed
// after everything else.
func (a *Approval) Check(p Present) error {
	if !p.ClockSynchronised {
		return refuse(ErrClock, "")
	}
	r := &a.Request
	if err := a.policy.checkWindow(r.NotBefore, r.NotAfter, a.policy.maxWindow(), p.Now); err != nil {
		return err
	}
	for _, c := range []struct {
		reason        Reason
		signed, found string
	}{
		{ErrOtherHost, r.Host, p.Host},
		{ErrOtherOp, r.OpID, p.OpID},
		{ErrOtherAction, r.Action, p.Action},
		{ErrOtherGuest, printGuest(r.Guest), printGuest(p.Guest)},
		{ErrOtherIncarnation, r.Incarnation, p.Incarnation},
		{ErrOtherPlan, r.PlanHash, p.PlanHash},
	} {
		if c.signed != c.found {
			return refuse(c.reason, "approved %q, now %q", c.signed, c.found)
		}
	}
	if !slices.Equal(r.Effects, p.Effects) {
		return refuse(ErrOtherEffects, "%s", firstDifference(r.Effects, p.Effects))
	}
	return a.checkIssued(p)
}

func (a *Approval) checkIssued(p Present) error {
	if !bytes.Equal(a.Text, p.Issued) {
		issued, err := ParseRequest(p.Issued)
		switch {
		case err != nil:
			return refuse(ErrNotIssued, "no request of this op waits")
		case issued.Nonce != a.Request.Nonce:
			return refuse(ErrOtherNonce, "")
		case issued.Asker != a.Request.Asker:
			return refuse(ErrOtherAsker, "%q", a.Request.Asker)
		}
		return refuse(ErrNotIssued, "it differs from the one with this nonce")
	}
	if p.NonceUsed {
		return refuse(ErrNonceUsed, "nonce %s", a.Request.Nonce)
	}
	return nil
}

// CheckDelete is [Approval.Check] for the second phase of a destroy, under the
// grant that the first phase left: the approval's nonce is spent by then, the
// plan is another, and the effects that still matter are the caller's to
// compare. It is the request's method because the grant is kept as the
// request's text.
func (r *Request) CheckDelete(p Present) error {
	switch {
	case !p.ClockSynchronised:
		return refuse(ErrClock, "")
	case r.DeleteNotBefore.IsZero():
		return refuse(ErrOtherAction, "the approval has no second phase")
	case p.Now.Before(r.DeleteNotBefore):
		return refuse(ErrEarly, "not before %s", r.DeleteNotBefore.Format(timeForm))
	case p.Now.After(r.DeleteNotAfter):
		return refuse(ErrExpired, "not after %s", r.DeleteNotAfter.Format(timeForm))
	case r.Host != p.Host:
		return refuse(ErrOtherHost, "%q", r.Host)
	case r.OpID != p.OpID:
		return refuse(ErrOtherOp, "%q", r.OpID)
	case r.Guest != p.Guest:
		return refuse(ErrOtherGuest, "%s", printGuest(r.Guest))
	case r.Incarnation != p.Incarnation:
		return refuse(ErrOtherIncarnation, "approved %q, now %q", r.Incarnation, p.Incarnation)
	}
	return nil
}

// firstDifference says where two lists of effects part.
func firstDifference(approved, now []string) string {
	for i, e := range approved {
		if i >= len(now) {
			return "approved and gone: " + e
		}
		if now[i] != e {
			return "approved: " + e + "; now: " + now[i]
		}
	}
	return "new: " + now[len(approved)]
}
