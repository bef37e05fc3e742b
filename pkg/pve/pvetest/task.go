// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
)

// keptTasks is how many finished tasks the archive holds, about as many as
// PVE's two index files.
const keptTasks = 1000

// task is one worker. Its fields up to mu are fixed; mu guards the rest.
type task struct {
	sim       *Sim
	upid      string
	node      string
	pid       int
	pstart    int64
	start     int64
	typ, id   string
	user      string // auth id in full
	cli       bool   // forked by a command line, not by a daemon
	ctx       context.Context
	interrupt context.CancelFunc
	done      chan struct{} // closed when the work has returned
	dead      chan struct{} // closed when the task was killed

	mu       sync.Mutex
	out      strings.Builder
	warnings int
	ended    int64 // 0 while it runs
	status   string
	archived bool
	forced   string // status a fault asked for
	killed   bool   // by SIGKILL: the log stays as it is
}

// taskTable is all of a node's tasks. The Sim's mu guards it.
type taskTable struct {
	byUPID  map[string]*task
	active  []*task // newest first
	archive []*task // newest finished first
}

// work is what a task does; the error's text becomes its status.
type work func(*task) error

// errInterrupted is how work ends that was aborted.
var errInterrupted = errors.New("received interrupt")

// fork starts a task and returns its UPID. It returns before the work is
// done.
func (s *Sim) fork(typ, id, user string, do work) (string, error) {
	t, err := s.forkTask(typ, id, user, false, do)
	if err != nil {
		return "", err
	}
	return t.upid, nil
}

func (s *Sim) forkTask(typ, id, user string, cli bool, do work) (*task, error) {
	t := &task{sim: s, node: s.opt.Node, typ: typ, id: id, user: user, cli: cli, done: make(chan struct{}), dead: make(chan struct{})}
	t.ctx, t.interrupt = context.WithCancel(s.ctx)
	s.mu.Lock()
	t.pid = s.pidLocked()
	now := s.now()
	t.pstart, t.start = now.Sub(s.boot).Milliseconds()/10, now.Unix()
	t.upid = fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", t.node, t.pid, t.pstart, t.start, typ, id, user)
	s.tasks.settle()
	s.tasks.add(t)
	t.forced = s.taskFaultLocked(typ, id)
	s.mu.Unlock()
	s.log.Info("starting task", "upid", t.upid)
	if !s.spawn(func() { t.run(do) }) {
		return nil, die("unable to fork worker - node is going down")
	}
	return t, nil
}

func (t *task) run(do work) {
	defer close(t.done)
	defer t.interrupt()
	var err error
	if t.forced == "" || t.forced == unexpectedStatus {
		err = do(t)
	} else {
		err = errors.New(t.forced)
	}
	t.finish(err)
	t.sim.log.Info("end task", "upid", t.upid, "status", t.result())
	if !t.cli && !t.sim.settleLate {
		t.sim.mu.Lock()
		t.sim.tasks.settle() // the daemon hears that its child ended
		t.sim.mu.Unlock()
	}
}

func (t *task) finish(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.killed:
		return
	case t.forced == unexpectedStatus:
	case err != nil:
		t.out.WriteString("TASK ERROR: " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n")
	case t.warnings > 0:
		fmt.Fprintf(&t.out, "TASK WARNINGS: %d\n", t.warnings)
	default:
		t.out.WriteString("TASK OK\n")
	}
	t.status = statusFromLog(t.out.String())
	t.ended = t.sim.now().Unix()
}

const unexpectedStatus = "unexpected status"

// statusFromLog reads the status from the last line of the log, as PVE does.
func statusFromLog(log string) string {
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	last, ok := strings.CutPrefix(lines[len(lines)-1], "TASK ")
	switch {
	case !ok:
		return unexpectedStatus
	case last == "OK" || strings.HasPrefix(last, "WARNINGS: "):
		return last
	}
	if msg, ok := strings.CutPrefix(last, "ERROR: "); ok {
		return msg
	}
	return unexpectedStatus
}

// say appends to the task's log as it is; lines end themselves.
func (t *task) say(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.killed {
		t.out.WriteString(s)
	}
}

// warn appends a counted warning.
func (t *task) warn(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.WriteString("WARN: " + s + "\n")
	t.warnings++
}

func (t *task) log() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.String()
}

// result returns the status, "" while the task runs.
func (t *task) result() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

func (t *task) endedAt() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// wait sleeps as part of the work; false means the task was aborted.
func (t *task) wait(d time.Duration) bool { return sleep(t.ctx, d) }

// killAfter is how long PVE waits for an interrupted task to end.
const killAfter = 5 * time.Second

// abort interrupts the task and kills it when it does not end in time; it
// returns when the task is gone.
func (t *task) abort() {
	t.interrupt()
	timer := time.NewTimer(killAfter)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		t.kill()
	}
}

// kill ends the task at once and without its clean-up.
func (t *task) kill() {
	t.mu.Lock()
	if t.ended != 0 {
		t.mu.Unlock()
		return
	}
	t.killed, t.ended = true, t.sim.now().Unix()
	t.status = statusFromLog(t.out.String())
	close(t.dead)
	t.mu.Unlock()
	t.interrupt()
}

// wasKilled reports whether clean-up is not to happen.
func (t *task) wasKilled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed
}

func (tt *taskTable) add(t *task) {
	if tt.byUPID == nil {
		tt.byUPID = map[string]*task{}
	}
	tt.byUPID[t.upid] = t
	tt.active = slices.Insert(tt.active, 0, t)
	tt.trim()
}

// settle moves what has ended to the archive: PVE does it whenever some
// process looks at its list of active tasks.
func (tt *taskTable) settle() {
	var ended []*task
	for _, t := range tt.active {
		if t.endedAt() != 0 && !t.archived {
			ended = append(ended, t)
		}
	}
	slices.SortStableFunc(ended, func(a, b *task) int { return int(a.endedAt() - b.endedAt()) })
	for _, t := range ended {
		t.archived = true
		tt.archive = slices.Insert(tt.archive, 0, t)
	}
	tt.trim()
}

// trim forgets the oldest of the archive, and of the active list all but the
// running and the last 25.
func (tt *taskTable) trim() {
	for len(tt.archive) > keptTasks {
		last := tt.archive[len(tt.archive)-1]
		delete(tt.byUPID, last.upid)
		tt.archive = tt.archive[:len(tt.archive)-1]
	}
	kept, n := tt.active[:0], 0
	for _, t := range tt.active {
		n += b2i(!t.archived)
	}
	for _, t := range tt.active {
		if t.archived {
			if n++; n > 25 {
				continue
			}
		}
		kept = append(kept, t)
	}
	tt.active = kept
}

// row is a task in a list. split separates the token from the user, as PVE
// does for archived tasks only.
func (t *task) row(split bool) map[string]any {
	m := map[string]any{
		"upid": t.upid, "node": t.node, "pid": t.pid, "pstart": t.pstart, "starttime": t.start,
		"type": t.typ, "id": t.id, "user": t.user,
	}
	if user, tok := acl.Split(t.user); split && tok != "" {
		m["user"], m["tokenid"] = user, tok
	}
	return m
}
