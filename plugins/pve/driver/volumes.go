// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// volumeMethod is how a volume is deleted.
func volumeMethod(k plugin.ActionKind) method {
	m := method{
		params: []string{"volume"}, check: checkVolume, send: (*Driver).deleteVolume, approved: true,
		types: func(plugin.Action) []string { return []string{"imgdel"} }, effect: (*Driver).volumeGone, passes: true, refuses: true,
		about: aboutVolume,
	}
	if k == plugin.DeleteBackup {
		m.check = checkBackupVolume
	}
	m.id = func(a plugin.Action) string {
		storage, _, _ := pve.SplitVolume(a.Params["volume"])
		return pve.VolumeTaskID(a.Guest.VMID, storage)
	}
	return m
}

func checkVolume(a plugin.Action) error {
	_, name, ok := pve.SplitVolume(a.Params["volume"])
	if !ok || strings.HasPrefix(name, "backup/") {
		return invalid("volume: %q is no volume of a guest", a.Params["volume"])
	}
	return nil
}

func checkBackupVolume(a plugin.Action) error {
	if id, ok := backupOwner(a.Params["volume"]); !ok || id != a.Guest {
		return invalid("volume: %q is no backup of %s", a.Params["volume"], a.Guest)
	}
	return nil
}

// aboutVolume: a task of the same id may be about another volume of the guest
// on the storage; its log names it in the end.
func aboutVolume(a plugin.Action, log []string) (is, sure bool) {
	for _, line := range log {
		if v, ok := strings.CutPrefix(line, "Removed volume '"); ok {
			return strings.HasPrefix(v, a.Params["volume"]+"'"), true
		}
	}
	// One that runs, or that failed, does not say. The guest's lane has let
	// only one of them go at a time.
	return true, true
}

// deleteVolume makes sure that the volume is the guest's and that nothing
// needs it, and asks for its deletion.
func (d *Driver) deleteVolume(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) {
		o, shared, err := d.beforeDelete(ctx, j)
		if err != nil || o.Status != "" || j.Kind == plugin.DeleteBackup {
			return o, err
		}
		if o, err := d.atRest(ctx, j); err != nil || o.Status != "" {
			return o, err
		}
		return d.unnamed(ctx, j, shared)
	})
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	upid, err := d.pve.DeleteVolume(ctx, d.opts.Node, j.Params["volume"])
	return d.sent(ctx, j, upid, err)
}

// beforeDelete finds the volume in the storage's content, and tells whether
// the storage is shared with other nodes.
func (d *Driver) beforeDelete(ctx context.Context, j *job) (plugin.Outcome, bool, error) {
	volid := j.Params["volume"]
	id, _, _ := pve.SplitVolume(volid)
	list, err := d.pve.Content(ctx, d.opts.Node, id, "", j.Guest.VMID)
	if err != nil {
		o, err := lookFailed(err)
		return o, false, err
	}
	i := slices.IndexFunc(list, func(v pve.Volume) bool { return v.ID == volid })
	want := []string{"images", "rootdir"}
	if j.Kind == plugin.DeleteBackup {
		want = []string{"backup"}
	}
	switch {
	case i < 0:
		return refused("storage %s has no volume %s of %s that the token may see; nothing was sent", id, volid, j.Guest), false, nil
	case !slices.Contains(want, list[i].Content):
		return refused("%s is a volume of content %s; nothing was sent", volid, list[i].Content), false, nil
	case list[i].Protected:
		return refused("the backup %s is protected; nothing was sent", volid), false, nil
	}
	st, err := d.pve.Storage(ctx, d.opts.Node, id)
	if err != nil {
		o, err := lookFailed(err)
		return o, false, err
	}
	return plugin.Outcome{}, st.Shared, nil
}

