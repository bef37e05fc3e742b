// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package acl answers which privileges a user or an API token holds on a
// path, by the rules of PVE's access control: the most specific path with an
// entry replaces what is above it, NoAccess wins at its level, pools lend
// their grants to their members, and a privilege-separated token holds what
// both it and its user hold.
//
// A Set is plain data without locking; its owner guards it.
package acl

import (
	"maps"
	"slices"
	"strings"
)

// Root is the one user who holds every privilege and whose name is compared
// literally; a token of root is not Root.
const Root = "root@pam"

// Privs maps a privilege to whether it is inherited by paths below.
type Privs map[string]bool

// Has reports whether the privilege is held.
func (p Privs) Has(priv string) bool { _, ok := p[priv]; return ok }

// Token is one API token of a user.
type Token struct {
	Secret  string
	PrivSep bool
}

// User is one account. Password is compared in clear: a simulator has no
// secrets worth hashing.
type User struct {
	Password string
	Comment  string
	Disabled bool
	Tokens   map[string]Token // by token id, the part after the "!"
}

// Entry grants a role on a path. UGID is a user ("a@pve") or a full token id
// ("a@pve!t").
type Entry struct {
	Path      string
	UGID      string
	Role      string
	Propagate bool
}

// Pool groups guests and storages; a grant on /pool/NAME holds for them.
type Pool struct {
	Comment  string
	VMs      map[int]bool
	Storages map[string]bool
}

// Set is the whole of a node's users, roles, grants and pools.
type Set struct {
	Users   map[string]*User
	Roles   map[string][]string
	Entries []Entry
	Pools   map[string]*Pool
	// Denied are privileges that nobody but Root holds, whatever the entries.
	Denied map[string]bool
	all    []string
}

// New returns a Set with root@pam and the built-in roles of a PVE major
// version (8 or 9).
func New(major int) *Set {
	all := privileges(major)
	return &Set{
		Users: map[string]*User{Root: {Tokens: map[string]Token{}}},
		Roles: builtinRoles(major, all),
		Pools: map[string]*Pool{},
		all:   all,
	}
}

// Privileges returns every privilege this version knows, sorted.
func (s *Set) Privileges() []string { return s.all }

// Split separates a full token id into user and token id; tok is empty for a
// plain user.
func Split(authid string) (user, tok string) {
	user, tok, _ = strings.Cut(authid, "!")
	return user, tok
}

// Token returns the token named by a full token id.
func (s *Set) Token(authid string) (Token, bool) {
	user, tok := Split(authid)
	u := s.Users[user]
	if u == nil || u.Disabled {
		return Token{}, false
	}
	t, ok := u.Tokens[tok]
	return t, ok
}

// Exists reports whether a user or full token id is known.
func (s *Set) Exists(authid string) bool {
	if _, tok := Split(authid); tok != "" {
		_, ok := s.Token(authid)
		return ok
	}
	return s.Users[authid] != nil
}

// Perms returns what authid holds on path.
func (s *Set) Perms(authid, path string) Privs {
	held := s.perms(authid, path)
	if authid != Root {
		for priv := range s.Denied {
			delete(held, priv)
		}
	}
	return held
}

func (s *Set) perms(authid, path string) Privs {
	user, tok := Split(authid)
	if tok == "" {
		return s.userPerms(user, path)
	}
	t, ok := s.Token(authid)
	if !ok {
		return Privs{}
	}
	held := s.userPerms(user, path)
	if !t.PrivSep {
		return held
	}
	return intersect(s.granted(authid, path), held)
}

func (s *Set) userPerms(user, path string) Privs {
	if user == Root {
		p := Privs{}
		for _, priv := range s.all {
			p[priv] = true
		}
		return p
	}
	return s.granted(user, path)
}

// granted is what the entries of exactly this identity give on path, with
// what its pools lend.
func (s *Set) granted(id, path string) Privs {
	own := s.privsOf(id, path)
	if _, none := own["NoAccess"]; none {
		return Privs{}
	}
	for _, name := range s.poolsOf(path) {
		for priv, prop := range s.privsOf(id, "/pool/"+name) {
			if prop {
				if _, ok := own[priv]; !ok {
					own[priv] = false // what a pool lends ends at its member
				}
			}
		}
	}
	delete(own, "NoAccess")
	return own
}

func (s *Set) privsOf(id, path string) Privs {
	roles := s.rolesAt(id, path)
	out := Privs{}
	if _, none := roles["NoAccess"]; none {
		out["NoAccess"] = true
		return out
	}
	for role, prop := range roles {
		for _, priv := range s.Roles[role] {
			out[priv] = out[priv] || prop
		}
	}
	return out
}

// rolesAt walks from the root of the tree to path; an entry replaces what
// came from above.
func (s *Set) rolesAt(id, path string) map[string]bool {
	roles := map[string]bool{}
	for _, at := range ancestors(path) {
		here := map[string]bool{}
		for _, e := range s.Entries {
			if e.UGID == id && e.Path == at && (e.Propagate || at == path) {
				here[e.Role] = e.Propagate
			}
		}
		if len(here) > 0 {
			roles = here
		}
	}
	return roles
}

func (s *Set) poolsOf(path string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.Pools)) {
		if s.Pools[name].holds(path) {
			out = append(out, name)
		}
	}
	return out
}

func (p *Pool) holds(path string) bool {
	if id, ok := strings.CutPrefix(path, "/vms/"); ok {
		return p.VMs[atoi(id)]
	}
	if id, ok := strings.CutPrefix(path, "/storage/"); ok {
		return p.Storages[id]
	}
	return false
}

// PoolOf returns the pool a guest belongs to, or "".
func (s *Set) PoolOf(vmid int) string {
	if len(s.Pools) == 0 {
		return "" // thousands of guests ask
	}
	for _, name := range slices.Sorted(maps.Keys(s.Pools)) {
		if s.Pools[name].VMs[vmid] {
			return name
		}
	}
	return ""
}

// ForgetGuest drops the grants on a guest and its pool membership, as PVE
// does when the guest is destroyed.
func (s *Set) ForgetGuest(vmid int) {
	path := "/vms/" + itoa(vmid)
	s.Entries = slices.DeleteFunc(s.Entries, func(e Entry) bool { return e.Path == path })
	for _, p := range s.Pools {
		delete(p.VMs, vmid)
	}
}

func intersect(a, b Privs) Privs {
	out := Privs{}
	for priv, prop := range a {
		if bp, ok := b[priv]; ok {
			out[priv] = prop && bp
		}
	}
	return out
}

func ancestors(path string) []string {
	out := []string{"/"}
	if path == "/" {
		return out
	}
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return append(out, path)
}

// Special lists the guests whose privileges are not simply those of /vms:
// they have entries of their own or are in a pool.
func (s *Set) Special() map[int]bool {
	out := map[int]bool{}
	for _, e := range s.Entries {
		if id, ok := strings.CutPrefix(e.Path, "/vms/"); ok {
			out[atoi(id)] = true
		}
	}
	for _, p := range s.Pools {
		for id, in := range p.VMs {
			out[id] = out[id] || in
		}
	}
	return out
}
