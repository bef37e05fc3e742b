// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// survey collects an inventory. Nothing of it is an error: what could not be
// read is a part that is missing, and so is what PVE leaves out of a list
// without a word because the token may not see it.
type survey struct {
	d   *Driver
	ref pve.Ref
	out plugin.Inventory
}

// inventory is what hangs on a guest besides its config.
func (d *Driver) inventory(ctx context.Context, ref pve.Ref) *plugin.Inventory {
	s := &survey{d: d, ref: ref}
	s.snapshots(ctx)
	s.backups(ctx)
	s.backupJobs(ctx)
	s.replications(ctx)
	return &s.out
}

func (s *survey) missing(part string, err error) {
	s.out.Missing = append(s.out.Missing, part+": "+words(err))
}

func (s *survey) snapshots(ctx context.Context) {
	list, _, err := s.d.pve.Snapshots(ctx, s.ref)
	if err != nil {
		s.missing("snapshots", err)
		return
	}
	for _, p := range list {
		s.out.Snapshots = append(s.out.Snapshots, plugin.SnapshotInfo{Name: p.Name, Time: p.Time, Parent: p.Parent})
	}
}

func (s *survey) backups(ctx context.Context) {
	if err := s.seesStorages(ctx); err != nil {
		s.missing("backups", err)
	}
	list, err := s.d.pve.Storages(ctx, s.ref.Node, "backup")
	if err != nil {
		s.missing("backups", err)
		return
	}
	for _, st := range list {
		part := "backups on " + st.ID
		if err := s.seesBackups(ctx, st.ID); err != nil {
			s.missing(part, err)
		}
		content, err := s.d.pve.Content(ctx, s.ref.Node, st.ID, "backup", s.ref.ID.VMID)
		if err != nil {
			s.missing(part, err)
			continue
		}
		for _, v := range content {
			s.out.Backups = append(s.out.Backups, plugin.BackupInfo{Volume: v.ID, Size: v.Size, Time: v.Time, Protected: v.Protected, Verified: v.Verified})
		}
	}
	slices.SortFunc(s.out.Backups, func(a, b plugin.BackupInfo) int {
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Volume, b.Volume)
	})
}

// seesStorages: a storage that the token may not audit is in no list. One that
// it may audit by an entry of its own is seen although there is none for all.
func (s *survey) seesStorages(ctx context.Context) error {
	p, err := s.d.pve.Permissions(ctx, "/storage")
	if err != nil {
		return err
	}
	if p.HasBelow("/storage", "Datastore.Audit") || p.HasBelow("/storage", "Datastore.AllocateSpace") {
		return nil
	}
	return errors.New("the token may not see every storage: it has no Datastore.Audit on /storage")
}

// seesBackups: a backup that the token may not read is in no list.
func (s *survey) seesBackups(ctx context.Context, storage string) error {
	onStorage, onGuest := "/storage/"+storage, "/vms/"+s.ref.ID.VMID.String()
	p, err := s.d.pve.Permissions(ctx, onStorage)
	if err != nil {
		return err
	}
	if p.Has(onStorage, "Datastore.Allocate") {
		return nil
	}
	g, err := s.d.pve.Permissions(ctx, onGuest)
	switch {
	case err != nil:
		return err
	case !g.Has(onGuest, "VM.Backup"):
		return fmt.Errorf("the token may not see them: it has no VM.Backup on %s", onGuest)
	case !p.Has(onStorage, "Datastore.AllocateSpace"):
		return fmt.Errorf("the token may not see them: it has no Datastore.AllocateSpace on %s", onStorage)
	}
	return nil
}

func (s *survey) backupJobs(ctx context.Context) {
	list, err := s.d.pve.ScheduledBackups(ctx)
	if err != nil {
		s.missing("backup jobs", err)
		return
	}
	for _, j := range list {
		named := j.Names(s.ref.Node, s.ref.ID.VMID)
		if j.Pool != "" && (j.Node == "" || j.Node == s.ref.Node) {
			if named, err = s.inPool(ctx, j.Pool); err != nil {
				s.missing("backup job "+j.ID, err)
			}
		}
		if named {
			s.out.Jobs = append(s.out.Jobs, backupJobText(j))
		}
	}
}

func (s *survey) inPool(ctx context.Context, pool string) (bool, error) {
	path := "/pool/" + pool
	p, err := s.d.pve.Permissions(ctx, path)
	switch {
	case err != nil:
		return false, err
	case !p.Has(path, "Pool.Audit"): // PVE may answer with an empty list
		return false, fmt.Errorf("the token may not see who is in pool %s: it has no Pool.Audit on %s", pool, path)
	}
	list, err := s.d.pve.Pool(ctx, pool)
	return slices.Contains(list, s.ref.ID.VMID), err
}

func backupJobText(j pve.ScheduledBackup) string {
	of := "this guest"
	switch {
	case j.All:
		of = "all guests"
	case j.Pool != "":
		of = "pool " + j.Pool
	case len(j.VMIDs) > 1:
		of = fmt.Sprintf("this and %d other guests", len(j.VMIDs)-1)
	}
	return jobText(fmt.Sprintf("backup job %s of %s to %s", j.ID, of, orElse(j.Storage, "local")), j.Schedule, j.Enabled)
}

func jobText(what, schedule string, enabled bool) string {
	if schedule != "" {
		what += ", " + schedule
	}
	if !enabled {
		what += ", switched off"
	}
	return what
}

func (s *survey) replications(ctx context.Context) {
	list, err := s.d.pve.Replications(ctx)
	if err != nil {
		s.missing("replication jobs", err)
		return
	}
	for _, j := range list {
		if j.VMID == s.ref.ID.VMID {
			s.out.Jobs = append(s.out.Jobs, jobText(fmt.Sprintf("replication job %s to node %s", j.ID, j.Target), j.Schedule, j.Enabled))
		}
	}
}
