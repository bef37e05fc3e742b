// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package setup makes what the agent needs in PVE, and copies here what it
// needs from there: a user, a role with the smallest set of privileges that
// serves what the agent shall do, a token of this node with privileges of its
// own, the grants, the token in a file that only root reads, and the CA.
//
// It guarantees that the token's secret is never an argument of a command and
// never printed unless asked for, that its file has its final mode before
// anything is in it, and that what is there already is brought to what is
// wanted and not made twice.
package setup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// Role is what the agent may do, in four steps; each has the one before in it.
type Role string

// The roles.
const (
	Observe   Role = "observe"   // see
	Operate   Role = "operate"   // start, stop, configure, snapshot, back up
	Provision Role = "provision" // also make guests and volumes
	Full      Role = "full"      // also what needs a signed approval each time
)

// Roles in their order.
var Roles = []Role{Observe, Operate, Provision, Full}

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	if !slices.Contains(Roles, Role(s)) {
		return "", fmt.Errorf("there is no role %q; there are observe, operate, provision and full", s)
	}
	return Role(s), nil
}

// includes reports whether r has what other has.
func (r Role) includes(other Role) bool { return slices.Index(Roles, r) >= slices.Index(Roles, other) }

// serves says from which role on an action kind is served. What it needs of PVE
// is pve.Privileges, and guest.Form for config keys.
var serves = []struct {
	kind plugin.ActionKind
	role Role
}{
	{plugin.Start, Operate},
	{plugin.Shutdown, Operate},
	{plugin.Stop, Operate},
	{plugin.Reboot, Operate},
	{plugin.SetConfig, Operate},
	{plugin.TakeSnapshot, Operate},
	{plugin.Backup, Operate},
	{plugin.Provision, Provision},
	{plugin.GrowDisk, Provision},
	{plugin.Rollback, Full},
	{plugin.Restore, Full},
	{plugin.Destroy, Full},
	{plugin.DeleteSnapshot, Full},
	{plugin.DeleteBackup, Full},
	{plugin.DeleteVolume, Full},
}

// Kinds are the action kinds a role serves.
func (r Role) Kinds() []plugin.ActionKind {
	var out []plugin.ActionKind
	for _, n := range serves {
		if r.includes(n.role) {
			out = append(out, n.kind)
		}
	}
	return out
}

// Grant is a set of privileges on a path and what is below it.
type Grant struct {
	Path  string
	Privs []string
}

// Grants are what a role needs on a PVE of that major version, by path. There
// are two: seeing the node, which counts everywhere, and working on guests,
// storages and bridges.
func (r Role) Grants(major int) []Grant {
	// A backup job may be of a pool: what it saves is known by Pool.Audit only.
	see, work := []string{"Pool.Audit", "Sys.Audit"}, []string{"VM.Audit", "Datastore.Audit"}
	for _, kind := range r.Kinds() {
		for _, g := range []guest.Kind{guest.LXC, guest.QEMU} {
			for _, p := range pve.Privileges(string(kind), g, major) {
				work = append(work, p.Name)
			}
		}
	}
	if r.includes(Operate) {
		// A CD-ROM is benign on keys whose rows are those of disks.
		work = append(append(work, "VM.Config.CDROM"), configPrivileges(guest.Benign, major)...)
	}
	if r.includes(Provision) {
		work = append(work, configPrivileges(guest.Additive, major)...)
	}
	if r.includes(Full) {
		work = append(work, configPrivileges(guest.Irreversible, major)...)
	}
	if major < 8 { // PVE 7 does not know them
		work = slices.DeleteFunc(work, func(p string) bool { return strings.HasPrefix(p, "SDN.") })
	}
	slices.Sort(work)
	work = slices.Compact(work)
	out := []Grant{{"/", see}, {"/vms", pick(work, "VM.")}, {"/storage", pick(work, "Datastore.")}}
	if sdn := pick(work, "SDN."); len(sdn) > 0 {
		out = append(out, Grant{"/sdn/zones", sdn})
	}
	return out
}

func pick(privs []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(privs), func(p string) bool { return !strings.HasPrefix(p, prefix) })
}

// configPrivileges are those that PVE asks for config keys of a class. Keys
// that need more than guests, storages and bridges are left to the list of
// what a role cannot do.
func configPrivileges(class guest.Class, major int) []string {
	var out []string
	table := guest.Standard()
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		for _, f := range table.Forms(kind) {
			if f.Class != class || f.Effect == guest.NeedsRoot || f.Since > major {
				continue
			}
			for _, p := range privilegeNames(f.Privilege) {
				if !beyond(p) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// privilegeNames reads "A, B" (both) and "A|B" (the first will do).
func privilegeNames(s string) []string {
	var out []string
	for _, p := range strings.Split(s, ",") {
		p, _, _ = strings.Cut(p, "|")
		if p = strings.TrimSpace(p); strings.Contains(p, ".") {
			out = append(out, p)
		}
	}
	return out
}

// beyond are privileges that no role has for the sake of a config key: they
// reach past guests, or past what the key itself may do.
func beyond(p string) bool {
	return strings.HasPrefix(p, "Sys.") || strings.HasPrefix(p, "Mapping.") || p == "VM.Allocate" || p == "VM.Config.Disk"
}

// Cannot says what a role cannot do that somebody may expect of it.
func (r Role) Cannot(major int) []string {
	out := []string{
		"set hookscripts: PVE refuses them to every token; `felhom-agent hook install` does it as root",
		"set args, hostpci, usb, serial and bind mounts of the host's own devices: root@pam only",
		"set startup of a virtual machine: it needs Sys.Modify on /, which reaches far beyond guests",
		"use mapped devices: grant Mapping.Use on /mapping if a document names one",
		"change the HA stack's own configuration (Sys.Console on /)",
	}
	if !r.includes(Full) {
		out = append(out, "destroy, roll back, restore over a guest, delete snapshots, backups or volumes, even with a signed approval: that takes --role full")
	}
	if !r.includes(Provision) {
		out = append(out, "change a virtual machine's boot order: that takes VM.Config.Disk, which may delete disks as well")
		out = append(out, "switch a container's nesting: that takes VM.Allocate, which may destroy as well")
		out = append(out, "make guests or volumes, grow disks: that takes --role provision")
	}
	if !r.includes(Operate) {
		out = append(out, "start, stop, configure, snapshot or back up anything: that takes --role operate")
	}
	if major >= 9 && r.includes(Provision) {
		out = append(out, "make privileged containers: PVE 9 asks for Sys.Modify on /")
	}
	slices.Sort(out)
	return out
}
