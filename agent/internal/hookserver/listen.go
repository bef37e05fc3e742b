// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// ErrInUse: somebody else serves the socket.
var ErrInUse = errors.New("somebody else serves the socket")

// Activated returns the sockets that systemd passed to this process, by the
// name the socket unit gives them (FileDescriptorName=). It takes them out of
// the environment: a second call finds none. None is no error.
func Activated() (map[string]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	out := map[string]net.Listener{}
	for name, list := range named {
		for _, ln := range list {
			if _, twice := out[name]; twice {
				err = errors.Join(err, ln.Close(), fmt.Errorf("sockets from systemd: two are named %q", name))
				continue
			}
			out[name] = ln
		}
	}
	if err == nil {
		return out, nil
	}
	for _, ln := range out {
		err = errors.Join(err, ln.Close())
	}
	return nil, err
}

// Listen makes the socket itself, where there is no socket unit. The socket
// has its mode before it has its name. A stale socket is replaced; one that is
// served is [ErrInUse]. Closing the listener removes the socket.
//
// A lock on PATH.lock is held while it is served, so that of two agents that
// start at once one gets it and the other sees [ErrInUse]; the lock's file
// stays.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	ln, err := listenLocked(path, mode)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), lock.Close())
	}
	return &listener{Listener: ln, path: path, lock: lock}, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// listenLocked binds in a directory of its own, where nobody else can connect
// yet, and renames. Rename replaces a stale socket in one step.
func listenLocked(path string, mode fs.FileMode) (_ net.Listener, err error) {
	if err := free(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".new")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	hidden := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it has another name by then
	err = os.Chmod(hidden, mode)
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// free reports whether nothing is at path or a socket that nobody serves. Those
// who keep to the lock cannot change that meanwhile; systemd does not take the
// lock, but does not serve a socket that another unit's agent serves either.
func free(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something that is not a socket: %v", st.Mode().Type())
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(ErrInUse, c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w, or so it seems: %w", ErrInUse, err)
	}
	return nil
}

// listener is a socket with its name and its lock.
type listener struct {
	net.Listener
	path string
	lock *os.File
}

// Close removes the socket and then gives up the lock: whoever gets the lock
// next finds no socket of ours.
func (l *listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err // closed before; the name may be another's by now
	}
	if rerr := os.Remove(l.path); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return errors.Join(err, l.lock.Close())
}
