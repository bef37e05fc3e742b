// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hooktable

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// TestHookTables replays every recorded row of the hookscript tables.
func TestHookTables(t *testing.T) {
	matched, all := tables(t, "", func(r *Row, diff string) { t.Errorf("%s:\n%s", r, diff) })
	if all != 194 {
		t.Errorf("%d rows, want 194", all)
	}
	fmt.Printf("hooks: %d of %d rows match\n", matched, all)
}

// TestHookTablesNotice sees the hook tables fail against the mutants that
// concern them; package replay has the others.
func TestHookTablesNotice(t *testing.T) {
	for _, name := range []mutant.Name{mutant.HookOrder, mutant.LockWait} {
		t.Run(string(name), func(t *testing.T) {
			red := 0
			tables(t, name, func(*Row, string) { red++ })
			if red == 0 {
				t.Error("no row differs")
			}
			t.Logf("%d rows differ", red)
		})
	}
}

// tables replays the rows on nodes with one behaviour changed ("" for none)
// and reports those that differ and are not excepted.
func tables(t *testing.T, mutated mutant.Name, differs func(*Row, string)) (matched, all int) {
	t.Helper()
	rows, err := Rows()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		all++
		diff := replay(t, &r, mutated)
		why := r.Excepted()
		switch {
		case diff == "":
			matched++
		case why == "":
			differs(&r, diff)
		case mutated == "":
			t.Logf("excepted: %s: %s", &r, why)
		}
	}
	return matched, all
}

// replay returns what differs.
func replay(t *testing.T, r *Row, mutated mutant.Name) (diff string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		x, err := r.Begin(Options{Change: func(o *pvetest.Options) { o.Mutant = mutated }})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		x.Play(t.Context())
		diff = x.Diff()
	})
	return diff
}
