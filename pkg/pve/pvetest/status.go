// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"strconv"
	"strings"
)

// statusRow is a guest in the list of its kind; what a running guest uses is
// invented but steady.
func (s *Sim) statusRow(g *guestState) map[string]any {
	if g.kind == "qemu" {
		return s.vmRow(g)
	}
	return s.ctRow(g)
}

func (s *Sim) common(g *guestState) map[string]any {
	m := map[string]any{
		"vmid": g.vmid, "name": g.name(), "status": runState(g), "cpu": 0, "mem": 0, "maxmem": s.maxMem(g),
		"cpus": s.cpus(g), "disk": 0, "maxdisk": bootDiskSize(g), "netin": 0, "netout": 0,
		"diskread": 0, "diskwrite": 0, "uptime": 0,
	}
	if l := g.conf.Lock(); l != "" {
		m["lock"] = l
	}
	if t := g.value("tags"); t != "" {
		m["tags"] = t
	}
	if g.conf.Template() {
		m["template"] = 1
	}
	if g.alive() {
		m["pid"] = g.pid
		m["uptime"] = int64(s.now().Sub(g.since).Seconds())
		m["mem"] = s.maxMem(g) / 8
	}
	return m
}

// alive reports whether a guest has a process: a container that is closing
// may have none and still read as running.
func (g *guestState) alive() bool { return g.up && g.pid != 0 }

func (s *Sim) ctRow(g *guestState) map[string]any {
	m := s.common(g)
	m["type"], m["swap"], m["maxswap"] = "lxc", 0, mib(g.value("swap"), 0)
	if g.alive() {
		fs := s.rootSize(g)
		m["disk"], m["maxdisk"] = fs/500, fs
		if s.major >= 9 {
			for _, k := range pressureKeys {
				m[k] = "0.00"
			}
		}
	}
	return m
}

func (s *Sim) vmRow(g *guestState) map[string]any {
	m := s.common(g)
	if s.major >= 9 {
		m["memhost"] = 0
	}
	if g.up && s.major >= 9 {
		m["memhost"] = m["mem"]
		for _, k := range pressureKeys {
			m[k] = 0
		}
	}
	if b := mib(g.value("balloon"), 0); b > 0 {
		m["balloon_min"], m["shares"] = b, 1000
		if n, err := strconv.Atoi(g.value("shares")); err == nil {
			m["shares"] = n
		}
	}
	delete(m, "diskread") // told by a running QEMU only
	delete(m, "diskwrite")
	if s := g.value("serial0"); s != "" {
		m["serial"] = 1
	}
	return m
}

var pressureKeys = []string{
	"pressurecpusome", "pressurecpufull", "pressureiosome", "pressureiofull", "pressurememorysome", "pressurememoryfull",
}

func runState(g *guestState) string {
	if g.up {
		return "running"
	}
	return "stopped"
}

func mib(v string, def int64) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(v, "current="), 10, 64)
	if err != nil {
		n = def
	}
	return n << 20
}

func (s *Sim) maxMem(g *guestState) int64 { return mib(g.value("memory"), 512) }

// cpus is how many processors a guest has: a container's cores, else its
// limit, else the host's.
func (s *Sim) cpus(g *guestState) any {
	n, err := strconv.Atoi(g.value("cores"))
	if g.kind == "qemu" {
		if err != nil {
			n = 1
		}
		if sockets, err := strconv.Atoi(g.value("sockets")); err == nil {
			n *= sockets
		}
		return n
	}
	if err == nil && n > 0 {
		return min(n, s.opt.Host.CPUs)
	}
	if f, err := strconv.ParseFloat(g.value("cpulimit"), 64); err == nil && f > 0 {
		if f == float64(int(f)) {
			return int(f)
		}
		return f
	}
	return s.opt.Host.CPUs
}

func bootDiskSize(g *guestState) int64 {
	if g.kind == "lxc" {
		_, size := diskOf(g.value("rootfs"))
		return size
	}
	for _, key := range bootOrder(g) {
		if v := g.value(key); v != "" && !strings.Contains(v, "media=cdrom") {
			_, size := diskOf(v)
			return size
		}
	}
	return 0
}

// rootSize is the size of a running container's root file system.
func (s *Sim) rootSize(g *guestState) int64 {
	volid, size := diskOf(g.value("rootfs"))
	made := size
	if v := s.volume(volid); v != nil {
		size = either3(v.fs, size)
		made = either3(v.made, size)
	}
	return ext4Grown(made, size)
}

func bootOrder(g *guestState) []string {
	if list, ok := strings.CutPrefix(g.value("boot"), "order="); ok {
		return strings.Split(list, ";")
	}
	keys := []string{g.value("bootdisk")}
	for _, bus := range []string{"ide", "scsi", "sata", "virtio"} {
		for i := range 4 {
			keys = append(keys, fmt.Sprintf("%s%d", bus, i))
		}
	}
	return keys
}

// current is a guest in status/current.
func (s *Sim) currentStatus(g *guestState) map[string]any {
	m := s.statusRow(g)
	m["ha"] = g.ha.row()
	if g.kind == "qemu" {
		s.qmpStatus(g, m)
	}
	return m
}

func (s *Sim) qmpStatus(g *guestState, m map[string]any) {
	m["qmpstatus"] = "stopped"
	if agent := g.value("agent"); strings.HasPrefix(agent, "1") || strings.Contains(agent, "enabled=1") {
		m["agent"] = 1
	}
	if vga := g.value("vga"); vga != "" {
		m["clipboard"] = nil
		if strings.Contains(vga, "clipboard=vnc") {
			m["clipboard"] = "vnc"
		}
	}
	if !g.up {
		return
	}
	m["qmpstatus"] = "running"
	if g.paused {
		m["qmpstatus"] = "paused"
	}
	if s.major >= 9 {
		m["running-machine"], m["running-qemu"] = "pc-i440fx-10.1+pve0", "10.1.2"
	} else {
		m["running-machine"], m["running-qemu"] = "pc-i440fx-9.2+pve1", "9.2.0"
	}
}
