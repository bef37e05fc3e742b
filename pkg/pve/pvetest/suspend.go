// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// suspendToDisk is POST status/suspend with todisk: the machine's memory goes
// into a volume, its process ends, and the lock "suspended" stays until the
// next start or resume, which reads the memory back.
func suspendToDisk(c *call) (any, error) {
	s, path := c.sim, "/vms/"+c.path["vmid"]
	store := either2(c.in.Get("statestorage"), "local")
	if err := c.need(path, "VM.Config.Disk"); err != nil {
		return nil, err
	}
	if err := c.need("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
		return nil, err
	}
	g, err := s.find(guest.QEMU, c.vmid())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	managed := g.ha != nil
	s.mu.Unlock()
	if managed {
		return nil, die("Cannot suspend HA managed VM to disk")
	}
	return c.guestTask("qmsuspend", s.vmLocked(c.vmid(), func(t *task, g *guestState) error { return t.vmHibernate(g, store) }))
}

func (t *task) vmHibernate(g *guestState, store string) error {
	s := t.sim
	volid, err := t.stateVolume(g, store)
	if err != nil {
		return err
	}
	if s.opt.Lacks.QEMUPatches || !t.wait(s.scaled(500*time.Millisecond)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.awakeLocked(g)
		if cancelled(t.ctx) {
			return errInterrupted
		}
		return die("VM %d qmp command 'savevm-start' failed - The command savevm-start has not been found\n", g.vmid)
	}
	if err := t.vmStop(g, stopHow{what: "suspend", hard: true, quiet: true}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confEdit(g, func(c *conf.Guest) {
		c.Current.Set("lock", "suspended")
		c.Current.Set("vmstate", volid)
	})
	return nil
}

// stateVolume locks the guest and makes the volume for its memory.
func (t *task) stateVolume(g *guestState, store string) (string, error) {
	s := t.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := g.checkLock(); err != nil {
		return "", err
	}
	if !g.up {
		return "", die("VM %d not running", g.vmid)
	}
	if s.storage(store) == nil {
		return "", die("storage '%s' does not exist", store)
	}
	volid := fmt.Sprintf("%s:%d/vm-%d-state-suspend-%s.raw", store, g.vmid, g.vmid, s.now().UTC().Format("2006-01-02"))
	s.putVolume(volid, 2*s.maxMem(g)+500<<20, "raw", g.vmid)
	s.confEdit(g, func(c *conf.Guest) {
		c.Current.Set("lock", "suspending")
		c.Current.Set("vmstate", volid)
	})
	return volid, nil
}

// awakeLocked clears what a suspension to disk left; it does nothing to
// another guest.
func (s *Sim) awakeLocked(g *guestState) {
	if l := g.conf.Lock(); l != "suspended" && l != "suspending" {
		return
	}
	s.dropVolume(g.value("vmstate"))
	s.confEdit(g, func(c *conf.Guest) {
		delete(c.Current.Values, "lock")
		delete(c.Current.Values, "vmstate")
	})
}

// sleepsOnDisk reports whether the machine in the path is suspended to disk.
func (c *call) sleepsOnDisk() bool {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[c.vmid()]
	return g != nil && g.kind == guest.QEMU && !g.up && g.conf.Lock() == "suspended"
}
