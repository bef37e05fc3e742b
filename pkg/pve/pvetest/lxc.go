// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// monitorWait is how long PVE waits for a container's monitor to report.
const monitorWait = 10 * time.Second

// socketCloses is for how long, before a container that ends by itself reads
// as stopped, a read finds its command socket closing.
const socketCloses = 60 * time.Millisecond

// ctStartTask is the work of vzstart.
func (s *Sim) ctStartTask(vmid int) work {
	return func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.LXC, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		g, err := s.find(guest.LXC, vmid)
		if err != nil {
			return err
		}
		return t.ctStart(g, "start")
	}
}

// ctStart starts a container; the caller holds its lock.
func (t *task) ctStart(g *guestState, what string) error {
	s := t.sim
	locked, err := s.ctPrepare(g, what == rebootStart)
	if err != nil {
		return err
	}
	if !t.wait(s.scaled(hookLead)) {
		return errInterrupted
	}
	if err := t.hookIn(g, "pre-start"); err != nil {
		return err
	}
	if locked {
		return t.startupFailed(g, 255)
	}
	if err := t.ctMonitorStart(g, what); err != nil {
		return err
	}
	if err := t.hookIn(g, "post-start"); err != nil {
		return err
	}
	if s.major < 9 {
		return nil
	}
	// PVE 9 looks for the container's first process at the end.
	if !t.wait(s.scaled(20 * time.Millisecond)) {
		return errInterrupted
	}
	if !s.isUp(g) {
		return fmt.Errorf("unable to get PID for CT %d (not running?)", g.vmid)
	}
	return nil
}

// rebootStart is the start that ends a reboot.
const rebootStart = "reboot-start"

// ctPrepare is what comes before pre-start: lock, template, pending changes
// and the generated lxc config, in PVE's order. A reboot does not look at the
// config's lock; the container's own preparation finds it after pre-start.
func (s *Sim) ctPrepare(g *guestState, reboot bool) (locked bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noQuorum {
		return false, die("cluster not ready - no quorum?")
	}
	if g.conf.Template() {
		return false, die("you can't start a CT if it's a template")
	}
	if err := g.checkLock("mounted"); err != nil {
		if !reboot {
			return false, err
		}
		locked = true
	}
	s.applyPendingLocked(g)
	return locked, s.checkBridgesLocked(g)
}

// startupFailed is a start that ends in the container's own preparation.
func (t *task) startupFailed(g *guestState, status int) error {
	at := []int{322, 844, 2027}
	if t.sim.major >= 9 {
		at = []int{571, 845, 2039}
	}
	t.say(fmt.Sprintf("run_buffer: %d Script exited with status %d\nlxc_init: %d Failed to run lxc.hook.pre-start for container \"%d\"\n"+
		"__lxc_start: %d Failed to initialize container \"%d\"\n", at[0], status, at[1], g.vmid, at[2], g.vmid))
	return die("startup for container '%d' failed", g.vmid)
}

// checkBridgesLocked refuses a net on a bridge the node does not have.
func (s *Sim) checkBridgesLocked(g *guestState) error {
	for i := range 32 {
		for part := range strings.SplitSeq(g.value(fmt.Sprintf("net%d", i)), ",") {
			br, ok := strings.CutPrefix(part, "bridge=")
			if ok && !s.hasBridge(br) {
				return die("bridge '%s' does not exist", br)
			}
		}
	}
	return nil
}

