// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// ProviderStatus is what is known of one provider's desired state.
type ProviderStatus struct {
	Name     string    `json:"name"`
	Revision string    `json:"revision,omitempty"`
	Guests   int       `json:"guests"`
	Accepted time.Time `json:"accepted,omitzero"`
	// Heard is when the provider last delivered anything good.
	Heard    time.Time `json:"heard,omitzero"`
	NotAfter time.Time `json:"not_after,omitzero"`
	// Err is why the newest snapshot was not accepted; the last good one
	// stays in force.
	Err string `json:"error,omitempty"`
	// Skipped are files that are meant for another host.
	Skipped []string `json:"skipped,omitempty"`
	Cached  bool     `json:"cached,omitempty"` // in force from the cache, not heard yet
	// Issuer and Serial are those of the signed index in force.
	Issuer string `json:"issuer,omitempty"`
	Serial uint64 `json:"serial,omitempty"`
}

// SetDesired takes in a provider's snapshot, whole or not at all. What it
// returns says why it was rejected.
func (e *Engine) SetDesired(ctx context.Context, provider string, snap plugin.Snapshot) error {
	if snap.Err != "" {
		e.rejected(provider, snap.Err)
		return nil
	}
	r, err := e.parse(provider, e.rule(provider), snap, time.Now())
	if err == nil {
		err = e.forward(provider, r)
	}
	if err == nil {
		err = e.remember(ctx, r, snap)
	}
	if err == nil {
		err = e.accept(r, false)
	}
	if err != nil {
		e.rejected(provider, err.Error())
	}
	return err
}

// revision is a snapshot that was read.
type revision struct {
	*desired.Set
	rule  SignedRule    // under which it was believed
	index *ledger.Index // nil if the rule wants none
	// accepted is now, or for a cached one when it was accepted.
	accepted time.Time
}

// parse reads a snapshot; with a zero now it does not mind that it has expired.
func (e *Engine) parse(provider string, rule SignedRule, snap plugin.Snapshot, now time.Time) (*revision, error) {
	r := &revision{rule: rule, accepted: time.Now()}
	var x *gate.Index
	if rule.Issuer != "" {
		var err error
		if x, r.index, err = e.verify(provider, rule, snap, now); err != nil {
			return nil, err
		}
	}
	snap.Files = documents(snap.Files)
	set, err := desired.Parse(desired.Options{Provider: provider, Host: e.opt.Host, Forms: e.forms, Now: now}, snap)
	if err != nil {
		return nil, err
	}
	r.Set = set
	if x != nil {
		bind(set, x)
	}
	return r, nil
}

// forward refuses a serial that went back. A set without one manages less or
// comes from a source that does not count.
func (e *Engine) forward(provider string, set *revision) error {
	old := e.led.Desired(provider)
	if set.index != nil || old == nil || old.Signed {
		return nil // the index has a serial of its own, and the gate has checked it
	}
	if set.Serial != 0 && set.Serial < old.Serial {
		return fmt.Errorf("provider %s: serial %d is older than the accepted serial %d", provider, set.Serial, old.Serial)
	}
	return nil
}

// remember caches and journals a set that is new.
func (e *Engine) remember(ctx context.Context, set *revision, snap plugin.Snapshot) error {
	rec := &ledger.Desired{
		Provider: set.Provider, Revision: set.Revision, Serial: set.Serial, NotAfter: set.NotAfter,
		Guests: revisions(set.Set), Signed: set.index != nil, Index: set.index, Accepted: time.Now().UTC(),
	}
	old := e.led.Desired(set.Provider)
	if rec.Index == nil && old != nil {
		rec.Index = old.Index
	}
	if old != nil && old.Revision == rec.Revision && maps.Equal(old.Guests, rec.Guests) &&
		old.Signed == rec.Signed && sameIndex(old.Index, rec.Index) && !e.stale(old) {
		return nil
	}
	if err := e.opt.Cache.Save(set.Provider, snap); err != nil {
		return fmt.Errorf("keep the desired state of %s: %w", set.Provider, err)
	}
	return e.append(ctx, ledger.Record{Type: ledger.TypeDesired, Desired: rec})
}

// stale reports whether a provider's maximum age is measured from so long ago
// that a restart would count much of it twice.
func (e *Engine) stale(rec *ledger.Desired) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	age := e.set.MaxAge[rec.Provider]
	return age > 0 && time.Since(rec.Accepted) > age/8
}

func revisions(set *desired.Set) map[guest.VMID]string {
	out := make(map[guest.VMID]string, len(set.Guests))
	for v, g := range set.Guests {
		out[v] = g.Revision
	}
	return out
}

func (e *Engine) rejected(provider, why string) {
	e.log.Warn("desired state not accepted, the last good one stays", "provider", provider, "err", why)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.providerLocked(provider).Err = why
}

func (e *Engine) providerLocked(name string) *ProviderStatus {
	p := e.provider[name]
	if p == nil {
		p = &ProviderStatus{Name: name}
		e.provider[name] = p
	}
	return p
}

