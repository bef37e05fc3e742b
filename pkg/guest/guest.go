// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package guest holds the vocabulary of a Proxmox VE guest: how it is named,
// what its config keys mean, and when two config values are the same.
//
// It guarantees that a value PVE gives back for what was written never reads
// as a difference (promise P6), and that a key without a class is never
// written. It imports only the standard library and package id.
package guest

import (
	"fmt"
	"regexp"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

// VMID is the number of a guest, unique in its cluster while the guest exists
// and free to be reused after that: it is not an identity.
type VMID = id.VMID

// The range PVE accepts.
const (
	MinVMID = id.MinVMID
	MaxVMID = id.MaxVMID
)

// ParseVMID reads a decimal VMID as PVE writes it: no sign, no leading zero.
func ParseVMID(s string) (VMID, error) { return id.ParseVMID(s) }

// Kind is a guest's kind as PVE spells it in API paths.
type Kind string

// The two kinds.
const (
	LXC  Kind = "lxc"
	QEMU Kind = "qemu"
)

// Valid reports whether k is one of the two kinds.
func (k Kind) Valid() bool { return k == LXC || k == QEMU }

// ID names a guest on its node. It is comparable.
type ID struct {
	Kind Kind `json:"kind"`
	VMID VMID `json:"vmid"`
}

// String is the form used in the CLI, logs and the journal: lxc/101.
func (id ID) String() string { return string(id.Kind) + "/" + id.VMID.String() }

var idPattern = regexp.MustCompile(`^(lxc|qemu)/([0-9]+)$`)

// ParseID reads the form that String writes.
func ParseID(s string) (ID, error) {
	m := idPattern.FindStringSubmatch(s)
	if m == nil {
		return ID{}, fmt.Errorf("guest: %q is not a guest (want lxc/VMID or qemu/VMID)", s)
	}
	v, err := ParseVMID(m[2])
	return ID{Kind: Kind(m[1]), VMID: v}, err
}

// RunState is whether a guest runs. The zero value means not known.
type RunState string

// The run states PVE's guest list tells apart.
const (
	Running RunState = "running"
	Stopped RunState = "stopped"
)

// Phase is a hookscript phase.
type Phase = id.Phase

// The four phases PVE runs a hookscript at, and no others.
const (
	PreStart  = id.PreStart
	PostStart = id.PostStart
	PreStop   = id.PreStop
	PostStop  = id.PostStop
)

// Config is a guest's config as text: key to value. A JSON number of PVE is
// its decimal text, a boolean is "0" or "1". What is absent is not zero.
// The pseudo keys digest, lock and lxc are not in it.
type Config map[string]string
