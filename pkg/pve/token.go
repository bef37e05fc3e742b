// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

// Token is an API token. Its secret leaves it only in the header of a request:
// however a Token is printed or logged, the secret is not in it.
type Token struct {
	id string
	// secret is behind a pointer because fmt prints the unexported fields of
	// whatever holds a Token without asking its methods.
	secret *string
}

// ErrToken is wrapped by ParseToken. Its texts never quote the input.
var ErrToken = errors.New("pve: not an API token")

var tokenPattern = regexp.MustCompile(`^(?:PVEAPIToken=)?([^\s:/!=]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+)=([A-Za-z0-9-]{8,128})$`)

// ParseToken reads "user@realm!tokenid=secret", with or without the prefix
// "PVEAPIToken=" and blanks around it, as it is kept in a token file.
func ParseToken(s string) (Token, error) {
	m := tokenPattern.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Token{}, fmt.Errorf("%w: want user@realm!tokenid=secret", ErrToken)
	}
	return Token{id: m[1], secret: &m[2]}, nil
}

// ID is the token's full name, "agent@pve!full": what PVE writes into the UPID
// of every task the token starts.
func (t Token) ID() string { return t.id }

// IsZero reports whether t is no token.
func (t Token) IsZero() bool { return t.id == "" }

// String is the token's name without its secret.
func (t Token) String() string { return t.id }

// GoString keeps the secret out of %#v.
func (t Token) GoString() string { return fmt.Sprintf("pve.Token{%q}", t.id) }

// LogValue keeps the secret out of structured logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.id) }

// MarshalText keeps the secret out of every encoding of a Token.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.id), nil }

// header is the value of the Authorization header.
func (t Token) header() string { return "PVEAPIToken=" + t.id + "=" + *t.secret }

// redact removes the secret from text that came from elsewhere.
func (t Token) redact(s string) string {
	if t.secret == nil {
		return s
	}
	return strings.ReplaceAll(s, *t.secret, "***")
}

// hide removes the secret from an error that may quote what came from
// elsewhere. Then nothing else is left of it: what it wraps would quote it too.
func (t Token) hide(err error) error {
	if err == nil {
		return nil
	}
	if s := err.Error(); t.redact(s) != s {
		return errors.New(t.redact(s))
	}
	return err
}