// ctMonitorStart orders the unit to start and waits for the monitor. Three
// things can happen: the container comes up; it is already up (a second start
// that waited for the lock), or its unit is still closing and the order is
// lost. The last two wait in vain for the monitor.
func (t *task) ctMonitorStart(g *guestState, what string) error {
	s := t.sim
	s.mu.Lock()
	closing, running := g.unit && !g.up, g.up
	if !closing && !running {
		g.unit, g.unitEnd = true, make(chan struct{})
	}
	s.mu.Unlock()
	if closing || running {
		t.noteDetail(g, what, map[bool]string{true: "already running", false: "lost"}[running])
		if !t.wait(monitorWait) {
			return errInterrupted
		}
		t.say("problem with monitor socket, but continuing anyway: got timeout\n\n")
		return nil
	}
	if !t.wait(s.scaled(g.startTime())) {
		s.mu.Lock()
		g.unitGoneLocked()
		s.mu.Unlock()
		return errInterrupted
	}
	if g.times.NoStart {
		s.spawn(func() { s.ctFailedEnd(g) })
		return t.startupFailed(g, 2)
	}
	s.mu.Lock()
	s.riseLocked(g)
	run := g.run
	s.mu.Unlock()
	t.noteDetail(g, what, "")
	if lives := g.times.Lives; lives > 0 {
		s.spawn(func() { s.ctEnd(g, run, s.scaled(lives), s.scaled(ctStop), true) })
	}
	return nil
}

// ctFailedEnd is how lxc takes back a start that failed: post-stop runs after
// the task has ended.
func (s *Sim) ctFailedEnd(g *guestState) {
	if !sleep(s.ctx, s.scaled(ctStop)) {
		return
	}
	if err := s.hook(s.ctx, g, "post-stop", "", io.Discard); err != nil {
		s.log.Info("hook failed", "vmid", g.vmid, "error", strings.TrimSpace(err.Error()))
	}
	s.mu.Lock()
	g.unitGoneLocked()
	s.mu.Unlock()
}

// ctStopTask is the work of vzstop and vzshutdown.
func (s *Sim) ctStopTask(vmid int, how stopHow) work {
	return func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.LXC, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		g, err := s.find(guest.LXC, vmid)
		if err != nil {
			return err
		}
		if err := t.checkLocked(g, how); err != nil {
			return err
		}
		return t.ctStop(g, how)
	}
}

// stopHow says how a guest is stopped.
type stopHow struct {
	what    string // for the record
	hard    bool
	timeout time.Duration
	force   bool // kill after the timeout
	reboot  bool
	quiet   bool // a virtual machine ends without pre-stop
}

func (t *task) checkLocked(g *guestState, how stopHow) error {
	t.sim.mu.Lock()
	defer t.sim.mu.Unlock()
	if how.hard {
		return g.checkLock("mounted")
	}
	return g.checkLock()
}

// ctStop stops a container and returns when its unit is gone; the caller
// holds the lock.
func (t *task) ctStop(g *guestState, how stopHow) error {
	s := t.sim
	if !s.isUp(g) {
		return nil
	}
	if !t.wait(s.scaled(hookLead)) {
		return errInterrupted
	}
	if err := t.hookIn(g, "pre-stop"); err != nil {
		return err
	}
	t.noteDetail(g, how.what, "")
	return t.ctDown(g, how)
}

// ctDown asks or forces the container down and waits for its unit.
func (t *task) ctDown(g *guestState, how stopHow) error {
	s := t.sim
	if !how.hard {
		done := s.ctShutdownRequest(g)
		timer := time.NewTimer(how.timeout)
		defer timer.Stop()
		select {
		case <-done:
			return nil
		case <-t.ctx.Done():
			// The request is with the guest; only the waiting ends.
			t.say(fmt.Sprintf("command 'lxc-stop -n %d --nokill --timeout %d' failed: received interrupt\n", g.vmid, int(how.timeout.Seconds())))
			return t.lateStop(g)
		case <-timer.C:
		}
		if !how.force {
			return t.didNotStop(g, how, done)
		}
	}
	s.mu.Lock()
	run := g.run
	s.mu.Unlock()
	s.spawn(func() { s.ctEnd(g, run, s.scaled(g.stopTime()), 0, true) })
	<-s.unitOf(g)
	return nil
}

// lateStop ends an aborted shutdown: PVE takes the interrupted lxc-stop for a
// warning, looks again and waits for the unit.
func (t *task) lateStop(g *guestState) error {
	select {
	case <-t.sim.unitOf(g):
	case <-t.dead:
		return errInterrupted
	case <-t.sim.ctx.Done():
		return errInterrupted
	}
	return nil
}

