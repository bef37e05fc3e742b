// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import "github.com/felhom/felhom-agent/pkg/plugin/pluginpb"

// An inventory that was not asked for is absent on the wire, and the reverse.

func inventoryToPB(v *Inventory) *pluginpb.Inventory {
	if v == nil {
		return nil
	}
	p := &pluginpb.Inventory{Jobs: wireTexts(v.Jobs), Missing: wireTexts(v.Missing)}
	for _, s := range v.Snapshots {
		p.Snapshots = append(p.Snapshots, &pluginpb.GuestSnapshot{Name: s.Name, Time: timeToPB(s.Time), Parent: s.Parent})
	}
	for _, b := range v.Backups {
		p.Backups = append(p.Backups, &pluginpb.GuestBackup{
			Volume: b.Volume, Size: b.Size, Time: timeToPB(b.Time), Protected: b.Protected, Verified: b.Verified,
		})
	}
	return p
}

func inventoryFromPB(p *pluginpb.Inventory) *Inventory {
	if p == nil {
		return nil
	}
	v := &Inventory{Jobs: p.GetJobs(), Missing: p.GetMissing()}
	for _, s := range p.GetSnapshots() {
		v.Snapshots = append(v.Snapshots, SnapshotInfo{Name: s.GetName(), Time: timeFromPB(s.GetTime()), Parent: s.GetParent()})
	}
	for _, b := range p.GetBackups() {
		v.Backups = append(v.Backups, BackupInfo{
			Volume: b.GetVolume(), Size: max(b.GetSize(), 0), Time: timeFromPB(b.GetTime()), Protected: b.GetProtected(), Verified: b.GetVerified(),
		})
	}
	return v
}

func wireTexts(in []string) []string {
	if in == nil {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = wireText(s)
	}
	return out
}
