// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"iter"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// change is a change of names that may not be on disk yet: a creation (no from), a removal (no to), or a rename.
type change struct {
	from, to string
	node     *node
}

func (c change) touches(dir string) bool {
	return c.from != "" && filepath.Dir(c.from) == dir || c.to != "" && filepath.Dir(c.to) == dir
}

func (c change) apply(names map[string]*node) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.node
	}
}

// Stop crashes the file system now.
func (f *FS) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

// Crashed tells whether a crash happened that was not followed by PowerCut or Kill.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// Kill is the end of the process and its successor's begin: what was written is seen, synced or not; locks are free and
// files opened before are dead.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restart()
}

func (f *FS) restart() {
	f.dead = false
	f.generation++
	clear(f.locks)
	f.rule = nil
}

// DropCaches makes clean pages show what is on disk, as they may at any time. It matters after a failed sync only.
func (f *FS) DropCaches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if len(n.pages)+len(n.sizes) == 0 {
			n.cache = slices.Clone(n.disk)
		}
	}
}

// Choices says what a power cut may leave: for each page, size and name that is not synced, in how many states it may be
// found. Their product is the number of outcomes.
func (f *FS) Choices() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var counts []int
	for _, n := range f.reachable() {
		counts = append(counts, n.choices()...)
	}
	for range f.changes {
		counts = append(counts, 2)
	}
	return counts
}

// PowerCut loses what is not on disk, but for what is chosen: choice[i] below Choices()[i] is the state in which that
// unit is found, 0 the one last synced. Missing choices are 0. The file system then works again, as after a reboot.
func (f *FS) PowerCut(choice []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := func() int {
		if len(choice) == 0 {
			return 0
		}
		c := choice[0]
		choice = choice[1:]
		return c
	}
	for _, n := range f.reachable() {
		n.settle(func(int) int { return next() })
		n.cache = slices.Clone(n.disk)
	}
	for _, c := range f.changes {
		if next() > 0 {
			c.apply(f.onDisk)
		}
	}
	f.changes = nil
	f.names = maps.Clone(f.onDisk)
	f.restart()
}

// reachable are the files that have a name or may get one back.
func (f *FS) reachable() []*node {
	named := map[*node]bool{}
	for _, names := range []map[string]*node{f.names, f.onDisk} {
		for _, n := range names {
			named[n] = true
		}
	}
	for _, c := range f.changes {
		named[c.node] = true
	}
	f.nodes = slices.DeleteFunc(f.nodes, func(n *node) bool { return !named[n] })
	return f.nodes
}

// Outcomes yields choices for PowerCut: every one if there are at most limit, else limit of them, which begin with
// nothing kept, everything kept, and each unit alone kept and alone lost. A choice is valid until the next.
func Outcomes(counts []int, limit int, random *rand.Rand) iter.Seq[[]int] {
	total := 1
	for _, c := range counts {
		if total *= c; total > limit {
			return sample(counts, limit, random)
		}
	}
	return func(yield func([]int) bool) {
		choice := make([]int, len(counts))
		for range total {
			if !yield(choice) {
				return
			}
			for i := range choice {
				if choice[i]++; choice[i] < counts[i] {
					break
				}
				choice[i] = 0
			}
		}
	}
}

func sample(counts []int, limit int, random *rand.Rand) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		choice := make([]int, len(counts))
		for n := range limit {
			for i, c := range counts {
				switch alone := i == (n-2)/2; {
				case n < 2:
					choice[i] = n * (c - 1)
				case n < 2+2*len(counts):
					choice[i] = 0
					if alone == (n%2 == 0) {
						choice[i] = c - 1
					}
				default:
					choice[i] = random.IntN(c)
				}
			}
			if !yield(choice) {
				return
			}
		}
	}
}

// Clone copies the file system as it is, without its rule and calls, so that several outcomes of one crash can be tried.
// Files open in the original are not open in the copy.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := New()
	c.dead, c.generation, c.readOnly, c.quota = f.dead, f.generation, f.readOnly, f.quota
	c.dirs = maps.Clone(f.dirs)
	c.locks = maps.Clone(f.locks)
	copies := map[*node]*node{}
	for _, n := range f.nodes {
		copies[n] = n.clone()
		c.nodes = append(c.nodes, copies[n])
	}
	for name, n := range f.names {
		c.names[name] = copies[n]
	}
	for name, n := range f.onDisk {
		c.onDisk[name] = copies[n]
	}
	for _, ch := range f.changes {
		ch.node = copies[ch.node]
		c.changes = append(c.changes, ch)
	}
	return c
}

func (f *FS) used() (sum int64) {
	for _, n := range f.names {
		sum += int64(len(n.cache))
	}
	return sum
}

// room is how many bytes may still be written, negative without a quota.
func (f *FS) room() int64 {
	if f.quota < 0 {
		return -1
	}
	return max(0, f.quota-f.used())
}

// Content is what is seen of a file, nil if there is none.
func (f *FS) Content(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.names[name]; n != nil {
		return append([]byte{}, n.cache...)
	}
	return nil
}

// SetContent puts a file there, on disk, as an outside hand would.
func (f *FS) SetContent(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[name]
	if n == nil {
		n = f.create(name, 0o600)
	}
	n.cache, n.disk = slices.Clone(data), slices.Clone(data)
	n.pages, n.sizes = nil, nil
	f.onDisk[name] = n
	f.changes = slices.DeleteFunc(f.changes, func(c change) bool { return c.node == n })
}

// Names lists the files there are.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.names))
}
