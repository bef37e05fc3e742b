// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"slices"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// atoi returns 0, which is no VMID, for what is not a number.
func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

func privileges(major int) []string {
	all := strings.Fields(`
		Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit
		Group.Allocate Mapping.Audit Mapping.Modify Mapping.Use Permissions.Modify
		Pool.Allocate Pool.Audit Realm.Allocate Realm.AllocateUser
		SDN.Allocate SDN.Audit SDN.Use
		Sys.AccessNetwork Sys.Audit Sys.Console Sys.Incoming Sys.Modify Sys.PowerMgmt Sys.Syslog
		User.Modify
		VM.Allocate VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit
		VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network VM.Config.Options
		VM.Console VM.Migrate VM.PowerMgmt VM.Snapshot VM.Snapshot.Rollback`)
	if major >= 9 {
		all = append(all, strings.Fields(`VM.Replicate VM.GuestAgent.Audit VM.GuestAgent.FileRead
			VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted`)...)
	} else {
		all = append(all, "VM.Monitor")
	}
	slices.Sort(all)
	return all
}

func builtinRoles(major int, all []string) map[string][]string {
	pick := func(keep func(string) bool) []string {
		var out []string
		for _, p := range all {
			if keep(p) {
				out = append(out, p)
			}
		}
		return out
	}
	vmUser := strings.Fields("VM.Audit VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.PowerMgmt")
	if major >= 9 {
		vmUser = append(vmUser, "VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileSystemMgmt", "VM.GuestAgent.FileWrite")
	}
	return map[string][]string{
		"NoAccess":          nil,
		"Administrator":     all,
		"PVEAdmin":          pick(func(p string) bool { return !adminOnly[p] }),
		"PVEAuditor":        pick(func(p string) bool { return strings.HasSuffix(p, ".Audit") }),
		"PVEVMAdmin":        pick(func(p string) bool { return strings.HasPrefix(p, "VM.") }),
		"PVEVMUser":         vmUser,
		"PVEDatastoreAdmin": pick(func(p string) bool { return strings.HasPrefix(p, "Datastore.") }),
		"PVEDatastoreUser":  {"Datastore.AllocateSpace", "Datastore.Audit"},
		"PVEPoolAdmin":      {"Pool.Allocate", "Pool.Audit"},
		"PVEPoolUser":       {"Pool.Audit"},
		"PVESDNAdmin":       {"SDN.Allocate", "SDN.Audit", "SDN.Use"},
		"PVESDNUser":        {"SDN.Audit", "SDN.Use"},
		"PVEMappingAdmin":   {"Mapping.Audit", "Mapping.Modify", "Mapping.Use"},
		"PVEMappingUser":    {"Mapping.Audit", "Mapping.Use"},
		"PVESysAdmin":       {"Sys.Audit", "Sys.Console", "Sys.Syslog"},
		"PVETemplateUser":   {"VM.Audit", "VM.Clone"},
		"PVEUserAdmin":      {"Group.Allocate", "Realm.AllocateUser", "User.Modify"},
	}
}

var adminOnly = map[string]bool{
	"Permissions.Modify": true, "Realm.Allocate": true, "Sys.Modify": true,
	"Mapping.Modify": true, "Sys.Incoming": true, "Sys.PowerMgmt": true, "Sys.AccessNetwork": true,
}

// Builtin reports whether a role is one of PVE's own.
func Builtin(role string) bool {
	return role == "NoAccess" || role == "Administrator" || strings.HasPrefix(role, "PVE")
}
