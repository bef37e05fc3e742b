// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// TestNamedVolume: what any config names is not deleted: in force, to come, of
// a snapshot, of another guest, or below a linked clone.
func TestNamedVolume(t *testing.T) {
	lxc, vm := twoKinds[0], twoKinds[1]
	stray := func(r *rig, id guest.ID) plugin.Action {
		return withParams(act(plugin.DeleteVolume, id.Kind, id.VMID), "volume", r.strayVolume(id))
	}
	own := func(r *rig, _ guest.ID) plugin.Action {
		return withParams(act(plugin.DeleteVolume, lxc.Kind, lxc.VMID), "volume", "tank:subvol-101-disk-0")
	}
	edit := func(v guest.VMID, key, value string) func(*rig) {
		return func(r *rig) {
			if err := r.sim.EditConfig(int(v), map[string]string{key: value}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		id     guest.ID
		action func(*rig, guest.ID) plugin.Action
		named  func(*rig)
		says   string
	}{
		"in use":        {lxc, own, nil, "lxc/101 rootfs names"},
		"unused":        {lxc, stray, edit(101, "unused3", "tank:subvol-101-disk-7"), "lxc/101 unused3 names"},
		"of a machine":  {vm, stray, edit(201, "scsi3", "tank:vm-201-disk-7,size=1G"), "qemu/201 scsi3 names"},
		"by another":    {lxc, stray, edit(102, "mp1", "tank:subvol-101-disk-7,mp=/x,size=1G"), "lxc/102 mp1 names"},
		"below a clone": {vm, stray, edit(202, "scsi1", "tank:vm-201-disk-7/vm-202-disk-3,size=1G"), "qemu/202 scsi1 names"},
		"by a snapshot": {lxc, stray, func(r *rig) {
			edit(101, "mp1", "tank:subvol-101-disk-7,mp=/x,size=1G")(r)
			r.snap(lxc, "old")
			edit(101, "mp1", "")(r)
		}, "snapshot old of lxc/101, mp1, names"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, onZFS)
				a := tt.action(r, tt.id)
				if tt.named != nil {
					tt.named(r)
				}
				n := len(r.sim.Record())
				got := apply(t.Context(), r.Driver, a, "")
				if got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, tt.says) || len(r.changes(n)) > 0 {
					t.Errorf("%+v, %q", got, r.changes(n))
				}
			})
		})
	}
}

// TestVolumeNotProven: where not every config can be read, nothing is deleted.
func TestVolumeNotProven(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := withParams(act(plugin.DeleteVolume, id.Kind, id.VMID), "volume", r.strayVolume(id))
		if _, err := r.sim.Inject(pvetest.Fault{
			Kind: pvetest.FaultStatus, Path: "/nodes/pve1/qemu/202/config", Status: 403, Reason: "Permission check failed (/vms/202, VM.Audit)",
		}); err != nil {
			t.Fatal(err)
		}
		got := apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "/vms/202") {
			t.Errorf("a config that cannot be read: %+v", got)
		}
		r.answer("GET", "/access/permissions", 200, `{"data":{"/vms":{"VM.Config.Disk":1}}}`)
		a.Attempt++
		got = apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "may not see every guest") {
			t.Errorf("guests that cannot be seen: %+v", got)
		}
		// A privilege that does not propagate is none on the guests below.
		r.answer("GET", "/access/permissions", 200, `{"data":{"/vms":{"VM.Audit":0}}}`)
		a.Attempt++
		got = apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "may not see every guest") {
			t.Errorf("guests that cannot be seen, where the path of all can: %+v", got)
		}
	})
}

// TestVolumeInTheMaking: a volume that a running task has made is named by no
// config yet.
func TestVolumeInTheMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		a := withParams(act(plugin.DeleteVolume, guest.QEMU, 201), "volume", r.strayVolume(twoKinds[1]))
		slow := withParams(act(plugin.Provision, guest.QEMU, 251), "how", "clone", "source", "201")
		n := len(r.sim.Record())
		res, err := r.Apply(t.Context(), slow, "", func(p plugin.Progress) error {
			if p.Handle != "" {
				got := apply(t.Context(), r.Driver, a, "")
				if got.Status != plugin.Retry || got.Reason != reasonBusy || !strings.Contains(got.Message, "qmclone") {
					t.Errorf("%+v", got)
				}
			}
			return nil
		})
		if err != nil || res.Status != plugin.Done || len(r.changes(n)) != 1 {
			t.Errorf("%+v, %v, %q", res, err, r.changes(n))
		}
	})
}

