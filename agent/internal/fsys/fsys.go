// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package fsys is the one way to the disk for whatever must survive a crash.
//
// Each call carries the name of the operation it is part of ("APPEND", "COMPACT"). A file keeps the name it was opened
// under, so a sync of the file opened for "APPEND" is the point "APPEND:DATASYNC". The names document which step needs
// which call, and a test double (package fault) uses them to fail, tear or lose exactly one.
//
// Guarantees: nothing is buffered, nothing is retried but an interrupted call, and [WriteFileAtomic] leaves either the
// old file or the new one.
package fsys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FS is a file system whose calls carry the operation's name as their first argument. Errors are those of package os.
type FS interface {
	// OpenFile opens or creates a file; flag and perm are those of os.OpenFile.
	OpenFile(op, name string, flag int, perm fs.FileMode) (File, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(op, dir string) ([]fs.DirEntry, error)
	// Rename replaces to by from in one step. It is on disk after SyncDir of each directory involved.
	Rename(op, from, to string) error
	// Remove deletes a file. It is on disk after SyncDir.
	Remove(op, name string) error
	// MkdirAll makes a directory and its parents, and puts each that it made on disk.
	MkdirAll(op, dir string, perm fs.FileMode) error
	// SyncDir puts the names in a directory on disk.
	SyncDir(op, dir string) error
	// Lock takes an exclusive lock that ends with the process or with Close, and notes the holder in the file for
	// others to read. If another holds it the error is a *LockedError.
	Lock(op, name, holder string) (io.Closer, error)
}

// File is an open file of an FS.
type File interface {
	io.Reader
	io.Writer
	io.Closer
	// Sync puts content and all metadata on disk.
	Sync() error
	// Datasync puts content on disk and as much metadata as reading it back needs, its size above all.
	Datasync() error
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Chmod sets the permission bits, whatever the umask was.
	Chmod(perm fs.FileMode) error
	// Size is the file's length in bytes as readers see it, on disk or not.
	Size() (int64, error)
}

// ErrTooLarge: a file is larger than the caller is ready to read.
var ErrTooLarge = errors.New("file is too large")

// ErrLocked is what errors.Is finds in a LockedError.
var ErrLocked = errors.New("locked by another process")

// LockedError says who holds a lock, in the holder's own words.
type LockedError struct{ Name, Holder string }

func (e *LockedError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "unknown"
	}
	return fmt.Sprintf("%s is held by another process (%s)", e.Name, holder)
}

// Is lets errors.Is(err, ErrLocked) hold.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// IsFull tells an error that goes away when space is made or the file system is mounted writable again.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, op, name string, limit int64) (data []byte, err error) {
	f, err := fsys.OpenFile(op, name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, %d are read at most: %w", name, size, limit, ErrTooLarge)
	}
	data = make([]byte, size)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // it shrank since Size
	}
	return data[:n], err
}

// TempSuffix ends the name of a file that WriteFileAtomic has not finished. After a crash such a file may be removed by
// whoever owns the directory.
const TempSuffix = ".tmp"

// WriteFileAtomic puts data under name so that after a crash at any point the name holds all of the old content or all
// of the new: temporary file in the same directory, final mode, write, sync, close, rename, sync of the directory. Two
// writers of one name must be kept apart by the caller. An error leaves the old file, but for a [*RenamedError]: then
// either may be found after a crash.
func WriteFileAtomic(fsys FS, op, name string, data []byte, perm fs.FileMode) error {
	temp := name + TempSuffix
	if err := writeTemp(fsys, op, temp, data, perm); err != nil {
		return errors.Join(err, discard(fsys, op, temp))
	}
	if err := fsys.Rename(op, temp, name); err != nil {
		if !IsFull(err) {
			err = &RenamedError{Name: name, Err: err}
		}
		return errors.Join(err, discard(fsys, op, temp))
	}
	if err := fsys.SyncDir(op, filepath.Dir(name)); err != nil {
		return &RenamedError{Name: name, Err: err}
	}
	return nil
}

// RenamedError: the rename to Name, or the sync after it, failed, so it is not known which content is on disk.
type RenamedError struct {
	Name string
	Err  error
}

func (e *RenamedError) Error() string {
	return fmt.Sprintf("replacement of %s is not known to be on disk: %v", e.Name, e.Err)
}

func (e *RenamedError) Unwrap() error { return e.Err }

func writeTemp(fsys FS, op, temp string, data []byte, perm fs.FileMode) error {
	if err := discard(fsys, op, temp); err != nil {
		return err
	}
	f, err := fsys.OpenFile(op, temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	err = fill(f, data, perm)
	return errors.Join(err, f.Close())
}

func fill(f File, data []byte, perm fs.FileMode) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func discard(fsys FS, op, temp string) error {
	if err := fsys.Remove(op, temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
