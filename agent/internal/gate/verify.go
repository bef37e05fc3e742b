// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"math/bits"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Signed is a signature as it was handed in: the armored text and who says to
// have made it. An empty Principal is looked up in allowed_signers, which must
// then leave exactly one.
type Signed struct {
	Principal string
	Armored   []byte
}

// Signer is who made a good signature.
type Signer struct {
	Principal   string
	Fingerprint string // of the key, without its certificate: SHA256:...
	KeyType     string
	Line        int    // of allowed_signers
	KeyID       string // of the certificate, "" without
	Serial      uint64 // of the certificate
	SecurityKey bool
	PIN         bool
}

// Approval is a request that enough people signed. It is only worth something
// together with a fresh observation: see [Approval.Check].
type Approval struct {
	Request Request
	Text    []byte // exactly what was signed
	Hash    string // of Text
	Signers []Signer
	policy  Policy
}

// Verify checks that text is a request, that it is in time at now, and that
// the people its class needs signed it. Each signature must be good: one that
// is not refuses the whole, with its number in the message. A nil signers
// allows nobody; a nil revoked revokes nothing.
func Verify(text []byte, signatures []Signed, policy Policy, now time.Time, signers *Signers, revoked *Revoked) (*Approval, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	r, err := ParseRequest(text)
	if err != nil {
		return nil, err
	}
	rule, err := policy.rule(r.Action, r.Class)
	if err != nil {
		return nil, err
	}
	if err := r.checkWindows(policy, now); err != nil {
		return nil, err
	}
	t := tally{text: text, namespace: ApprovalNamespace, rule: rule, asker: r.Asker, now: now, signers: signers, revoked: revoked}
	who, err := t.count(signatures)
	if err != nil {
		return nil, err
	}
	return &Approval{Request: *r, Text: bytes.Clone(text), Hash: Hash(text), Signers: who, policy: policy}, nil
}

func (r *Request) checkWindows(p Policy, now time.Time) error {
	if err := p.checkWindow(r.NotBefore, r.NotAfter, p.maxWindow(), now); err != nil {
		return err
	}
	if r.DeleteNotBefore.IsZero() {
		return nil
	}
	// The second phase lies ahead: only its shape is checked here.
	err := p.checkWindow(r.DeleteNotBefore, r.DeleteNotAfter, p.maxWindow(), r.DeleteNotBefore)
	if err == nil && r.DeleteNotBefore.Before(r.NotBefore) {
		err = refuse(ErrEmptyWindow, "the deletion may come before what it follows")
	}
	return err
}

// VerifyOne checks a single signature over text by the same rules, without
// counting: for a tool that collects signatures one by one.
func VerifyOne(text []byte, namespace string, s Signed, now time.Time, signers *Signers, revoked *Revoked) (Signer, error) {
	t := tally{text: text, namespace: namespace, now: now, signers: signers, revoked: revoked}
	v, err := t.verify(s)
	return v.Signer, err
}

// tally counts who signed a text.
type tally struct {
	text      []byte
	namespace string
	rule      Rule
	asker     string // counts not, if the rule wants four eyes
	now       time.Time
	signers   *Signers
	revoked   *Revoked
}

// vote is a good signature.
type vote struct {
	Signer
	key ssh.PublicKey
}

func (t *tally) count(signatures []Signed) ([]Signer, error) {
	if len(signatures) == 0 {
		return nil, refuse(ErrUnsigned, "%d needed", t.rule.Threshold)
	}
	if len(signatures) > maxSignatures {
		return nil, refuse(ErrTooMany, "%d, at most %d", len(signatures), maxSignatures)
	}
	var votes []vote
	for i, s := range signatures {
		v, err := t.verify(s)
		if err == nil {
			err = t.counts(v)
		}
		if err != nil {
			return nil, prefix(err, "signature %d of %d", i+1, len(signatures))
		}
		votes = append(votes, v)
	}
	return t.distinct(votes)
}