// accept puts a set in force and looks at the guests whose desire changed.
func (e *Engine) accept(set *revision, cached bool) error {
	e.mu.Lock()
	if e.set.Signed[set.Provider] != set.rule {
		e.mu.Unlock()
		return errOtherRule
	}
	p := e.providerLocked(set.Provider)
	if p.Revision != set.Revision {
		p.Accepted = set.accepted
		e.log.Info("desired state accepted", "provider", set.Provider, "revision", short(set.Revision), "guests", len(set.Guests), "cached", cached)
	}
	p.Revision, p.Guests, p.NotAfter, p.Err, p.Cached = set.Revision, len(set.Guests), set.NotAfter, "", cached
	p.Skipped, p.Issuer, p.Serial = set.Skipped, set.Issuer, set.Serial
	if !cached {
		p.Heard = time.Now()
	}
	e.sets[set.Provider] = set.Set
	changed := e.mergeLocked()
	seen := !e.nodeAt.IsZero()
	e.mu.Unlock()
	if !seen {
		return nil // the first sight of the node looks at all of them
	}
	for _, id := range changed {
		e.queue.Look(id, "desired state changed")
	}
	e.spoken()
	return nil
}

// firstWord is how long after the start nothing is changed while one of several
// providers has not spoken: what one wants, another may claim too.
const firstWord = 10 * time.Second

// silentLocked names a provider that has not spoken since the start, while that
// still counts.
func (e *Engine) silentLocked() string {
	if len(e.set.Required) < 2 || time.Since(e.began) >= firstWord {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(e.set.Required)) {
		if p := e.provider[name]; e.sets[name] == nil && (p == nil || p.Err == "") {
			return name
		}
	}
	return ""
}

// spoken has everything looked at again that waited for a provider's first word.
func (e *Engine) spoken() {
	e.mu.Lock()
	early := len(e.set.Required) > 1 && time.Since(e.began) < firstWord
	e.mu.Unlock()
	if early {
		e.Resync("a provider has spoken")
	}
}

func short(rev string) string {
	if len(rev) > 12 {
		return rev[:12]
	}
	return rev
}

// mergeLocked recomputes what is wanted and returns the guests whose desire
// changed. A guest that two providers claim belongs to neither.
func (e *Engine) mergeLocked() []guest.VMID {
	m := desired.Merge(e.sets)
	changed := desired.Diff(e.want, m.Guests)
	e.want = m.Guests
	e.conflict = map[guest.VMID]string{}
	for _, c := range m.Conflicts {
		e.conflict[c.VMID] = c.String()
	}
	return changed
}

// loadCached puts the last good desired state of each configured provider in
// force until the provider speaks, unless one is in force. It holds only if it
// is the one that was journalled, byte for byte.
func (e *Engine) loadCached() {
	e.mu.Lock()
	names := slices.Sorted(maps.Keys(e.set.Required))
	names = slices.DeleteFunc(names, func(n string) bool { return e.sets[n] != nil })
	e.mu.Unlock()
	for _, name := range names {
		if e.led.Desired(name) == nil {
			continue
		}
		set, err := e.cached(name, e.rule(name))
		if err == nil {
			err = e.accept(set, true)
		}
		if err != nil {
			e.rejected(name, "last good desired state not usable: "+err.Error())
		}
	}
}

// cached reads a provider's last good set and holds it against the journal. An
// expired one still says whom to observe.
func (e *Engine) cached(name string, rule SignedRule) (*revision, error) {
	rec := e.led.Desired(name)
	if rec == nil {
		return nil, errNeverAccepted
	}
	snap, err := e.opt.Cache.Load(name)
	if err != nil {
		return nil, err
	}
	set, err := e.parse(name, rule, snap, time.Time{})
	if err != nil {
		return nil, err
	}
	if set.Revision != rec.Revision || !maps.Equal(revisions(set.Set), rec.Guests) ||
		set.index != nil && !(rec.Signed && sameIndex(set.index, rec.Index)) {
		return nil, fmt.Errorf("the cached files are not the ones that were accepted (revision %s)", short(rec.Revision))
	}
	if set.accepted = rec.Accepted; set.accepted.IsZero() {
		set.accepted = time.Now() // a record of an older version
	}
	return set, nil
}

// expiredLocked says why a guest's desire has run out, or "". An expired
// desire still says what to look at, but nothing is changed for it.
func (e *Engine) expiredLocked(want *desired.Guest) string {
	set := e.sets[want.Provider]
	p := e.provider[want.Provider]
	if set == nil || p == nil {
		return ""
	}
	if !set.NotAfter.IsZero() && !time.Now().Before(set.NotAfter) {
		return "the desired state of " + want.Provider + " has expired (not_after " + set.NotAfter.Format(time.RFC3339) + ")"
	}
	if age := e.set.MaxAge[want.Provider]; age > 0 && time.Since(later(p.Heard, p.Accepted)) > age {
		return "nothing good was heard from " + want.Provider + " for longer than " + age.String()
	}
	return ""
}

func (e *Engine) wanted(id guest.VMID) *desired.Guest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.want[id]
}

// managed are the wanted guests and those with an unfinished op.
func (e *Engine) managed() []guest.VMID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.want))
}
