// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// CheckReport is what Check found.
type CheckReport struct {
	// ID and Host are the journal's, Head its last whole entry.
	ID   string `json:"id"`
	Host string `json:"host"`
	Head Head   `json:"head"`
	// Entries that are kept were read and verified, from entry First on.
	Entries uint64        `json:"entries"`
	First   uint64        `json:"first"`
	Files   []CheckedFile `json:"files"`
	// Problems are what should not be; Notes are harmless: a torn tail, leftovers.
	Problems []Problem `json:"problems"`
	Notes    []string  `json:"notes"`
}

// CheckedFile is one file of the journal; a snapshot has First 0.
type CheckedFile struct {
	Name  string `json:"name"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Bytes int    `json:"bytes"`
}

// Problem is one thing that is wrong, and where.
type Problem struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

func (p Problem) String() string {
	if p.Offset > 0 {
		return fmt.Sprintf("%s at byte %d: %s", p.File, p.Offset, p.Text)
	}
	return p.File + ": " + p.Text
}

// OK tells that there are no problems.
func (r CheckReport) OK() bool { return len(r.Problems) == 0 }

// Check reads everything that is kept and verifies frames, batches, the chain from the first to the last entry, and that
// snapshots, stubs and archive fit it. It changes nothing, needs no lock and may run beside the agent. The error is for
// what cannot be read at all.
//
// Beside a writer the listing may be out of date before it is complete, or miss a name that comes meanwhile. So what is
// wrong counts when it is seen in two looks, or in one that nothing changed during.
func Check(fsystem fsys.FS, dir string) (CheckReport, error) {
	seen := map[Problem]bool{}
	for attempt := 1; ; attempt++ {
		c := checker{fs: fsystem, dir: dir, stubs: map[uint64]stubHeader{}}
		files, err := list(fsystem, opRead, dir, true)
		if err == nil {
			err = c.run(files)
		}
		if err != nil {
			return c.report, fmt.Errorf("check journal %s: %w", dir, err)
		}
		if c.report.OK() || !changed(fsystem, dir, files) {
			return c.report, nil
		}
		if c.again(seen) || attempt == attempts {
			return c.report, nil
		}
	}
}

// again keeps the problems that were seen before and reports whether there are any.
func (c *checker) again(seen map[Problem]bool) bool {
	var twice []Problem
	for _, p := range c.report.Problems {
		key := p
		key.File = filepath.Base(p.File) // it may be moved to the archive meanwhile
		if seen[key] {
			twice = append(twice, p)
		}
		seen[key] = true
	}
	c.report.Problems = twice
	if len(twice) == 0 {
		c.note("the journal is written so fast that no look saw all of it at one time")
	}
	return len(twice) > 0
}

type checker struct {
	fs     fsys.FS
	dir    string
	report CheckReport
	stubs  map[uint64]stubHeader
	// links are the verified or noted ranges in order; ends are the chain's hashes at their ends.
	links []chainLink
}

// chainLink is a range of entries between two points of the chain.
type chainLink struct {
	file        string
	before, end cursor
}

func (c *checker) run(files listing) error {
	for _, f := range files.stubs {
		if err := c.stub(f); err != nil {
			return err
		}
	}
	segments := files.allSegments()
	for i, f := range segments {
		if err := c.segment(f, i == len(segments)-1); err != nil {
			return err
		}
	}
	c.chain()
	for _, f := range files.snapshots {
		if err := c.snapshot(f); err != nil {
			return err
		}
	}
	for _, name := range files.temps {
		c.note("%s is a replacement that was not finished", name)
	}
	for _, name := range files.unknown {
		c.note("%s is not the journal's", name)
	}
	return nil
}

func (c *checker) problem(file string, offset int64, format string, args ...any) {
	c.report.Problems = append(c.report.Problems, Problem{file, offset, fmt.Sprintf(format, args...)})
}

func (c *checker) note(format string, args ...any) {
	c.report.Notes = append(c.report.Notes, fmt.Sprintf(format, args...))
}

// belongs notes the first file's journal and complains of files of another.
func (c *checker) belongs(file, id, host string) {
	if c.report.ID == "" {
		c.report.ID, c.report.Host = id, host
	}
	if id != c.report.ID || host != c.report.Host {
		c.problem(file, 0, "it is of journal %s of host %q, others are of %s of %q", id, host, c.report.ID, c.report.Host)
	}
}

func (c *checker) stub(f listed) error {
	data, err := fsys.ReadFile(c.fs, opRead, filepath.Join(c.dir, f.name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	h, err := takeStub(data)
	if err == nil && h.First != f.seq {
		err = errors.New("the name does not fit the header")
	}
	if err != nil {
		c.problem(f.name, 0, "%v", err)
		return nil
	}
	c.belongs(f.name, h.ID, h.Host)
	c.stubs[h.First] = h
	c.file(f.name, h.First, h.Last, len(data))
	return nil
}

func (c *checker) file(name string, first, last uint64, bytes int) {
	c.report.Files = append(c.report.Files, CheckedFile{name, first, last, bytes})
}

func (c *checker) segment(f listed, isLast bool) error {
	data, err := readSegment(c.fs, c.dir, f.name)
	if errors.Is(err, ErrGone) {
		return c.gone(f)
	}
	if err != nil {
		return err
	}
	h, rest, err := takeSegmentHeader(data)
	if err == nil && h.First != f.seq {
		err = errors.New("the name does not fit the header")
	}
	if err != nil {
		c.problem(f.name, 0, "%v", err)
		return nil
	}
	c.belongs(f.name, h.ID, h.Host)
	s, _ := scan(data, int64(len(data)-len(rest)), h.before(), func([]item) error { return nil })
	c.ending(f.name, data, s, isLast)
	c.compare(f.name, data, h, s)
	c.report.Entries += s.at.seq + 1 - h.First
	c.links = append(c.links, chainLink{f.name, h.before(), s.at})
	c.file(f.name, h.First, s.at.seq, len(data))
	return nil
}

// gone takes the stub of a segment that was archived and deleted since it was listed: the stub came first.
func (c *checker) gone(f listed) error {
	if _, known := c.stubs[f.seq]; known {
		return nil
	}
	return c.stub(listed{stubName(f.seq), f.seq})
}

// ending judges what is after a segment's last whole batch.
func (c *checker) ending(name string, data []byte, s scanned, isLast bool) {
	if s.bad == nil {
		return
	}
	if isLast {
		err := s.torn(name, data)
		if err == nil {
			c.note("%s at byte %d: the last batch is torn, or just being written (%s)", name, s.bad.offset, s.bad.reason)
			return
		}
		var damage *DamageError
		errors.As(err, &damage)
		s.bad.reason = damage.Reason
	}
	c.problem(name, s.bad.offset, "%s", s.bad.reason)
}

// compare holds a segment against its stub, if it was archived.
func (c *checker) compare(name string, data []byte, h segmentHeader, s scanned) {
	stub, ok := c.stubs[h.First]
	if ok && (stub.SHA256 != sum(data) || stub.Last != s.at.seq || stub.Hash != s.at.hash || stub.Prev != h.Prev) {
		c.problem(name, 0, "it is not what %s says was archived", stubName(h.First))
	}
}

// chain verifies that the ranges follow one another from the first entry on.
func (c *checker) chain() {
	for _, stub := range c.stubs {
		kept := slices.ContainsFunc(c.links, func(l chainLink) bool { return l.before.seq+1 == stub.First })
		if !kept {
			c.links = append(c.links, chainLink{
				stubName(stub.First),
				cursor{stub.First - 1, stub.Batch, stub.Prev},
				cursor{stub.Last, stub.LastBatch, stub.Hash},
			})
		}
	}
	slices.SortFunc(c.links, func(a, b chainLink) int { return int(a.before.seq) - int(b.before.seq) })
	if len(c.links) == 0 {
		return
	}
	first := c.links[0]
	if first.before.seq != 0 {
		c.problem(first.file, 0, "the entries before %d are missing, and no stub says that they were archived", first.before.seq+1)
	}
	for i, l := range c.links[1:] {
		if before := c.links[i]; l.before != before.end {
			c.problem(l.file, 0, "it begins after entry %d of batch %d with hash %.12s..., %s ends with entry %d of batch %d with %.12s...",
				l.before.seq, l.before.batch, l.before.hash, before.file, before.end.seq, before.end.batch, before.end.hash)
		}
	}
	c.report.Head = c.links[len(c.links)-1].end.head()
	c.report.First = c.report.Head.Seq + 1 - min(c.report.Entries, c.report.Head.Seq)
}

// snapshot verifies that a snapshot stands at a point of the chain.
func (c *checker) snapshot(f listed) error {
	data, err := fsys.ReadFile(c.fs, opRead, filepath.Join(c.dir, f.name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	h, state, err := takeSnapshot(data)
	if err == nil && h.Seq != f.seq {
		err = errors.New("the name does not fit the header")
	}
	if err != nil {
		c.problem(f.name, 0, "%v", err)
		return nil
	}
	c.belongs(f.name, h.ID, h.Host)
	if !slices.ContainsFunc(c.links, func(l chainLink) bool { return l.end == h.cursor() }) {
		c.problem(f.name, 0, "it names entry %d with hash %.12s..., which is not in the chain", h.Seq, h.Hash)
	}
	c.file(f.name, 0, h.Seq, len(state))
	return nil
}
