// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"crypto/sha1"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// indexRoutes are the directories of the API, and what a client may read of
// the node, its accounts and its storages beyond the guests.
func indexRoutes() []route {
	out := []route{
		{method: "GET", path: "/nodes/{node}", run: nodeIndex},
		{method: "GET", path: "/nodes/{node}/network", run: listNetwork, params: []schema.Param{{Name: "type"}}},
		{method: "GET", path: "/storage", run: storageConfigs, params: []schema.Param{{Name: "type"}}},
		{method: "GET", path: "/storage/{storage}", run: storageConfig, perm: func(c *call) error {
			return c.need("/storage/"+c.path["storage"], "Datastore.Allocate")
		}},
		{method: "GET", path: "/access/roles", run: listRoles},
		{method: "GET", path: "/access/users", run: listUsers, params: []schema.Param{
			{Name: "enabled", Type: schema.Boolean}, {Name: "full", Type: schema.Boolean},
		}},
		{method: "GET", path: "/access/users/{userid}/token/{tokenid}", perm: ownAccount, run: getToken},
	}
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		one := "/nodes/{node}/" + string(kind) + "/{vmid}"
		out = append(out,
			route{method: "GET", path: one + "/status", run: statusIndex},
			route{method: "GET", path: one + "/feature", protected: true, perm: guestPerm("VM.Audit"), run: guestFeature, params: []schema.Param{
				{Name: "feature", Required: true, Enum: []string{"snapshot", "clone", "copy"}}, {Name: "snapname", MaxLen: 40},
			}},
			route{method: "GET", path: one + "/rrddata", protected: true, perm: guestPerm("VM.Audit"), run: guestRRD, params: []schema.Param{
				{Name: "timeframe", Required: true, Enum: sortedKeys(rrdStep)}, {Name: "cf", Enum: []string{"AVERAGE", "MAX"}},
			}})
	}
	return out
}

// named is an index: one object per name.
func named(field string, names []string) []any {
	out := make([]any, 0, len(names))
	for _, n := range names {
		out = append(out, map[string]any{field: n})
	}
	return out
}

// nodeIndex lists what is below a node.
func nodeIndex(c *call) (any, error) {
	names := strings.Fields(`aplinfo apt capabilities ceph certificates config disks dns firewall hardware hosts
		journal lxc migrateall netstat network qemu query-url-metadata replication report rrd rrddata scan sdn services
		spiceshell startall status stopall storage subscription suspendall syslog tasks termproxy time version vncshell
		vzdump wakeonlan`)
	if c.sim.major >= 9 {
		names = append(names, "query-oci-repo-tags")
		slices.Sort(names)
	}
	return named("name", names), nil
}

func statusIndex(c *call) (any, error) {
	names := []string{"current", "start", "stop", "shutdown", "reboot", "migrate"}
	if c.kind() == guest.QEMU {
		names = []string{"current", "start", "stop", "reset", "shutdown", "suspend", "reboot"}
	}
	return named("subdir", names), nil
}

// guestFeature tells whether the guest's storage can do something.
func guestFeature(c *call) (any, error) {
	g, err := c.sim.find(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	has := c.sim.hasFeature(g, c.in.Get("feature"))
	if c.kind() == guest.QEMU {
		return map[string]any{"hasFeature": b2i(has), "nodes": []string{c.sim.opt.Node}}, nil
	}
	return map[string]any{"hasFeature": b2i(has)}, nil
}

// rrdStep is the seconds between two points, by time frame.
var rrdStep = map[string]int64{"hour": 60, "day": 1800, "week": 10800, "month": 43200, "year": 604800}

// guestRRD gives a guest's resources at the points of the time frame since it
// was made; the double keeps no history of what a guest used.
func guestRRD(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	step, rows := rrdStep[c.in.Get("timeframe")], int64(70)
	if s.major >= 9 {
		rows = 60
	}
	last := s.now().Unix() / step * step
	out := []any{}
	for t := last - (rows-1)*step; t <= last; t += step {
		m := map[string]any{"time": t}
		if t > g.born.Unix()+step/2 {
			m["maxcpu"], m["maxmem"], m["maxdisk"], m["disk"] = s.cpus(g), s.maxMem(g), bootDiskSize(g), 0
		}
		out = append(out, m)
	}
	return out, nil
}

// listNetwork gives the node's bridges.
func listNetwork(c *call) (any, error) {
	out := []any{}
	if t := c.in.Get("type"); t != "" && t != "bridge" && t != "any_bridge" && t != "any_local_bridge" {
		return out, nil
	}
	for i, name := range c.sim.opt.Bridges {
		m := map[string]any{
			"iface": name, "type": "bridge", "bridge_ports": "", "bridge_fd": "0", "bridge_stp": "off", "autostart": 1,
			"active": 1, "method": "manual", "method6": "manual", "families": []string{"inet"}, "priority": 3 + i,
		}
		if p, err := netip.ParsePrefix(c.sim.opt.Host.Address); i == 0 && err == nil {
			m["method"], m["cidr"], m["address"], m["netmask"] = "static", p.String(), p.Addr().String(), itoa(p.Bits())
		}
		out = append(out, m)
	}
	return out, nil
}

// configRow is a storage as storage.cfg has it.
func (st *storageState) configRow() map[string]any {
	return map[string]any{
		"storage": st.ID, "type": st.Type, "path": st.Path, "content": strings.Join(st.Content, ","),
		"shared": b2i(st.Shared), "digest": digestOf(st.ID + st.Path),
	}
}

// digestOf is a digest as PVE prints one.
func digestOf(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

func storageConfigs(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, st := range s.storages {
		if t := c.in.Get("type"); t != "" && t != st.Type || !c.mayLocked("/storage/"+st.ID, "Datastore.Audit", "Datastore.AllocateSpace") {
			continue
		}
		out = append(out, st.configRow())
	}
	return out, nil
}

func storageConfig(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.storage(c.path["storage"])
	if st == nil {
		return nil, die("storage '%s' does not exist", c.path["storage"])
	}
	return st.configRow(), nil
}

func listRoles(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, id := range sortedKeys(s.acl.Roles) {
		privs := slices.Sorted(slices.Values(s.acl.Roles[id]))
		out = append(out, map[string]any{"roleid": id, "privs": strings.Join(privs, ","), "special": b2i(acl.Builtin(id))})
	}
	return out, nil
}

// listUsers gives the accounts to those who may audit them, and to everybody
// his own.
func listUsers(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, id := range sortedKeys(s.acl.Users) {
		if id != c.authid && !c.mayLocked("/access/groups", "User.Modify", "Sys.Audit") {
			continue
		}
		_, realm, _ := strings.Cut(id, "@")
		m := map[string]any{"userid": id, "enable": b2i(!s.acl.Users[id].Disabled), "expire": 0, "realm-type": realm}
		if id != acl.Root {
			m["email"] = ""
		}
		if text := s.acl.Users[id].Comment; text != "" {
			m["comment"] = text
		}
		out = append(out, m)
	}
	return out, nil
}

// ownAccount lets a user at his own account, and who may modify users at
// any. A token is not its user.
func ownAccount(c *call) error {
	if c.authid == c.path["userid"] || c.may("/access/groups", "User.Modify") {
		return nil
	}
	return &apiError{status: 403, reason: "Permission check failed"}
}

func getToken(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.acl.Token(c.path["userid"] + "!" + c.path["tokenid"])
	if !ok {
		return nil, die("no such token '%s' for user '%s'", c.path["tokenid"], c.path["userid"])
	}
	return map[string]any{"expire": 0, "privsep": b2i(t.PrivSep)}, nil
}
