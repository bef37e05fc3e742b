// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package hooktable replays on simulated nodes what was done to guests with a
// hookscript on real ones, and tells which phases fire.
//
// A [Row] is one recorded scenario: the state before, what was done, which
// phases were told, the state after. [Row.Begin] makes a node for it,
// [Replay.Play] does it again in the time it took, [Replay.Diff] says what is
// not as recorded. Everything belongs in one synctest bubble. The simulator's
// own test holds the node against the rows; others put what they test beside
// the node and hold that against them.
package hooktable

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Row is one recorded scenario: what was done to a guest with a hookscript,
// and which phases fired.
type Row struct {
	PVE  int        `json:"pve"`
	Kind guest.Kind `json:"kind"`
	Name string     `json:"name"`
	// Pre and After are the run states before and afterwards.
	Pre   guest.RunState    `json:"pre"`
	After guest.RunState    `json:"after"`
	Beh   map[string]string `json:"beh"` // what the hook does, by phase
	Acts  []Act             `json:"acts"`
	Hooks []Phase           `json:"hooks"`
	Note  string            `json:"note"`
}

// Act is one thing that was done; Lost is one whose record was lost.
type Act struct {
	At   float64 `json:"at"` // seconds after the beginning
	API  string  `json:"api"`
	Cmd  string  `json:"cmd"`
	Want string  `json:"want"` // refusal
	Exit string  `json:"exit"` // status of its task
	Lost string  `json:"lost"`
}

// Phase is one that was told: whether the guest's lock was held, and in which
// task it ran ("" for none).
type Phase struct {
	Phase guest.Phase `json:"phase"`
	Lock  string      `json:"lock"`
	Task  string      `json:"task"`
}

//go:embed testdata/hooks.jsonl.gz
var recorded []byte

// Rows returns all that were recorded.
func Rows() ([]Row, error) {
	zr, err := gzip.NewReader(bytes.NewReader(recorded))
	if err != nil {
		return nil, fmt.Errorf("hooktable: %w", err)
	}
	var rows []Row
	sc := bufio.NewScanner(zr)
	for sc.Scan() {
		var r Row
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("hooktable: row %d: %w", len(rows)+1, err)
		}
		rows = append(rows, r)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("hooktable: %w", err)
	}
	return rows, nil
}

func (r *Row) String() string { return fmt.Sprintf("pve%d %s %s", r.PVE, r.Kind, r.Name) }

// VMID is that of the row's guest.
func (r *Row) VMID() guest.VMID {
	switch {
	case r.Deleted():
		return 120
	case r.Kind == guest.QEMU:
		return 200
	}
	return 101
}

// Deleted reports whether the guest is gone afterwards.
func (r *Row) Deleted() bool { return strings.HasPrefix(r.Name, "DELETE") }

// Excepted says why the double does not match this row, on purpose; "" if it
// does.
func (r *Row) Excepted() string { return excepted[r.Name] }
