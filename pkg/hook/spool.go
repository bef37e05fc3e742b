// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// The spool is a directory on tmpfs:
//
//	ID.json   an event, complete
//	.ID       an event being written; left behind only by a helper that died
//	lost      its size is the number of events lost since the agent last asked
//	bad/      what the agent could not read, moved aside
//	gated/    a file for each guest whose starts the agent wants to be asked for
//
// A count by size takes no page of a full tmpfs. The directory is made by the
// package, setgid and writable for the agent's group (2770), as the helper runs
// as root and the agent does not; with a file "lost" (0660) in it from the
// start, counting needs no inode either.
const (
	suffix   = ".json"
	lostFile = "lost"
	badDir   = "bad"
	gatedDir = "gated"
)

// maxDirSize bounds the number of spooled events: tmpfs counts 20 bytes of
// directory for each entry, so this is 8192 events or 32 MiB. Without a bound
// a guest that crashes and starts in circles while the agent is stopped would
// fill /run, and a full /run keeps every guest of the host from starting. On
// other file systems the bound is reached earlier.
const maxDirSize = 8192 * 20

// TrySpool is [Spool] for one who has another way left: what cannot be spooled
// is not counted as lost.
func TrySpool(dir string, e Event) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if err := spool(dir, e); err != nil {
		return fail("hook: spool to "+dir, err)
	}
	return nil
}

// Spool leaves e in dir for the agent to find. The directory must exist. It
// does not sync: the spool lives in memory and is not meant to survive a power
// cut. What cannot be spooled is counted as lost (see [Lost]); if even that
// fails the error is also an [ErrNotCounted].
func Spool(dir string, e Event) error {
	err := TrySpool(dir, e)
	if err == nil || errors.Is(err, ErrInvalid) {
		return err
	}
	if cerr := count(dir); cerr != nil {
		return &both{err, fail("count: "+cerr.Error(), ErrNotCounted)}
	}
	return err
}

// spool writes under a name the agent ignores and renames, so that the agent
// never sees half an event.
func spool(dir string, e Event) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if st.Size > maxDirSize {
		return ErrSpoolFull
	}
	unfinished := dir + "/." + e.ID
	if err := create(unfinished, e.AppendJSON(make([]byte, 0, 384))); err != nil {
		return err
	}
	if err := syscall.Rename(unfinished, dir+"/"+e.ID+suffix); err != nil {
		_ = syscall.Unlink(unfinished)
		return os.NewSyscallError("rename", err)
	}
	return nil
}

// create makes a new file that the directory's group can read, whatever the
// umask of the one who started the guest, and leaves nothing if it fails.
func create(path string, data []byte) error {
	const flags = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := syscall.Open(path, flags, 0o640)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	err = os.NewSyscallError("chmod", syscall.Fchmod(fd, 0o640))
	for err == nil && len(data) > 0 {
		var n int
		n, err = syscall.Write(fd, data)
		err, data = os.NewSyscallError("write", err), data[max(n, 0):]
	}
	if cerr := syscall.Close(fd); err == nil {
		err = os.NewSyscallError("close", cerr)
	}
	if err != nil {
		_ = syscall.Unlink(path)
	}
	return err
}

// Unspool removes e from the spool, where it is no longer needed. That it is not
// there is no error.
func Unspool(dir string, e Event) error {
	if err := e.Validate(); err != nil { // its id is a file's name
		return err
	}
	if err := os.Remove(dir + "/" + e.ID + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail("hook: remove from the spool", err)
	}
	return nil
}

// Lost is the number of events that could be neither posted nor spooled since
// the last [ForgetLost]. When it is not zero, a resync is due. Helpers that
// count at the same moment may make it too small, but never zero.
func Lost(dir string) (int64, error) {
	st, err := os.Lstat(dir + "/" + lostFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fail("hook: lost events", err)
	}
	if !st.Mode().IsRegular() {
		return 0, fail("hook: lost events: "+lostFile, errNotRegular)
	}
	return st.Size(), nil
}

// ForgetLost takes n off the number of lost events, once a resync for them is
// certain to happen. Those counted meanwhile stay.
func ForgetLost(dir string, n int64) error {
	if err := addLost(dir, -n, 0); err != nil {
		return fail("hook: forget lost events", err)
	}
	return nil
}

// count adds one. It runs when things already went wrong, so it tries hard:
// the file may exist (tmpfiles makes it), then no inode is needed either.
func count(dir string) error { return addLost(dir, 1, syscall.O_CREAT) }

func addLost(dir string, n int64, create int) error {
	if dir == "" {
		return syscall.ENOENT // not the root directory
	}
	const flags = syscall.O_RDWR | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	fd, err := syscall.Open(dir+"/"+lostFile, flags|create, 0o660)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer syscall.Close(fd)
	if _, err := lostSize(fd); err != nil {
		return err
	}
	if create != 0 {
		_ = syscall.Fchmod(fd, 0o660) // fails, harmlessly, for one who does not own it
	}
	if locked := lock(fd); !locked && n < 0 {
		return fail("lock", syscall.EWOULDBLOCK)
	}
	size, err := lostSize(fd)
	if err != nil {
		return err
	}
	return os.NewSyscallError("truncate", syscall.Ftruncate(fd, max(0, size+n)))
}

var errNotRegular = errors.New("not a regular file with one name")

// lostSize refuses what somebody else might have put in the file's place, such
// as another name of a file that matters.
func lostSize(fd int) (int64, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("stat", err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Nlink != 1 {
		return 0, fail(lostFile, errNotRegular)
	}
	return st.Size, nil
}

// lock waits a few milliseconds at most: a helper goes on without the lock and
// may undercount, which is better than to hold a guest.
func lock(fd int) bool {
	for range 20 {
		if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}
