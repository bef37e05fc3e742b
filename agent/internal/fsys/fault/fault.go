// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package fault is a file system in memory for tests of what must survive a crash. It fails, tears or crashes at a
// chosen call, and after a crash keeps any chosen subset of what was not synced, as a disk may.
//
// The model: a file's content is pages and a size, each of which reaches the disk on its own unless synced; so does each
// change of a name. A page that was written several times since its last sync may be found in any of these states, and a
// rename may be found without the creation before it. A failed sync reports its error once: the pages are clean
// afterwards, show the new content as long as they are cached, and no later sync writes them.
//
// It is stricter than common Linux file systems, which keep more order, so what survives here survives there.
package fault

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// PageSize is the unit that reaches the disk whole or not at all. It is small so that small tests have many.
const PageSize = 256

// ErrCrashed is what every call returns from a crash until PowerCut or Kill, and calls on files opened before it for
// good.
var ErrCrashed = errors.New("crashed")

// Call is one call that was made.
type Call struct {
	// N counts from 1 since New or Reset.
	N int
	// Op is the operation's name and the call, for example "APPEND:DATASYNC".
	Op string
	// Name is the file's, Bytes the length of a write.
	Name  string
	Bytes int
}

// Action is what happens to a call. The zero Action lets it pass.
type Action struct {
	// Err is what the call returns instead of doing anything, but for what Part says.
	Err error
	// Part, with Err: a write has written that many bytes; a sync has put on disk the units for which Kept returns true;
	// any other call has taken effect if Part is above 0.
	Part int
	// Kept chooses what a failed sync has put on disk, by the unit's number; nil is nothing.
	Kept func(unit int) bool
	// Crash stops the file system: before the call takes effect (a write with Part: after that many bytes), or after it.
	Crash Moment
	// Skip makes the call succeed without doing anything, as a program that forgot it, or a disk that lies.
	Skip bool
}

// Moment is when a crash happens.
type Moment int

// The moments of a crash.
const (
	Never Moment = iota
	Before
	After
)

// FS is a file system in memory. Its methods may be called from any goroutine.
type FS struct {
	// mu guards everything.
	mu sync.Mutex
	// rule decides on each call; nil lets all pass.
	rule  func(Call) Action
	calls []Call
	// dead: crashed. generation tells files opened before a crash.
	dead       bool
	generation int
	readOnly   bool
	quota      int64
	nodes      []*node
	// names is what is seen, onDisk what a crash leaves; changes are between the two, in order.
	names, onDisk map[string]*node
	changes       []change
	dirs          map[string]bool
	locks         map[string]string
}

var _ fsys.FS = (*FS)(nil)

// New returns an empty file system without limits.
func New() *FS {
	return &FS{
		quota: -1, names: map[string]*node{}, onDisk: map[string]*node{},
		dirs: map[string]bool{"/": true, ".": true}, locks: map[string]string{},
	}
}

// Inject sets the rule that decides on each call from now on; nil lets all pass.
func (f *FS) Inject(rule func(Call) Action) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

// Reset forgets the calls, so that the next is number 1.
func (f *FS) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

// Calls are those made since New or Reset.
func (f *FS) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// SetQuota bounds the bytes of all files together; a write past it is cut short with ENOSPC. Negative is no bound.
func (f *FS) SetQuota(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quota = bytes
}

// Used is the number of bytes in all files that have a name.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used()
}

// SetReadOnly makes every change fail with EROFS, also through files that are open.
func (f *FS) SetReadOnly(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readOnly = on
}

// call counts a call and applies the rule and what is true of every call. If do is false the caller returns err, which
// may be nil, after letting act's partial effect happen. It is called, and returns, with mu held.
func (f *FS) call(op, verb, name string, bytes int) (act Action, do bool, err error) {
	if f.dead {
		return act, false, ErrCrashed
	}
	c := Call{N: len(f.calls) + 1, Op: op + ":" + verb, Name: name, Bytes: bytes}
	f.calls = append(f.calls, c)
	if f.rule != nil {
		act = f.rule(c)
	}
	if act.Crash == Before {
		f.dead = true
		return Action{Part: act.Part}, false, ErrCrashed
	}
	return act, act.Err == nil && !act.Skip, act.Err
}

// after ends a call that took effect.
func (f *FS) after(act Action) error {
	if act.Crash == After {
		f.dead = true
		return ErrCrashed
	}
	return nil
}

// change makes a simple change: all of it or nothing.
func (f *FS) change(op, verb, name string, do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, verb, name, 0)
	if !ok {
		if act.Part > 0 && act.Err != nil {
			_ = do()
		}
		return err
	}
	if f.readOnly {
		return pathError(verb, name, syscall.EROFS)
	}
	if err := do(); err != nil {
		return err
	}
	return f.after(act)
}

