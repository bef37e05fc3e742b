// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Env is what the node knows. Its maps are read, never changed; a nil function
// stands for a node that has nothing of the kind. The zero Env is a node
// without storages and bridges, on cgroup v2.
type Env struct {
	Datacenter Datacenter
	Storages   map[string]Storage
	Bridges    map[string]Bridge
	// Volume finds a volume by its id ("local:101/vm-101-disk-0.raw",
	// "local:iso/x.iso").
	Volume func(volid string) (Volume, bool)
	// Volumes lists the ids of the volumes on a storage that belong to a guest.
	Volumes func(storage string, vmid guest.VMID) []string
	// Path says what is at a path of the node's own file system; a snippet is
	// asked for by its volume id.
	Path func(path string) PathKind
	// GuestTags lists the tags of all guests the caller may audit.
	GuestTags func() []string
	// Rand is the source of generated hardware addresses and uuids; nil makes
	// them all zero.
	Rand func() uint64
	Host Host
}

// Host is what the machine below can do. The zero value is an ordinary node;
// the rest is for nodes that lack something, as a laboratory's.
type Host struct {
	CgroupV1   bool // the node runs cgroup v1
	CPUs       int  // 0 = no limit known
	NoAppArmor bool // no mount point can be hotplugged
	NoPolicing bool // no traffic policing in the kernel: rate= cannot be hotplugged
	NoOVMF     bool // the UEFI firmware is not installed
	// QEMU is the installed QEMU, as "9.2.0"; "" = one of the PVE version.
	QEMU string
}

// Datacenter is the part of datacenter.cfg that matters to a config.
type Datacenter struct {
	MACPrefix      string // "" = BC:24:11
	CaseSensitive  bool   // tag-style: case-sensitive=1
	OrderingConfig bool   // tag-style: ordering=config
	UserAllow      string // user-tag-access: user-allow; "" = free
	UserAllowList  []string
	RegisteredTags []string
}

// Storage is one storage of the node.
type Storage struct {
	Type    string   // "dir", "lvmthin", "zfspool", ...
	Path    string   // of a directory storage
	Content []string // "images", "rootdir", "iso", "snippets", ...
	Shared  bool
}

func (s Storage) has(content string) bool { return slices.Contains(s.Content, content) }

// Bridge is one bridge of the node.
type Bridge struct {
	MTU       int  // 0 = 1500
	VLANAware bool // trunks= can be used
	NoPort    bool // it has no physical port: a VLAN tag cannot be plugged live
}

// Volume is one volume of a storage.
type Volume struct {
	Size   int64 // bytes
	Format string
	Owner  guest.VMID // 0 = belongs to no guest
	// InUse: a running guest holds the volume. The size of an image that is
	// not raw cannot be read then.
	InUse bool
}

func (v Volume) busy() bool { return v.InUse && v.Format != "raw" }

// PathKind is what is at a path.
type PathKind int

// The kinds of paths PVE tells apart.
const (
	PathAbsent PathKind = iota
	PathFile            // a plain file that is not executable
	PathExecutable
	PathDevice
	PathOther
)

// Effect is something the node must do besides storing the config, in the
// order given.
type Effect struct {
	Op     EffectOp
	Volume string
	Size   int64  // bytes; of Allocate and Resize
	Format string // of Allocate
}

// EffectOp is the kind of an Effect.
type EffectOp string

// The effects a config change can have.
const (
	Allocate EffectOp = "allocate"
	Free     EffectOp = "free"
	Resize   EffectOp = "resize"
)

// Caller is who asks.
type Caller struct {
	User string // the full id, as "root@pam" or "agent@pve!full"
	// Allowed reports whether the caller has a privilege on a path; nil = on
	// every one. It is not asked for root@pam.
	Allowed func(path, privilege string) bool
}

const rootUser = "root@pam"

func (c Caller) root() bool { return c.User == rootUser }

func (c Caller) allowed(path, priv string) bool {
	return c.root() || c.Allowed == nil || c.Allowed(path, priv)
}

// mac is a new hardware address. It is even in its first byte, as an address
// of one machine must be.
func (e *Env) mac() string {
	r := e.random()
	prefix := e.Datacenter.MACPrefix
	if prefix == "" {
		prefix = "BC:24:11"
	}
	out := prefix
	for len(out) < len("XX:XX:XX:XX:XX:XX") {
		out += fmt.Sprintf(":%02X", byte(r))
		r >>= 8
	}
	return out
}

// uuid is a new random uuid (version 4).
func (e *Env) uuid() string {
	a, b := e.random(), e.random()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x",
		uint32(a), uint16(a>>32), uint16(a>>48)&0xfff, uint16(b)&0x3fff|0x8000, b>>16)
}

func (e *Env) random() uint64 {
	if e.Rand == nil {
		return 0
	}
	return e.Rand()
}

func (e *Env) volume(volid string) (Volume, bool) {
	if e.Volume == nil {
		return Volume{}, false
	}
	return e.Volume(volid)
}

func (e *Env) volumes(storage string, vmid guest.VMID) []string {
	if e.Volumes == nil {
		return nil
	}
	return e.Volumes(storage, vmid)
}

func (e *Env) path(path string) PathKind {
	if e.Path == nil {
		return PathAbsent
	}
	return e.Path(path)
}
