// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	permitHeader = "felhom standing permit v1"
	maxPermitUse = 100_000
)

// Permit is a standing permission: whoever Asker is may have these actions
// done on the guests in scope, Count times in all, within the window, without
// an approval each. It never covers the deletion of backups. A scope by tag is
// as strong as the set of people who may set tags on this node.
type Permit struct {
	ID      string // chosen by who writes it; names the permit's use in the journal
	Asker   string
	Host    string
	Actions []string
	Scopes  []Scope
	Count   int
	// Whole seconds.
	NotBefore, NotAfter time.Time
}

// Scope is a tag, or a range of VMIDs with both ends in it.
type Scope struct {
	Tag         string // empty for a range
	First, Last guest.VMID
}

// String is the form in the permit's text: "tag ci" or "vmid 9000-9099".
func (s Scope) String() string {
	if s.Tag != "" {
		return "tag " + s.Tag
	}
	return fmt.Sprintf("vmid %s-%s", s.First, s.Last)
}

func (s Scope) covers(id guest.ID, tags []string) bool {
	if s.Tag != "" {
		return slices.Contains(tags, s.Tag)
	}
	return s.First <= id.VMID && id.VMID <= s.Last
}

var permitFields = []field{
	{key: "permit"},
	{key: "asker"},
	{key: "host"},
	{key: "action", many: true},
	{key: "scope", many: true},
	{key: "count"},
	{key: "not-before"},
	{key: "not-after"},
}

// Text is the permit as it is signed, with namespace felhom-approval-v1.
func (p *Permit) Text() ([]byte, error) {
	text := p.print()
	if _, err := ParsePermit(text); err != nil {
		return nil, err
	}
	for _, t := range []time.Time{p.NotBefore, p.NotAfter} {
		if !t.Equal(t.Truncate(time.Second)) {
			return nil, refuse(ErrTextValue, "%s is not a whole second", t.Format(time.RFC3339Nano))
		}
	}
	return text, nil
}

func (p *Permit) print() []byte {
	w := newPrinter(permitHeader)
	w.add("permit", p.ID)
	w.add("asker", p.Asker)
	w.add("host", p.Host)
	for _, a := range p.Actions {
		w.add("action", a)
	}
	for _, s := range p.Scopes {
		w.add("scope", s.String())
	}
	w.add("count", fmt.Sprint(p.Count))
	w.addTime("not-before", p.NotBefore)
	w.addTime("not-after", p.NotAfter)
	return []byte(w.String())
}

// ParsePermit reads the exact form that Text writes.
func ParsePermit(text []byte) (*Permit, error) {
	f, err := readForm(text, maxText, permitHeader, permitFields)
	if err != nil {
		return nil, err
	}
	p := &Permit{ID: f.token("permit"), Asker: f.token("asker"), Host: f.token("host"), Actions: f.all("action")}
	for _, s := range f.all("scope") {
		p.Scopes = append(p.Scopes, f.scope(s))
	}
	count := f.number("count", f.one("count"))
	if count < 1 || count > maxPermitUse {
		f.bad("count", "%d is not between 1 and %d", count, maxPermitUse)
	}
	p.Count = int(min(count, maxPermitUse))
	p.NotBefore, p.NotAfter = f.time("not-before"), f.time("not-after")
	if err := p.checkActions(f); err != nil {
		return nil, err
	}
	if f.err == nil && !bytes.Equal(p.print(), text) {
		f.bad("permit", "it does not print back as it was")
	}
	if f.err != nil {
		return nil, f.err
	}
	return p, nil
}

// checkActions knows backup deletion by its name, whatever an executor calls
// it; Use.DeletesBackup covers what does not say so in its name.
func (p *Permit) checkActions(f *form) error {
	for i, a := range p.Actions {
		switch {
		case strings.Contains(strings.ToLower(a), "backup"), strings.Contains(strings.ToLower(a), "prune"):
			return refuse(ErrPermitBackup, "action %s", a)
		case !isToken(a):
			f.bad("action", "%q is not an action kind", a)
		case slices.Contains(p.Actions[:i], a):
			f.bad("action", "%q is there twice", a)
		}
	}
	return nil
}

