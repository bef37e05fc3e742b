// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package mutant names behaviours of the simulated node that can be changed,
// one at a time, to see that the tests against recordings notice. It is
// internal so that nobody else can ask for a wrong node.
package mutant

// Name is one changed behaviour; the zero Name changes nothing.
type Name string

// The behaviours.
const (
	Newline     Name = "newline"          // a description reads back without its last newline
	TagOrder    Name = "tag order"        // tags read back in reverse
	MACCase     Name = "MAC case"         // hardware addresses read back in lower case
	DigestScope Name = "digest scope"     // the digest covers the values, not the description
	ErrorText   Name = "error text"       // what is missing is "not found"
	TaskDelay   Name = "task delay"       // nobody hears that a task ended until the next one begins
	HookOrder   Name = "hook order"       // the phases of a start fire the other way round
	LockWait    Name = "lock wait"        // the config lock is waited for half as long
	Privilege   Name = "privilege"        // VM.Audit is enough to start and stop
	NumberType  Name = "type of a number" // numbers of a config read back as text
)

// All lists the behaviours.
var All = []Name{Newline, TagOrder, MACCase, DigestScope, ErrorText, TaskDelay, HookOrder, LockWait, Privilege, NumberType}
