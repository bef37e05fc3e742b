// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The bounds of a snapshot.
const (
	maxFiles  = 4096
	maxFile   = 1 << 20 // bytes; what /etc/pve takes for one file
	maxTotal  = 16 << 20
	maxGuests = 10_000
	maxName   = 255 // bytes of a file name
)

// Options say for whom a snapshot is parsed.
type Options struct {
	// Provider is the name of the provider the snapshot comes from.
	Provider string
	// Host is this node's name. A file bound to another host is skipped, and
	// with an empty Host every file that is bound to one.
	Host string
	// Forms are the normal forms; nil means the built-in table.
	Forms *guest.Table
	// Now is compared with not_after. With the zero time nothing is expired:
	// for a snapshot read back from the journal, whose set the caller checks
	// for itself.
	Now time.Time
}

// Parse reads a provider's snapshot. It is taken whole or not at all: the error
// is a Problems with everything that is wrong with it.
//
// A snapshot without files is a set without guests: it manages nothing.
func Parse(opt Options, snap plugin.Snapshot) (*Set, error) {
	if opt.Forms == nil {
		opt.Forms = guest.Standard()
	}
	p := &parser{opt: opt, head: map[string]stated{}, set: &Set{
		Provider: opt.Provider,
		Guests:   map[guest.VMID]*Guest{},
	}}
	files := slices.Clone(snap.Files)
	slices.SortStableFunc(files, func(a, b plugin.File) int { return cmp.Compare(a.Name, b.Name) })
	if p.bounded(snap.Err, files) {
		for _, f := range files {
			p.file(f)
		}
	}
	if len(p.problems) > 0 {
		return nil, p.problems.sorted()
	}
	p.set.Revision = revisionOf(files)
	return p.set, nil
}

// parser reads one snapshot.
type parser struct {
	opt      Options
	set      *Set
	head     map[string]stated
	problems Problems
	over     bool // the bound on guests was reported
}

// stated is a key of the head and where it was stated first.
type stated struct {
	value string
	file  string
	line  int
}

// add reports a problem of the snapshot as a whole.
func (p *parser) add(format string, args ...any) {
	p.problems = append(p.problems, Problem{Wrong: fmt.Sprintf(format, args...)})
}

// bounded checks the snapshot's outside. Only then are its files read.
func (p *parser) bounded(sourceErr string, files []plugin.File) bool {
	if sourceErr != "" {
		p.add("the source could not be read: %s", oneLine(sourceErr))
	}
	if len(files) > maxFiles {
		p.add("%d files; at most %d are allowed", len(files), maxFiles)
		return false
	}
	total := 0
	for i, f := range files {
		total += len(f.Data)
		switch {
		case badName(f.Name):
			p.add("file name %s is not allowed; want at most %d printable bytes", quote(f.Name), maxName)
		case i > 0 && f.Name == files[i-1].Name:
			p.add("file %s is in the snapshot twice", f.Name)
		case len(f.Data) > maxFile:
			p.problems = append(p.problems, Problem{
				File:    f.Name,
				Wrong:   fmt.Sprintf("the file has %d bytes", len(f.Data)),
				Allowed: fmt.Sprintf("at most %d are allowed", maxFile),
				Do:      "split it",
			})
		}
	}
	if total > maxTotal {
		p.add("%d bytes in all; at most %d are allowed", total, maxTotal)
	}
	return len(p.problems) == 0
}

// badName refuses what would make messages unreadable.
func badName(name string) bool {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	return name == "" || len(name) > maxName || strings.ContainsFunc(name, bad)
}

// file reads one file into the set.
func (p *parser) file(f plugin.File) {
	report := func(pr Problem) {
		pr.File, pr.Wrong = f.Name, oneLine(pr.Wrong)
		p.problems = append(p.problems, pr)
	}
	root, bad := parseFile(f.Name, f.Data)
	if bad != nil {
		report(Problem{Line: bad.line, Wrong: bad.wrong, Do: bad.do})
		return
	}
	top := field{node: root, report: report}
	members, ok := top.members()
	if !ok || !p.forUs(f.Name, members) {
		return
	}
	for _, m := range members {
		p.top(f.Name, m)
	}
}