func (f *form) scope(v string) Scope {
	kind, arg, _ := strings.Cut(v, " ")
	if kind == "tag" && isToken(arg) {
		return Scope{Tag: arg}
	}
	from, to, ok := strings.Cut(arg, "-")
	first, err1 := guest.ParseVMID(from)
	last, err2 := guest.ParseVMID(to)
	if kind != "vmid" || !ok || err1 != nil || err2 != nil || first > last {
		f.bad("scope", "%q is neither \"tag NAME\" nor \"vmid FIRST-LAST\"", v)
	}
	return Scope{First: first, Last: last}
}

// Grant is a permit that enough people signed.
type Grant struct {
	Permit  Permit
	Text    []byte
	Hash    string // of Text; journal the uses under it, not under the ID
	Signers []Signer
}

// VerifyPermit is [Verify] for a standing permit. It needs what the strictest
// rule among its actions needs, each taken as irreversible. A permit may be
// handed in before its window starts; Covers holds the window.
func VerifyPermit(text []byte, signatures []Signed, policy Policy, now time.Time, signers *Signers, revoked *Revoked) (*Grant, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	p, err := ParsePermit(text)
	if err != nil {
		return nil, err
	}
	rule, err := policy.strictest(p.Actions)
	if err != nil {
		return nil, err
	}
	at := now
	if at.Before(p.NotBefore) {
		at = p.NotBefore
	}
	if err := policy.checkWindow(p.NotBefore, p.NotAfter, policy.maxPermit(), at); err != nil {
		return nil, err
	}
	t := tally{text: text, namespace: ApprovalNamespace, rule: rule, asker: p.Asker, now: now, signers: signers, revoked: revoked}
	who, err := t.count(signatures)
	if err != nil {
		return nil, err
	}
	return &Grant{Permit: *p, Text: bytes.Clone(text), Hash: Hash(text), Signers: who}, nil
}

func (p Policy) strictest(actions []string) (Rule, error) {
	var out Rule
	for _, a := range actions {
		r, err := p.rule(a, guest.Irreversible)
		if err != nil {
			return Rule{}, err
		}
		out.Threshold = max(out.Threshold, r.Threshold)
		out.FourEyes = out.FourEyes || r.FourEyes
		out.PIN = out.PIN || r.PIN
		out.SecurityKey = out.SecurityKey || r.SecurityKey
	}
	return out, nil
}

// Use is one operation that a grant might cover, and what the caller knows of
// the grant's former use.
type Use struct {
	Now               time.Time
	ClockSynchronised bool
	Host              string
	Asker             string
	Action            string
	Class             guest.Class
	Guest             guest.ID
	Tags              []string // of the guest, as just observed
	// DeletesBackup: the operation deletes a backup or prunes, by whatever
	// name and parameters.
	DeletesBackup bool
	// Used is how many intents were journalled under the grant's hash.
	Used int
	// Withdrawn: the operator took the permit back.
	Withdrawn bool
}

// Covers says why the grant does not cover an operation; nil if it does. The
// caller journals the use in the op's intent record.
func (g *Grant) Covers(u Use) error {
	p := &g.Permit
	switch {
	case !u.ClockSynchronised:
		return refuse(ErrClock, "")
	case u.Withdrawn:
		return refuse(ErrPermitRevoked, "permit %s", p.ID)
	case u.Now.Before(p.NotBefore):
		return refuse(ErrEarly, "not before %s", p.NotBefore.Format(timeForm))
	case u.Now.After(p.NotAfter):
		return refuse(ErrExpired, "not after %s", p.NotAfter.Format(timeForm))
	case u.Host != p.Host:
		return refuse(ErrPermitHost, "%q", p.Host)
	case u.Asker != p.Asker:
		return refuse(ErrOtherAsker, "%q", p.Asker)
	case u.DeletesBackup:
		return refuse(ErrPermitBackup, "action %s", u.Action)
	case u.Class == guest.Never || u.Class == guest.Unclassed || u.Class == "":
		return refuse(ErrNoRule, "class %q", u.Class)
	case !slices.Contains(p.Actions, u.Action):
		return refuse(ErrPermitAction, "%s", u.Action)
	case !p.inScope(u):
		return refuse(ErrPermitScope, "guest %s", printGuest(u.Guest))
	case u.Used >= p.Count:
		return refuse(ErrPermitSpent, "%d of %d", u.Used, p.Count)
	}
	return nil
}

func (p *Permit) inScope(u Use) bool {
	return u.Guest != guest.ID{} && slices.ContainsFunc(p.Scopes, func(s Scope) bool { return s.covers(u.Guest, u.Tags) })
}
