// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"strconv"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// guestRoutes is what can be read of guests, for both kinds.
func guestRoutes() []route {
	var out []route
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		list := "/nodes/{node}/" + string(kind)
		one := list + "/{vmid}"
		out = append(
			out,
			route{method: "GET", path: list, protected: true, run: listGuests, params: fullParam(kind)},
			route{method: "GET", path: one + "/status/current", protected: true, perm: guestPerm("VM.Audit"), run: getStatus},
			route{
				method: "GET", path: one + "/config", perm: guestPerm("VM.Audit"), run: getConfig,
				params: []schema.Param{{Name: "current", Type: schema.Boolean}, {Name: "snapshot", MaxLen: 40}},
			},
			route{method: "GET", path: one + "/pending", perm: guestPerm("VM.Audit"), run: getPending},
			route{method: "GET", path: one + "/snapshot", perm: guestPerm("VM.Audit"), run: listSnapshots},
		)
	}
	return append(out, route{
		method: "GET", path: "/nodes/{node}/lxc/{vmid}/interfaces", protected: true,
		perm: guestPerm("VM.Audit"), run: ctInterfaces,
	})
}

func fullParam(kind guest.Kind) []schema.Param {
	if kind == guest.QEMU {
		return []schema.Param{{Name: "full", Type: schema.Boolean}}
	}
	return nil
}

// errSocketReset is the passing error of a read that meets a container just
// as its command socket closes.
var errSocketReset = die("failed to read from command socket: Connection reset by peer")

func getStatus(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	if s.closingReadLocked(g) {
		return nil, errSocketReset
	}
	return s.currentStatus(g), nil
}

func getConfig(c *call) (any, error) {
	s := c.sim
	if c.in.Bool("current") && c.in.Has("snapshot") {
		return nil, badParam("snapshot", "cannot use 'snapshot' parameter with 'current'")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	view := g.conf.View(c.in.Bool("current"))
	if name := c.in.Get("snapshot"); name != "" {
		var cerr *conf.Error
		if view, cerr = g.conf.SnapshotView(name); cerr != nil {
			return nil, fromConf(cerr)
		}
	}
	if _, ok := view["env"]; ok && !c.mayLocked("/vms/"+c.path["vmid"], "VM.Config.Options") {
		delete(view, "env")
	}
	return view, nil
}

func getPending(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	return pendingRows(g.conf.PendingList()), nil
}

func listSnapshots(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, name := range sortedKeys(g.conf.Snapshots) {
		out = append(out, snapshotRow(g.kind, name, g.conf.Snapshots[name]))
	}
	cur := map[string]any{"name": "current", "digest": g.conf.Digest(), "running": b2i(g.up), "description": "You are here!"}
	if p := g.value("parent"); p != "" {
		cur["parent"] = p
	}
	return append(out, cur), nil
}

func snapshotRow(kind guest.Kind, name string, sec conf.Section) map[string]any {
	v, _ := sec.Get("description")
	m := map[string]any{"name": name, "description": v}
	if t, ok := sec.Get("snaptime"); ok {
		n, err := strconv.ParseInt(t, 10, 64)
		if err == nil {
			m["snaptime"] = n
		}
	}
	if p, ok := sec.Get("parent"); ok {
		m["parent"] = p
	}
	if st, ok := sec.Get("snapstate"); ok {
		m["snapstate"] = st
	}
	if _, ok := sec.Get("vmstate"); ok || kind == guest.QEMU {
		m["vmstate"] = b2i(ok)
	}
	return m
}

func ctInterfaces(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(guest.LXC, c.vmid())
	if err != nil || !g.up {
		return nil, err
	}
	return []any{map[string]any{"name": "lo", "inet": "127.0.0.1/8", "inet6": "::1/128", "hwaddr": "00:00:00:00:00:00"}}, nil
}

// fromConf gives a config refusal its place in HTTP.
func fromConf(e *conf.Error) error {
	return &apiError{status: e.Status, reason: e.Message, params: e.Errors}
}
