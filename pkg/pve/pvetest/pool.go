// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// poolRoutes are the pools.
func poolRoutes() []route {
	id := schema.Param{Name: "poolid", Required: true, Format: poolIDFormat}
	change := []schema.Param{
		{Name: "comment"}, {Name: "vms"}, {Name: "storage"}, {Name: "delete", Type: schema.Boolean}, {Name: "allow-move", Type: schema.Boolean},
	}
	allocate := func(c *call) error { return c.need("/pool/"+c.poolID(), "Pool.Allocate") }
	audit := func(c *call) error { return c.need("/pool/"+c.poolID(), "Pool.Audit") }
	return []route{
		{
			method: "GET", path: "/pools", run: listPools,
			params: []schema.Param{{Name: "poolid", Format: poolIDFormat}, {Name: "type", Enum: []string{"qemu", "lxc", "storage"}}},
		},
		{method: "POST", path: "/pools", protected: true, perm: allocate, params: []schema.Param{id, {Name: "comment"}}, run: createPool},
		{method: "PUT", path: "/pools", protected: true, perm: allocate, params: append(slices.Clone(change), id), run: changePool},
		{method: "DELETE", path: "/pools", protected: true, perm: allocate, params: []schema.Param{id}, run: deletePool},
		{
			method: "GET", path: "/pools/{poolid}", perm: audit, run: getPool,
			params: []schema.Param{{Name: "type", Enum: []string{"qemu", "lxc", "storage"}}},
		},
		{method: "PUT", path: "/pools/{poolid}", protected: true, perm: allocate, params: change, run: changePool},
		{method: "DELETE", path: "/pools/{poolid}", protected: true, perm: allocate, run: deletePool},
	}
}

// poolID is the pool a call is about.
func (c *call) poolID() string { return either2(c.path["poolid"], c.in.Get("poolid")) }

