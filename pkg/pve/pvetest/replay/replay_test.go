// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

var verbose = flag.Bool("replay.diff", false, "print every difference, not only the first of each exchange")

var recordings = []string{"pve8", "pve9"}

// TestReplay is `make replay`.
func TestReplay(t *testing.T) {
	var reports []*report
	for _, name := range recordings {
		rep := replayOne(t, name)
		reports = append(reports, rep)
	}
	printReports(os.Stdout, reports)
}

// raceSample is how many exchanges of a recording are replayed with the race
// detector, which makes them several times slower.
const raceSample = 150

func replayOne(t *testing.T, name string) *report {
	t.Helper()
	fix, err := readFixture(os.DirFS("testdata"), name+".toml")
	if err != nil {
		t.Fatal(err)
	}
	ex := readRecording(t, name)
	if raceEnabled {
		ex = ex[:raceSample]
	}
	rep := replayed(t, name, fix, ex, newComparer())
	for _, p := range rep.problems {
		t.Errorf("%s: %s", name, p)
	}
	for _, o := range rep.outcomes {
		if len(o.diff) > 0 && o.except == "" {
			t.Errorf("%s %s differs and is not excepted: %s", name, o.id, o.diff[0])
		}
	}
	for _, o := range rep.outcomes {
		if len(o.diff) > 0 && o.except == "" {
			t.Errorf("%s %s differs and is not excepted", name, o.id)
		}
	}
	if raceEnabled {
		return rep // of a sample, whose share says nothing
	}
	if share := float64(rep.matched()) / float64(len(rep.outcomes)); share < fix.Floor {
		t.Errorf("%s: %.3f of the exchanges match, the floor is %.3f", name, share, fix.Floor)
	}
	return rep
}

func readRecording(t *testing.T, name string) []exchange {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ex, err := readExchanges(f)
	if err != nil {
		t.Fatal(err)
	}
	return ex
}

// replayed replays in a bubble of its own.
func replayed(t *testing.T, name string, fix *fixture, ex []exchange, cmp *comparer) *report {
	t.Helper()
	var rep *report
	synctest.Test(t, func(t *testing.T) {
		var err error
		if rep, err = replay(name, fix, ex, cmp); err != nil {
			t.Fatal(err)
		}
	})
	return rep
}

func printReports(w io.Writer, reports []*report) {
	all, matched, masked, total := 0, 0, 0, 0
	why := map[string]int{}
	for _, r := range reports {
		for _, o := range r.outcomes {
			printOutcome(w, r.name, o)
		}
		all, matched = all+len(r.outcomes), matched+r.matched()
		masked, total = masked+r.masked, total+r.total
		for k, v := range r.why {
			why[k] += v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(why)) {
		fmt.Fprintf(w, "masked %6.2f %%  %s\n", 100*float64(why[k])/float64(total), k)
	}
	fmt.Fprintf(w, "masked %6.2f %%  of the recorded bytes in all\n", 100*float64(masked)/float64(total))
	for _, r := range reports {
		fmt.Fprintf(w, "replay %s: %d of %d exchanges match (%.1f %%)\n", r.name, r.matched(), len(r.outcomes), 100*float64(r.matched())/float64(len(r.outcomes)))
	}
	fmt.Fprintf(w, "replay: %d of %d exchanges match\n", matched, all)
}

func printOutcome(w io.Writer, name string, o outcome) {
	if len(o.diff) == 0 {
		return
	}
	reason := "DIFFERS"
	if o.except != "" {
		reason = "excepted: " + o.except
	}
	shown := o.diff
	if !*verbose {
		shown = shown[:1]
	}
	fmt.Fprintf(w, "%s %s: %s\n    %s\n", name, o.id, reason, strings.Join(shown, "\n    "))
}
