// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// qemuRoutes is what only virtual machines have, and their making and end.
func qemuRoutes() []route {
	anyKey := func(*call, string) bool { return true }
	vmidParam := schema.Param{Name: "vmid", Type: schema.Integer, Required: true, Min: schema.F(100), Max: schema.F(999999999)}
	one := "/nodes/{node}/qemu/{vmid}"
	destroy := []schema.Param{
		pSkiplock, {Name: "purge", Type: schema.Boolean}, {Name: "destroy-unreferenced-disks", Type: schema.Boolean},
	}
	return []route{
		{
			method: "POST", path: "/nodes/{node}/qemu", protected: true, run: createVM,
			params: []schema.Param{vmidParam}, extra: anyKey, also: createErrors,
		},
		{method: "DELETE", path: one, protected: true, perm: guestPerm("VM.Allocate"), params: destroy, run: destroyVM},
		{
			method: "PUT", path: one + "/unlink", protected: true, perm: guestPerm("VM.Config.Disk"), run: unlinkDisks,
			params: []schema.Param{{Name: "idlist", Required: true}, {Name: "force", Type: schema.Boolean}},
		},
		{method: "GET", path: one + "/cloudinit", perm: guestPerm("VM.Audit"), run: cloudInitPending},
		{
			method: "GET", path: one + "/cloudinit/dump", perm: guestPerm("VM.Audit"), run: cloudInitDump,
			params: []schema.Param{{Name: "type", Required: true, Enum: []string{"user", "network", "meta"}}},
		},
		{method: "POST", path: one + "/agent/ping", protected: true, perm: guestPerm(agentPrivileges...), run: agentPing},
	}
}

// agentPrivileges let a caller ask the agent in a guest: the first is PVE
// 8's, the others 9's.
var agentPrivileges = []string{"VM.Monitor", "VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"}

// destroyVM is DELETE .../qemu/{vmid}.
func destroyVM(c *call) (any, error) {
	if c.in.Bool("skiplock") && c.authid != "root@pam" {
		return nil, badParam("skiplock", "Only root may use this option.")
	}
	s, vmid := c.sim, c.vmid()
	g, err := s.find(guest.QEMU, vmid)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	err, up := s.mayGo(g, c.in.Bool("purge")), g.up
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case up:
		return nil, die("VM %d is running - destroy failed", vmid)
	}
	purge, unref, force := c.in.Bool("purge"), c.in.Bool("destroy-unreferenced-disks"), c.in.Bool("skiplock")
	return c.guestTask("qmdestroy", s.vmLocked(vmid, func(t *task, g *guestState) error { return t.vmDestroy(g, purge, unref, force) }))
}

func (t *task) vmDestroy(g *guestState, purge, unref, skiplock bool) error {
	s := t.sim
	if !skiplock {
		if err := t.vmLockCheck(g); err != nil {
			return err
		}
	}
	if s.isUp(g) {
		return die("VM %d is running - destroy failed", g.vmid)
	}
	return t.destroy(g, purge, unref)
}

// unlinkDisks is the config write that deletes the listed disks.
func unlinkDisks(c *call) (any, error) {
	params := map[string]string{"delete": c.in.Get("idlist")}
	if c.in.Bool("force") {
		params["force"] = "1"
	}
	unlock, err := c.sim.lockGuest(c.ctx, guest.QEMU, c.vmid(), nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	res, err := c.sim.applyWrite(guest.QEMU, c.vmid(), c.authid, params, false, "")
	if err != nil {
		return nil, err
	}
	if res.Err != nil {
		return nil, fromConf(res.Err)
	}
	return nil, nil
}

// cloudInitKeys are the cloud-init settings in PVE's list of them.
var cloudInitKeys = []string{"cipassword", "citype", "ciuser", "nameserver", "searchdomain", "sshkeys"}

// cloudInitPending lists the cloud-init settings in effect.
func cloudInitPending(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(guest.QEMU, c.vmid())
	if err != nil {
		return nil, err
	}
	view, out := g.conf.View(true), []any{}
	for _, k := range cloudInitKeys {
		if v, ok := view[k]; ok {
			out = append(out, map[string]any{"key": k, "value": v})
		}
	}
	return out, nil
}

// cloudInitDump is the file PVE would put on the cloud-init drive.
func cloudInitDump(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(guest.QEMU, c.vmid())
	if err != nil {
		return nil, err
	}
	switch c.in.Get("type") {
	case "user":
		return cloudInitUser(g), nil
	case "network":
		return cloudInitNetwork(g), nil
	}
	return "instance-id: " + strings.TrimPrefix(g.value("smbios1"), "uuid=") + "\n", nil
}

func cloudInitUser(g *guestState) string {
	name := either2(g.value("name"), fmt.Sprintf("VM%d", g.vmid))
	host, _, _ := strings.Cut(name, ".")
	fqdn := name
	if domain := g.value("searchdomain"); domain != "" && !strings.Contains(name, ".") {
		fqdn += "." + domain
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#cloud-config\nhostname: %s\nmanage_etc_hosts: true\nfqdn: %s\n", host, fqdn)
	if u := g.value("ciuser"); u != "" {
		fmt.Fprintf(&b, "user: %s\n", u)
	} else {
		b.WriteString("user: root\ndisable_root: False\n")
	}
	if p := g.value("cipassword"); p != "" {
		fmt.Fprintf(&b, "password: %s\n", p)
	}
	b.WriteString("chpasswd:\n  expire: False\n")
	b.WriteString("users:\n  - default\n")
	if g.value("ciupgrade") != "0" {
		b.WriteString("package_upgrade: true\n")
	}
	return b.String()
}

func cloudInitNetwork(g *guestState) string {
	var b strings.Builder
	b.WriteString("version: 1\nconfig:\n")
	for i := range 32 {
		net := g.value("net" + itoa(i))
		if net == "" {
			continue
		}
		fmt.Fprintf(&b, "    - type: physical\n      name: eth%d\n      mac_address: '%s'\n      subnets:\n", i, strings.ToLower(macRE.FindString(net)))
		if strings.Contains(g.value("ipconfig"+itoa(i)), "ip=dhcp") {
			b.WriteString("      - type: dhcp4\n")
		}
	}
	return b.String()
}

// agentPing fails unless the config has an agent; the simulated guests run
// none.
func agentPing(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(guest.QEMU, c.vmid())
	switch {
	case err != nil:
		return nil, err
	case !agentEnabled(g.value("agent")):
		return nil, die("No QEMU guest agent configured")
	case !g.up:
		return nil, die("VM %d is not running", g.vmid)
	}
	return nil, die("QEMU guest agent is not running")
}

func agentEnabled(v string) bool {
	return v == "1" || strings.HasPrefix(v, "1,") || strings.Contains(v, "enabled=1")
}

// confEdit changes a guest's config as PVE's own code does. Needs mu.
func (s *Sim) confEdit(g *guestState, f func(*conf.Guest)) { s.setConfLocked(g, g.conf.Edit(f)) }
