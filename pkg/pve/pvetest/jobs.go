// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"slices"
	"strconv"
	"strings"
)

// BackupJob is one backup job of the cluster.
type BackupJob struct {
	ID       string // "backup-1"
	Disabled bool
	Schedule string // default "21:00"
	Storage  string
	All      bool
	VMIDs    string // a list, unless All
	Exclude  string // a list, with All
	Pool     string
	OnlyNode string
}

// ReplicationJob copies a guest's volumes to another node.
type ReplicationJob struct {
	VMID, Number int
	Target       string
	Schedule     string // default "*/15"
	Disabled     bool
}

// id is the job's name: "101-0".
func (j ReplicationJob) id() string { return itoa(j.VMID) + "-" + itoa(j.Number) }

func jobRoutes() []route {
	return []route{
		{method: "GET", path: "/cluster/backup", perm: rootPerm("Sys.Audit"), run: listBackupJobs},
		{method: "GET", path: "/cluster/replication", run: listReplications},
	}
}

func listBackupJobs(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, j := range s.backupJobs {
		row := map[string]any{"id": j.ID, "type": "vzdump", "enabled": b2i(!j.Disabled), "schedule": either2(j.Schedule, "21:00"), "mode": "snapshot"}
		for k, v := range map[string]string{"storage": j.Storage, "vmid": j.VMIDs, "exclude": j.Exclude, "pool": j.Pool, "node": j.OnlyNode} {
			if v != "" {
				row[k] = v
			}
		}
		if j.All {
			row["all"] = 1
		}
		out = append(out, row)
	}
	return out, nil
}

// listReplications leaves out the jobs of guests that the caller may not audit.
func listReplications(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, j := range s.replications {
		if !c.mayLocked("/vms/"+itoa(j.VMID), "VM.Audit") {
			continue
		}
		row := map[string]any{
			"id": j.id(), "type": "local", "guest": j.VMID, "jobnum": j.Number, "target": j.Target, "source": s.opt.Node,
			"schedule": either2(j.Schedule, "*/15"),
		}
		if j.Disabled {
			row["disable"] = 1
		}
		out = append(out, row)
	}
	return out, nil
}

// replicationOf is the job that copies a guest, "" if none. Needs mu.
func (s *Sim) replicationOf(vmid int) string {
	for _, j := range s.replications {
		if j.VMID == vmid {
			return j.id()
		}
	}
	return ""
}

// purgeJobs takes a guest out of every job. A backup job that names nobody
// else goes with it. Needs mu.
func (s *Sim) purgeJobs(vmid int) {
	s.replications = slices.DeleteFunc(s.replications, func(j ReplicationJob) bool { return j.VMID == vmid })
	id := strconv.Itoa(vmid)
	for i := range s.backupJobs {
		j := &s.backupJobs[i]
		j.VMIDs, j.Exclude = without(j.VMIDs, id), without(j.Exclude, id)
	}
	s.backupJobs = slices.DeleteFunc(s.backupJobs, func(j BackupJob) bool { return !j.All && j.VMIDs == "" && j.Pool == "" })
}

// without is a list without one of its entries.
func without(list, id string) string {
	return strings.Join(slices.DeleteFunc(splitList(list), func(s string) bool { return s == id }), ",")
}
