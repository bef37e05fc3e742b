// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// absent looks for a guest that this node has no config of: on another node,
// proven gone, or not known. ConfigError says why it is not sure.
func (d *Driver) absent(ctx context.Context, v guest.VMID) (plugin.Observation, error) {
	list, err := d.pve.Resources(ctx)
	if err != nil {
		return plugin.Observation{}, readError(err)
	}
	for _, r := range list {
		if r.ID.VMID == v {
			return d.elsewhere(r), nil
		}
	}
	doubt, err := d.doubt(ctx, v)
	if err != nil {
		return plugin.Observation{}, err
	}
	if doubt != "" {
		return plugin.Observation{Presence: plugin.Unsure, ConfigError: doubt}, nil
	}
	return plugin.Observation{Presence: plugin.Gone, ConfigError: "the guest does not exist"}, nil
}

// elsewhere is a guest that the cluster knows.
func (d *Driver) elsewhere(r pve.Resource) plugin.Observation {
	out := plugin.Observation{
		Presence:    plugin.Elsewhere,
		State:       plugin.GuestState{ID: r.ID, Name: r.Name, Lock: r.Lock, Template: r.Template, Tags: r.Tags},
		ConfigError: "the guest is on node " + r.Node,
	}
	if r.Node == d.opts.Node {
		// Listed here, and a moment ago PVE had no config of it here.
		out.Presence, out.ConfigError = plugin.Unsure, "the guest is being moved, made or destroyed"
	}
	return out
}

// doubt is what keeps a guest that no list knows from being proven gone, "" if
// nothing does. That PVE said "does not exist" and not "permission denied" has
// been seen by then.
func (d *Driver) doubt(ctx context.Context, v guest.VMID) (string, error) {
	c, err := d.pve.Cluster(ctx)
	switch {
	case errors.Is(err, pve.ErrDenied):
		return "the token may not see whether the cluster is quorate: " + words(err), nil
	case err != nil:
		return "", readError(err)
	case !c.Quorate:
		return "the cluster has no quorum", nil
	}
	path := "/vms/" + v.String()
	perms, err := d.pve.Permissions(ctx, path)
	switch {
	case err != nil:
		return "", readError(err)
	case !perms.Has(path, "VM.Audit"):
		return "the token has no VM.Audit on " + path, nil
	}
	return d.fileDoubt(v), nil
}

// fileDoubt asks the cluster file system itself, where it can be read.
func (d *Driver) fileDoubt(v guest.VMID) string {
	if d.opts.VMList == "" {
		return ""
	}
	list, err := readVMList(d.opts.VMList)
	if err != nil {
		return "the cluster file system is not readable: " + err.Error()
	}
	if e, ok := list.IDs[v]; ok {
		return fmt.Sprintf("the cluster file system has it on node %s", e.Node)
	}
	return ""
}
