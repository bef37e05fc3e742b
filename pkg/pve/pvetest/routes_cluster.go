// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

func clusterRoutes() []route {
	return []route{
		{
			method: "GET", path: "/cluster/resources", run: clusterResources,
			params: []schema.Param{{Name: "type", Enum: []string{"vm", "storage", "node", "sdn"}}},
		},
		{
			method: "GET", path: "/cluster/nextid", run: nextID,
			params: []schema.Param{{Name: "vmid", Type: schema.Integer, Min: schema.F(100), Max: schema.F(999999999)}},
		},
		{method: "GET", path: "/cluster/status", perm: rootPerm("Sys.Audit"), run: clusterStatus},
		{method: "GET", path: "/cluster/options", run: clusterOptions},
		{method: "GET", path: "/cluster/tasks", run: clusterTasks},
	}
}

func clusterResources(c *call) (any, error) {
	s, want := c.sim, c.in.Get("type")
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	add := func(typ string, rows []any) {
		if want == "" || want == typ {
			out = append(out, rows...)
		}
	}
	if want == "" {
		add("", c.poolRows())
	}
	add("vm", c.guestRows())
	add("node", c.nodeRows())
	add("storage", c.storageRows())
	add("sdn", c.zoneRows())
	return out, nil
}

func (c *call) poolRows() []any {
	var rows []any
	for _, name := range slices.Sorted(maps.Keys(c.sim.acl.Pools)) {
		if c.mayLocked("/pool/"+name, "Pool.Audit") {
			rows = append(rows, map[string]any{"id": "/pool/" + name, "pool": name, "type": "pool"})
		}
	}
	return rows
}

func (c *call) guestRows() []any {
	var rows []any
	sees := c.seesLocked("VM.Audit")
	for _, g := range c.sim.sortedGuests() {
		if !sees(g.vmid) {
			continue
		}
		pool := c.sim.acl.PoolOf(g.vmid)
		if pool != "" && !c.mayLocked("/pool/"+pool, "Pool.Audit") {
			pool = ""
		}
		rows = append(rows, c.sim.resource(g, pool))
	}
	return append(rows, c.elsewhereRows()...)
}

func (c *call) nodeRows() []any {
	s := c.sim
	row := map[string]any{"id": "node/" + s.opt.Node, "type": "node", "node": s.opt.Node, "status": "online", "level": "", "cgroup-mode": s.opt.Host.CgroupMode}
	if s.tickLocked() < 0 {
		return []any{map[string]any{"id": row["id"], "type": "node", "node": s.opt.Node, "status": "unknown"}}
	}
	if c.mayLocked("/nodes/"+s.opt.Node, "Sys.Audit") {
		s.nodeUsage(row)
	}
	return []any{row}
}

func (c *call) storageRows() []any {
	var rows []any
	for _, st := range c.sim.storages {
		if !c.mayLocked("/storage/"+st.ID, "Datastore.Audit", "Datastore.AllocateSpace") {
			continue
		}
		row := map[string]any{
			"id": fmt.Sprintf("storage/%s/%s", c.sim.opt.Node, st.ID), "type": "storage", "storage": st.ID,
			"node": c.sim.opt.Node, "status": "available", "plugintype": st.Type, "shared": b2i(st.Shared),
			"content": strings.Join(st.Content, ","), "disk": st.Used + st.grown(), "maxdisk": st.Total,
		}
		rows = append(rows, row)
	}
	return rows
}

func (c *call) zoneRows() []any {
	s := c.sim
	if !c.mayLocked("/sdn/zones/localnetwork", "SDN.Audit") {
		return nil
	}
	if s.major >= 9 {
		return []any{map[string]any{
			"type": "network", "network-type": "zone", "network": "localnetwork", "node": s.opt.Node,
			"id": "network/" + s.opt.Node + "/zone/localnetwork", "status": "ok",
		}}
	}
	return []any{map[string]any{
		"type": "sdn", "sdn": "localnetwork", "node": s.opt.Node,
		"id": "sdn/" + s.opt.Node + "/localnetwork", "status": "ok",
	}}
}

func nextID(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.in.Has("vmid") {
		id := c.in.Int("vmid", 0)
		if s.takenLocked(id) != nil {
			return nil, badParam("vmid", "VM %d already exists", id)
		}
		return strconv.Itoa(id), nil
	}
	lower, upper := s.nextIDRange()
	for id := lower; id <= upper; id++ {
		if s.takenLocked(id) == nil {
			return strconv.Itoa(id), nil
		}
	}
	return nil, die("unable to get any free VMID in range [%d, %d]", lower, upper)
}

func clusterStatus(c *call) (any, error) {
	return []any{map[string]any{
		"type": "node", "id": "node/" + c.sim.opt.Node, "name": c.sim.opt.Node, "ip": "127.0.0.1",
		"local": 1, "online": 1, "nodeid": 0, "level": "",
	}}, nil
}

// clusterOptions shows all of the options only to those who may audit "/".
func clusterOptions(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]any{"allowed-tags": c.knownTags()}
	if c.mayLocked("/", "Sys.Audit") {
		m["mac_prefix"] = "BC:24:11"
		m["description"] = ""
		if d := s.datacenter; d.NextIDLower != 0 {
			m["next-id"] = map[string]any{"lower": itoa(d.NextIDLower), "upper": itoa(d.NextIDUpper)}
		}
	}
	return m, nil
}

// knownTags are the tags of every guest the caller may see, sorted.
func (c *call) knownTags() []string {
	set := map[string]bool{}
	sees := c.seesLocked("VM.Audit")
	for _, g := range c.sim.sortedGuests() {
		if !sees(g.vmid) {
			continue
		}
		for _, t := range splitList(g.value("tags")) {
			set[t] = true
		}
	}
	return slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Keys(set))))
}

// splitList splits as PVE's lists are: at commas, semicolons and blanks.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool {
		return r == ',' || r == ';' || r == ' ' || r == '\t' || r == '\n' || r == 0
	})
}

// clusterTasks lists the recent tasks that the caller owns or may audit;
// a token owns only what it started itself.
func clusterTasks(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	all := c.mayLocked("/", "Sys.Audit")
	for _, t := range s.tasks.active {
		if !all && t.user != c.authid {
			continue
		}
		out = append(out, t.clusterRow())
	}
	return out, nil
}

func (t *task) clusterRow() map[string]any {
	m := map[string]any{"upid": t.upid, "node": t.node, "starttime": t.start, "type": t.typ, "id": t.id, "user": t.user, "saved": "0"}
	if user, tok := acl.Split(t.user); tok != "" {
		m["user"], m["tokenid"] = user, tok
	}
	if end := t.endedAt(); end != 0 && t.archived {
		m["endtime"], m["status"], m["saved"] = end, t.result(), "1"
		return m
	}
	m["pid"] = t.pid
	return m
}
