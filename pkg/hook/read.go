// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// Entry is one thing found in the spool.
type Entry struct {
	// Path is the file, below the spool directory.
	Path string
	// Event is the event, if Err is nil.
	Event Event
	// Err says why the file is not an event: an [ErrInvalid], [ErrUnfinished]
	// or what the system said.
	Err error
}

// unfinishedAge is how old a half-written event must be before nobody can be
// about to finish it. A helper lives for its budget.
const unfinishedAge = time.Minute

// ReadSpool lists what is in the spool, the events of one boot in order of
// time (tmpfs holds no other boot's), and changes nothing. Fresh half-written
// events, the count of lost ones and what was moved aside are left out.
func ReadSpool(dir string) ([]Entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fail("hook: read the spool", err)
	}
	var entries []Entry
	for _, n := range names {
		if n.Name() == lostFile || n.Name() == badDir || n.Name() == gatedDir || fresh(n) {
			continue
		}
		e := Entry{Path: dir + "/" + n.Name()}
		e.Event, e.Err = readEvent(dir, n.Name())
		if !errors.Is(e.Err, os.ErrNotExist) {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func fresh(n os.DirEntry) bool {
	if n.Name()[0] != '.' {
		return false
	}
	info, err := n.Info()
	return err != nil || time.Since(info.ModTime()) < unfinishedAge
}

func readEvent(dir, name string) (Event, error) {
	if name[0] == '.' {
		return Event{}, ErrUnfinished
	}
	data, err := readSmall(dir + "/" + name)
	if err != nil {
		return Event{}, err
	}
	e, err := Parse(data)
	if err == nil && e.ID+suffix != name {
		err = invalid("id", "want the name of its file")
	}
	if err != nil {
		return Event{}, err
	}
	return e, nil
}

// readSmall reads a regular file of at most one byte more than an event has,
// without waiting for a writer of a pipe and without following a link.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fail(path, errNotRegular)
	}
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}

// maxBad bounds what SetAside keeps: enough to see what went wrong.
const maxBad = 64

// SetAside moves a spool file that is not an event into the directory bad
// beside the events, where the operator can look at it. When that directory
// holds enough to look at, the file is removed instead.
func SetAside(dir string, e Entry) error {
	bad := dir + "/" + badDir
	if err := os.Mkdir(bad, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return fail("hook: set aside", err)
	}
	full, err := holds(bad, maxBad)
	if err == nil && full {
		err = os.RemoveAll(e.Path)
	} else if err == nil {
		err = os.Rename(e.Path, bad+e.Path[len(dir):])
	}
	if err != nil {
		return fail("hook: set aside", err)
	}
	return nil
}

// holds reports whether the directory has n entries or more.
func holds(dir string, n int) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return len(names) >= n, err
}
