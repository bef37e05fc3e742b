// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

var (
	pSkiplock  = schema.Param{Name: "skiplock", Type: schema.Boolean}
	pTimeout   = schema.Param{Name: "timeout", Type: schema.Integer, Min: schema.F(0)}
	pForceStop = schema.Param{Name: "forceStop", Type: schema.Boolean}
)

// powerRoutes is POST status/... for both kinds.
func powerRoutes() []route {
	ct := func(action string, run func(*call) (any, error), params ...schema.Param) route {
		return powerRoute(guest.LXC, action, run, params)
	}
	vm := func(action string, run func(*call) (any, error), params ...schema.Param) route {
		return powerRoute(guest.QEMU, action, run, params)
	}
	overrule := schema.Param{Name: "overrule-shutdown", Type: schema.Boolean}
	return []route{
		ct("start", ctStartCall, pSkiplock, schema.Param{Name: "debug", Type: schema.Boolean}),
		ct("stop", ctStopCall, pSkiplock, overrule),
		ct("shutdown", ctShutdownCall, pTimeout, pForceStop),
		ct("reboot", ctRebootCall, pTimeout),
		ct("suspend", ctSuspendCall),
		ct("resume", ctResumeCall),
		vm("start", vmStartCall, pSkiplock, pTimeout, schema.Param{Name: "machine"}, schema.Param{Name: "stateuri"},
			schema.Param{Name: "migratedfrom"}, schema.Param{Name: "force-cpu"}, schema.Param{Name: "targetstorage"}),
		vm("stop", vmStopCall, pSkiplock, pTimeout, overrule, schema.Param{Name: "keepActive", Type: schema.Boolean},
			schema.Param{Name: "migratedfrom"}),
		vm("shutdown", vmShutdownCall, pSkiplock, pTimeout, pForceStop, schema.Param{Name: "keepActive", Type: schema.Boolean}),
		vm("reboot", vmRebootCall, pTimeout),
		vm("suspend", vmSuspendCall, pSkiplock, schema.Param{Name: "todisk", Type: schema.Boolean}, schema.Param{Name: "statestorage"}),
		vm("resume", vmResumeCall, pSkiplock, schema.Param{Name: "nocheck", Type: schema.Boolean}),
		vm("reset", vmResetCall, pSkiplock),
	}
}

func powerRoute(kind guest.Kind, action string, run func(*call) (any, error), params []schema.Param) route {
	return route{
		method: "POST", path: "/nodes/{node}/" + string(kind) + "/{vmid}/status/" + action, protected: true,
		perm: guestPerm("VM.PowerMgmt"), params: params,
		run: func(c *call) (any, error) {
			if c.in.Bool("skiplock") && c.authid != "root@pam" {
				return nil, badParam("skiplock", "Only root may use this option.")
			}
			return run(c)
		},
	}
}

// guestTask forks a task about the guest in the path.
func (c *call) guestTask(typ string, do work) (any, error) {
	t, err := c.sim.forkTask(typ, strconv.Itoa(c.vmid()), c.authid, c.cli, do)
	if err != nil {
		return nil, err
	}
	return t.upid, nil
}

func (c *call) guestUp() bool {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[c.vmid()]
	return g != nil && g.kind == c.kind() && g.up
}

func (c *call) timeout(def time.Duration) time.Duration {
	return time.Duration(c.in.Int("timeout", int(def.Seconds()))) * time.Second
}

func ctStartCall(c *call) (any, error) {
	if c.guestUp() {
		return nil, die("CT %d already running", c.vmid())
	}
	if c.sim.quorumLost() {
		return nil, die("cluster not ready - no quorum?")
	}
	if upid, ok, err := c.haPower(true, false); ok {
		return upid, err
	}
	return c.guestTask("vzstart", c.sim.ctStartTask(c.vmid()))
}

func ctStopCall(c *call) (any, error) {
	if !c.guestUp() {
		return nil, die("CT %d not running", c.vmid())
	}
	if upid, ok, err := c.haPower(false, true); ok {
		return upid, err
	}
	if c.in.Bool("overrule-shutdown") {
		c.sim.abortShutdowns("vzshutdown", c.vmid(), c.authid)
	}
	return c.guestTask("vzstop", c.sim.ctStopTask(c.vmid(), stopHow{what: "stop", hard: true}))
}

func ctShutdownCall(c *call) (any, error) {
	if !c.guestUp() {
		return nil, die("CT %d not running", c.vmid())
	}
	if upid, ok, err := c.haPower(false, false); ok {
		return upid, err
	}
	how := stopHow{what: "shutdown", timeout: c.timeout(time.Minute), force: c.in.Bool("forceStop")}
	return c.guestTask("vzshutdown", c.sim.ctStopTask(c.vmid(), how))
}

func ctRebootCall(c *call) (any, error) {
	if !c.guestUp() {
		return nil, die("VM %d not running", c.vmid())
	}
	return c.guestTask("vzreboot", c.sim.ctRebootTask(c.vmid(), c.timeout(time.Minute)))
}

