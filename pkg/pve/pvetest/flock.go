// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// lockWait is how long PVE waits for a guest's config lock.
const lockWait = 10 * time.Second

// flock is the advisory lock on one lock file; a channel, so that a wait for
// it is visible to simulated time.
type flock struct{ slot chan struct{} }

func lockFile(kind guest.Kind, vmid int) string {
	if kind == guest.QEMU {
		return fmt.Sprintf("/var/lock/qemu-server/lock-%d.conf", vmid)
	}
	return fmt.Sprintf("/run/lock/lxc/pve-config-%d.lock", vmid)
}

// lock takes the lock of a file, waiting at most wait. say, if not nil, gets
// the lines PVE prints when the lock is not free at once.
func (s *Sim) lock(ctx context.Context, file string, wait time.Duration, say func(string)) (func(), error) {
	l := s.flockOf(file)
	unlock := func() { <-l.slot }
	select {
	case l.slot <- struct{}{}:
		return unlock, nil
	default:
	}
	if say != nil {
		say("trying to acquire lock...\n")
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case l.slot <- struct{}{}:
		if say != nil {
			say(" OK\n")
		}
		return unlock, nil
	case <-t.C:
		return nil, die("can't lock file '%s' - got timeout", file)
	case <-ctx.Done():
		return nil, die("can't lock file '%s' - received interrupt", file)
	}
}

func (s *Sim) flockOf(file string) *flock {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.flocks[file]
	if l == nil {
		l = &flock{slot: make(chan struct{}, 1)}
		s.flocks[file] = l
	}
	return l
}

// lockGuest takes a guest's config lock for a task or a call.
func (s *Sim) lockGuest(ctx context.Context, kind guest.Kind, vmid int, say func(string)) (func(), error) {
	return s.lock(ctx, lockFile(kind, vmid), s.lockWait, say)
}
