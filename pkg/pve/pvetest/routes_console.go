// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// consoleWait is how long PVE waits for the server of a console to listen.
const consoleWait = 5 * time.Second

// consoleRoutes are a guest's index, its consoles and its migration: of one
// node only so much as it refuses.
func consoleRoutes() []route {
	var out []route
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		one := "/nodes/{node}/" + string(kind) + "/{vmid}"
		out = append(out,
			route{method: "GET", path: one, run: guestIndex},
			route{
				method: "POST", path: one + "/migrate", protected: true, perm: guestPerm("VM.Migrate"), run: migrateGuest,
				params: []schema.Param{
					{Name: "target", Required: true},
					{Name: "online", Type: schema.Boolean},
					{Name: "restart", Type: schema.Boolean},
					{Name: "timeout", Type: schema.Integer},
					{Name: "bwlimit", Type: schema.Number, Min: schema.F(0)},
					{Name: "target-storage"},
					{Name: "targetstorage"},
					{Name: "with-local-disks", Type: schema.Boolean},
					{Name: "force", Type: schema.Boolean},
				},
			},
			route{method: "POST", path: one + "/termproxy", protected: true, perm: guestPerm("VM.Console"), run: termProxy},
		)
	}
	return out
}

func guestIndex(c *call) (any, error) {
	if c.kind() == guest.QEMU {
		return named("subdir", []string{
			"config", "cloudinit", "pending", "status", "unlink", "vncproxy", "termproxy", "migrate", "resize", "move", "rrd", "rrddata",
			"monitor", "agent", "snapshot", "spiceproxy", "sendkey", "firewall", "mtunnel", "remote_migrate",
		}), nil
	}
	return named("subdir", []string{
		"config", "pending", "status", "vncproxy", "termproxy", "vncwebsocket", "spiceproxy", "migrate", "clone", "rrd", "rrddata",
		"firewall", "snapshot", "resize", "interfaces",
	}), nil
}

// migrateGuest fails: there is no other node.
func migrateGuest(c *call) (any, error) {
	if target := c.in.Get("target"); target == c.sim.opt.Node || target == "localhost" {
		return nil, badParam("target", "target is local node.")
	}
	return nil, die("no such cluster node '%s'", c.in.Get("target"))
}

// termProxy fails after a while: nothing ever connects to the consoles of
// simulated guests.
func termProxy(c *call) (any, error) {
	if _, err := c.sim.find(c.kind(), c.vmid()); err != nil {
		return nil, err
	}
	sleep(c.ctx, consoleWait)
	return nil, die("Timeout while waiting for port '5900' to get ready!")
}