// TestBackupThatIsProtected: neither by PVE nor by us.
func TestBackupThatIsProtected(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		v := r.backupVolume(id)
		if _, err := r.pve.Call(t.Context(), "PUT", "/nodes/pve1/storage/local/content/"+v, map[string][]string{"protected": {"1"}}); err != nil {
			t.Fatal(err)
		}
		n := len(r.sim.Record())
		got := apply(t.Context(), r.Driver, withParams(act(plugin.DeleteBackup, id.Kind, id.VMID), "volume", v), "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "protected") || len(r.changes(n)) > 0 {
			t.Errorf("%+v", got)
		}
		if b := inventoryOf(t, r.Driver, id.VMID).Backups; len(b) != 1 || !b[0].Protected {
			t.Errorf("%+v", b)
		}
		gone := strings.Replace(v, "2000", "2001", 1)
		got = apply(t.Context(), r.Driver, withParams(act(plugin.DeleteBackup, id.Kind, id.VMID), "volume", gone), "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "has no volume") {
			t.Errorf("one that is not there: %+v", got)
		}
	})
}

// TestSnapshotsThatCannotBe: PVE's refusals in the task, and ours before it.
func TestSnapshotsThatCannotBe(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		r.snap(id, "one")
		for _, tt := range []struct {
			kind plugin.ActionKind
			name string
		}{{plugin.TakeSnapshot, "one"}, {plugin.Rollback, "two"}, {plugin.DeleteSnapshot, "two"}} {
			got := apply(t.Context(), r.Driver, withParams(act(tt.kind, id.Kind, id.VMID), "name", tt.name), "")
			if got.Status != plugin.Refused || !strings.Contains(got.Message, "nothing was sent") {
				t.Errorf("%s %s: %+v", tt.kind, tt.name, got)
			}
		}
		for k, v := range map[string]string{"rootfs": "local:101/vm-101-disk-0.raw,size=1G", "scsi0": "local:201/vm-201-disk-0.raw,size=1G"} {
			if (k == "rootfs") == (id.Kind == guest.LXC) {
				if err := r.sim.EditConfig(int(id.VMID), map[string]string{k: v}); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := apply(t.Context(), r.Driver, withParams(act(plugin.TakeSnapshot, id.Kind, id.VMID), "name", "three"), "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "snapshot feature is not available") || len(got.handles) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// TestGrowNever: a disk never shrinks, and one of that size is left alone.
func TestGrowNever(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		key, has := "rootfs", "1073741824"
		if id.Kind == guest.QEMU {
			key, has = "scsi0", "2147483648"
		}
		n := len(r.sim.Record())
		for size, want := range map[string]plugin.Status{"1048576": plugin.Refused, has: plugin.Done} {
			got := apply(t.Context(), r.Driver, r.resting(withParams(act(plugin.GrowDisk, id.Kind, id.VMID), "disk", key, "size", size)), "")
			if got.Status != want || !strings.Contains(got.Message, "nothing was sent") || len(r.changes(n)) > 0 {
				t.Errorf("%s: %+v", size, got)
			}
		}
		got := apply(t.Context(), r.Driver, r.resting(withParams(act(plugin.GrowDisk, id.Kind, id.VMID), "disk", "mp7", "size", "1048576")), "")
		if id.Kind == guest.LXC && (got.Status != plugin.Refused || !strings.Contains(got.Message, "no size")) {
			t.Errorf("%+v", got)
		}
	})
}

// TestBackupThatFails: the outcome says why, not "job errors".
func TestBackupThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) {
			o.Storages = []pvetest.Storage{{ID: "local"}, {ID: "full", Content: []string{"backup"}, Total: 1 << 20}, {ID: "few", Content: []string{"backup"}, Keep: 1}}
		})
		got := apply(t.Context(), r.Driver, backupOf(101, "full"), "")
		if got.Status != plugin.Failed || !strings.Contains(got.Message, "job errors: command") {
			t.Errorf("no room: %+v", got)
		}
		r.must(backupOf(101, "few"))
		got = apply(t.Context(), r.Driver, backupOf(101, "few"), "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "max backup limit") {
			t.Errorf("one too many: %+v", got)
		}
		// Somebody locks it between the look and the task.
		r.at("POST", "/vzdump", func() { _ = r.sim.SetLock(101, "snapshot") }, nil)
		got = apply(t.Context(), r.Driver, backupOf(101, "local"), "")
		if got.Status != plugin.Retry || got.Reason != reasonLocked {
			t.Errorf("locked: %+v", got)
		}
	})
}