// atRest waits for what works on the guest: it may be making a volume that no
// config names yet.
func (d *Driver) atRest(ctx context.Context, j *job) (plugin.Outcome, error) {
	_, o, err := d.subject(ctx, j)
	if o.Status != "" && o.Status != plugin.Refused || err != nil {
		return o, err // one that is not there has nothing that works on it
	}
	list, err := d.pve.Tasks(ctx, d.opts.Node, pve.TaskQuery{VMID: j.Guest.VMID, Active: true})
	if err != nil {
		return lookFailed(err)
	}
	for _, t := range list {
		if t, err = d.fresh(ctx, t); err != nil {
			return lookFailed(err)
		}
		if t.End.IsZero() {
			return retry(plugin.Outcome{Message: "task " + t.UPID.Type + " works on the guest; nothing was sent"}, reasonBusy, afterBusy), nil
		}
	}
	return plugin.Outcome{}, nil
}

// unnamed refuses to delete a volume that a config or a snapshot names: of any
// guest on the node, and of any in the cluster if the storage is shared. A
// config that cannot be read may name it.
func (d *Driver) unnamed(ctx context.Context, j *job, shared bool) (plugin.Outcome, error) {
	refs, err := d.mayName(ctx, shared)
	if errors.Is(err, errNotAll) {
		return refused("%s; nothing was sent", err), nil
	}
	if err != nil {
		return lookFailed(err)
	}
	for _, ref := range refs {
		where, err := d.names(ctx, ref, j.Params["volume"])
		switch {
		case errors.Is(err, pve.ErrNoGuest): // it went away
		case err != nil:
			return lookFailed(fmt.Errorf("whether %s names the volume: %w", ref.ID, err))
		case where != "":
			return refused("%s names %s; nothing was sent", where, j.Params["volume"]), nil
		}
	}
	return plugin.Outcome{}, nil
}

var errNotAll = errors.New("the token may not see every guest: it has no VM.Audit on /vms")

// mayName are the guests whose config may name a volume.
func (d *Driver) mayName(ctx context.Context, shared bool) ([]pve.Ref, error) {
	p, err := d.pve.Permissions(ctx, "/vms")
	if err != nil {
		return nil, err
	}
	if !p.HasBelow("/vms", "VM.Audit") {
		return nil, errNotAll
	}
	list, err := d.pve.Resources(ctx)
	if err != nil {
		return nil, err
	}
	var out []pve.Ref
	for _, r := range list {
		if shared || r.Node == d.opts.Node {
			out = append(out, r.Ref)
		}
	}
	return out, nil
}

// names tells which config of a guest names a volume, "" if none does: the one
// in force, the one to come, and those of its snapshots.
func (d *Driver) names(ctx context.Context, ref pve.Ref, volid string) (string, error) {
	for _, read := range []func(context.Context, pve.Ref) (pve.Config, error){d.pve.Config, d.pve.CurrentConfig} {
		conf, err := read(ctx, ref)
		if err != nil {
			return "", err
		}
		if key := keyNaming(conf.Values, volid); key != "" {
			return ref.ID.String() + " " + key, nil
		}
	}
	list, _, err := d.pve.Snapshots(ctx, ref)
	if err != nil {
		return "", err
	}
	for _, s := range list {
		conf, err := d.pve.SnapshotConfig(ctx, ref, s.Name)
		if err != nil {
			return "", err
		}
		if key := keyNaming(conf.Values, volid); key != "" {
			return fmt.Sprintf("snapshot %s of %s, %s,", s.Name, ref.ID, key), nil
		}
	}
	return "", nil
}

// keyNaming is the first key whose value names a volume, or a linked clone on
// top of it.
func keyNaming(conf guest.Config, volid string) string {
	for _, key := range slices.Sorted(maps.Keys(conf)) {
		for part := range strings.SplitSeq(conf[key], ",") {
			for _, name := range []string{part, part[strings.IndexByte(part, '=')+1:]} {
				if name == volid || strings.HasPrefix(name, volid+"/") {
					return key
				}
			}
		}
	}
	return ""
}

// volumeGone looks whether a volume is in its storage's content no more.
func (d *Driver) volumeGone(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	id, _, _ := pve.SplitVolume(j.Params["volume"])
	list, err := d.pve.Content(ctx, d.opts.Node, id, "", j.Guest.VMID)
	if err != nil {
		return effect{}, err
	}
	if slices.ContainsFunc(list, func(v pve.Volume) bool { return v.ID == j.Params["volume"] }) {
		return happened(false, "the volume is there"), nil
	}
	return happened(true, "the volume is gone"), nil
}