// forUs reports whether a file is meant for this host. One whose host cannot be
// read is an error, and its other errors are reported too.
func (p *parser) forUs(file string, members []field) bool {
	i := slices.IndexFunc(members, func(m field) bool { return m.name == "host" })
	if i < 0 {
		return true
	}
	host, ok := members[i].textLine()
	if ok && !strings.EqualFold(host, p.opt.Host) {
		p.set.Skipped = append(p.set.Skipped, file)
		return false
	}
	if ok {
		p.set.Host = p.opt.Host
	}
	return true
}

// topKeys are the keys of a file.
var topKeys = []string{"issuer", "host", "serial", "not_after", "guest"}

// top reads one key of a file.
func (p *parser) top(file string, m field) {
	switch m.name {
	case "host": // read by forUs
	case "issuer":
		if s, ok := m.textLine(); ok {
			p.set.Issuer = s
			p.stateOnce(file, m, quote(s))
		}
	case "serial":
		if n, ok := m.whole(1, math.MaxInt64); ok {
			p.set.Serial = uint64(n)
			p.stateOnce(file, m, fmt.Sprint(n))
		}
	case "not_after":
		p.notAfter(m)
	case "guest":
		p.guests(file, m)
	default:
		m.unknown(topKeys)
	}
}

// stateOnce makes sure that all files of a set that state a key agree: a set
// has one issuer and one serial.
func (p *parser) stateOnce(file string, m field, value string) {
	first, ok := p.head[m.name]
	if !ok {
		p.head[m.name] = stated{value, file, m.line}
		return
	}
	if first.value != value {
		m.fail(
			fmt.Sprintf("%s here, but %s in %s:%d", value, first.value, first.file, first.line),
			"all files of a set that state it must state the same",
			"state it in one file only",
		)
	}
}

// notAfter keeps the earliest end of all files.
func (p *parser) notAfter(m field) {
	t, ok := m.moment()
	if !ok {
		return
	}
	if !p.opt.Now.IsZero() && !p.opt.Now.Before(t) {
		m.fail("expired on "+t.Format(time.RFC3339), "", "issue the file anew")
		return
	}
	if p.set.NotAfter.IsZero() || t.Before(p.set.NotAfter) {
		p.set.NotAfter = t
	}
}

// guests reads the guest table of a file.
func (p *parser) guests(file string, m field) {
	members, ok := m.members()
	if !ok {
		return
	}
	for _, g := range members {
		id, err := guest.ParseVMID(g.name)
		if err != nil {
			g.fail(fmt.Sprintf("%s is not a VMID", quote(g.name)),
				fmt.Sprintf("want a number from %d to %d", guest.MinVMID, guest.MaxVMID), "write [guest.101]")
			continue
		}
		p.guest(file, id, g)
	}
}

// guest reads one guest of a file.
func (p *parser) guest(file string, id guest.VMID, f field) {
	f.guest, f.key = id, ""
	if first, ok := p.set.Guests[id]; ok {
		f.fail(fmt.Sprintf("is also in %s:%d", first.File, first.Line),
			"a guest is described in one file only", "merge the two")
		return
	}
	if len(p.set.Guests) >= maxGuests {
		if !p.over {
			p.add("more than %d guests", maxGuests)
		}
		p.over = true
		return
	}
	r := newGuestReader(p.opt, file, id, f)
	p.set.Guests[id] = r.read()
}

// revisionOf is a hash over the names and bytes of all files.
func revisionOf(files []plugin.File) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%d %s\n%d\n", len(f.Name), f.Name, len(f.Data))
		h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}