// didNotStop is a shutdown that ran into its timeout: PVE waits once more
// before it gives up.
func (t *task) didNotStop(g *guestState, how stopHow, done <-chan struct{}) error {
	if !t.sim.isUp(g) {
		t.say(fmt.Sprintf("lxc-stop: %d: ../src/lxc/commands_utils.c: lxc_cmd_sock_rcv_state: 49 Resource temporarily unavailable - Failed to receive message\n", g.vmid))
	}
	t.say(fmt.Sprintf("command 'lxc-stop -n %d --nokill --timeout %d' failed: exit code 1\n", g.vmid, int(how.timeout.Seconds())))
	timer := time.NewTimer(how.timeout + 5*time.Second)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return errors.New("container did not stop")
	case <-t.ctx.Done():
		return errInterrupted
	}
}

// ctShutdownRequest tells the guest's init to shut down; the channel closes
// when the unit is gone.
func (s *Sim) ctShutdownRequest(g *guestState) <-chan struct{} {
	s.mu.Lock()
	run, deaf := g.run, g.times.NoShutdown
	s.mu.Unlock()
	if !deaf {
		s.spawn(func() { s.ctEnd(g, run, s.scaled(g.shutdownTime()), s.scaled(100*time.Millisecond), true) })
	}
	return s.unitOf(g)
}

// ctEnd is the end of a container's run: after its init is gone the API says
// stopped, after closing the post-stop hook runs, pending changes are
// applied, and the unit ends. It does nothing if that run is over already.
func (s *Sim) ctEnd(g *guestState, run int, after, closing time.Duration, hooks bool) bool {
	if l := s.scaled(g.times.Lingering); l > 0 && l < after {
		if !sleep(s.ctx, after-l) {
			return false
		}
		s.initGone(g, run)
		after = l
	}
	if closing > 0 && !s.ctSocketCloses(g, run, &after) || !sleep(s.ctx, after) {
		return false
	}
	s.mu.Lock()
	if g.run != run || !g.up {
		s.mu.Unlock()
		return false
	}
	s.sinkLocked(g)
	s.mu.Unlock()
	if !sleep(s.ctx, closing) {
		return false
	}
	s.mu.Lock()
	s.applyPendingLocked(g)
	s.touchLocked(g) // the hook rewrites the config at every stop
	s.mu.Unlock()
	if hooks {
		if err := s.hook(s.ctx, g, "post-stop", "", io.Discard); err != nil {
			s.log.Info("hook failed", "vmid", g.vmid, "error", strings.TrimSpace(err.Error()))
		}
	}
	s.mu.Lock()
	g.unitGoneLocked()
	s.mu.Unlock()
	return true
}

// ctSocketCloses waits for the last moments of a container that ends by
// itself, when reads meet its closing command socket; after is what remains
// of the time till then.
func (s *Sim) ctSocketCloses(g *guestState, run int, after *time.Duration) bool {
	window := min(socketCloses, *after)
	if !sleep(s.ctx, *after-window) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.run == run {
		g.resets = s.now().Add(window)
	}
	*after = window
	return true
}

// ctRebootTask is the work of vzreboot: stop and start under one lock. The
// config's own lock is looked at only by the start.
func (s *Sim) ctRebootTask(vmid int, timeout time.Duration) work {
	return func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.LXC, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		g, err := s.find(guest.LXC, vmid)
		if err != nil {
			return err
		}
		if err := t.ctStop(g, stopHow{what: "reboot", timeout: timeout, force: true}); err != nil {
			return err
		}
		return t.ctStart(g, rebootStart)
	}
}

// initGone ends a container's first process; its command socket lives on.
func (s *Sim) initGone(g *guestState, run int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.run == run {
		s.changingLocked(g)
		g.pid = 0
	}
}

func (s *Sim) isUp(g *guestState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.up
}

// unitOf returns a channel that closes when the guest's unit has ended.
func (s *Sim) unitOf(g *guestState) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !g.unit {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return g.unitEnd
}
