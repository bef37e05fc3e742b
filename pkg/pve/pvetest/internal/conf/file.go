// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// MaxFile is the largest config file Parse takes, PVE's own limit for a file
// in its cluster file system.
const MaxFile = 1 << 20

// Parse reads a config file. As PVE does, it skips a line it cannot read (such
// a line is gone after the next write) and fails only on a file that is too
// large.
func Parse(kind guest.Kind, vmid guest.VMID, text string) (*Guest, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("conf: config file of %s/%d has %d bytes, at most %d", kind, vmid, len(text), MaxFile)
	}
	return parse(kind, vmid, text), nil
}

// fileParser is the state while a file is read.
type fileParser struct {
	g    *Guest
	sect *Section // where lines go; nil: skipped
	done func()   // stores sect in the guest
	desc strings.Builder
	seen bool // a line of the description was read in this section
	// informative marks [special:cloudinit], whose values are not checked.
	informative bool
	pending     bool
}

func parse(kind guest.Kind, vmid guest.VMID, text string) *Guest {
	sum := sha1.Sum([]byte(text))
	g := &Guest{Kind: kind, VMID: vmid, text: text, digest: hex.EncodeToString(sum[:])}
	p := &fileParser{g: g, sect: &g.Current}
	for line := range strings.SplitSeq(text, "\n") {
		if trimBlank(line) != "" {
			p.line(line)
		}
	}
	p.endSection()
	delete(g.Current.Values, "snapstate")
	return g
}

func (p *fileParser) line(line string) {
	if name, ok := sectionName(line); ok && p.startSection(name) {
		return
	}
	switch {
	case p.sect == nil:
	case line[0] == '#':
		p.describe(decodeText(line[1:]) + "\n")
	case p.g.Kind == guest.LXC && strings.HasPrefix(line, "lxc.") && p.rawLine(line):
	default:
		p.keyLine(line)
	}
}

func (p *fileParser) describe(s string) {
	p.seen = true
	p.desc.WriteString(s)
}

// sectionName reads "[name]"; what follows may only be blank.
func sectionName(line string) (string, bool) {
	line = strings.TrimRight(line, " \t\r\f\v")
	if len(line) < 2 || line[0] != '[' || line[len(line)-1] != ']' {
		return "", false
	}
	return line[1 : len(line)-1], true
}

// startSection switches to the section and reports whether the line was one.
func (p *fileParser) startSection(name string) bool {
	qemu := p.g.Kind == guest.QEMU
	s := &Section{}
	done := func() {}
	switch {
	case strings.EqualFold(name, pendingName(p.g.Kind)):
		s = &p.g.Pending
		*s, p.g.Delete = Section{}, nil
	case qemu && (strings.EqualFold(name, "special:cloudinit") || strings.EqualFold(name, "special:fleecing")):
		key := strings.ToLower(name[len("special:"):])
		done = func() { putSection(&p.g.Special, key, *s) }
	case isSnapshotName(name):
		done = func() { putSection(&p.g.Snapshots, name, *s) }
	case qemu && !strings.Contains(name, "]"):
		s = nil
	default:
		return false
	}
	p.endSection()
	p.sect, p.done = s, done
	p.pending = s == &p.g.Pending
	p.informative = qemu && strings.EqualFold(name, "special:cloudinit")
	return true
}

func putSection(m *map[string]Section, name string, s Section) {
	if *m == nil {
		*m = make(map[string]Section)
	}
	(*m)[name] = s
}

// pendingName is how the section of pending changes is called.
func pendingName(kind guest.Kind) string {
	if kind == guest.QEMU {
		return "PENDING"
	}
	return "pve:pending"
}

// isSnapshotName: a letter, then letters, digits, '_' or '-'.
func isSnapshotName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || !(isDigit(s[i]) || s[i] == '_' || s[i] == '-')) {
			return false
		}
	}
	return len(s) >= 2
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// endSection stores the description and the section.
func (p *fileParser) endSection() {
	d := p.desc.String()
	if p.g.Kind == guest.QEMU {
		d = trimSpaceRight(d)
	}
	if p.sect != nil && p.seen && (d != "" || p.g.Kind == guest.QEMU) {
		p.sect.Set("description", d)
	}
	if p.done != nil {
		p.done()
	}
	p.desc.Reset()
	p.seen, p.done = false, nil
}

// envKey is the raw key under which a container's "env" is kept, a line for
// each variable.
const envKey = "lxc.environment.runtime"

// rawLine takes an lxc.* line and reports whether it is one.
func (p *fileParser) rawLine(line string) bool {
	end := strings.IndexFunc(line, func(r rune) bool { return !isRawKeyRune(r) })
	if end <= len("lxc.") {
		return false
	}
	key, rest := line[:end], line[end:]
	if rest[0] != ':' {
		if rest = trimBlank(rest); rest == "" || rest[0] != '=' {
			return false
		}
	}
	value := trimBlank(rest[1:])
	switch {
	case key == envKey:
		if old := p.sect.Values["env"]; old != "" {
			value = old + "\x00" + value
		}
		p.sect.Set("env", value)
	case validRawKey(key):
		p.sect.Raw = append(p.sect.Raw, [2]string{key, value})
	}
	return true
}

func isRawKeyRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
}

// keyLine takes "key: value".
func (p *fileParser) keyLine(line string) {
	key, value, ok := splitKey(line, p.g.Kind == guest.QEMU)
	if !ok {
		return
	}
	switch key {
	case "description":
		p.describe(decodeText(value))
	case "delete":
		if p.pending {
			p.g.Delete = parseDelete(value)
		}
	case "snapstate":
		if value == "prepare" || value == "delete" {
			p.sect.Set(key, value)
		}
	default:
		p.store(key, value)
	}
}

func (p *fileParser) store(key, value string) {
	if p.informative {
		p.sect.Set(key, value)
		return
	}
	if p.g.Kind == guest.QEMU {
		if key == "cdrom" {
			key = "ide2"
		}
		v, ok := readQEMU(key, value, p.g.VMID)
		if ok {
			p.sect.Set(key, v)
		}
		return
	}
	p.sect.Set(key, readLXC(key, value))
}

// splitKey reads "key: value": a lower-case key, digits only at its end, and
// a value that is not blank.
func splitKey(line string, dash bool) (key, value string, ok bool) {
	i := 0
	for i < len(line) && (line[i] >= 'a' && line[i] <= 'z' || i > 0 && (line[i] == '_' || dash && line[i] == '-')) {
		i++
	}
	if i == 0 {
		return "", "", false
	}
	for i < len(line) && isDigit(line[i]) {
		i++
	}
	if i == len(line) || line[i] != ':' {
		return "", "", false
	}
	if value = trimBlank(line[i+1:]); value == "" && i+1 < len(line) {
		value = line[len(line)-1:] // a blank value is one blank
	}
	return line[:i], value, value != ""
}

// parseDelete reads the pending section's list of deletions.
func parseDelete(s string) map[string]bool {
	out := make(map[string]bool)
	for _, item := range splitList(s) {
		key, forced := strings.CutPrefix(item, "!")
		out[key] = forced
	}
	return out
}

func printDelete(m map[string]bool) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i, k := range keys {
		if m[k] {
			keys[i] = "!" + k
		}
	}
	return strings.Join(keys, ",")
}

// print is the file PVE writes for the guest.
func (g *Guest) print() string {
	var b strings.Builder
	used := g.usedVolumes()
	g.printSection(&b, g.withoutSMP(), "", func(key, value string) bool {
		return !(strings.HasPrefix(key, "unused") && used[value]) && key != "snapstate"
	})
	pending := g.Pending
	if len(g.Delete) > 0 {
		pending = pending.clone()
		pending.Set("delete", printDelete(g.Delete))
	}
	if !pending.empty() {
		g.printSection(&b, pending, pendingName(g.Kind), nil)
	}
	for _, name := range sortedNames(g.Special) {
		if name != "cloudinit" || g.cloudInitDrive() != "" {
			g.printSection(&b, g.Special[name], "special:"+name, nil)
		}
	}
	for _, name := range sortedNames(g.Snapshots) {
		g.printSection(&b, g.Snapshots[name], name, nil)
	}
	return b.String()
}

// withoutSMP is the current section without "smp", the name that "sockets" had
// long ago and that PVE replaces.
func (g *Guest) withoutSMP() Section {
	s := g.Current
	smp, ok := s.Values["smp"]
	if g.Kind != guest.QEMU || !ok {
		return s
	}
	s = s.clone()
	delete(s.Values, "smp")
	if !truthy(s.Values["sockets"]) && truthy(smp) {
		s.Set("sockets", smp)
		delete(s.Values, "cores")
	}
	return s
}

func sortedNames(m map[string]Section) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (g *Guest) printSection(b *strings.Builder, s Section, name string, keep func(key, value string) bool) {
	if name != "" {
		fmt.Fprintf(b, "\n[%s]\n", name)
	}
	desc, has := s.Values["description"]
	for _, line := range splitLines(desc) {
		b.WriteString("#" + encodeText(line) + "\n")
	}
	if has && desc == "" && g.Kind == guest.QEMU && name == pendingName(g.Kind) {
		b.WriteString("#\n")
	}
	keys := make([]string, 0, len(s.Values))
	for k, v := range s.Values {
		if k != "description" && !(k == "env" && g.Kind == guest.LXC) && (keep == nil || keep(k, v)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString(k + ": " + s.Values[k] + "\n")
	}
	for v := range strings.SplitSeq(s.Values["env"], "\x00") {
		if v != "" && g.Kind == guest.LXC {
			b.WriteString(envKey + ": " + v + "\n")
		}
	}
	for _, r := range s.Raw {
		b.WriteString(r[0] + ": " + r[1] + "\n")
	}
}
