// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command torture runs every scenario that is to break the agent and prints one table. QUICK=1 in the environment, or
// -quick, tries a sample of each within a minute; else everything is tried within half an hour. With -sim, scenarios with
// real programs, mounts or a new seed each time are left out: what remains tries the same points on any machine, however
// busy. It exits with 1 if anything was lost, doubled or stuck, or a scenario failed.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/torture"
)

// suites are the packages that hold scenarios, and their tests' names.
var suites = []struct{ pkg, run string }{
	{"./agent/internal/journal", "^TestTorture"},
	{"./agent/internal/torture", "^(TestTorture|TestBroken)"},
}

func main() {
	quick := flag.Bool("quick", os.Getenv("QUICK") != "" && os.Getenv("QUICK") != "0", "try a sample only")
	sim := flag.Bool("sim", false, "try only a sample of what runs on simulated time, the same each time")
	bin := flag.String("bin", "build", "`directory` of the programs under test")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	size := sizes["full"]
	switch {
	case *sim:
		size = sizes[""]
		if os.Getenv("FELHOM_SEED") == "" {
			_ = os.Setenv("FELHOM_SEED", "1")
		}
	case *quick:
		size = sizes["quick"]
	}
	if err := run(ctx, size, *bin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

// amount is how much is tried, by the name that the tests know, and how long it may take.
type amount struct {
	name  string
	limit time.Duration
}

// sizes are the amounts by name. The limit of the unnamed one only ends what hangs.
var sizes = map[string]amount{
	"full": {"full", 28 * time.Minute}, "quick": {"quick", 4 * time.Minute}, "": {"", 20 * time.Minute},
}

func run(ctx context.Context, size amount, bin string, out io.Writer) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, size.limit+time.Minute)
	defer cancel()
	env := append(os.Environ(), "FELHOM_TORTURE="+size.name, "FELHOM_BIN="+bin)
	rows := make([][]torture.Row, len(suites))
	errs := make([]error, len(suites))
	var wg sync.WaitGroup
	for i, s := range suites {
		wg.Go(func() { rows[i], errs[i] = suite(ctx, env, size.limit, s.pkg, s.run) })
	}
	wg.Wait()
	all := slices.Concat(rows...)
	if err := torture.WriteTable(out, all); err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if bad := torture.Total(all); bad.Bad() > 0 {
		return fmt.Errorf("%d times something was not as it must be", bad.Bad())
	}
	return nil
}

// suite runs a package's scenarios and collects their rows. What they say when they fail goes to standard error.
func suite(ctx context.Context, env []string, limit time.Duration, pkg, pattern string) ([]torture.Row, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", limit.String(), "-run", pattern, pkg)
	cmd.Env = env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	var rows []torture.Row
	text := said.String()
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		if r, ok := torture.ParseRow(sc.Text()); ok {
			rows = append(rows, r)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, text)
		return rows, fmt.Errorf("%s: %w", pkg, err)
	}
	if len(rows) == 0 {
		return rows, fmt.Errorf("%s: no scenario reported anything", pkg)
	}
	return rows, nil
}
