// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// mayRestoreFrom is PVE's check that a caller may read a backup to put it into
// a VMID: one of that VMID's own it always may. Needs mu.
func (c *call) mayRestoreFrom(volid string, vmid int) error {
	owner, err := parseVolume(volid)
	store := "/storage/" + storageOf(volid)
	switch {
	case err != nil, owner == "", owner == itoa(vmid), c.authid == acl.Root, c.mayLocked(store, "Datastore.Allocate"):
		return nil // what is no backup is found out later
	case !c.mayLocked(store, "Datastore.AllocateSpace"):
		return denied("%s, Datastore.AllocateSpace", store)
	case !c.mayLocked("/vms/"+owner, "VM.Backup"):
		return denied("/vms/%s, VM.Backup", owner)
	}
	return nil
}

// bridgeDenied is the bridge path of a config's nets that a user may not use,
// "" if there is none: a guest that is copied is plugged in anew. Needs mu.
func (s *Sim) bridgeDenied(user string, sec conf.Section) string {
	for key, value := range sec.Values {
		if !strings.HasPrefix(key, "net") {
			continue
		}
		path := "/sdn/zones/localnetwork/"
		tag := ""
		for part := range strings.SplitSeq(value, ",") {
			if v, ok := strings.CutPrefix(part, "bridge="); ok {
				path += v
			}
			if v, ok := strings.CutPrefix(part, "tag="); ok && v != "0" {
				tag = "/" + v
			}
		}
		if user != acl.Root && !s.acl.Perms(user, path+tag).Has("SDN.Use") {
			return path + tag
		}
	}
	return ""
}

// mayPlug refuses, in a task, to restore a config whose bridges the user may
// not use.
func (s *Sim) mayPlug(user string, sec conf.Section) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if path := s.bridgeDenied(user, sec); path != "" {
		return errors.New("403 " + fmt.Sprintf("Permission check failed (%s, SDN.Use)", path))
	}
	return nil
}

// mayCopy refuses to clone what the caller may not plug in or has no storage
// for. Needs mu.
func (j *cloneJob) mayCopy(c *call) error {
	if path := c.sim.bridgeDenied(c.authid, j.src.Current); path != "" {
		return denied("%s, SDN.Use", path)
	}
	for _, key := range disksOf(j.src.Current, false) {
		value := j.src.Current.Values[key]
		volid, _ := diskOf(value)
		if j.kind == guest.QEMU && isCDROM(value) || !strings.Contains(volid, ":") {
			continue
		}
		if store := "/storage/" + either2(j.storage, storageOf(volid)); c.authid != acl.Root && !c.mayLocked(store, "Datastore.AllocateSpace") {
			return denied("%s, Datastore.AllocateSpace", store)
		}
	}
	return nil
}
