// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"testing"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// TestHookTablesNotice sees the hook tables fail against the mutants that
// concern them; package replay has the others.
func TestHookTablesNotice(t *testing.T) {
	for _, name := range []mutant.Name{mutant.HookOrder, mutant.LockWait} {
		t.Run(string(name), func(t *testing.T) {
			red := 0
			hookTables(t, name, func(*hookRow, string) { red++ })
			if red == 0 {
				t.Error("no row differs")
			}
			t.Logf("%d rows differ", red)
		})
	}
}
