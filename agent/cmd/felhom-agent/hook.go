// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/hookinstall"
)

// shippedSnippet is where the package has the hookscript.
const shippedSnippet = "/usr/share/felhom-agent/felhom-hookscript"

// hookFlags are the options of hook install, remove and status.
type hookFlags struct {
	*flags
	all, dryRun      bool
	storage, snippet string
}

func cmdHook(ctx context.Context, e *env, args []string) (int, error) {
	const forms = "the forms are `felhom-agent hook install|remove|status GUEST...` and `--all`"
	if len(args) == 0 {
		return exitUsage, fmt.Errorf("%w: %s", errUsage, forms)
	}
	what, about := args[0], map[string]string{
		"install": "put the hookscript on guests, through pct and qm.",
		"remove":  "take the hookscript off guests; the former one comes back, the snippet stays.",
		"status":  "where the hookscript is, and what is wrong with it.",
	}
	if about[what] == "" {
		newFlags(e, "hook install|remove|status", forms).Usage()
		if what == "-h" || what == "--help" {
			return exitOK, nil
		}
		return exitUsage, fmt.Errorf("%w: there is no `hook %s`; %s", errUsage, what, forms)
	}
	f := &hookFlags{flags: newFlags(e, "hook "+what, about[what])}
	f.BoolVar(&f.all, "all", false, "every guest of this node but templates")
	f.StringVar(&f.snippet, "snippet", shippedSnippet, "the shipped hookscript, a `file`")
	switch what {
	case "install":
		f.StringVar(&f.storage, "storage", "", "the `storage` to put it on (default: one that fits)")
		fallthrough
	case "remove":
		f.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	case "status":
		f.withJSON()
	}
	rest, err := f.parse(args[1:], 0, -1)
	if err != nil {
		return exitUsage, err
	}
	if f.all == (len(rest) > 0) {
		return exitUsage, fmt.Errorf("%w: name guests, or say --all", errUsage)
	}
	return f.hook(ctx, e, what, rest)
}

func (f *hookFlags) hook(ctx context.Context, e *env, what string, args []string) (int, error) {
	in, guests, err := f.gather(ctx, args)
	if err != nil {
		return exitError, err
	}
	switch what {
	case "install":
		return f.change(ctx, e, guests, in.Install)
	case "remove":
		return f.change(ctx, e, guests, in.Remove)
	}
	return f.hookStatus(ctx, e, in, guests)
}

func (f *hookFlags) gather(ctx context.Context, args []string) (*hookinstall.Installer, []hookinstall.Guest, error) {
	ids, err := guests(args)
	if err != nil {
		return nil, nil, err
	}
	if err := needRoot("PVE lets nobody else set a hookscript"); err != nil {
		return nil, nil, err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return nil, nil, err
	}
	node, err := nodeName(cfg)
	if err != nil {
		return nil, nil, err
	}
	snippet, err := os.ReadFile(f.snippet)
	if err != nil {
		return nil, nil, fmt.Errorf("the shipped hookscript: %w", err)
	}
	facts, err := hookinstall.Gather(ctx, runCommand, node)
	if err != nil {
		return nil, nil, err
	}
	found, err := facts.Find(ids)
	return &hookinstall.Installer{Facts: facts, Run: runCommand, Snippet: snippet, Storage: f.storage}, found, err
}

// errSome is the end of a command that did not succeed for every guest; the
// reasons have been printed.
var errSome = errors.New("not done for every guest, see above")

// change plans and does one guest after another; one that is refused does not
// keep the next from its turn.
func (f *hookFlags) change(ctx context.Context, e *env, guests []hookinstall.Guest,
	plan func(context.Context, hookinstall.Guest) (hookinstall.Change, error),
) (int, error) {
	failed := false
	for _, g := range guests {
		c, err := plan(ctx, g)
		if err == nil && !f.dryRun {
			err = c.Do(ctx)
		}
		if err != nil {
			failed = true
			fmt.Fprintf(e.stdout, "%s: %s\n", g.ID, e.style.red(err.Error()))
			continue
		}
		f.tell(e, c)
	}
	if failed {
		return exitError, errSome
	}
	return exitOK, nil
}

func (f *hookFlags) tell(e *env, c hookinstall.Change) {
	then := cmp.Or(c.Then, "no hookscript")
	switch {
	case len(c.Steps) == 0:
		fmt.Fprintf(e.stdout, "%s: %s, nothing to do\n", c.Guest.ID, then)
	case f.dryRun:
		fmt.Fprintf(e.stdout, "%s: would have %s\n", c.Guest.ID, then)
		for _, s := range c.Steps {
			fmt.Fprintf(e.stdout, "    %s\n", s.What)
		}
	default:
		fmt.Fprintf(e.stdout, "%s: %s\n", c.Guest.ID, then)
	}
	for _, n := range c.Notes {
		fmt.Fprintf(e.stdout, "    note: %s\n", n)
	}
}

func (f *hookFlags) hookStatus(ctx context.Context, e *env, in *hookinstall.Installer, guests []hookinstall.Guest) (int, error) {
	all := []hookinstall.Standing{}
	trouble := false
	for _, g := range guests {
		s, err := in.Status(ctx, g)
		if err != nil {
			s.Trouble = err.Error()
		}
		trouble = trouble || s.Trouble != ""
		all = append(all, s)
	}
	code := exitOK
	if trouble {
		code = exitError
	}
	if f.json {
		return code, printJSON(e.stdout, all)
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "GUEST\tNAME\tHOOK\tHOOKSCRIPT\tFORMER\tTROUBLE")
	for _, s := range all {
		has := "no"
		if s.Installed {
			has = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Guest, s.Name, has, s.Hookscript, s.Former, s.Trouble)
	}
	return code, tw.Flush()
}
