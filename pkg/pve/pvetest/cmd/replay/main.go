// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command replay replays the recordings of real nodes against the simulator
// and prints the report of package replay; its last line is
// "replay: N of M exchanges match". It runs that package's test, because
// simulated time (testing/synctest) is to be had in tests only. Run it within
// the module; -v prints every difference.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	verbose := flag.Bool("v", false, "print every difference, not only the first of each exchange")
	flag.Parse()
	args := []string{"test", "-count=1", "-v", "-run", "^TestReplay$", "github.com/felhom/felhom-agent/pkg/pve/pvetest/replay"}
	if *verbose {
		args = append(args, "-replay.diff")
	}
	if err := report(exec.Command("go", args...), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
}

// report runs the test and passes on what is not the test runner's own.
func report(cmd *exec.Cmd, out io.Writer) error {
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run the test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run the test: %w", err)
	}
	last := ""
	sc := bufio.NewScanner(pipe)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		switch line := sc.Text(); {
		case strings.HasPrefix(line, "replay: "):
			last = line
		case line == "PASS", line == "FAIL", strings.HasPrefix(line, "=== RUN"), strings.HasPrefix(line, "--- PASS"), strings.HasPrefix(line, "ok "):
		default:
			fmt.Fprintln(out, line)
		}
	}
	err = cmd.Wait()
	fmt.Fprintln(out, last)
	if err != nil {
		return fmt.Errorf("the test failed: %w", err)
	}
	return nil
}
