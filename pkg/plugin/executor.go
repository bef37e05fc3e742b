// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Info is what a plugin says of itself.
type Info struct {
	Name    string
	Version string
	// Actions are the action kinds an executor serves; empty for the others.
	Actions []ActionKind
	// Features are names of optional behaviour. A host ignores what it does
	// not know.
	Features []string
}

// ActionKind names what an action does. A vendor's own kinds carry a prefix
// with a dot ("acme.notify").
type ActionKind string

// The core's action kinds. What each of them needs is in the Action's Set,
// Delete, Digest and Params; PROTOCOL.md has the same list.
const (
	Start     ActionKind = "start"
	Shutdown  ActionKind = "shutdown" // clean; Params "timeout" in seconds
	Stop      ActionKind = "stop"     // hard
	Reboot    ActionKind = "reboot"
	SetConfig ActionKind = "set_config" // Set, Delete and Digest of the Action

	// Provision makes a guest that is not there and leaves it stopped: Params
	// "how" is "template", "backup" or "clone", "source" a volume id or the
	// VMID to clone, "storage" where the volumes go (optional), "pool"
	// (optional); Set is the config it is made with, as far as that way of
	// making takes one, else ErrInvalid. A guest that is there already is
	// somebody else's: Refused.
	Provision ActionKind = "provision"
	// GrowDisk: Params "disk" (a config key), "size" in bytes, in all; Digest.
	GrowDisk ActionKind = "grow_disk"
	// TakeSnapshot: Params "name", "description".
	TakeSnapshot ActionKind = "snapshot"
	// Backup: Params "storage", "mode" ("snapshot", "suspend" or "stop"),
	// "notes". It never removes another backup. Its outcome's Params tell the
	// "volume" that it made.
	Backup ActionKind = "backup"
	// Rollback: Params "name" of a snapshot.
	Rollback ActionKind = "rollback"
	// Restore puts a backup over the guest that is there: Params "source",
	// "storage" (optional); Digest.
	Restore ActionKind = "restore"
	// Destroy: Digest is the config's that was approved. The executor clears
	// "protection" with that digest, which fails if the config was replaced,
	// reads the guest once more, compares, and deletes at once (design
	// section 8). Params "purge" is "1" to remove it from jobs too. An attempt
	// that cleared the protection and went no further leaves another digest: the
	// next one needs the present one.
	Destroy ActionKind = "destroy"
	// DeleteSnapshot: Params "name".
	DeleteSnapshot ActionKind = "delete_snapshot"
	// DeleteBackup: Params "volume", a backup of this guest.
	DeleteBackup ActionKind = "delete_backup"
	// DeleteVolume: Params "volume", in a storage's content, that no config
	// names.
	DeleteVolume ActionKind = "delete_volume"
)

// CoreActions are the core's action kinds. Any other kind is a vendor's.
func CoreActions() []ActionKind {
	return []ActionKind{
		Start, Shutdown, Stop, Reboot, SetConfig,
		Provision, GrowDisk, TakeSnapshot, Backup, Rollback, Restore, Destroy, DeleteSnapshot, DeleteBackup, DeleteVolume,
	}
}

// ParamReserve, where an action takes space: how many bytes must stay free on
// the storage afterwards, else the executor refuses with what it found.
const ParamReserve = "reserve"

// Action is one change of one guest. It is sent under an op id, and an
// executor must not do the same op id and attempt twice.
type Action struct {
	OpID    string
	Attempt int // counts from 1; a new attempt only follows an ended one
	Node    string
	Guest   guest.ID
	Kind    ActionKind
	// Set and Delete are the config keys of a set_config.
	Set    map[string]string
	Delete []string
	// Digest is that of the config the plan rests on. An executor sends it
	// along with every config write (promise P9); empty means there is none.
	Digest string
	// Params are the other parameters of the kind.
	Params map[string]string
	Reason string
	// Secret lists keys of Set whose values must not reach any log.
	Secret []string
}

// Status is how an attempt ended: a closed set.
type Status string

// The ends of an attempt.
const (
	Done    Status = "done"    // PVE says it happened
	Retry   Status = "retry"   // nothing happened, try again after RetryAfter
	Refused Status = "refused" // nothing happened and trying again is pointless
	Failed  Status = "failed"  // it was tried and failed; something may have changed
	Unknown Status = "unknown" // it may still take effect
)

// Outcome is the end of an attempt.
type Outcome struct {
	Status Status
	// Message is what PVE said, word for word.
	Message string
	// Warnings counts the warnings of a task that succeeded with warnings.
	Warnings   int
	RetryAfter time.Duration
	// RefusedKeys are the config keys PVE named as refused, with its words.
	RefusedKeys map[string]string
	// Reason is why an attempt ended in Retry: "locked", "busy", "quorum", ...
	Reason string
	// Undo is what would undo the action, as the executor saw it; nil if it
	// cannot say.
	Undo *Action
	// Params are what came of it, by the action kind's names: "volume" of a
	// backup, and "half_made", the lock of a guest that is there and not whole.
	Params map[string]string
}

// Progress is what an executor reports while it works.
type Progress struct {
	// Handle, when not empty, means accepted: PVE works on it under this
	// handle (an UPID). It is sent at most once, before the outcome. The host
	// has it on disk before Apply's emit returns.
	Handle string
	Text   string
}

// Executor carries out actions. It keeps no state that matters: after a crash
// a fresh executor is given the handle, or is asked by Probe.
type Executor interface {
	Describe(ctx context.Context) (Info, error)
	// Apply carries out one action and returns how it ended. With a handle it
	// sends nothing: it waits for what the handle stands for. An error means
	// that the outcome is not known unless it is one of ErrInvalid,
	// ErrUnsupported or ErrNotSent. Apply returns when ctx ends; that does not
	// undo what was sent.
	Apply(ctx context.Context, a Action, handle string, emit func(Progress) error) (Outcome, error)
	// Probe tells what became of an action whose outcome was lost. It sends
	// nothing that changes anything.
	Probe(ctx context.Context, q ProbeQuery) (Verdict, error)
}

// ProbeQuery is what the host knows of an attempt whose outcome was lost.
type ProbeQuery struct {
	Action Action
	Handle string    // empty if none was journalled
	Sent   time.Time // not earlier than this, by the node's clock as far as known
	// Until is the end of the window in which the sending may still arrive.
	Until time.Time
	// Taken are handles that belong to other attempts about the guest: they are
	// never what was sent under this one.
	Taken []string
}

// Verdict is a probe's answer.
type Verdict struct {
	// Finding is one of the constants below.
	Finding Finding
	Handle  string  // for Found
	Outcome Outcome // for Settled
	Message string  // on what evidence
}

// Finding is what a probe found.
type Finding string

// The findings of a probe.
const (
	Found   Finding = "found"    // it goes on under Handle: Apply with it
	Settled Finding = "settled"  // it ended as Outcome says
	NotSent Finding = "not-sent" // proven not applied and out of flight: safe to send again
	Unclear Finding = "unclear"  // no proof either way
)
