// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command chaos tries every row of package chaos with real plugin processes
// and prints a table, which ends with "chaos: N of M contained". It exits with
// 1 if one was not. With names as arguments it tries those rows alone.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/chaos"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == chaos.PluginArg {
		chaos.Plugin(os.Args[2])
		return
	}
	logs := flag.Bool("log", false, "print the host's log")
	bin := flag.String("bin", "build", "`directory` of the agent's programs, for the rows that need the whole agent")
	child := flag.String("child", "", "try this row and print the result as JSON: for rows that need another user")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &command{bin: *bin, out: os.Stdout}
	if *logs {
		c.log = os.Stderr
	}
	var err error
	if *child != "" {
		err = c.child(ctx, *child)
	} else {
		err = c.all(ctx, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

type command struct {
	bin, self string
	out       io.Writer
	log       io.Writer
}

// line is one line of the table; it crosses from a child as JSON.
type line struct {
	Status, Told   string
	Before, During chaos.Latency
	Took           time.Duration
}

const (
	contained = "contained"
	skipped   = "skipped"
	escaped   = "ESCAPED"
)

func (c *command) all(ctx context.Context, names []string) error {
	dir, err := os.MkdirTemp("/tmp", "fc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := c.install(dir); err != nil {
		return err
	}
	good, tried, missing := 0, 0, 0
	fmt.Fprintf(c.out, "%-36s %-10s %7s  %-24s %s\n", "misbehaviour", "", "took", "neighbour before/during", "the operator is told")
	for _, row := range chaos.Rows() {
		if len(names) > 0 && !slices.Contains(names, row.Name) {
			continue
		}
		l := c.try(ctx, dir, row)
		switch l.Status {
		case contained:
			good++
			tried++
		case skipped:
			missing++
		default:
			tried++
		}
		latency := ""
		if l.During.Calls > 0 {
			latency = fmt.Sprintf("%s/%s, max %s", short(l.Before.Median), short(l.During.Median), short(l.During.Max))
		}
		fmt.Fprintf(c.out, "%-36s %-10s %6.1fs  %-24s %s\n", row.Name, l.Status, l.Took.Seconds(), latency, cut(l.Told, 220))
	}
	if missing > 0 {
		fmt.Fprintf(c.out, "%d skipped: they count for nothing\n", missing)
	}
	fmt.Fprintf(c.out, "chaos: %d of %d contained\n", good, tried)
	if good < tried || tried == 0 {
		return errors.New("not everything was contained")
	}
	return ctx.Err()
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

func cut(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + " ..."
	}
	return s
}

// install copies this program to where every user can execute it.
func (c *command) install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	c.self = filepath.Join(dir, "chaos")
	return errors.Join(os.Chmod(dir, 0o755), os.WriteFile(c.self, data, 0o755))
}

func (c *command) try(ctx context.Context, dir string, row chaos.Row) line {
	if row.Unprivileged && os.Getuid() == 0 {
		return c.asNobody(ctx, dir, row)
	}
	work := filepath.Join(dir, "w")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return line{Status: escaped, Told: err.Error()}
	}
	return c.here(ctx, work, row)
}

func (c *command) here(ctx context.Context, work string, row chaos.Row) line {
	e := chaos.Env{Self: c.self, Dir: work, Bin: c.bin, Log: c.log, Strict: true}
	res := e.Try(ctx, row)
	l := line{Status: contained, Told: res.Told, Before: res.Before, During: res.During, Took: res.Took}
	switch {
	case res.Skipped():
		l.Status, l.Told = skipped, res.Err.Error()
	case res.Err != nil:
		l.Status, l.Told = escaped, res.Err.Error()
	}
	return l
}

// nobody is a user that owns nothing else, so that his limits count this row's
// processes alone.
const nobody = 64777

// asNobody tries a row in a process of that user: the kernel does not hold
// root to the limits.
func (c *command) asNobody(ctx context.Context, dir string, row chaos.Row) line {
	work := filepath.Join(dir, "n")
	if err := errors.Join(os.MkdirAll(work, 0o755), os.Chown(work, nobody, nobody)); err != nil {
		return line{Status: escaped, Told: err.Error()}
	}
	args := []string{"-child", row.Name}
	if c.log != nil {
		args = append(args, "-log")
	}
	cmd := exec.CommandContext(ctx, c.self, args...)
	cmd.Dir, cmd.Stderr = work, os.Stderr
	cmd.Env = append(os.Environ(), "HOME="+work, "TMPDIR="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.Output()
	var l line
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(out)).Decode(&l)
	}
	if err != nil {
		return line{Status: escaped, Told: fmt.Sprintf("as another user: %v", err)}
	}
	return l
}

func (c *command) child(ctx context.Context, name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.self = self
	work, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, row := range chaos.Rows() {
		if row.Name == name {
			return json.NewEncoder(c.out).Encode(c.here(ctx, work, row))
		}
	}
	return fmt.Errorf("there is no row %q", name)
}