var poolIDRE = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}$`)

func poolIDFormat(s string) string {
	if poolIDRE.MatchString(s) {
		return ""
	}
	return "value does not look like a valid pool name"
}

func listPools(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.acl.Pools)) {
		if want := c.in.Get("poolid"); want != "" && want != name || !c.mayLocked("/pool/"+name, "Pool.Audit") {
			continue
		}
		row := poolRow(name, s.acl.Pools[name])
		if c.in.Has("poolid") {
			row["members"] = c.poolMembers(s.acl.Pools[name])
		}
		out = append(out, row)
	}
	return out, nil
}

func poolRow(name string, p *acl.Pool) map[string]any {
	row := map[string]any{"poolid": name}
	if p.Comment != "" {
		row["comment"] = p.Comment
	}
	return row
}

func getPool(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.acl.Pools[c.poolID()]
	if p == nil {
		return nil, die("pool '%s' does not exist", c.poolID())
	}
	row := poolRow(c.poolID(), p)
	delete(row, "poolid")
	if s.major < 9 {
		row["poolid"] = c.poolID()
	}
	row["members"] = c.poolMembers(p)
	return row, nil
}

// poolMembers are the rows of the pool's guests and storages that the caller
// may see, as cluster/resources shows them. Needs mu.
func (c *call) poolMembers(p *acl.Pool) []any {
	s, out, want := c.sim, []any{}, c.in.Get("type")
	for _, id := range slices.Sorted(maps.Keys(p.VMs)) {
		g := s.guests[id]
		if g == nil || want != "" && want != string(g.kind) || !c.mayLocked("/vms/"+itoa(id), "VM.Audit") {
			continue
		}
		row := s.resourceRow(g)
		delete(row, "pool")
		out = append(out, row)
	}
	for _, row := range c.storageRows() {
		id, _ := row.(map[string]any)["storage"].(string)
		if p.Storages[id] && (want == "" || want == "storage") {
			out = append(out, row)
		}
	}
	return out
}

func createPool(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acl.Pools[c.poolID()] != nil {
		return nil, die("create pool failed: pool '%s' already exists", c.poolID())
	}
	s.acl.Pools[c.poolID()] = &acl.Pool{Comment: c.in.Get("comment"), VMs: map[int]bool{}, Storages: map[string]bool{}}
	s.noteLocked(Mutation{What: "create pool", User: c.authid, Detail: c.poolID()})
	return nil, nil
}

func changePool(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.acl.Pools[c.poolID()]
	if p == nil {
		return nil, die("update pools failed: pool '%s' does not exist", c.poolID())
	}
	next := &acl.Pool{Comment: p.Comment, VMs: maps.Clone(p.VMs), Storages: maps.Clone(p.Storages)}
	if c.in.Has("comment") {
		next.Comment = c.in.Get("comment")
	}
	for _, id := range splitList(c.in.Get("vms")) {
		if err := c.poolGuest(next, id); err != nil {
			return nil, err
		}
	}
	for _, id := range splitList(c.in.Get("storage")) {
		if err := c.poolStorage(next, id); err != nil {
			return nil, err
		}
	}
	*p = *next
	s.noteLocked(Mutation{What: "change pool", User: c.authid, Detail: c.poolID()})
	return nil, nil
}

// poolGuest adds a guest to the pool or takes it out. Needs mu.
func (c *call) poolGuest(p *acl.Pool, id string) error {
	if !c.mayLocked("/vms/"+id, "VM.Allocate") {
		return denied("/vms/%s, VM.Allocate", id)
	}
	n, err := strconv.Atoi(id)
	switch {
	case err != nil:
		return badParam("vms", "invalid format - value does not look like a valid VM ID\n")
	case c.in.Bool("delete") && !p.VMs[n]:
		return die("update pools failed: VM %s is not a pool member", id)
	case c.in.Bool("delete"):
		delete(p.VMs, n)
		return nil
	case p.VMs[n]:
		return die("update pools failed: VM %s is already a pool member", id)
	}
	if other := c.sim.acl.PoolOf(n); other != "" && !c.in.Bool("allow-move") {
		return die("update pools failed: VM %s belongs already to pool '%s' and 'allow-move' is not set", id, other)
	} else if other != "" {
		delete(c.sim.acl.Pools[other].VMs, n)
	}
	p.VMs[n] = true
	return nil
}

// poolStorage adds a storage to the pool or takes it out. Needs mu.
func (c *call) poolStorage(p *acl.Pool, id string) error {
	switch {
	case !c.mayLocked("/storage/"+id, "Datastore.Allocate"):
		return denied("/storage/%s, Datastore.Allocate", id)
	case c.in.Bool("delete") && !p.Storages[id]:
		return die("update pools failed: Storage '%s' is not a pool member", id)
	case c.in.Bool("delete"):
		delete(p.Storages, id)
	case p.Storages[id]:
		return die("update pools failed: Storage '%s' is already a pool member", id)
	default:
		p.Storages[id] = true
	}
	return nil
}

// deletePool removes an empty pool with the grants on it.
func deletePool(c *call) (any, error) {
	s, id := c.sim, c.poolID()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.acl.Pools[id]
	if p == nil {
		return nil, die("delete pool failed: pool '%s' does not exist", id)
	}
	for _, vm := range slices.Sorted(maps.Keys(p.VMs)) {
		return nil, die("delete pool failed: pool '%s' is not empty (contains VM %d)", id, vm)
	}
	for _, st := range slices.Sorted(maps.Keys(p.Storages)) {
		return nil, die("delete pool failed: pool '%s' is not empty (contains storage %s)", id, st)
	}
	delete(s.acl.Pools, id)
	s.acl.Entries = slices.DeleteFunc(s.acl.Entries, func(e acl.Entry) bool { return e.Path == "/pool/"+id })
	s.noteLocked(Mutation{What: "delete pool", User: c.authid, Detail: id})
	return nil, nil
}
