// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
)

const ticketLifetime = 2 * time.Hour

// ticket is a login of a user with a password.
type ticket struct {
	user    string
	csrf    string
	expires time.Time
}

func unauthorized(reason string) error {
	return &apiError{status: 401, reason: reason, bare: true}
}

// authenticate returns who asks. rt may be nil (an unknown path is told only
// to those who may ask at all).
func (s *Sim) authenticate(r *http.Request, rt *route) (string, error) {
	if rt != nil && rt.open {
		return "", nil
	}
	if tk := ticketOf(r); tk != "" {
		return s.ticketAuth(r, tk)
	}
	value, ok := tokenOf(r)
	if !ok {
		return "", unauthorized("No ticket")
	}
	id, secret, ok := cutToken(value)
	if !ok {
		return "", unauthorized("Authentication failed!")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.acl.Token(id)
	if !ok || subtle.ConstantTimeCompare([]byte(t.Secret), []byte(secret)) != 1 {
		return "", unauthorized("Authentication failed!")
	}
	return id, nil
}

func (s *Sim) ticketAuth(r *http.Request, id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tk, ok := s.tickets[id]
	if !ok || s.now().After(tk.expires) {
		return "", unauthorized("Authentication failed!")
	}
	if r.Method != http.MethodGet && r.Header.Get("CSRFPreventionToken") != tk.csrf {
		return "", unauthorized("Permission denied - invalid csrf token")
	}
	return tk.user, nil
}

func ticketOf(r *http.Request) string {
	c, err := r.Cookie("PVEAuthCookie")
	if err != nil {
		return ""
	}
	v, err := url.QueryUnescape(c.Value)
	if err != nil {
		return c.Value
	}
	return v
}

// tokenOf returns the text after "PVEAPIToken=" (or "PVEAPIToken ").
func tokenOf(r *http.Request) (string, bool) {
	v, ok := strings.CutPrefix(r.Header.Get("Authorization"), "PVEAPIToken")
	if !ok || v == "" || v[0] != '=' && v[0] != ' ' {
		return "", ok
	}
	v, _, _ = strings.Cut(v[1:], ";")
	if u, err := url.PathUnescape(v); err == nil {
		v = u
	}
	return v, true
}

func cutToken(v string) (id, secret string, ok bool) {
	i := strings.LastIndexByte(v, '=')
	if i < 0 {
		return "", "", false
	}
	id, secret = v[:i], v[i+1:]
	_, tok := acl.Split(id)
	return id, secret, tok != "" && secret != ""
}

// login checks a password and hands out a ticket. Needs no lock.
func (s *Sim) login(user, password string) (string, ticket, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.acl.Users[user]
	if u == nil || u.Disabled || u.Password == "" ||
		subtle.ConstantTimeCompare([]byte(u.Password), []byte(password)) != 1 {
		return "", ticket{}, false
	}
	stamp := fmt.Sprintf("%08X", s.now().Unix())
	id := fmt.Sprintf("PVE:%s:%s::%032X", user, stamp, s.rnd.Uint64())
	tk := ticket{user: user, csrf: stamp + ":" + fmt.Sprintf("%032x", s.rnd.Uint64()), expires: s.now().Add(ticketLifetime)}
	s.tickets[id] = tk
	return id, tk, true
}

// may reports whether the caller holds any of privs on path.
func (c *call) may(path string, privs ...string) bool {
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	return c.mayLocked(path, privs...)
}

func (c *call) mayLocked(path string, privs ...string) bool {
	held := c.sim.acl.Perms(c.authid, path)
	for _, p := range privs {
		if held.Has(p) {
			return true
		}
	}
	return false
}

// need returns PVE's refusal when the caller holds none of privs on path.
func (c *call) need(path string, privs ...string) error {
	if c.may(path, privs...) {
		return nil
	}
	return denied("%s, %s", path, strings.Join(privs, "|"))
}

// guestPerm is the usual permission: one of privs on the guest in the path.
func guestPerm(privs ...string) func(*call) error {
	return func(c *call) error { return c.need("/vms/"+c.path["vmid"], privs...) }
}

// nodePerm asks for one of privs on the node.
func nodePerm(privs ...string) func(*call) error {
	return func(c *call) error { return c.need("/nodes/"+c.path["node"], privs...) }
}

// rootPerm asks for one of privs on "/".
func rootPerm(privs ...string) func(*call) error {
	return func(c *call) error { return c.need("/", privs...) }
}
