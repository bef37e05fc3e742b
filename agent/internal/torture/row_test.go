// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRow(t *testing.T) {
	for line, want := range map[string]*Row{
		"torture journal/full disk points 12 lost 1 doubled 2 stuck 3":           {Scenario: "journal/full disk", Points: 12, Lost: 1, Doubled: 2, Stuck: 3},
		"torture journal/many writers, random points 7 lost 0 doubled 0 stuck 0": {Scenario: "journal/many writers, random", Rounds: 7},
		"torture host/power cut skipped: no loop device":                         {Scenario: "host/power cut", Skipped: "no loop device"},
		"torture queue/histories rounds 3 lost 0 doubled 0 stuck 0":              {Scenario: "queue/histories", Rounds: 3},
		"torture: random walk with FELHOM_SEED=1":                                nil,
		"ok": nil,
	} {
		got, ok := ParseRow(line)
		if ok != (want != nil) {
			t.Errorf("%q: ok = %v", line, ok)
		}
		if want != nil {
			if diff := cmp.Diff(*want, got); diff != "" {
				t.Errorf("%q (-want +got):\n%s", line, diff)
			}
			if want.Rounds == 0 && got.String() != line {
				t.Errorf("%q is printed as %q", line, got)
			}
		}
	}
}

func TestTableEndsWithTheSum(t *testing.T) {
	var b strings.Builder
	rows := []Row{{Scenario: "a", Points: 3, Lost: 1}, {Scenario: "b", Rounds: 9, Stuck: 2}, {Scenario: "c", Skipped: "no disk"}}
	if err := WriteTable(&b, rows); err != nil {
		t.Fatal(err)
	}
	if want := "torture: 3 points, 1 lost, 0 doubled, 2 stuck\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("the table ends with %q", b.String())
	}
}