func pathError(verb, name string, err error) error {
	return &fs.PathError{Op: strings.ToLower(verb), Path: name, Err: err}
}

// OpenFile opens or creates a file. Reading, O_EXCL, O_TRUNC and O_APPEND work as in package os.
func (f *FS) OpenFile(op, name string, flag int, perm fs.FileMode) (fsys.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, "OPEN", name, 0)
	if !ok {
		return nil, err
	}
	n := f.names[name] // opening and locking cannot be skipped
	writes := flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) != 0
	switch {
	case f.readOnly && writes:
		return nil, pathError("OPEN", name, syscall.EROFS)
	case n == nil && flag&os.O_CREATE == 0, !f.dirs[filepath.Dir(name)]:
		return nil, pathError("OPEN", name, fs.ErrNotExist)
	case n != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("OPEN", name, fs.ErrExist)
	case n == nil:
		n = f.create(name, perm)
	}
	if flag&os.O_TRUNC != 0 {
		n.truncate(0)
	}
	file := &file{fs: f, node: n, op: op, name: name, generation: f.generation, append: flag&os.O_APPEND != 0}
	return file, f.after(act)
}

func (f *FS) create(name string, perm fs.FileMode) *node {
	n := &node{mode: perm}
	f.nodes = append(f.nodes, n)
	f.names[name] = n
	f.changes = append(f.changes, change{to: name, node: n})
	return n
}

// ReadDir lists files and directories in a directory.
func (f *FS) ReadDir(op, dir string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, "READDIR", dir, 0)
	if !ok {
		return nil, err
	}
	if !f.dirs[dir] {
		return nil, pathError("READDIR", dir, fs.ErrNotExist)
	}
	var out []fs.DirEntry
	for name, n := range f.names {
		if filepath.Dir(name) == dir {
			out = append(out, fs.FileInfoToDirEntry(info{filepath.Base(name), int64(len(n.cache)), n.mode}))
		}
	}
	for name := range f.dirs {
		if filepath.Dir(name) == dir && name != dir {
			out = append(out, fs.FileInfoToDirEntry(info{filepath.Base(name), 0, fs.ModeDir | 0o700}))
		}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, f.after(act)
}

// Rename gives a file another name, replacing what had it.
func (f *FS) Rename(op, from, to string) error {
	return f.change(op, "RENAME", from, func() error {
		n := f.names[from]
		if n == nil || !f.dirs[filepath.Dir(to)] {
			return pathError("RENAME", from, fs.ErrNotExist)
		}
		delete(f.names, from)
		f.names[to] = n
		f.changes = append(f.changes, change{from: from, to: to, node: n})
		return nil
	})
}

// Remove deletes a name.
func (f *FS) Remove(op, name string) error {
	return f.change(op, "REMOVE", name, func() error {
		if f.names[name] == nil {
			return pathError("REMOVE", name, fs.ErrNotExist)
		}
		delete(f.names, name)
		f.changes = append(f.changes, change{from: name})
		return nil
	})
}

// MkdirAll makes directories, on disk at once as its contract wants. Where nothing is missing it changes nothing, and
// works on a read-only file system too.
func (f *FS) MkdirAll(op, dir string, _ fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, "MKDIR", dir, 0)
	if !ok && (act.Part == 0 || act.Err == nil) {
		return err
	}
	if !f.dirs[dir] && f.readOnly {
		return pathError("MKDIR", dir, syscall.EROFS)
	}
	for d := dir; !f.dirs[d]; d = filepath.Dir(d) {
		f.dirs[d] = true
	}
	if err != nil {
		return err
	}
	return f.after(act)
}

// SyncDir puts the changes of names in a directory on disk.
func (f *FS) SyncDir(op, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, "SYNCDIR", dir, 0)
	if !ok {
		return err
	}
	rest := f.changes[:0:0]
	for _, c := range f.changes {
		if c.touches(dir) {
			c.apply(f.onDisk)
		} else {
			rest = append(rest, c)
		}
	}
	f.changes = rest
	return f.after(act)
}

// Lock takes a lock that a crash or Kill releases.
func (f *FS) Lock(op, name, holder string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	act, ok, err := f.call(op, "LOCK", name, 0)
	if !ok {
		return nil, err
	}
	if held, locked := f.locks[name]; locked {
		return nil, &fsys.LockedError{Name: name, Holder: held}
	}
	if f.names[name] == nil {
		if f.readOnly {
			return nil, pathError("LOCK", name, syscall.EROFS)
		}
		f.create(name, 0o600)
	}
	f.locks[name] = holder
	return &lock{f, name, f.generation}, f.after(act)
}

type lock struct {
	fs         *FS
	name       string
	generation int
}

func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.generation == l.fs.generation {
		delete(l.fs.locks, l.name)
	}
	return nil
}

// info is a fs.FileInfo.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
