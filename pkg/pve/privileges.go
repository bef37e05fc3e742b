// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Privilege is one privilege on one path of PVE's access control. In a Path
// {vmid} stands for the guest, {source} for the guest that is cloned, {storage}
// for where new volumes or backups go, {from} for where a template or a backup
// is, {bridge} for each bridge of the guest.
type Privilege struct {
	Path string
	Name string
}

// The ways of "provision", as kinds of their own for [Privileges].
const (
	FromTemplate = "provision template"
	FromBackup   = "provision backup"
	FromClone    = "provision clone"
)

// privileges are what a token needs for each kind of action, the looks before
// it included: PATH:NAME,NAME.
var privileges = map[string]string{
	"start":      "/vms/{vmid}:VM.Audit,VM.PowerMgmt",
	"shutdown":   "/vms/{vmid}:VM.Audit,VM.PowerMgmt",
	"stop":       "/vms/{vmid}:VM.Audit,VM.PowerMgmt",
	"reboot":     "/vms/{vmid}:VM.Audit,VM.PowerMgmt",
	"set_config": "/vms/{vmid}:VM.Audit",

	FromTemplate: "/:Sys.Audit /vms/{vmid}:VM.Audit,VM.Allocate /storage/{storage}:Datastore.AllocateSpace",
	FromBackup:   "/:Sys.Audit /vms/{vmid}:VM.Audit,VM.Allocate /storage/{storage}:Datastore.AllocateSpace /storage/{from}:Datastore.AllocateSpace /vms/{source}:VM.Backup",
	FromClone:    "/:Sys.Audit /vms/{vmid}:VM.Audit,VM.Allocate /vms/{source}:VM.Audit,VM.Clone /storage/{storage}:Datastore.AllocateSpace",

	"grow_disk": "/vms/{vmid}:VM.Audit,VM.Config.Disk /storage/{storage}:Datastore.AllocateSpace",
	"snapshot":  "/vms/{vmid}:VM.Audit,VM.Snapshot",
	"backup":    "/vms/{vmid}:VM.Audit,VM.Backup /storage/{storage}:Datastore.AllocateSpace",
	"rollback":  "/vms/{vmid}:VM.Audit,VM.Snapshot.Rollback",
	// A backup of the guest's own VMID; another one's is as for FromBackup.
	"restore": "/vms/{vmid}:VM.Audit,VM.Backup /storage/{storage}:Datastore.AllocateSpace",
	// The protection is a config key.
	"destroy":         "/vms/{vmid}:VM.Audit,VM.Allocate,VM.Config.Options",
	"delete_snapshot": "/vms/{vmid}:VM.Audit,VM.Snapshot",
	// PVE takes Datastore.Allocate instead of both.
	"delete_backup": "/vms/{vmid}:VM.Backup /storage/{storage}:Datastore.AllocateSpace",
	// Every guest must be seen, lest one names the volume.
	"delete_volume": "/vms:VM.Audit /storage/{storage}:Datastore.Audit,Datastore.Allocate",
}

// Privileges are what a token needs for an action of a kind ("destroy") on a
// guest of a kind, on PVE of that major version. "provision" is all of its
// ways. What config keys need comes to it: guest.Form.Privilege. An unknown
// kind needs nothing that is known here: nil.
func Privileges(kind string, g guest.Kind, major int) []Privilege {
	kinds := []string{kind}
	if kind == "provision" {
		kinds = []string{FromTemplate, FromBackup, FromClone}
	}
	var out []Privilege
	for _, k := range kinds {
		for part := range strings.FieldsSeq(privileges[k]) {
			path, names, _ := strings.Cut(part, ":")
			for name := range strings.SplitSeq(names, ",") {
				out = append(out, Privilege{path, name})
			}
		}
		out = append(out, more(k, g, major)...)
	}
	slices.SortFunc(out, func(a, b Privilege) int {
		return strings.Compare(a.Path+" "+a.Name, b.Path+" "+b.Name)
	})
	return slices.Compact(out)
}

// more is what differs by kind of guest and by version.
func more(kind string, g guest.Kind, major int) []Privilege {
	var out []Privilege
	if kind == FromTemplate && g == guest.LXC {
		out = append(out, Privilege{"/storage/{from}", "Datastore.Audit"})
	}
	// A guest that is copied is plugged in anew. PVE 7 does not ask.
	if slices.Contains([]string{FromBackup, FromClone, "restore"}, kind) && major >= 8 {
		out = append(out, Privilege{"/sdn/zones/localnetwork/{bridge}", "SDN.Use"})
	}
	return out
}
