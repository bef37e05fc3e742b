// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
)

// Datacenter is what of datacenter.cfg and vzdump.conf the Sim follows.
type Datacenter struct {
	// NextIDLower and NextIDUpper are the range of cluster/nextid; 0 is
	// PVE's own (100 to 1000000).
	NextIDLower, NextIDUpper int
	// BackupBandwidth limits backups, in KiB/s; 0 does not.
	BackupBandwidth int
}

// SetDatacenter replaces these settings, as an edit of the files does.
func (s *Sim) SetDatacenter(d Datacenter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.datacenter = d
}

// nextIDRange is the range of free VMIDs to choose from. Needs mu.
func (s *Sim) nextIDRange() (lower, upper int) {
	lower, upper = 100, 1000000
	if d := s.datacenter; d.NextIDLower != 0 {
		lower = d.NextIDLower
	}
	if d := s.datacenter; d.NextIDUpper != 0 {
		upper = d.NextIDUpper
	}
	return lower, upper
}

// AddStorage puts a further storage on the node.
func (s *Sim) AddStorage(st Storage) error {
	st.setDefaults()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.storage(st.ID) != nil {
		return fmt.Errorf("pvetest: storage %q is there twice", st.ID)
	}
	s.storages = append(s.storages, newStorageState(st))
	return nil
}

// RemoveStorage takes a storage off the node; what is on it is no more seen.
func (s *Sim) RemoveStorage(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, st := range s.storages {
		if st.ID == id {
			s.storages = append(s.storages[:i:i], s.storages[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("pvetest: no storage %q", id)
}

// AddVolume puts a file on a storage, as someone who copied it there did.
func (s *Sim) AddVolume(v Volume) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.storage(storageOf(v.VolID))
	if st == nil {
		return fmt.Errorf("pvetest: no storage for volume %q", v.VolID)
	}
	st.volumes[v.VolID] = &volumeState{Volume: v, used: v.Size}
	return nil
}

// SetTimes changes how long a guest takes to start and stop.
func (s *Sim) SetTimes(vmid int, t Times) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	g.times = t
	return nil
}

// HoldLock takes a guest's config lock, as some other command at work on it
// would, and lets go of it after d.
func (s *Sim) HoldLock(ctx context.Context, vmid int, d time.Duration) error {
	s.mu.Lock()
	g := s.guests[vmid]
	s.mu.Unlock()
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	unlock, err := s.lockGuest(ctx, g.kind, vmid, nil)
	if err != nil {
		return err
	}
	if !s.spawn(func() { sleep(s.ctx, d); unlock() }) {
		unlock()
	}
	return nil
}

// AddToken gives a user a further API token.
func (s *Sim) AddToken(user string, t Token) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.acl.Users[user]
	if u == nil {
		return fmt.Errorf("pvetest: no user %q", user)
	}
	u.Tokens[t.ID] = acl.Token{Secret: t.Secret, PrivSep: !t.NoPrivSep}
	return nil
}
