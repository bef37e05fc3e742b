// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// cleanupLockWait is how long qm cleanup waits for the config lock.
const cleanupLockWait = 60 * time.Second

// vmLocked runs f on a virtual machine under its lock, as part of a task.
func (s *Sim) vmLocked(vmid int, f func(*task, *guestState) error) work {
	return func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.QEMU, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		g, err := s.find(guest.QEMU, vmid)
		if err != nil {
			return err
		}
		return f(t, g)
	}
}

// vmStartTask is the work of qmstart.
func (s *Sim) vmStartTask(vmid int) work {
	return s.vmLocked(vmid, func(t *task, g *guestState) error { return t.vmStart(g, "start") })
}

func (t *task) vmStart(g *guestState, what string) error {
	s := t.sim
	if err := s.vmPrepare(g); err != nil {
		return err
	}
	if !t.wait(s.scaled(hookLead)) {
		return errInterrupted
	}
	if err := t.hookIn(g, "pre-start"); err != nil {
		return err
	}
	if err := t.vmNets(g); err != nil {
		return err
	}
	if !t.wait(s.scaled(g.startTime())) {
		return errInterrupted
	}
	s.mu.Lock()
	s.riseLocked(g)
	s.awakeLocked(g)
	s.mu.Unlock()
	t.noteDetail(g, what, "")
	return t.hookIn(g, "post-start")
}

// vmNets refuses a net on a bridge the node does not have: PVE 9 before it
// runs QEMU, PVE 8 lets QEMU fail.
func (t *task) vmNets(g *guestState) error {
	t.sim.mu.Lock()
	err := t.sim.checkBridgesLocked(g)
	t.sim.mu.Unlock()
	if err == nil || t.sim.major >= 9 {
		return err
	}
	t.say(err.Error() + "\n")
	return die("start failed: QEMU exited with code 1")
}

func (s *Sim) vmPrepare(g *guestState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noQuorum {
		return die("cluster not ready - no quorum?")
	}
	if g.conf.Template() {
		return die("you can't start a vm if it's a template")
	}
	if err := g.checkLock("suspended"); err != nil {
		return err
	}
	if g.up {
		return die("VM %d already running", g.vmid)
	}
	s.applyPendingLocked(g)
	return nil
}

// vmStopTask is the work of qmstop, qmshutdown and qmreboot.
func (s *Sim) vmStopTask(vmid int, how stopHow) work {
	return s.vmLocked(vmid, func(t *task, g *guestState) error {
		if err := t.vmLockCheck(g); err != nil {
			return err
		}
		if !s.isUp(g) {
			return nil
		}
		return t.vmStop(g, how)
	})
}

func (t *task) vmLockCheck(g *guestState) error {
	t.sim.mu.Lock()
	defer t.sim.mu.Unlock()
	return g.checkLock()
}

func (t *task) vmStop(g *guestState, how stopHow) error {
	s := t.sim
	if !t.wait(s.scaled(hookLead)) {
		return errInterrupted
	}
	if !how.quiet {
		if err := t.hookIn(g, "pre-stop"); err != nil {
			return err
		}
	}
	t.noteDetail(g, how.what, "")
	if err := t.vmDown(g, how); err != nil {
		return err
	}
	if s.major >= 9 {
		// The stop task does the cleanup itself, hook included.
		s.vmCleanup(t.ctx, g, t.upid, taskWriter{t})
		if how.reboot {
			s.vmRebootStart(g)
		}
		return nil
	}
	s.spawn(func() {
		s.vmAsyncCleanup(g)
		if how.reboot {
			s.vmRebootStart(g)
		}
	})
	return nil
}

// vmRebootStart is the second half of a reboot: a task of its own, of
// root@pam.
func (s *Sim) vmRebootStart(g *guestState) {
	if _, err := s.fork("qmstart", fmt.Sprint(g.vmid), "root@pam", s.vmStartTask(g.vmid)); err != nil {
		s.log.Info("reboot without start", "vmid", g.vmid, "error", err.Error())
	}
}

// vmDown ends the process, by asking the guest or by force.
func (t *task) vmDown(g *guestState, how stopHow) error {
	s := t.sim
	end := s.scaled(g.stopTime())
	s.mu.Lock()
	deaf := g.times.NoShutdown || g.paused
	s.mu.Unlock()
	if !how.hard {
		end = s.scaled(g.shutdownTime())
		if deaf || end > how.timeout {
			if !t.wait(how.timeout) {
				return errInterrupted
			}
			if !how.force {
				return errors.New("VM quit/powerdown failed - got timeout")
			}
			t.say("VM still running - terminating now with SIGTERM\n")
			end = s.scaled(g.stopTime())
		}
	}
	if !t.wait(end) {
		return errInterrupted
	}
	s.mu.Lock()
	s.sinkLocked(g)
	s.mu.Unlock()
	return nil
}

// vmCleanup is what follows the end of a virtual machine's process: hook
// post-stop and the unit.
func (s *Sim) vmCleanup(ctx context.Context, g *guestState, upid string, out io.Writer) {
	s.mu.Lock()
	s.applyPendingLocked(g)
	s.mu.Unlock()
	if err := s.hook(ctx, g, "post-stop", upid, out); err != nil {
		_, _ = io.WriteString(out, err.Error()+"\n")
		s.log.Info("hook failed", "vmid", g.vmid, "error", strings.TrimSpace(err.Error()))
	}
	s.mu.Lock()
	g.unitGoneLocked()
	s.mu.Unlock()
}

// vmAsyncCleanup is "qm cleanup", started by qmeventd: under the lock, and
// given up if the machine runs again (post-stop is then lost).
func (s *Sim) vmAsyncCleanup(g *guestState) {
	if !sleep(s.ctx, s.scaled(200*time.Millisecond)) {
		return
	}
	unlock, err := s.lock(s.ctx, lockFile(guest.QEMU, g.vmid), cleanupLockWait, nil)
	if err != nil {
		return
	}
	defer unlock()
	if s.isUp(g) {
		return
	}
	s.vmCleanup(s.ctx, g, "", io.Discard)
}

// vmEnd is the end of a virtual machine's process that no task asked for.
func (s *Sim) vmEnd(g *guestState, run int, after time.Duration) bool {
	if !sleep(s.ctx, after) {
		return false
	}
	s.mu.Lock()
	if g.run != run || !g.up {
		s.mu.Unlock()
		return false
	}
	s.sinkLocked(g)
	s.mu.Unlock()
	s.vmAsyncCleanup(g)
	return true
}
