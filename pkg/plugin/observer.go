// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Observer tells what is there. It changes nothing.
type Observer interface {
	Describe(ctx context.Context) (Info, error)
	// Watch emits hints until ctx ends or emit fails. A hint may be lost or
	// doubled: it is a reason to look, never a fact.
	Watch(ctx context.Context, emit func(Hint) error) error
	// List returns the node and every guest the observer may see on it.
	List(ctx context.Context) (NodeState, error)
	// Guest returns one guest in full. A guest that is not there is
	// Observation.Presence, not an error.
	Guest(ctx context.Context, q GuestQuery) (Observation, error)
}

// Hint says that something about these guests, or about the node, changed.
type Hint struct {
	Guests []guest.VMID
	// All means that anything may have changed (counters were reset).
	All    bool
	Reason string
}

// NodeState is the node at one moment.
type NodeState struct {
	Node    string
	Version string // PVE's, "8.4.21"
	// Quorate is false only when the cluster said so.
	Quorate bool
	// Busy names a running task that starts or stops many guests: "stopall",
	// "startall", "suspendall", "migrateall"; "" if none.
	Busy   string
	Guests []GuestState
	// Privileges is a fingerprint of the observer's own effective privileges;
	// "" if it could not be read.
	Privileges string
	// Time is the node's clock when it answered, for correcting skew.
	Time time.Time
}

// GuestState is what the guest list tells.
type GuestState struct {
	ID       guest.ID
	Name     string
	Run      guest.RunState
	Lock     string
	Template bool
	Tags     string
	Uptime   time.Duration
}

// GuestQuery asks for one guest.
type GuestQuery struct {
	VMID guest.VMID
	// TasksSince asks for the guest's tasks that started since then; zero =
	// none wanted.
	TasksSince time.Time
	// Inventory asks for Observation.Inventory.
	Inventory bool
}

// Presence is where a guest is.
type Presence string

// The presences of a guest.
const (
	Here      Presence = "here"
	Elsewhere Presence = "elsewhere" // on another node of the cluster
	Gone      Presence = "gone"      // proven absent, see design section 4
	Unsure    Presence = "unsure"    // not seen, not proven absent
)

// Observation is one guest in full.
type Observation struct {
	Presence Presence
	State    GuestState
	// Config is nil when it could not be read: it is then not known, which is
	// not the same as empty. ConfigError says why.
	Config      guest.Config
	Digest      string
	ConfigError string
	// Pending are the keys that wait for a restart, with the value to come;
	// "" means the key will be deleted.
	Pending map[string]string
	HA      HA
	// Protection is the config's protection flag.
	Protection bool
	// Tasks are the guest's tasks since GuestQuery.TasksSince, and those of the
	// node that act on many guests (startall, stopall, suspendall, migrateall,
	// vzdump), which have an empty ID or another guest's.
	Tasks []Task
	// TasksGap, told with an inventory, is why Tasks may lack some of those that
	// were asked for; "" means that they are all there.
	TasksGap string
	// Inventory is what else there is of the guest; nil if not asked for.
	Inventory *Inventory
	// Time is the node's clock when it answered.
	Time time.Time
}

// Inventory is what hangs on a guest besides its config: what would be lost
// with it, or has its name in it.
type Inventory struct {
	Snapshots []SnapshotInfo // oldest first
	Backups   []BackupInfo   // newest first, of this VMID, on the storages that may be read
	// Jobs are the backup and replication jobs that name the guest, in words.
	Jobs []string
	// Missing says, part by part, what could not be read and why. With it the
	// inventory is not complete.
	Missing []string
}

// SnapshotInfo is one snapshot of a guest.
type SnapshotInfo struct {
	Name   string
	Time   time.Time
	Parent string
}

// BackupInfo is one backup of a guest.
type BackupInfo struct {
	Volume    string
	Size      int64 // bytes
	Time      time.Time
	Protected bool
	// Verified is PVE's word about its verification: "ok", "failed", or "" if
	// there was none.
	Verified string
}

// HA is what the HA stack says of a guest.
type HA struct {
	Managed bool
	State   string
}

// Task is one PVE task about a guest or the node.
type Task struct {
	UPID    string
	Type    string // "vzstart"
	ID      string
	User    string // full auth id, "alice@pam" or "felhom@pve!agent-n1"
	Started time.Time
	Ended   time.Time // zero while it runs
	Status  string    // "" while it runs
	// Own is set for tasks of the observer's own token, which is also the
	// executor's.
	Own bool
}
