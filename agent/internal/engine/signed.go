// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// SignedRule says what a provider's set needs to be believed. The zero rule
// wants no signature.
type SignedRule struct {
	Issuer    string // a principal of allowed_signers
	Threshold int    // people who must have signed, the issuer among them
}

// Keys reads who may sign, anew at each call. An error means that nobody may.
type Keys func() (*gate.Signers, *gate.Revoked, error)

var (
	errUnsigned      = errors.New("require_signature is set, and the revision has no " + plugin.IndexName + " with a signature: nothing of it is taken")
	errNoKeys        = errors.New("require_signature is set, and nobody may sign")
	errOtherRule     = errors.New("what the provider's sets need was changed meanwhile")
	errNeverAccepted = errors.New("no revision was ever accepted")
)

func (e *Engine) rule(provider string) SignedRule {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.set.Signed[provider]
}

// verify holds a snapshot against its signed index: who signed it, for which
// host, that it is not older than the last one of this issuer, and that the
// files are exactly those it lists. With a zero now an index that has expired
// counts as it did in its last second.
func (e *Engine) verify(provider string, rule SignedRule, snap plugin.Snapshot, now time.Time) (*gate.Index, *ledger.Index, error) {
	at := slices.IndexFunc(snap.Files, func(f plugin.File) bool { return f.Name == plugin.IndexName })
	if at < 0 || len(snap.Files[at].Signatures) == 0 {
		return nil, nil, errUnsigned
	}
	text := snap.Files[at].Data
	if now.IsZero() {
		x, err := gate.ParseIndex(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", plugin.IndexName, err)
		}
		if now = time.Now(); now.After(x.NotAfter) {
			now = x.NotAfter
		}
	}
	if e.opt.Keys == nil {
		return nil, nil, errNoKeys
	}
	signers, revoked, err := e.opt.Keys()
	if err != nil {
		return nil, nil, fmt.Errorf("require_signature is set: %w", err)
	}
	x, err := gate.VerifyIndex(text, signatures(snap.Files[at]), gateFiles(snap.Files), e.indexPolicy(provider, rule), now, signers, revoked)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", plugin.IndexName, err)
	}
	return x, &ledger.Index{Issuer: x.Issuer, Serial: x.Serial, Hash: gate.Hash(text)}, nil
}

// indexPolicy is the rule together with what was accepted last.
func (e *Engine) indexPolicy(provider string, rule SignedRule) gate.IndexPolicy {
	p := gate.IndexPolicy{Issuer: rule.Issuer, Host: e.opt.Host, Rule: gate.Rule{Threshold: rule.Threshold}}
	if rec := e.led.Desired(provider); rec != nil && rec.Index != nil && rec.Index.Issuer == rule.Issuer {
		p.LastSerial, p.LastHash = rec.Index.Serial, rec.Index.Hash
	}
	return p
}

func signatures(index plugin.File) []gate.Signed {
	var all []gate.Signed
	for _, s := range index.Signatures {
		all = append(all, gate.Signed{Armored: s})
	}
	return all
}

func gateFiles(files []plugin.File) []gate.File {
	var all []gate.File
	for _, f := range documents(files) {
		all = append(all, gate.File{Name: f.Name, Data: f.Data})
	}
	return all
}

// documents are the files without the index. A second file of that name is
// left in: it makes the set one with a file too many.
func documents(files []plugin.File) []plugin.File {
	at := slices.IndexFunc(files, func(f plugin.File) bool { return f.Name == plugin.IndexName })
	if at < 0 {
		return files
	}
	return slices.Delete(slices.Clone(files), at, at+1)
}

// bind makes what the index says of the set count: its issuer, host and serial
// go before what a file may say, and the earlier end holds.
func bind(set *desired.Set, x *gate.Index) {
	set.Issuer, set.Host, set.Serial = x.Issuer, x.Host, x.Serial
	if set.NotAfter.IsZero() || x.NotAfter.Before(set.NotAfter) {
		set.NotAfter = x.NotAfter
	}
}

func sameIndex(a, b *ledger.Index) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// unbelieved are the providers whose set in force would not be taken under
// these rules and with the keys of this moment, each with the reason.
func (e *Engine) unbelieved(rules map[string]SignedRule) map[string]error {
	lost := map[string]error{}
	for name, rule := range rules {
		if rule.Issuer == "" {
			continue
		}
		if _, err := e.cached(name, rule); err != nil {
			lost[name] = err
		}
	}
	return lost
}

// withdrawLocked takes a set out of force: its guests are no longer managed.
func (e *Engine) withdrawLocked(name string, why error) {
	e.log.Warn("desired state is no longer believed; its guests are not managed", "provider", name, "err", why)
	delete(e.sets, name)
	e.provider[name] = &ProviderStatus{Name: name, Err: "no longer believed: " + why.Error()}
}
