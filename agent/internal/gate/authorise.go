// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const maxPrincipal = 200

// checkPrincipal refuses names that a list of patterns could not hold as they
// are.
func checkPrincipal(name string) error {
	odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(",*?!\"", r) }
	if name == "" || len(name) > maxPrincipal || strings.ContainsFunc(name, odd) {
		return refuse(ErrPrincipal, "%q", name)
	}
	return nil
}

// authorise says why key (which may be a certificate) may not sign as
// principal in namespace at the moment now; nil if a line of the file allows
// it. Of several lines that fail, the reason of the last that is about this
// key is given.
func (s *Signers) authorise(key ssh.PublicKey, principal, namespace string, now time.Time) (int, error) {
	err := refuse(ErrUnknownSigner, "%s as %q", ssh.FingerprintSHA256(plainKey(key)), principal)
	if s == nil {
		return 0, err
	}
	for _, e := range s.entries {
		if !e.principals.match(principal) || !e.concerns(key) {
			continue
		}
		why := e.allows(key, principal, namespace, now)
		if why == nil {
			return e.line, nil
		}
		err = prefix(why, "line %d", e.line)
	}
	return 0, err
}

// concerns reports whether the line is about this key: the key itself, or, on
// a line with cert-authority, the key that signed its certificate.
func (e *entry) concerns(key ssh.PublicKey) bool {
	cert, isCert := key.(*ssh.Certificate)
	if e.authority {
		return isCert && sameKey(cert.SignatureKey, e.key)
	}
	return !isCert && sameKey(key, e.key)
}

func (e *entry) allows(key ssh.PublicKey, principal, namespace string, now time.Time) error {
	switch {
	case e.limited && !e.namespaces.match(namespace):
		return refuse(ErrSignerNamespace, "%q", namespace)
	case !e.earliest.IsZero() && now.Before(e.earliest):
		return refuse(ErrSignerEarly, "until %s", e.earliest.UTC().Format(timeForm))
	case !e.latest.IsZero() && now.After(e.latest):
		return refuse(ErrSignerLate, "since %s", e.latest.UTC().Format(timeForm))
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		return checkCertificate(cert, principal, now)
	}
	return nil
}

// verifyRequired is the critical option that asks for a PIN. Verify honours it.
const verifyRequired = "verify-required"

// checkCertificate holds a certificate against its own terms. Whether its
// authority counts is the caller's question.
func checkCertificate(c *ssh.Certificate, principal string, now time.Time) error {
	unix := uint64(max(now.Unix(), 0))
	switch {
	case c.CertType != ssh.UserCert:
		return refuse(ErrCertKind, "type %d", c.CertType)
	case len(c.ValidPrincipals) == 0:
		return refuse(ErrCertNobody, "%q", c.KeyId)
	case !slices.Contains(c.ValidPrincipals, principal):
		return refuse(ErrCertPrincipal, "%q is not among %q", principal, c.ValidPrincipals)
	case unix < c.ValidAfter:
		return refuse(ErrCertEarly, "until %s", certTime(c.ValidAfter))
	case unix >= c.ValidBefore:
		return refuse(ErrCertLate, "since %s", certTime(c.ValidBefore))
	}
	for option := range c.CriticalOptions {
		if option != verifyRequired {
			return refuse(ErrCertOption, "%q", option)
		}
	}
	return checkCertSignature(c, principal, now)
}

// checkCertSignature is the authority's signature: by the same rules as a
// signer's, and with touch if the authority is a security key, which
// x/crypto/ssh does not ask for here.
func checkCertSignature(c *ssh.Certificate, principal string, now time.Time) error {
	for _, check := range []func() error{
		func() error { return checkKey(c.SignatureKey) },
		func() error { return checkAlgorithm(c.SignatureKey, c.Signature) },
		func() error { return checkTouch(c.SignatureKey, c.Signature) },
		func() error {
			checker := ssh.CertChecker{SupportedCriticalOptions: []string{verifyRequired}, Clock: func() time.Time { return now }}
			return checker.CheckCert(principal, c)
		},
	} {
		if err := check(); err != nil {
			return refuse(ErrCertSignature, "%v", err)
		}
	}
	return nil
}

func certTime(t uint64) string {
	if t > math.MaxInt64 {
		return "for ever"
	}
	return time.Unix(int64(t), 0).UTC().Format(timeForm)
}

// wantsPIN reports whether the signer's certificate asks for a PIN.
func wantsPIN(key ssh.PublicKey) bool {
	c, ok := key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, wants := c.CriticalOptions[verifyRequired]
	return wants
}

// whoSigned finds the one principal that may have made a signature with key:
// the names that its lines say in full, or that its certificate holds.
func (s *Signers) whoSigned(key ssh.PublicKey, namespace string, now time.Time) (string, error) {
	var names []string
	var err error
	for _, e := range s.list() {
		if !e.concerns(key) {
			continue
		}
		for _, name := range e.candidates(key) {
			if why := e.allows(key, name, namespace, now); why != nil {
				err = prefix(why, "line %d", e.line)
			} else if checkPrincipal(name) == nil && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	switch {
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", refuse(ErrWhoSigned, "it may be any of %q", names)
	case err != nil:
		return "", err
	}
	return "", refuse(ErrWhoSigned, "no line names a person for %s", ssh.FingerprintSHA256(plainKey(key)))
}

func (s *Signers) list() []entry {
	if s == nil {
		return nil
	}
	return s.entries
}

func (e *entry) candidates(key ssh.PublicKey) []string {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return e.principals.literal()
	}
	return slices.DeleteFunc(slices.Clone(cert.ValidPrincipals), func(p string) bool { return !e.principals.match(p) })
}

// mayBe reports whether any line, whatever its other terms, lets key sign as
// person. It is for not counting people twice, so it errs towards yes.
func (s *Signers) mayBe(key ssh.PublicKey, person string) bool {
	cert, isCert := key.(*ssh.Certificate)
	return slices.ContainsFunc(s.list(), func(e entry) bool {
		return e.principals.match(person) && e.concerns(key) && (!isCert || slices.Contains(cert.ValidPrincipals, person))
	})
}
