// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// fromInside is the user of a mutation that came from within a guest.
const fromInside = "guest"

// Poweroff shuts a guest down from inside. It returns at once.
func (s *Sim) Poweroff(vmid int) error {
	return s.inside(vmid, "poweroff", func(g *guestState) (time.Duration, time.Duration) {
		return g.shutdownTime(), g.closingTime()
	})
}

// Crash kills a guest's init or process. It returns at once.
func (s *Sim) Crash(vmid int) error {
	return s.inside(vmid, "crash", func(*guestState) (time.Duration, time.Duration) {
		return 0, 900 * time.Millisecond
	})
}

// KillMonitor kills a container's lxc-start from the host: the container is
// gone at once and no hook runs.
func (s *Sim) KillMonitor(vmid int) error {
	g, _, err := s.runningGuest(vmid)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.run++
	s.sinkLocked(g)
	g.unitGoneLocked()
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: vmid, What: "kill", User: fromInside})
	return nil
}

func (s *Sim) inside(vmid int, what string, times func(*guestState) (down, closing time.Duration)) error {
	g, run, err := s.runningGuest(vmid)
	if err != nil {
		return err
	}
	down, closing := times(g)
	s.note(Mutation{Kind: string(g.kind), VMID: vmid, What: what, User: fromInside})
	s.spawn(func() {
		if g.kind == guest.QEMU {
			s.vmEnd(g, run, s.scaled(down))
			return
		}
		s.ctEnd(g, run, s.scaled(down), s.scaled(closing), true)
	})
	return nil
}

func (s *Sim) runningGuest(vmid int) (*guestState, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return nil, 0, fmt.Errorf("pvetest: no guest %d", vmid)
	}
	if !g.up {
		return nil, 0, fmt.Errorf("pvetest: guest %d is not running", vmid)
	}
	return g, g.run, nil
}

// RebootInside reboots a guest from inside: no hook fires; a container's
// pending changes are applied, a virtual machine's are not.
func (s *Sim) RebootInside(vmid int) error {
	g, run, err := s.runningGuest(vmid)
	if err != nil {
		return err
	}
	s.note(Mutation{Kind: string(g.kind), VMID: vmid, What: "reboot", User: fromInside})
	if g.kind == guest.QEMU {
		return nil // the process survives
	}
	s.spawn(func() {
		if !sleep(s.ctx, s.scaled(g.shutdownTime())) {
			return
		}
		s.mu.Lock()
		if g.run == run {
			s.sinkLocked(g)
			s.applyPendingLocked(g)
		}
		s.mu.Unlock()
		sleep(s.ctx, s.scaled(g.startTime()))
		s.mu.Lock()
		defer s.mu.Unlock()
		if g.run == run {
			s.riseLocked(g)
		}
	})
	return nil
}

// SetLock puts a lock on a guest's config, or clears it with "".
func (s *Sim) SetLock(vmid int, lock string) error {
	return s.editGuest(vmid, func(g *conf.Guest) {
		if lock == "" {
			delete(g.Current.Values, "lock")
			return
		}
		g.Current.Set("lock", lock)
	})
}

func (s *Sim) editGuest(vmid int, f func(*conf.Guest)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	s.setConfLocked(g, g.conf.Edit(f))
	s.addVolumesLocked(g)
	return nil
}

// Replace removes a guest and puts another under its VMID, as someone who
// destroyed and created it again would have.
func (s *Sim) Replace(spec GuestSpec) error {
	if err := s.Remove(spec.VMID); err != nil {
		return err
	}
	return s.addGuest(spec)
}

// Add puts a further guest on the node.
func (s *Sim) Add(spec GuestSpec) error { return s.addGuest(spec) }

// Remove takes a guest away with its volumes, grants and pool membership.
func (s *Sim) Remove(vmid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	s.removeLocked(g)
	return nil
}

func (s *Sim) removeLocked(g *guestState) {
	g.run++
	g.up = false
	g.unitGoneLocked()
	delete(s.guests, g.vmid)
	for _, st := range s.storages {
		for id, v := range st.volumes {
			if v.VMID == g.vmid && v.Content != "backup" {
				delete(st.volumes, id)
			}
		}
	}
	s.acl.ForgetGuest(g.vmid)
	s.forgetLocked(g)
}

// SetQuorum takes the node's quorum away or gives it back.
func (s *Sim) SetQuorum(ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noQuorum = !ok
}

// closingReadLocked reports whether a read meets the container at the moment
// its command socket closes.
func (s *Sim) closingReadLocked(g *guestState) bool {
	if g.resetReads > 0 {
		g.resetReads--
		return true
	}
	return g.up && s.now().Before(g.resets)
}

// ResetReads makes the next n reads of a container's status, and of every
// list it is in, fail as they do for a moment while it closes.
func (s *Sim) ResetReads(vmid, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return fmt.Errorf("pvetest: no guest %d", vmid)
	}
	g.resetReads = n
	return nil
}

// EditConfig changes a guest's config file as a hand at an editor does:
// nothing is checked, an empty value removes the key.
func (s *Sim) EditConfig(vmid int, values map[string]string) error {
	return s.editGuest(vmid, func(g *conf.Guest) {
		for k, v := range values {
			if v == "" {
				delete(g.Current.Values, k)
				continue
			}
			g.Current.Set(k, v)
		}
	})
}

// Grant adds a line to the access control list.
func (s *Sim) Grant(g Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acl.Entries = append(s.acl.Entries, acl.Entry{Path: g.Path, UGID: g.Who, Role: g.Role, Propagate: !g.NoPropagate})
}

// SetRole defines a role.
func (s *Sim) SetRole(name string, privs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acl.Roles[name] = privs
}

// Idle reports whether no task runs.
func (s *Sim) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks.active {
		if t.endedAt() == 0 {
			return false
		}
	}
	return true
}