// ctSuspendCall fails as it does wherever CRIU is not installed.
func ctSuspendCall(c *call) (any, error) {
	if !c.guestUp() {
		return nil, die("CT %d not running", c.vmid())
	}
	return c.guestTask("vzsuspend", func(t *task) error {
		t.say("lxc-checkpoint: " + c.path["vmid"] + ": ../src/lxc/criu.c: criu_version_ok: 767 No such file or directory - execing criu failed, is it installed?\n")
		t.say("lxc-checkpoint: " + c.path["vmid"] + ": ../src/lxc/tools/lxc_checkpoint.c: checkpoint: 182 Checkpointing " + c.path["vmid"] + " failed\n")
		return die("command 'lxc-checkpoint -n %s -s -D /var/lib/vz/dump' failed: exit code 1", c.path["vmid"])
	})
}

func ctResumeCall(c *call) (any, error) {
	if c.guestUp() {
		return nil, die("CT %d already running", c.vmid())
	}
	return c.guestTask("vzresume", func(*task) error {
		return die("command 'lxc-checkpoint -r -n %s -D /var/lib/vz/dump' failed: exit code 1", c.path["vmid"])
	})
}

func vmStartCall(c *call) (any, error) {
	if c.sim.quorumLost() {
		return nil, die("cluster not ready - no quorum?")
	}
	if upid, ok, err := c.haPower(true, false); ok {
		return upid, err
	}
	return c.guestTask("qmstart", c.sim.vmStartTask(c.vmid()))
}

func vmStopCall(c *call) (any, error) {
	if upid, ok, err := c.haPower(false, true); ok {
		return upid, err
	}
	if c.in.Bool("overrule-shutdown") {
		c.sim.abortShutdowns("qmshutdown", c.vmid(), c.authid)
	}
	return c.guestTask("qmstop", c.sim.vmStopTask(c.vmid(), stopHow{what: "stop", hard: true}))
}

func vmShutdownCall(c *call) (any, error) {
	g, err := c.sim.find(guest.QEMU, c.vmid())
	if err != nil {
		return nil, err
	}
	s := c.sim
	s.mu.Lock()
	paused, down := g.paused, downTime(g.value("startup"))
	s.mu.Unlock()
	if paused && !c.in.Bool("forceStop") {
		return nil, die("VM is paused - cannot shutdown")
	}
	if upid, ok, err := c.haPower(false, false); ok {
		return upid, err
	}
	how := stopHow{what: "shutdown", timeout: c.timeout(either(down, time.Minute)), force: c.in.Bool("forceStop")}
	return c.guestTask("qmshutdown", s.vmStopTask(c.vmid(), how))
}

// downTime reads down= of the startup key.
func downTime(startup string) time.Duration {
	for part := range strings.SplitSeq(startup, ",") {
		if v, ok := strings.CutPrefix(part, "down="); ok {
			if n, err := strconv.Atoi(v); err == nil {
				return time.Duration(n) * time.Second
			}
		}
	}
	return 0
}

func vmRebootCall(c *call) (any, error) {
	if !c.guestUp() {
		return nil, die("VM %d not running", c.vmid())
	}
	how := stopHow{what: "reboot", timeout: c.timeout(time.Minute), reboot: true}
	return c.guestTask("qmreboot", c.sim.vmStopTask(c.vmid(), how))
}

func vmSuspendCall(c *call) (any, error) {
	if c.in.Bool("todisk") {
		return suspendToDisk(c)
	}
	return c.guestTask("qmpause", c.sim.vmPause(c.vmid(), true))
}

func vmResumeCall(c *call) (any, error) {
	if c.sleepsOnDisk() {
		return c.guestTask("qmresume", c.sim.vmStartTask(c.vmid()))
	}
	return c.guestTask("qmresume", c.sim.vmPause(c.vmid(), false))
}

func vmResetCall(c *call) (any, error) {
	return c.guestTask("qmreset", c.sim.vmLocked(c.vmid(), func(t *task, g *guestState) error {
		if err := t.vmLockCheck(g); err != nil {
			return err
		}
		if !t.sim.isUp(g) {
			return die("VM %d not running", g.vmid)
		}
		t.noteDetail(g, "reset", "")
		return nil
	}))
}

// vmPause stops or resumes a virtual machine's processors.
func (s *Sim) vmPause(vmid int, pause bool) work {
	return s.vmLocked(vmid, func(t *task, g *guestState) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := g.checkLock("backup"); err != nil {
			return err
		}
		if !g.up {
			return die("VM %d not running", g.vmid)
		}
		g.paused = pause
		what := "resume"
		if pause {
			what = "suspend"
		}
		s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: what, User: t.user, UPID: t.upid})
		return nil
	})
}

func (s *Sim) quorumLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noQuorum
}

// abortShutdowns interrupts running shutdown tasks of a guest that the
// caller owns or, with Sys.Modify on the node, anyone's.
func (s *Sim) abortShutdowns(typ string, vmid int, authid string) {
	s.mu.Lock()
	all := authid == "root@pam" || s.acl.Perms(authid, "/nodes/"+s.opt.Node).Has("Sys.Modify")
	var hit []*task
	for _, t := range s.tasks.active {
		if t.typ == typ && t.id == strconv.Itoa(vmid) && t.endedAt() == 0 && (all || t.user == authid) {
			hit = append(hit, t)
		}
	}
	s.mu.Unlock()
	for _, t := range hit {
		t.abort()
	}
}
