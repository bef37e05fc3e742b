// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// Pvesh reads a path of the API as root@pam at the node's command line, as
// `pvesh get` does.
func (s *Sim) Pvesh(ctx context.Context, path string, query url.Values) (any, error) {
	rt, vals := s.routes.find(http.MethodGet, path)
	if rt == nil {
		return nil, fmt.Errorf("no '%s' handler defined for '%s'", "get", path)
	}
	c := &call{sim: s, ctx: ctx, authid: acl.Root, uri: path, path: vals, in: schema.Values{}, cli: true}
	for k := range query {
		c.in[k] = schema.Value{S: query.Get(k)}
	}
	for k, v := range vals {
		c.in[k] = schema.Value{S: v}
	}
	if err := s.admit(rt, c); err != nil {
		return nil, err
	}
	if err := s.checkParams(rt, c); err != nil {
		return nil, err
	}
	return rt.run(c)
}

// placementRoutes tell where the HA stack may run guests: groups on PVE 8,
// rules on 9, where the groups' path only says that they have become rules. A
// simulated node has none of either.
func placementRoutes() []route {
	only := func(major int, path string) func(*call) (any, error) {
		return func(c *call) (any, error) {
			switch {
			case c.sim.major == major:
				return []any{}, nil
			case major == 8:
				return nil, die("cannot index groups: ha groups have been migrated to rules")
			}
			return nil, &apiError{status: 501, reason: "Method 'GET " + path + "' not implemented"}
		}
	}
	return []route{
		{method: "GET", path: "/cluster/ha/groups", perm: rootPerm("Sys.Audit"), run: only(8, "/cluster/ha/groups")},
		{method: "GET", path: "/cluster/ha/rules", perm: rootPerm("Sys.Audit"), run: only(9, "/cluster/ha/rules")},
	}
}

// Pveum is PVE's command for users, roles, tokens and grants, as root@pam. It
// knows what `felhom-agent setup` says, in PVE's words where it refuses.
func (s *Sim) Pveum(args []string) (any, error) {
	words, opt, err := pveumArgs(args)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch what := strings.Join(words[:min(2, len(words))], " "); what {
	case "role add", "role modify":
		return nil, s.pveumRole(what == "role add", words, opt)
	case "user add":
		return nil, s.pveumUser(words)
	case "user token":
		return s.pveumToken(words, opt)
	case "acl modify":
		return nil, s.pveumACL(words, opt)
	}
	return nil, fmt.Errorf("unknown command 'pveum %s'", strings.Join(args, " "))
}

// pveumArgs separates words and options; both forms of a value are taken.
func pveumArgs(args []string) (words []string, opt map[string]string, err error) {
	opt = map[string]string{}
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "--")
		if !ok {
			words = append(words, args[i])
			continue
		}
		name, value, ok := strings.Cut(name, "=")
		if !ok {
			if i++; i >= len(args) {
				return nil, nil, fmt.Errorf("Option %s requires an argument", name) //nolint:staticcheck // as PVE says it
			}
			value = args[i]
		}
		opt[name] = value
	}
	return words, opt, nil
}

func (s *Sim) pveumRole(add bool, words []string, opt map[string]string) error {
	if len(words) != 3 {
		return fmt.Errorf("not enough arguments")
	}
	id := words[2]
	if _, there := s.acl.Roles[id]; add == there {
		if add {
			return fmt.Errorf("create role failed: role '%s' already exists", id)
		}
		return fmt.Errorf("modify role failed: role '%s' does not exist", id)
	}
	privs := strings.FieldsFunc(opt["privs"], func(r rune) bool { return r == ' ' || r == ',' })
	for _, p := range privs {
		if !slices.Contains(s.acl.Privileges(), p) {
			return fmt.Errorf("400 Parameter verification failed.\nprivs: invalid format - invalid privilege '%s'", p)
		}
	}
	s.acl.Roles[id] = privs
	return nil
}

func (s *Sim) pveumUser(words []string) error {
	if len(words) != 3 {
		return fmt.Errorf("not enough arguments")
	}
	if s.acl.Users[words[2]] != nil {
		return fmt.Errorf("create user failed: user '%s' already exists", words[2])
	}
	s.acl.Users[words[2]] = &acl.User{Tokens: map[string]acl.Token{}}
	return nil
}

func (s *Sim) pveumToken(words []string, opt map[string]string) (any, error) {
	if len(words) != 5 {
		return nil, fmt.Errorf("not enough arguments")
	}
	user, id := s.acl.Users[words[3]], words[4]
	if user == nil {
		return nil, fmt.Errorf("no such user ('%s')", words[3])
	}
	_, there := user.Tokens[id]
	switch {
	case words[2] == "remove" && there:
		delete(user.Tokens, id)
		return nil, nil
	case words[2] != "add":
		return nil, fmt.Errorf("no such token '%s' for user '%s'", id, words[3])
	case there:
		return nil, fmt.Errorf("400 Parameter verification failed.\n%s", "tokenid: Token already exists.")
	}
	t := acl.Token{Secret: strings.ToLower(rand.Text()), PrivSep: opt["privsep"] != "0"}
	user.Tokens[id] = t
	return map[string]any{
		"full-tokenid": words[3] + "!" + id, "value": t.Secret, "info": map[string]any{"privsep": b2i(t.PrivSep)},
	}, nil
}

func (s *Sim) pveumACL(words []string, opt map[string]string) error {
	if len(words) != 3 {
		return fmt.Errorf("not enough arguments")
	}
	if _, ok := s.acl.Roles[opt["roles"]]; !ok {
		return fmt.Errorf("role '%s' does not exist", opt["roles"])
	}
	who := opt["users"] + opt["tokens"]
	if !s.acl.Exists(who) {
		return fmt.Errorf("'%s' does not exist", who)
	}
	e := acl.Entry{Path: words[2], UGID: who, Role: opt["roles"], Propagate: opt["propagate"] != "0"}
	if !slices.Contains(s.acl.Entries, e) {
		s.acl.Entries = append(s.acl.Entries, e)
	}
	return nil
}

// adminPvesh and adminPveum are both for the administration socket.
func (s *Sim) adminPvesh(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	path := query.Get("path")
	query.Del("path")
	v, err := s.Pvesh(r.Context(), path, query)
	if err != nil {
		adminError(w, err)
		return
	}
	adminJSON(w, v)
}

func (s *Sim) adminPveum(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Args []string `json:"args"`
	}
	if err := adminBody(r, &body); err != nil {
		adminError(w, err)
		return
	}
	v, err := s.Pveum(body.Args)
	if err != nil {
		adminError(w, err)
		return
	}
	adminJSON(w, v)
}
