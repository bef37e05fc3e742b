// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"strings"
)

func nodeRoutes() []route {
	return []route{
		{method: "GET", path: "/", run: rootIndex},
		{method: "GET", path: "/version", run: getVersion},
		{method: "GET", path: "/nodes", run: listNodes},
		{method: "GET", path: "/nodes/{node}/status", protected: true, perm: nodePerm("Sys.Audit"), run: nodeStatus},
		{method: "GET", path: "/nodes/{node}/version", run: getVersion},
		{method: "GET", path: "/nodes/{node}/time", perm: nodePerm("Sys.Audit"), run: nodeTime},
	}
}

func rootIndex(*call) (any, error) {
	var out []any
	for _, d := range []string{"version", "cluster", "nodes", "storage", "access", "pools"} {
		out = append(out, map[string]any{"subdir": d})
	}
	return out, nil
}

func getVersion(c *call) (any, error) {
	major, rest, _ := strings.Cut(c.sim.opt.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return map[string]any{"version": c.sim.opt.Version, "release": major + "." + minor, "repoid": c.sim.opt.RepoID}, nil
}

func listNodes(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	row := map[string]any{"node": s.opt.Node, "id": "node/" + s.opt.Node, "type": "node", "status": "online", "level": ""}
	if s.tickLocked() < 0 {
		row["status"] = "unknown"
		delete(row, "level")
	} else if c.mayLocked("/nodes/"+s.opt.Node, "Sys.Audit") {
		s.nodeUsage(row)
		delete(row, "cgroup-mode")
	}
	row["ssl_fingerprint"] = s.fingerprint()
	return []any{row}, nil
}

// nodeUsage adds the node's numbers to a row.
func (s *Sim) nodeUsage(row map[string]any) {
	h := s.opt.Host
	row["cpu"], row["maxcpu"], row["mem"], row["maxmem"] = 0.01, h.CPUs, h.MemoryUsed, h.Memory
	row["disk"], row["maxdisk"], row["uptime"] = h.RootUsed, h.RootTotal, s.uptime()
	row["cgroup-mode"] = h.CgroupMode
}

func (s *Sim) uptime() int64 { return int64(s.now().Sub(s.boot).Seconds()) }

func nodeStatus(c *call) (any, error) {
	s, h := c.sim, c.sim.opt.Host
	cpu := map[string]any{
		"cpus": h.CPUs, "cores": h.CPUs, "sockets": 1, "model": h.Model, "mhz": h.MHz, "flags": h.Flags,
		"user_hz": 100, "hvm": "",
	}
	mem := map[string]any{"total": h.Memory, "used": h.MemoryUsed, "free": h.Memory - h.MemoryUsed}
	if s.major >= 9 {
		cpu["vendor"], cpu["family"] = h.Vendor, h.Family
		mem["available"] = h.Memory - h.MemoryUsed
	}
	return map[string]any{
		"uptime": s.uptime(), "cpu": 0, "wait": 0, "idle": 0, "loadavg": []string{"0.00", "0.00", "0.00"},
		"cpuinfo": cpu, "memory": mem, "swap": map[string]any{"total": 0, "used": 0, "free": 0},
		"rootfs":     map[string]any{"total": h.RootTotal, "used": h.RootUsed, "free": h.RootTotal - h.RootUsed, "avail": h.RootTotal - h.RootUsed},
		"ksm":        map[string]any{"shared": 0},
		"boot-info":  map[string]any{"mode": "legacy-bios"},
		"kversion":   fmt.Sprintf("Linux %s %s", h.Kernel, h.KernelBuild),
		"pveversion": fmt.Sprintf("pve-manager/%s/%s", s.opt.Version, s.opt.RepoID),
		"current-kernel": map[string]any{
			"sysname": "Linux", "release": h.Kernel, "version": h.KernelBuild, "machine": "x86_64",
		},
	}, nil
}

func nodeTime(c *call) (any, error) {
	now := c.sim.now()
	_, off := now.Zone()
	return map[string]any{"timezone": "Etc/UTC", "time": now.Unix(), "localtime": now.Unix() + int64(off)}, nil
}
