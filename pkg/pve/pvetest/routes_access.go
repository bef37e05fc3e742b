// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"maps"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

func accessRoutes() []route {
	return []route{
		{
			method: "GET", path: "/access/permissions", run: getPermissions,
			params: []schema.Param{{Name: "path"}, {Name: "userid"}},
		},
		{
			method: "POST", path: "/access/ticket", open: true, protected: true, run: createTicket,
			params: []schema.Param{
				{Name: "username", Required: true},
				{Name: "password", Required: true},
				{Name: "realm"},
				{Name: "otp"},
				{Name: "path"},
				{Name: "privs"},
				{Name: "new-format", Type: schema.Boolean},
				{Name: "tfa-challenge"},
			},
		},
		{method: "GET", path: "/access/acl", run: listACL},
	}
}

// standardPaths are always in the answer of access/permissions; what is
// granted elsewhere joins them.
var standardPaths = []string{"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}

func getPermissions(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	who := c.authid
	if id := c.in.Get("userid"); id != "" && id != who {
		if !s.acl.Perms(c.authid, "/access").Has("Sys.Audit") {
			return nil, denied("/access, Sys.Audit")
		}
		who = id
	}
	if p := c.in.Get("path"); p != "" {
		return map[string]any{p: privMap(s.acl.Perms(who, p))}, nil
	}
	out := map[string]any{}
	for _, p := range s.permissionPaths(who) {
		if held := s.acl.Perms(who, p); len(held) > 0 {
			out[p] = privMap(held)
		}
	}
	return out, nil
}

// permissionPaths are the standard paths and every path with a grant or pool
// membership.
func (s *Sim) permissionPaths(string) []string {
	set := map[string]bool{}
	for _, p := range standardPaths {
		set[p] = true
	}
	for _, e := range s.acl.Entries {
		set[e.Path] = true
	}
	for name, p := range s.acl.Pools {
		set["/pool/"+name] = true
		for id := range p.VMs {
			set["/vms/"+itoa(id)] = true
		}
		for id := range p.Storages {
			set["/storage/"+id] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func privMap(p acl.Privs) map[string]any {
	out := map[string]any{}
	for priv, prop := range p {
		out[priv] = b2i(prop)
	}
	return out
}

func createTicket(c *call) (any, error) {
	s := c.sim
	user := c.in.Get("username")
	if realm := c.in.Get("realm"); realm != "" {
		user += "@" + realm
	}
	id, tk, ok := s.login(user, c.in.Get("password"))
	if !ok {
		sleep(c.ctx, authDelay)
		return nil, &apiError{status: 401, reason: "authentication failure"}
	}
	return map[string]any{
		"username": user, "ticket": id, "CSRFPreventionToken": tk.csrf, "cap": s.capabilities(user),
	}, nil
}

// capabilities is what the web interface wants to know of a user: the
// privileges on the areas of the tree.
func (s *Sim) capabilities(user string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	areas := map[string]struct{ path, re string }{
		"vms":     {"/vms", "VM.|Permissions.Modify"},
		"storage": {"/storage", "Datastore.|Permissions.Modify"},
		"access":  {"/access", "User.Modify|Group.Allocate|Permissions.Modify"},
		"nodes":   {"/nodes", "Sys.|Permissions.Modify"},
		"sdn":     {"/sdn", "SDN.|Permissions.Modify"},
		"dc":      {"/", "Sys.Audit|Sys.Modify|SDN."},
		"mapping": {"/mapping", "Mapping.|Permissions.Modify"},
	}
	out := map[string]any{}
	for name, a := range areas {
		caps := map[string]any{}
		for priv := range s.acl.Perms(user, a.path) {
			if matchesAny(priv, a.re) {
				caps[priv] = 1
			}
		}
		out[name] = caps
	}
	return out
}

func matchesAny(priv, prefixes string) bool {
	for p := range strings.SplitSeq(prefixes, "|") {
		if strings.HasPrefix(priv, p) {
			return true
		}
	}
	return false
}

// listACL lists the grants on paths where the caller may change or audit
// permissions.
func listACL(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, e := range s.acl.Entries {
		if !c.mayLocked(e.Path, "Permissions.Modify") && !c.mayLocked("/access", "Sys.Audit") {
			continue
		}
		typ := "user"
		if _, tok := acl.Split(e.UGID); tok != "" {
			typ = "token"
		}
		out = append(out, map[string]any{"path": e.Path, "ugid": e.UGID, "roleid": e.Role, "type": typ, "propagate": b2i(e.Propagate)})
	}
	return out, nil
}
