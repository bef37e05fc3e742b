// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"maps"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Guest is one guest's configuration and whether the guest runs. It is
// immutable: change it with Put, Edit or the other functions that return a new
// one. Maps of it must be read only.
type Guest struct {
	Kind    guest.Kind
	VMID    guest.VMID
	Running bool

	Current Section
	Pending Section
	// Delete holds the keys whose deletion is pending; true = forced.
	Delete    map[string]bool
	Snapshots map[string]Section
	// Special holds a virtual machine's [special:...] sections by name.
	Special map[string]Section

	text   string // the config file
	digest string // SHA-1 of text, in hex
}

// Section is one section of a config file.
type Section struct {
	// Values maps each key to its value as PVE holds it in memory; a boolean
	// is "0" or "1". The description is among them, decoded.
	Values map[string]string
	// Raw holds a container's lxc.* lines in the order of the file.
	Raw [][2]string
}

// Get is the value of a key and whether it is set.
func (s Section) Get(key string) (string, bool) {
	v, ok := s.Values[key]
	return v, ok
}

// Set sets a key; an empty Section becomes usable by it.
func (s *Section) Set(key, value string) {
	if s.Values == nil {
		s.Values = make(map[string]string)
	}
	s.Values[key] = value
}

func (s Section) clone() Section {
	return Section{Values: maps.Clone(s.Values), Raw: s.Raw}
}

func (s Section) empty() bool { return len(s.Values) == 0 && len(s.Raw) == 0 }

func cloneSections(m map[string]Section) map[string]Section {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]Section, len(m))
	for k, s := range m {
		out[k] = s.clone()
	}
	return out
}

// New is a stopped guest whose current section holds values.
func New(kind guest.Kind, vmid guest.VMID, values map[string]string) *Guest {
	g := &Guest{Kind: kind, VMID: vmid, Current: Section{Values: maps.Clone(values)}}
	return g.settle()
}

// Text is the config file.
func (g *Guest) Text() string { return g.text }

// Digest is the SHA-1 of the whole file in lower-case hex, as PVE's digest.
func (g *Guest) Digest() string { return g.digest }

// Lock is the value of the lock key, "" if the guest is not locked.
func (g *Guest) Lock() string { return g.Current.Values["lock"] }

// Template reports whether the guest is a template.
func (g *Guest) Template() bool { return g.Current.Values["template"] == "1" }

// Edit returns the guest as f leaves a copy of it, written to its file and
// read back as PVE would. Nothing is checked: it is for what PVE itself does
// to a config (locks, snapshots, templates).
func (g *Guest) Edit(f func(*Guest)) *Guest {
	c := g.draft()
	f(c)
	return c.settle()
}

// SetRunning returns the guest started or stopped, its file untouched.
func (g *Guest) SetRunning(running bool) *Guest {
	c := *g
	c.Running = running
	return &c
}

// draft is a deep copy that may be modified until settle is called.
func (g *Guest) draft() *Guest {
	c := *g
	c.Current = g.Current.clone()
	c.Pending = g.Pending.clone()
	c.Delete = maps.Clone(g.Delete)
	c.Snapshots = cloneSections(g.Snapshots)
	c.Special = cloneSections(g.Special)
	return &c
}

// settle prints the draft and reads it back, because PVE keeps nothing but
// the file: a description gets its newline, a value that cannot be read is
// lost or stays text.
func (g *Guest) settle() *Guest {
	c := parse(g.Kind, g.VMID, g.print())
	c.Running = g.Running
	return c
}
