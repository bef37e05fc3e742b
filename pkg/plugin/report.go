// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// ReportBody is what Report.JSON holds: how the agent stands, and how the
// operations ended about which the source was not told yet. A report tells of
// the guests of its own provider alone, and holds no secret.
//
// A source may be told the same thing twice, after a crash of the agent or a
// lost answer: outcomes are told apart by their Seq, and From and To say which
// entries of the agent's journal the report covers. A later report never covers
// earlier entries, but for such a repetition.
type ReportBody struct {
	Host     string    `json:"host"`
	Provider string    `json:"provider"`
	Version  string    `json:"version,omitempty"` // of the agent
	Time     time.Time `json:"time"`
	Mode     string    `json:"mode"` // observe or enforce
	// Head is the journal's last entry: what is older can no longer be altered
	// without showing.
	Head Head `json:"head"`
	// From and To are the entries that Outcomes was taken from: after From, up
	// to To.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Lost says that entries between From and To were deleted before they could
	// be reported.
	Lost bool `json:"lost,omitempty"`
	// Revision is that of the set in force, Serial that of its signed index.
	Revision string    `json:"revision,omitempty"`
	Serial   uint64    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	// Error is why the newest revision was not taken.
	Error    string          `json:"error,omitempty"`
	Guests   []ReportGuest   `json:"guests,omitempty"`
	More     int             `json:"more_guests,omitempty"` // left out for the report's size
	Outcomes []ReportOutcome `json:"outcomes,omitempty"`
}

// Head is a point of the agent's journal.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// ReportGuest is how one guest stands, in the words of `felhom-agent status`.
type ReportGuest struct {
	Guest guest.ID       `json:"guest"`
	Name  string         `json:"name,omitempty"`
	State string         `json:"state"`
	Run   guest.RunState `json:"run,omitempty"`
	Note  string         `json:"note,omitempty"`
	Seen  time.Time      `json:"observed,omitzero"`
}

// ReportOutcome is how one operation ended.
type ReportOutcome struct {
	Seq     uint64     `json:"seq"` // the journal's entry
	Time    time.Time  `json:"time"`
	Op      string     `json:"op"`
	Guest   guest.ID   `json:"guest"`
	Kind    ActionKind `json:"kind,omitempty"`
	State   string     `json:"state"`
	Asker   string     `json:"asker,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Handle  string     `json:"handle,omitempty"` // UPID
	Message string     `json:"message,omitempty"`
}
