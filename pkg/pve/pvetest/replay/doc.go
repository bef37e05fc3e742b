// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package replay holds the simulator of package pvetest against recordings of
// real PVE nodes: it puts a Sim into the state a recording began with, sends
// every recorded request in its order and at its time, and compares the
// answers: status, reason, headers and body.
//
// The recordings are data (testdata/pve8.jsonl.gz, pve9.jsonl.gz: one exchange
// a line). What is not an exchange is in testdata/pve8.toml and pve9.toml: the
// initial state, what was done to the node between two exchanges (some
// requests were made and not kept), and the exchanges that are not matched on
// purpose, each with its reason. Values that no double can repeat are masked
// field by field from one list with a reason each (masks.go).
package replay
