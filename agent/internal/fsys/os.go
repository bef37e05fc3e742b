// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Datasync is fdatasync(2). A failed one is not repeated: the kernel reports a lost page once and forgets it.
func (f osFile) Datasync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// OpenFile is os.OpenFile; it follows no symbolic link in the last element of a file it creates.
func (OS) OpenFile(_, name string, flag int, perm fs.FileMode) (File, error) {
	if flag&os.O_CREATE != 0 {
		flag |= syscall.O_NOFOLLOW
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// ReadDir is os.ReadDir.
func (OS) ReadDir(_, dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Rename is os.Rename.
func (OS) Rename(_, from, to string) error { return os.Rename(from, to) }

// Remove is os.Remove.
func (OS) Remove(_, name string) error { return os.Remove(name) }

// MkdirAll makes what is missing of dir and syncs the parent of each directory it made.
func (s OS) MkdirAll(op, dir string, perm fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := s.MkdirAll(op, parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.SyncDir(op, parent)
}

// SyncDir is fsync(2) of the directory.
func (OS) SyncDir(_, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Lock is flock(2). On a file system that is mounted read-only an existing lock file is locked without noting the
// holder.
func (OS) Lock(_, name, holder string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, syscall.EROFS) {
		f, err = os.Open(name)
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = &LockedError{Name: name, Holder: readHolder(f)}
		}
		return nil, errors.Join(err, f.Close())
	}
	noteHolder(f, holder)
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// noteHolder writes who holds the lock. The note only helps a person, so a disk without room for it is no error.
func noteHolder(f *os.File, holder string) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(holder+"\n"), 0)
	}
}

func readHolder(f *os.File) string {
	buf := make([]byte, 256)
	n, _ := f.ReadAt(buf, 0)
	return strings.TrimSpace(string(buf[:n]))
}
