// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A plugin that runs as the agent's user, without a unit of its own, is held by
// what an unprivileged process may do to its children: resource limits, and a
// look at its memory now and then. That is coarser than a control group; cpu
// cannot be limited so.

// oomScore makes the kernel take a plugin before the agent, or a guest, when
// memory is short.
const oomScore = "500"

// memoryLook is how often the memory of a limited plugin is looked at.
const memoryLook = 500 * time.Millisecond

// ceilings are the limits of a spec in numbers; 0 is none.
type ceilings struct {
	memory uint64 // bytes
	tasks  uint64
}

func (s Spec) ceilings() (c ceilings, err error) {
	if m := s.Limits["memory"]; m != "" {
		n, err := strconv.ParseUint(m[:len(m)-1], 10, 32)
		unit, ok := map[byte]int{'K': 10, 'M': 20, 'G': 30}[m[len(m)-1]]
		if err != nil || !ok {
			return c, fmt.Errorf("limits: memory: %q is not a size", m)
		}
		c.memory = n << unit
	}
	if t := s.Limits["tasks"]; t != "" {
		if c.tasks, err = strconv.ParseUint(t, 10, 32); err != nil {
			return c, fmt.Errorf("limits: tasks: %q is not a number", t)
		}
	}
	return c, nil
}

// hold puts the limits on a process that was just started; its children
// inherit them.
func (c ceilings) hold(pid int) error {
	// A kernel that refuses this has the plugin's memory no less limited.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(oomScore), 0)
	limit := func(what int, n uint64) error {
		err := unix.Prlimit(pid, what, &unix.Rlimit{Cur: n, Max: n}, nil)
		if errors.Is(err, unix.ESRCH) {
			return nil // it has ended already
		}
		return err
	}
	err := limit(unix.RLIMIT_CORE, 0) // a core would hold the secrets
	if c.memory > 0 {
		err = errors.Join(err, limit(unix.RLIMIT_DATA, c.reserved()))
	}
	if c.tasks > 0 {
		err = errors.Join(err, limit(unix.RLIMIT_NPROC, tasksOf(os.Getuid())+c.tasks))
	}
	if err != nil {
		return fmt.Errorf("limit the plugin: %w", err)
	}
	return nil
}

// reserved bounds what a process may reserve, of which it uses a part only:
// the stacks of threads and the heaps of garbage collectors are much larger
// than what is in them. It stops what grows faster than it is looked at.
func (c ceilings) reserved() uint64 { return max(2*c.memory, c.memory+1<<30) }

// tasksOf counts the tasks of a user, which is what RLIMIT_NPROC is held
// against. Processes that cannot be seen are those of others.
func tasksOf(uid int) (n uint64) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		info, err := os.Stat(p)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
			tasks, _ := os.ReadDir(p + "/task") // it may have ended
			n += uint64(len(tasks))
		}
	}
	return n
}

// errOverLimit is why a plugin was killed that took more than it may.
var errOverLimit = errors.New("over its limit")

// watchMemory kills the plugin when all that carries its mark uses more memory
// than it may. It returns when the process has ended.
func (r *running) watchMemory(limit uint64) {
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	for {
		select {
		case <-r.child.exited:
			return
		case <-tick.C:
		}
		if used := r.memory(); used > limit {
			r.child.blame(fmt.Errorf("%w: it used %d MiB of memory, and may use %d", errOverLimit, used>>20, limit>>20))
			_ = r.child.Kill(context.Background()) // the end reports what this could not do
		}
	}
}

// memory is what the process and what comes of it use, in bytes. Pages that
// several of them share are counted for each.
func (r *running) memory() (sum uint64) {
	sum = resident(r.child.pid())
	for pid, fd := range marked(mark(r.dir)) {
		_ = unix.Close(fd)
		if pid != r.child.pid() {
			sum += resident(pid)
		}
	}
	return sum
}

// resident is a process's memory without that of files, in bytes; 0 if it is
// gone.
func resident(pid int) uint64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(statm)
	if len(f) < 3 {
		return 0
	}
	all, err1 := strconv.ParseUint(string(f[1]), 10, 64)
	shared, err2 := strconv.ParseUint(string(f[2]), 10, 64)
	if err1 != nil || err2 != nil || shared > all {
		return 0
	}
	return (all - shared) * uint64(os.Getpagesize())
}
