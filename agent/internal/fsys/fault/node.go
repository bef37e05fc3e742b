// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"syscall"
)

// node is a file's content: what is seen and what is on disk.
type node struct {
	mode  fs.FileMode
	cache []byte
	disk  []byte
	// pages are the states of each page since its last sync, sizes those of the size.
	pages map[int][][]byte
	sizes []int
}

// write puts data at an offset, in the cache.
func (n *node) write(offset int, data []byte) {
	if end := offset + len(data); end > len(n.cache) {
		n.resize(end)
	}
	copy(n.cache[offset:], data)
	for p := offset / PageSize; p*PageSize < offset+len(data); p++ {
		n.touch(p)
	}
}

func (n *node) truncate(size int) {
	n.resize(size)
	if size%PageSize > 0 {
		n.touch(size / PageSize) // its rest is zeroed
	}
}

func (n *node) resize(size int) {
	if size == len(n.cache) {
		return
	}
	n.cache = append(n.cache[:min(size, len(n.cache)):min(size, len(n.cache))], make([]byte, max(0, size-len(n.cache)))...)
	n.sizes = append(n.sizes, size)
}

// touch notes a new state of a page.
func (n *node) touch(p int) {
	if n.pages == nil {
		n.pages = map[int][][]byte{}
	}
	n.pages[p] = append(n.pages[p], pageOf(n.cache, p))
}

// pageOf is a whole page, filled with zeros past the end.
func pageOf(data []byte, p int) []byte {
	page := make([]byte, PageSize)
	if p*PageSize < len(data) {
		copy(page, data[p*PageSize:])
	}
	return page
}

// choices are the states each unit may be found in after a crash: the one on disk and those since. Pages come first, in
// order, then the size.
func (n *node) choices() (counts []int) {
	for _, p := range n.dirty() {
		counts = append(counts, 1+len(n.pages[p]))
	}
	if len(n.sizes) > 0 {
		counts = append(counts, 1+len(n.sizes))
	}
	return counts
}

func (n *node) dirty() []int { return slices.Sorted(maps.Keys(n.pages)) }

// settle puts on disk the chosen state of each unit (0: the one that is there) and makes all of them clean. What is seen
// does not change.
func (n *node) settle(choice func(unit int) int) {
	unit, size := 0, len(n.disk)
	var pages [][]byte
	dirty := n.dirty()
	for _, p := range dirty {
		pages = append(pages, n.state(p, choice(unit)))
		unit++
	}
	if len(n.sizes) > 0 {
		if c := choice(unit); c > 0 {
			size = n.sizes[c-1]
		}
	}
	disk := make([]byte, size)
	copy(disk, n.disk)
	for i, p := range dirty {
		if p*PageSize < size {
			copy(disk[p*PageSize:], pages[i])
		}
	}
	n.disk, n.pages, n.sizes = disk, nil, nil
}

func (n *node) state(p, choice int) []byte {
	if choice == 0 {
		return pageOf(n.disk, p)
	}
	return n.pages[p][choice-1]
}

// sync puts everything that is dirty on disk. A page that a failed sync made clean is not.
func (n *node) sync() {
	counts := n.choices()
	n.settle(func(unit int) int { return counts[unit] - 1 })
}

// failSync puts the kept units on disk and forgets the rest.
func (n *node) failSync(kept func(unit int) bool) {
	counts := n.choices()
	n.settle(func(unit int) int {
		if kept != nil && kept(unit) {
			return counts[unit] - 1
		}
		return 0
	})
}

func (n *node) clone() *node {
	c := &node{mode: n.mode, cache: slices.Clone(n.cache), disk: n.disk, sizes: slices.Clone(n.sizes)}
	if n.pages != nil {
		c.pages = map[int][][]byte{}
		for p, states := range n.pages {
			c.pages[p] = slices.Clone(states)
		}
	}
	return c
}

// file is an open file.
type file struct {
	fs         *FS
	node       *node
	op, name   string
	generation int
	offset     int
	append     bool
}

func (f *file) call(verb string, bytes int) (Action, bool, error) {
	if f.generation != f.fs.generation {
		return Action{}, false, ErrCrashed
	}
	return f.fs.call(f.op, verb, f.name, bytes)
}

func (f *file) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	act, ok, err := f.call("READ", 0)
	if !ok {
		return 0, err
	}
	if f.offset >= len(f.node.cache) {
		return 0, io.EOF
	}
	n := copy(p, f.node.cache[f.offset:])
	f.offset += n
	return n, f.fs.after(act)
}

func (f *file) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	act, ok, err := f.call("WRITE", len(p))
	part := len(p)
	if !ok {
		part = min(act.Part, len(p))
		if act.Skip {
			return len(p), nil
		}
	} else if f.fs.readOnly {
		return 0, pathError("WRITE", f.name, syscall.EROFS)
	}
	if room := f.fs.room(); room >= 0 && int64(part) > room {
		part, err = int(room), pathError("WRITE", f.name, syscall.ENOSPC)
	}
	if f.append {
		f.offset = len(f.node.cache)
	}
	if part > 0 {
		f.node.write(f.offset, p[:part])
		f.offset += part
	}
	if err == nil {
		err = f.fs.after(act)
	}
	return part, err
}

func (f *file) sync(verb string) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	act, ok, err := f.call(verb, 0)
	if !ok {
		if act.Err != nil {
			f.node.failSync(act.Kept)
		}
		return err
	}
	f.node.sync()
	return f.fs.after(act)
}

func (f *file) Sync() error     { return f.sync("SYNC") }
func (f *file) Datasync() error { return f.sync("DATASYNC") }

// change makes a simple change of the file.
func (f *file) change(verb string, do func()) error {
	f.fs.mu.Lock()
	stale := f.generation != f.fs.generation
	f.fs.mu.Unlock()
	if stale {
		return ErrCrashed
	}
	return f.fs.change(f.op, verb, f.name, func() error { do(); return nil })
}

func (f *file) Truncate(size int64) error {
	return f.change("TRUNCATE", func() { f.node.truncate(int(size)) })
}

func (f *file) Chmod(perm fs.FileMode) error {
	return f.change("CHMOD", func() { f.node.mode = perm })
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	act, ok, err := f.call("SIZE", 0)
	if !ok {
		return 0, err
	}
	return int64(len(f.node.cache)), f.fs.after(act)
}

// Close ends the file. It works on a read-only file system.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	act, ok, err := f.call("CLOSE", 0)
	if !ok {
		return err
	}
	return f.fs.after(act)
}
