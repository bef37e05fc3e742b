// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package desired holds what providers want: it parses the files of a
// provider's snapshot into guests, and merges the providers' sets into one.
//
// It guarantees that a snapshot is taken whole or not at all, that every
// error names file, line and key, and that a guest claimed by two providers
// belongs to neither (promise P1). It does no I/O.
package desired

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Mode narrows what the agent does about a guest; it never widens the host's
// mode. The zero value leaves the host's mode as it is.
type Mode string

// The modes of a guest.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe" // plan and report, change nothing
	Paused  Mode = "paused"  // do not even plan
)

// OnManual says what a manual change of a field leads to.
type OnManual string

// What a manual change leads to.
const (
	Revert OnManual = "revert" // put it back
	Hold   OnManual = "hold"   // leave it alone and report it
)

// StopWay is how a guest is stopped.
type StopWay string

// How a guest is stopped. Force stops hard, and only after a clean shutdown
// failed once.
const (
	StopShutdown StopWay = "shutdown"
	StopForce    StopWay = "force"
)

// RunField is the name by which OnManual and Ignore refer to the run state;
// every other name there is a config key.
const RunField = "run"

// Guest is what one provider wants of one guest. What is not set is not
// managed.
type Guest struct {
	VMID guest.VMID `json:"vmid"`
	Kind guest.Kind `json:"kind"`
	// Where the document says so, for messages.
	Provider string `json:"provider"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	// Revision is a hash over everything a document says of the guest: it
	// changes exactly when the document's meaning does.
	Revision string `json:"revision"`

	Mode Mode           `json:"mode,omitempty"`
	Run  guest.RunState `json:"run,omitempty"`  // "" = not managed
	Stop StopWay        `json:"stop,omitempty"` // zero value = StopShutdown
	// StopTimeout is how long a clean shutdown may take; 0 = the guest's own
	// startup "down=", else 60 s.
	StopTimeout time.Duration `json:"stop_timeout_ns,omitempty"`
	// Config are the wanted config keys in PVE's text form: memory "2048",
	// onboot "1", tags "a;b".
	Config guest.Config `json:"config,omitempty"`
	// Delete are config keys wanted absent.
	Delete []string `json:"delete,omitempty"`
	// Disks are wanted sizes in bytes by volume key ("rootfs"); grow only.
	Disks map[string]int64 `json:"disks,omitempty"`
	// OnManual overrides the defaults (run state: hold, config: revert) per
	// config key or RunField.
	OnManual map[string]OnManual `json:"on_manual,omitempty"`
	// OnManualDefault, if set, replaces both defaults.
	OnManualDefault OnManual `json:"on_manual_default,omitempty"`
	// Ignore are fields that are never compared.
	Ignore []string `json:"ignore,omitempty"`
	// HA is "request" when run state of an HA-managed guest may be requested
	// from the HA stack; "" leaves such guests alone.
	HA string `json:"ha,omitempty"`
	// Provision says how to make the guest when it is not there; nil = never.
	Provision *Provision `json:"provision,omitempty"`
}

// Provision is how a guest is made. Exactly one of Template, Backup and Clone
// is set.
type Provision struct {
	Template string     `json:"template,omitempty"` // volume id of a container template
	Backup   string     `json:"backup,omitempty"`   // volume id of a backup
	Clone    guest.VMID `json:"clone,omitempty"`    // guest to clone
	Storage  string     `json:"storage,omitempty"`  // where the volumes go
	// Config holds what creation needs besides the guest's own config keys
	// ("rootfs", "unprivileged", "ostype").
	Config guest.Config `json:"config,omitempty"`
}

// Manual returns what a manual change of field leads to.
func (g *Guest) Manual(field string) OnManual {
	if m, ok := g.OnManual[field]; ok {
		return m
	}
	if g.OnManualDefault != "" {
		return g.OnManualDefault
	}
	if field == RunField {
		return Hold
	}
	return Revert
}

// Ignores reports whether field is on the guest's ignore list.
func (g *Guest) Ignores(field string) bool {
	for _, f := range g.Ignore {
		if f == field {
			return true
		}
	}
	return false
}

// Set is one provider's whole desired state. As JSON it round-trips, and holds
// secrets in clear: it is not for logs or reports.
type Set struct {
	Provider string `json:"provider"`
	// Revision is a hash over the names and bytes of all files, made here: it
	// is not the provider's word for the snapshot.
	Revision string                `json:"revision"`
	Issuer   string                `json:"issuer,omitempty"`
	Host     string                `json:"host,omitempty"` // "" = bound to none
	Serial   uint64                `json:"serial,omitempty"`
	NotAfter time.Time             `json:"not_after,omitzero"` // zero = none
	Guests   map[guest.VMID]*Guest `json:"guests"`
	// Skipped are files meant for another host.
	Skipped []string `json:"skipped,omitempty"`
}
