// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// mark is what every process that comes of a plugin has in its environment,
// unless it took it out on purpose: the private directory of that plugin.
func mark(dir string) []byte { return []byte("PLUGIN_UNIX_SOCKET_DIR=" + dir + "\x00") }

// sweepTime bounds a sweep: a process that sleeps in the kernel cannot be
// ended.
const sweepTime = 5 * time.Second

// sweep ends every process that carries the mark, wherever it has gone: into a
// session of its own, or to another parent. All are stopped before any is
// killed, so that a family which forks faster than it is killed comes to rest.
// What hides its environment on purpose is found by the control group of a
// unit only.
func sweep(dir string) error {
	end := time.Now().Add(sweepTime)
	for {
		left := marked(mark(dir))
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			closeAll(left)
			return fmt.Errorf("%d processes of the plugin were killed and do not end", len(left))
		}
		stopAll(mark(dir), left, end)
		pause := time.NewTimer(5 * time.Millisecond) // the kernel takes them down now
		<-pause.C
	}
}

// stopAll stops what is left, and what it has forked meanwhile, until there is
// nothing new; then it kills all of it.
func stopAll(m []byte, left map[int]int, end time.Time) {
	defer func() { closeAll(left) }()
	signal(left, unix.SIGSTOP)
	for time.Now().Before(end) {
		fresh := marked(m)
		for pid, fd := range fresh {
			if _, known := left[pid]; known {
				delete(fresh, pid)
				_ = unix.Close(fd)
			}
		}
		if len(fresh) == 0 {
			break
		}
		signal(fresh, unix.SIGSTOP)
		for pid, fd := range fresh {
			left[pid] = fd
		}
	}
	signal(left, unix.SIGKILL)
}

func signal(all map[int]int, sig unix.Signal) {
	for _, fd := range all {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // it may have ended
	}
}

func closeAll(all map[int]int) {
	for _, fd := range all {
		_ = unix.Close(fd)
	}
}

// marked are the processes with this mark, each with a descriptor that stands
// for it and for no other process that gets its number later.
func marked(m []byte) map[int]int {
	found := map[int]int{}
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, e := range proc {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !bytes.Contains(append(env, 0), m) {
			continue // somebody else's, or gone
		}
		if fd, err := sure(pid, m); err == nil {
			found[pid] = fd
		}
	}
	return found
}

var errOther = errors.New("another process")

// sure opens a process and looks again: between the first look and this one
// its number may have gone to another.
func sure(pid int, m []byte) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || !bytes.Contains(append(env, 0), m) {
		return 0, errors.Join(errOther, err, unix.Close(fd))
	}
	return fd, nil
}
