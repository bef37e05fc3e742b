// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"slices"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// maxText bounds a snapshot's description and a backup's notes, in bytes.
const maxText = 8 << 10

func takeMethod() method {
	m := snapshotMethod(plugin.TakeSnapshot)
	m.params = append(m.params, "description", plugin.ParamReserve)
	return m
}

// snapshotMethod is how the three kinds about a named snapshot are carried
// out.
func snapshotMethod(k plugin.ActionKind) method {
	m := method{params: []string{"name"}, check: checkSnapshot, send: (*Driver).snapshot, passes: true, refuses: true}
	name := map[plugin.ActionKind]string{plugin.TakeSnapshot: "snapshot", plugin.Rollback: "rollback", plugin.DeleteSnapshot: "delsnapshot"}[k]
	m.types = func(a plugin.Action) []string { return []string{ofKind(a, name)} }
	m.approved = k != plugin.TakeSnapshot
	if k != plugin.Rollback { // a guest that was rolled back shows no difference from one that was not
		m.effect = (*Driver).snapshotIs
	}
	return m
}

func checkSnapshot(a plugin.Action) error {
	if !pve.ValidSnapshot(a.Params["name"]) {
		return invalid("name: %q is no name of a snapshot", a.Params["name"])
	}
	if len(a.Params["description"]) > maxText {
		return invalid("description: longer than %d bytes", maxText)
	}
	return nil
}

// snapshot looks whether there is such a snapshot, and asks for what is to be
// done with it.
func (d *Driver) snapshot(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) { return d.beforeSnapshot(ctx, j) })
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	var upid pve.UPID
	name := j.Params["name"]
	switch j.Kind {
	case plugin.TakeSnapshot:
		upid, err = d.pve.TakeSnapshot(ctx, j.ref, name, j.Params["description"])
	case plugin.Rollback:
		upid, err = d.pve.Rollback(ctx, j.ref, name)
	default:
		upid, err = d.pve.DeleteSnapshot(ctx, j.ref, name)
	}
	return d.sent(ctx, j, upid, err)
}

func (d *Driver) beforeSnapshot(ctx context.Context, j *job) (plugin.Outcome, error) {
	s, o, err := d.subject(ctx, j)
	if err != nil || o.Status != "" {
		return o, err
	}
	list, _, err := d.pve.Snapshots(ctx, j.ref)
	if err != nil {
		return lookFailed(err)
	}
	there := slices.ContainsFunc(list, func(p pve.Snapshot) bool { return p.Name == j.Params["name"] })
	switch {
	case j.Kind == plugin.TakeSnapshot && there:
		return refused("snapshot %s is there already; nothing was sent", j.Params["name"]), nil
	case j.Kind == plugin.TakeSnapshot:
		return d.room(ctx, j, spaceOf(s.conf.Values, "").zero())
	case !there:
		return refused("there is no snapshot %s; nothing was sent", j.Params["name"]), nil
	}
	return plugin.Outcome{}, nil
}

// snapshotIs looks whether a snapshot was made or is gone.
func (d *Driver) snapshotIs(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	list, _, err := d.pve.Snapshots(ctx, j.ref)
	if err != nil {
		return effect{}, err
	}
	i := slices.IndexFunc(list, func(p pve.Snapshot) bool { return p.Name == j.Params["name"] })
	switch {
	case i < 0:
		return happened(j.Kind == plugin.DeleteSnapshot, "there is no such snapshot"), nil
	case list[i].State != "":
		return happened(false, "the snapshot is there in the state "+list[i].State), nil
	}
	return happened(j.Kind == plugin.TakeSnapshot, "the snapshot is there"), nil
}
