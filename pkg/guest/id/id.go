// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package id holds the words that name a guest and a moment of its life: the
// VMID and the hookscript phase.
//
// It guarantees to cost a program nothing when it starts: no initialisation
// and no import beyond strconv and errors. The hook helper, which is started
// at every start and stop of a guest and lives a millisecond, can afford this
// package and not the tables of package guest, whose names these are too.
package id

import (
	"errors"
	"strconv"
)

// VMID is the number of a guest, unique in its cluster while the guest exists
// and free to be reused after that: it is not an identity.
type VMID int

// The range PVE accepts.
const (
	MinVMID VMID = 100
	MaxVMID VMID = 999_999_999
)

// ParseVMID reads a decimal VMID as PVE writes it: no sign, no leading zero.
func ParseVMID(s string) (VMID, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || VMID(n) < MinVMID || VMID(n) > MaxVMID {
		return 0, errors.New("guest: " + strconv.Quote(s) + " is not a VMID (a number from " +
			MinVMID.String() + " to " + MaxVMID.String() + ")")
	}
	return VMID(n), nil
}

// String is the decimal form.
func (v VMID) String() string { return strconv.Itoa(int(v)) }

// Phase is a hookscript phase.
type Phase string

// The four phases PVE runs a hookscript at, and no others.
const (
	PreStart  Phase = "pre-start"
	PostStart Phase = "post-start"
	PreStop   Phase = "pre-stop"
	PostStop  Phase = "post-stop"
)

// Valid reports whether p is one of the four phases.
func (p Phase) Valid() bool {
	switch p {
	case PreStart, PostStart, PreStop, PostStop:
		return true
	}
	return false
}
