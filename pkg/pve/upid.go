// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// UPID names one task of a PVE cluster. It is comparable; the zero UPID names
// no task.
type UPID struct {
	Node   string // short name of the node the task runs on
	PID    uint32
	PStart uint64 // start of the process, in clock ticks since the node's boot
	Start  uint32 // start of the task, Unix seconds by the node's clock
	Type   string // "vzstart"
	ID     string // mostly a VMID; may be empty
	User   string // full auth id, "root@pam" or "agent@pve!full"
}

// ErrUPID is wrapped by ParseUPID.
var ErrUPID = errors.New("pve: not a UPID")

// maxUPID bounds what is parsed, in bytes. PVE's own are shorter: node and
// user names are bounded by 63 and 64 characters.
const maxUPID = 512

var upidPattern = regexp.MustCompile(
	`^UPID:([a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?):([0-9A-F]{8}):([0-9A-F]{8,9}):([0-9A-F]{8}):` +
		`([^:/\x00-\x20\x7f]+):([^:/\x00-\x20\x7f]*):([^:/\x00-\x20\x7f]+):$`)

// ParseUPID reads the one form in which PVE prints a UPID, trailing colon
// included. The String of the result is s.
func ParseUPID(s string) (UPID, error) {
	if len(s) > maxUPID {
		return UPID{}, fmt.Errorf("%w: longer than %d bytes", ErrUPID, maxUPID)
	}
	m := upidPattern.FindStringSubmatch(s)
	if m == nil {
		return UPID{}, fmt.Errorf("%w: %q", ErrUPID, s)
	}
	u := UPID{
		Node: m[1], PID: uint32(parseHex(m[2])), PStart: parseHex(m[3]), Start: uint32(parseHex(m[4])),
		Type: m[5], ID: m[6], User: m[7],
	}
	// A nine-digit number with a leading zero is the only other spelling that
	// the pattern lets through.
	if u.String() != s {
		return UPID{}, fmt.Errorf("%w: %q", ErrUPID, s)
	}
	return u, nil
}

// parseHex is the value of at most 9 hex digits, which the pattern has checked.
func parseHex(s string) uint64 {
	n, _ := strconv.ParseUint(s, 16, 64)
	return n
}

// String is the UPID as PVE prints it, "" for the zero UPID.
func (u UPID) String() string {
	if u.IsZero() {
		return ""
	}
	return fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", u.Node, u.PID, u.PStart, u.Start, u.Type, u.ID, u.User)
}

// IsZero reports whether u names no task.
func (u UPID) IsZero() bool { return u == UPID{} }

// Started is when the task started, by the node's clock, to the second.
func (u UPID) Started() time.Time { return time.Unix(int64(u.Start), 0) }