// verify checks a signature, its key and its signer.
func (t *tally) verify(s Signed) (vote, error) {
	sig, err := ParseSignature(s.Armored)
	if err != nil {
		return vote{}, err
	}
	if err := sig.Verify(t.text, t.namespace); err != nil {
		return vote{}, err
	}
	if err := t.revoked.check(sig.key); err != nil {
		return vote{}, err
	}
	name := s.Principal
	if name == "" {
		if name, err = t.signers.whoSigned(sig.key, t.namespace, t.now); err != nil {
			return vote{}, err
		}
	}
	if err := checkPrincipal(name); err != nil {
		return vote{}, err
	}
	at, err := t.signers.authorise(sig.key, name, t.namespace, t.now)
	if err != nil {
		return vote{}, err
	}
	if wantsPIN(sig.key) && !sig.PIN() {
		return vote{}, refuse(ErrPIN, "the certificate says %s", verifyRequired)
	}
	return newVote(sig, name, at), nil
}

func newVote(sig *Signature, name string, at int) vote {
	v := vote{key: sig.key, Signer: Signer{
		Principal: name, Fingerprint: sig.Fingerprint(), KeyType: plainKey(sig.key).Type(), Line: at,
		SecurityKey: sig.SecurityKey(), PIN: sig.PIN(),
	}}
	if c, ok := sig.key.(*ssh.Certificate); ok {
		v.KeyID, v.Serial = c.KeyId, c.Serial
	}
	return v
}

// counts says whether the rule lets a good signature count.
func (t *tally) counts(v vote) error {
	switch {
	case (t.rule.SecurityKey || t.rule.PIN) && !v.SecurityKey:
		return refuse(ErrNoHardware, "%s", v.KeyType)
	case t.rule.PIN && !v.PIN:
		return refuse(ErrPIN, "%s", v.Fingerprint)
	case t.rule.FourEyes && t.speaksFor(v, t.asker):
		return refuse(ErrAsker, "%q", t.asker)
	}
	return nil
}

// speaksFor reports whether a vote is, or could be, of a person: by its own
// name in any case of letters, or because some line lets its key sign in that
// name too, now or at another time, for this purpose or another.
func (t *tally) speaksFor(v vote, person string) bool {
	return strings.EqualFold(v.Principal, person) ||
		t.signers.mayBe(v.key, person) || t.signers.mayBe(plainKey(v.key), person)
}

// distinct returns the largest set of votes of which no two are of one key or
// could be of one person, if it reaches the threshold.
func (t *tally) distinct(votes []vote) ([]Signer, error) {
	clash := ErrThreshold
	apart := make([]uint, len(votes)) // apart[i] has bit j set if i and j both count
	for i, a := range votes {
		for j, b := range votes {
			switch {
			case i == j:
			case a.Fingerprint == b.Fingerprint:
				clash = ErrSameKey
			case t.speaksFor(a, b.Principal) || t.speaksFor(b, a.Principal):
				if clash == ErrThreshold {
					clash = ErrSamePerson
				}
			default:
				apart[i] |= 1 << j
			}
		}
	}
	best := largest(apart, 0, 1<<len(votes)-1)
	if n := bits.OnesCount(best); n < t.rule.Threshold {
		return nil, refuse(clash, "%d of %d needed", n, t.rule.Threshold)
	}
	var out []Signer
	for i, v := range votes {
		if best>>i&1 == 1 {
			out = append(out, v.Signer)
		}
	}
	return out, nil
}

// largest extends the set have by as many of rest as are apart from each
// other. There are at most maxSignatures votes: trying everything is cheap.
func largest(apart []uint, have, rest uint) uint {
	if rest == 0 {
		return have
	}
	i := bits.TrailingZeros(rest)
	rest &^= 1 << i
	with := largest(apart, have|1<<i, rest&apart[i])
	if without := largest(apart, have, rest); bits.OnesCount(without) > bits.OnesCount(with) {
		return without
	}
	return with
}
