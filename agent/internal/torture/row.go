// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"text/tabwriter"
)

// Row is what one scenario tried and found.
type Row struct {
	Scenario string
	// Points are distinct (scenario, operation, fault); Rounds are random and may repeat one another.
	Points, Rounds       int
	Lost, Doubled, Stuck int
	// Cut: the time was up before all of it was tried.
	Cut bool
	// Skipped says why nothing could be tried, "" if it could.
	Skipped string
}

// Bad is how often something was wrong.
func (r Row) Bad() int { return r.Lost + r.Doubled + r.Stuck }

// String is the line that ParseRow reads.
func (r Row) String() string {
	if r.Skipped != "" {
		return fmt.Sprintf("torture %s skipped: %s", r.Scenario, r.Skipped)
	}
	what, n := "points", r.Points
	if r.Rounds > 0 {
		what, n = "rounds", r.Rounds
	}
	name := r.Scenario
	if r.Cut {
		name += cut
	}
	return fmt.Sprintf("torture %s %s %d lost %d doubled %d stuck %d", name, what, n, r.Lost, r.Doubled, r.Stuck)
}

// cut ends the name of a scenario of which not all was tried.
const cut = " (time was up)"

// Print writes the row to standard output, for whoever runs the test.
func (r Row) Print() { fmt.Fprintln(os.Stdout, "\n"+r.String()) }

var (
	rowRE     = regexp.MustCompile(`^torture (.+) (points|rounds) (\d+) lost (\d+) doubled (\d+) stuck (\d+)$`)
	skippedRE = regexp.MustCompile(`^torture (.+?) skipped: (.+)$`)
	randomRE  = regexp.MustCompile(`\brandom\b`)
)

// ParseRow reads a line of a test's output; ok is false for any other line. What calls itself random counts as rounds.
func ParseRow(line string) (r Row, ok bool) {
	if m := skippedRE.FindStringSubmatch(line); m != nil {
		return Row{Scenario: m[1], Skipped: m[2]}, true
	}
	m := rowRE.FindStringSubmatch(line)
	if m == nil {
		return Row{}, false
	}
	var n [4]int
	for i, s := range m[3:] {
		v, err := strconv.Atoi(s)
		if err != nil {
			return Row{}, false
		}
		n[i] = v
	}
	r = Row{Scenario: m[1], Lost: n[1], Doubled: n[2], Stuck: n[3]}
	if m[2] == "rounds" || randomRE.MatchString(m[1]) {
		r.Rounds = n[0]
	} else {
		r.Points = n[0]
	}
	return r, true
}

// Total adds rows up.
func Total(rows []Row) (sum Row) {
	for _, r := range rows {
		sum.Points += r.Points
		sum.Rounds += r.Rounds
		sum.Lost += r.Lost
		sum.Doubled += r.Doubled
		sum.Stuck += r.Stuck
	}
	return sum
}

// WriteTable prints the rows and the closing line.
func WriteTable(w io.Writer, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "scenario\tpoints\trounds\tlost\tdoubled\tstuck")
	for _, r := range rows {
		if r.Skipped != "" {
			fmt.Fprintf(tw, "%s\tskipped: %s\n", r.Scenario, r.Skipped)
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\n", r.Scenario, number(r.Points), number(r.Rounds), r.Lost, r.Doubled, r.Stuck)
	}
	sum := Total(rows)
	fmt.Fprintf(tw, "in all\t%d\t%d\t%d\t%d\t%d\n", sum.Points, sum.Rounds, sum.Lost, sum.Doubled, sum.Stuck)
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "torture: %d points, %d lost, %d doubled, %d stuck\n", sum.Points, sum.Lost, sum.Doubled, sum.Stuck)
	return err
}

func number(n int) string { return cmp.Or(map[bool]string{true: "-"}[n == 0], strconv.Itoa(n)) }
