// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// ScheduledBackup is a backup job of the cluster.
type ScheduledBackup struct {
	ID       string
	Enabled  bool
	Schedule string
	Storage  string
	Node     string // "" = every node
	All      bool   // every guest but Exclude
	VMIDs    []string
	Exclude  []string
	Pool     string
}

// Names reports whether the job backs up a guest on a node, as far as the job
// itself says: who is in a pool it does not.
func (s ScheduledBackup) Names(node string, v guest.VMID) bool {
	if s.Node != "" && s.Node != node {
		return false
	}
	if s.All {
		return !slices.Contains(s.Exclude, v.String())
	}
	return slices.Contains(s.VMIDs, v.String())
}

// ScheduledBackups lists the cluster's backup jobs. It needs Sys.Audit on "/".
func (c *Client) ScheduledBackups(ctx context.Context) ([]ScheduledBackup, error) {
	type entry struct {
		ID       text    `json:"id"`
		Enabled  *number `json:"enabled"`
		Schedule text    `json:"schedule"`
		Storage  text    `json:"storage"`
		Node     text    `json:"node"`
		All      number  `json:"all"`
		VMID     text    `json:"vmid"`
		Exclude  text    `json:"exclude"`
		Pool     text    `json:"pool"`
	}
	raw, _, err := getList[entry](ctx, c, "/cluster/backup", nil)
	if err != nil {
		return nil, err
	}
	var out []ScheduledBackup
	for _, e := range raw {
		out = append(out, ScheduledBackup{
			ID: string(e.ID), Enabled: e.Enabled == nil || e.Enabled.bool(), Schedule: string(e.Schedule), Storage: string(e.Storage),
			Node: string(e.Node), All: e.All.bool(), VMIDs: splitList(string(e.VMID)), Exclude: splitList(string(e.Exclude)), Pool: string(e.Pool),
		})
	}
	return out, nil
}

// splitList splits as PVE's lists are.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(",; \t\n\x00", r) })
}

// Replication is a job that copies a guest's volumes to another node.
type Replication struct {
	ID       string // "101-0"
	VMID     guest.VMID
	Target   string
	Schedule string
	Enabled  bool
}

// Replications lists the replication jobs of the guests that the token may
// audit.
func (c *Client) Replications(ctx context.Context) ([]Replication, error) {
	type entry struct {
		ID       text   `json:"id"`
		Guest    number `json:"guest"`
		Target   text   `json:"target"`
		Schedule text   `json:"schedule"`
		Disable  number `json:"disable"`
	}
	raw, _, err := getList[entry](ctx, c, "/cluster/replication", nil)
	if err != nil {
		return nil, err
	}
	var out []Replication
	for _, e := range raw {
		out = append(out, Replication{
			ID: string(e.ID), VMID: guest.VMID(e.Guest), Target: string(e.Target), Schedule: string(e.Schedule), Enabled: !e.Disable.bool(),
		})
	}
	return out, nil
}

// Pool lists the guests of a pool. It needs Pool.Audit on it.
func (c *Client) Pool(ctx context.Context, pool string) ([]guest.VMID, error) {
	type entry struct {
		Members []struct {
			VMID number `json:"vmid"`
		} `json:"members"`
	}
	raw, _, err := getList[entry](ctx, c, "/pools", url.Values{"poolid": {pool}})
	if err != nil {
		return nil, err
	}
	var out []guest.VMID
	for _, e := range raw {
		for _, m := range e.Members {
			if m.VMID != 0 {
				out = append(out, guest.VMID(m.VMID))
			}
		}
	}
	return out, nil
}
