// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// withJobs are jobs of which some name guest 101.
func withJobs(o *pvetest.Options, _ *Options) {
	o.BackupJobs = []pvetest.BackupJob{
		{ID: "backup-all", All: true, Exclude: "102", Storage: "local"},
		{ID: "backup-some", VMIDs: "101,201", Schedule: "sun 01:00", Disabled: true, Storage: "local"},
		{ID: "backup-other", VMIDs: "1010,102", Storage: "local"},
		{ID: "backup-away", All: true, OnlyNode: "pve2", Storage: "local"},
		{ID: "backup-pool", Pool: "web", Storage: "local"},
	}
	o.Replications = []pvetest.ReplicationJob{{VMID: 101, Target: "pve2"}, {VMID: 102, Target: "pve2"}}
	o.ACL = append(o.ACL, pvetest.Grant{Path: "/pool", Who: "agent@pve!read", Role: "PVEAuditor"})
	o.Storages = []pvetest.Storage{{ID: "local"}, {ID: "nas", Content: []string{"backup"}}}
}

// inventoryOf asks for the inventory of one guest.
func inventoryOf(t *testing.T, d *Driver, v guest.VMID) *plugin.Inventory {
	t.Helper()
	o, err := d.Guest(context.Background(), plugin.GuestQuery{VMID: v, Inventory: true})
	if err != nil || o.Inventory == nil {
		t.Fatalf("%+v, %v", o, err)
	}
	return o.Inventory
}

func TestInventory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withJobs)
		began := time.Now().Truncate(time.Second)
		for i, store := range []string{"local", "nas", "local"} {
			if got := apply(t.Context(), r.Driver, backupOf(101, store), ""); got.Status != plugin.Done {
				t.Fatalf("backup %d: %+v", i, got)
			}
			time.Sleep(2 * time.Second)
		}
		inv := inventoryOf(t, r.Driver, 101)
		var volumes []string
		for _, b := range inv.Backups {
			if b.Size == 0 || b.Time.Before(began) || b.Protected || b.Verified != "" {
				t.Errorf("%+v", b)
			}
			volumes = append(volumes, b.Volume[:strings.IndexByte(b.Volume, '-')])
		}
		if diff := cmp.Diff([]string{"local:backup/vzdump", "nas:backup/vzdump", "local:backup/vzdump"}, volumes); diff != "" {
			t.Errorf("backups, newest first (-want +got):\n%s", diff)
		}
		want := []string{
			"backup job backup-all of all guests to local, 21:00",
			"backup job backup-some of this and 1 other guests to local, sun 01:00, switched off",
			"replication job 101-0 to node pve2, */15",
		}
		if diff := cmp.Diff(want, inv.Jobs); diff != "" {
			t.Errorf("jobs (-want +got):\n%s", diff)
		}
		if len(inv.Missing) > 0 || len(inv.Snapshots) > 0 {
			t.Errorf("%+v", inv)
		}
		if other := inventoryOf(t, r.Driver, 102); len(other.Backups) > 0 || len(other.Jobs) != 2 {
			t.Errorf("102: %+v", other)
		}
	})
}

// TestInventoryOfSnapshots: on a storage that has them.
func TestInventoryOfSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		for _, name := range []string{"zz", "aa"} {
			a := act(plugin.TakeSnapshot, guest.LXC, 101)
			a.Params = map[string]string{"name": name}
			if got := apply(t.Context(), r.Driver, a, ""); got.Status != plugin.Done {
				t.Fatalf("%+v", got)
			}
			time.Sleep(2 * time.Second)
		}
		got := inventoryOf(t, r.Driver, 101).Snapshots
		if len(got) != 2 || got[0].Name != "zz" || got[1].Name != "aa" || got[1].Parent != "zz" || got[0].Time.IsZero() {
			t.Errorf("%+v", got)
		}
	})
}

// TestInventoryNotAllowed: what PVE refuses, or leaves out without a word, is
// missing and not empty.
func TestInventoryNotAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withJobs)
		read := r.driver("read", secretRead, Options{})
		got := inventoryOf(t, read, 101).Missing
		want := []string{
			"backups on local: the token may not see them: it has no VM.Backup on /vms/101",
			"backups on nas: the token may not see them: it has no VM.Backup on /vms/101",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("an auditor (-want +got):\n%s", diff)
		}
		r.sim.Grant(pvetest.Grant{Path: "/storage", Who: "agent@pve!read", Role: "PVEAuditor", NoPropagate: true})
		if got := inventoryOf(t, read, 101).Missing; len(got) == 0 || !strings.Contains(got[0], "may not see every storage") {
			t.Errorf("an auditor of the path of all storages alone: %q", got)
		}
		r.sim.SetRole("CPU", []string{"VM.Audit"})
		got = inventoryOf(t, r.driver("cpu", secretCPU, Options{}), 101).Missing
		want = []string{
			"backups: the token may not see every storage: it has no Datastore.Audit on /storage",
			"backup jobs: Permission check failed (/, Sys.Audit)",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("VM.Audit alone (-want +got):\n%s", diff)
		}
	})
}

// TestInventoryOfPools: which guests are in a pool is known only to whoever has
// Pool.Audit on it. PVE leaves out the others without a word.
func TestInventoryOfPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, withJobs)
		r.sim.SetRole("CPU", slices.DeleteFunc(slices.Clone(fullRole), func(p string) bool { return p == "Pool.Audit" }))
		got := inventoryOf(t, r.driver("cpu", secretCPU, Options{}), 101).Missing
		want := []string{"backup job backup-pool: the token may not see who is in pool web: it has no Pool.Audit on /pool/web"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("missing (-want +got):\n%s", diff)
		}
	})
}

// TestInventoryThatFails: each part fails by itself.
func TestInventoryThatFails(t *testing.T) {
	for path, part := range map[string]string{
		"/nodes/pve1/lxc/101/snapshot": "snapshots: ", "/nodes/pve1/storage": "backups: ", "/nodes/pve1/storage/nas/content": "backups on nas: ",
		"/cluster/backup": "backup jobs: ", "/cluster/replication": "replication jobs: ",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, withJobs)
			if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultStatus, Path: path, Status: 500, Reason: "it is broken", Times: -1}); err != nil {
				t.Fatal(err)
			}
			got := inventoryOf(t, r.Driver, 101).Missing
			if !slices.Equal(got, []string{part + "it is broken"}) {
				t.Errorf("%s: %q", path, got)
			}
		})
	}
}
