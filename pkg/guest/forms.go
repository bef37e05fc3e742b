// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

// Class is how much harm a change can do. The highest class among its keys
// decides for an action.
type Class string

// The classes, in rising order.
const (
	Benign       Class = "benign"       // may be done in mode enforce
	Additive     Class = "additive"     // makes something new; needs allow_additive
	Irreversible Class = "irreversible" // needs a signed approval
	Never        Class = "never"        // refused, whoever asks
	Unclassed    Class = "unclassed"    // a key nobody classified: reported, never written
)

// Effect is when a change takes hold.
type Effect string

// The effects of a config change.
const (
	Live      Effect = "live"       // at once
	Restart   Effect = "restart"    // pending until the guest's next start
	NeedsStop Effect = "needs-stop" // PVE takes it only while the guest is stopped
	NeedsRoot Effect = "needs-root" // refused to every API token
)

// Facts are what the meaning of a config key may depend on.
type Facts struct {
	Kind    Kind
	Running bool
	PVE     int // PVE's major version, 8 or 9; 0 = not known
	// Unprivileged and Hotplug matter to a few keys only; they are read from
	// the actual config by Diff.
}

// Change is one config key whose actual value is not the desired one.
type Change struct {
	Key    string
	Delete bool   // desired is "absent"
	From   string // actual value, "" if absent (see HasFrom); masked if Secret
	To     string // desired value as the document has it; masked if Secret
	// HasFrom tells an absent actual value from an empty one.
	HasFrom bool
	// Send is the exact value to write: desired, completed with what PVE
	// generated (the MAC of a net) so that writing does not lose it. It is the
	// clear text even of a secret: never log or journal it when Secret is set.
	Send   string
	Class  Class
	Effect Effect
	Secret bool
	// Privilege names what a token needs besides VM.Audit, for example
	// "VM.Config.CPU"; "root@pam" where no token will do.
	Privilege string
	// Refuse, if not empty, says why this change must not be sent at all.
	Refuse string
	// AsText is set when the key has no normal form of its own and was
	// compared as text.
	AsText bool
}
