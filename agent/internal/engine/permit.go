// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Permit takes a standing permit. Ops that wait and that it covers go ahead.
func (e *Engine) Permit(ctx context.Context, text string, sigs []ledger.Signature, by string) (ledger.Permit, error) {
	p := ledger.Permit{Hash: gate.Hash([]byte(text)), Text: text, Signatures: sigs, By: by}
	g, err := e.granted(p, time.Now())
	if err != nil {
		return p, fmt.Errorf("the permit is refused (%s): %w", gate.ReasonOf(err).Error(), err)
	}
	p.ID, p.Signers = g.Permit.ID, names(g.Signers)
	if err := e.append(ctx, ledger.Record{Type: ledger.TypePermit, Permit: &p}); err != nil {
		return p, err
	}
	for _, o := range e.led.Ops() {
		if o.State == op.Awaiting {
			e.submitOrder(o)
		}
	}
	return p, nil
}

// WithdrawPermit ends a standing permit, by its hash or its id.
func (e *Engine) WithdrawPermit(ctx context.Context, name, by string) error {
	for _, p := range e.led.Permits() {
		if p.Withdrawn || p.Hash != name && p.ID != name {
			continue
		}
		w := ledger.Permit{Hash: p.Hash, ID: p.ID, Withdrawn: true, By: by}
		return e.append(ctx, ledger.Record{Type: ledger.TypePermit, Permit: &w})
	}
	return fmt.Errorf("%w: no standing permit %q", ErrOrder, name)
}

// granted holds a permit against the people who may sign now: one whose signer
// was revoked since is worth nothing any more.
func (e *Engine) granted(p ledger.Permit, now time.Time) (*gate.Grant, error) {
	signers, revoked, err := e.keys()
	if err != nil {
		return nil, err
	}
	policy := e.gate().Policy
	return gate.VerifyPermit([]byte(p.Text), asSigned(p.Signatures), policy, now, signers, revoked)
}

// permitted tells whether a standing permit covers an op now, and puts its use
// into the op's intent.
func (e *Engine) permitted(ctx context.Context, s sighting, o *op.Op) bool {
	now := time.Now()
	for _, p := range e.led.Permits() {
		g, err := e.covers(ctx, s, o, p, now)
		if err != nil {
			e.log.Debug("permit does not cover an op", "permit", p.ID, "op", o.ID, "err", err)
			continue
		}
		o.Approval = &op.Approval{Hash: p.Hash, Permit: true, Signers: names(g.Signers), At: now}
		if r, err := gate.ParseRequest([]byte(o.Request)); err == nil {
			o.NotBefore, o.NotAfter = r.DeleteNotBefore, r.DeleteNotAfter
		}
		return true
	}
	return false
}

// covers tells whether one permit covers an op, or says why not.
func (e *Engine) covers(ctx context.Context, s sighting, o *op.Op, p ledger.Permit, now time.Time) (*gate.Grant, error) {
	if e.usedBy(o.ID, p) {
		p.Used-- // by this op's own attempt, which was not sent
	}
	g, err := e.granted(p, now)
	if err != nil {
		return nil, err
	}
	return g, g.Covers(gate.Use{
		Now: now, ClockSynchronised: e.clockGood(ctx), Host: e.opt.Host, Asker: requestAsker(*o),
		Action: string(o.Kind), Class: o.Class, Guest: o.Guest, Tags: tags(s.obs),
		DeletesBackup: o.Kind == plugin.DeleteBackup || o.Kind == plugin.DeleteVolume,
		Used:          p.Used, Withdrawn: p.Withdrawn,
	})
}

// countOf is how many ops a permit allows.
func countOf(p ledger.Permit) int {
	t, err := gate.ParsePermit([]byte(p.Text))
	if err != nil {
		return 0
	}
	return t.Count
}

func tags(obs plugin.Observation) []string {
	return slices.DeleteFunc(strings.FieldsFunc(obs.Config["tags"], func(r rune) bool {
		return r == ';' || r == ',' || r == ' '
	}), func(t string) bool { return t == "" })
}
