// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"os"
	"testing"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// hookMutants are noticed by the tables of package hooktable; a replay
// runs no hooks and meets no lock.
var hookMutants = map[mutant.Name]bool{mutant.HookOrder: true, mutant.LockWait: true}

// TestReplayNotices replays one recording against the node with one
// behaviour changed, for each, and sees exchanges differ.
func TestReplayNotices(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("replays a recording nine times")
	}
	fix, err := readFixture(os.DirFS("testdata"), "pve9.toml")
	if err != nil {
		t.Fatal(err)
	}
	ex := readRecording(t, "pve9")
	if n := red(t, fix, ex); n != 0 {
		t.Fatalf("without a mutant %d exchanges differ", n)
	}
	for _, name := range mutant.All {
		if hookMutants[name] {
			continue
		}
		t.Run(string(name), func(t *testing.T) {
			mutated := *fix
			mutated.mutant = name
			n := red(t, &mutated, ex)
			if n == 0 {
				t.Error("no exchange differs")
			}
			t.Logf("%d exchanges differ", n)
		})
	}
}

// red counts the exchanges that differ and are not excepted.
func red(t *testing.T, fix *fixture, ex []exchange) int {
	t.Helper()
	n := 0
	for _, o := range replayed(t, "mutant", fix, ex, newComparer()).outcomes {
		if len(o.diff) > 0 && o.except == "" {
			n++
		}
	}
	return n
}
