// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/plugincheck"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// cmdPlugin is for who writes a plugin: it needs no agent.
func cmdPlugin(ctx context.Context, e *env, args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "test":
			return cmdPluginTest(ctx, e, args[1:])
		case "new":
			return cmdPluginNew(ctx, e, args[1:])
		}
	}
	return exitUsage, fmt.Errorf("%w: the forms are `felhom-agent plugin test [OPTIONS] BINARY [ARGUMENTS]` and `felhom-agent plugin new [OPTIONS] NAME [DIRECTORY]`", errUsage)
}

// trial is the command line of plugin test.
type trial struct {
	*flag.FlagSet
	manifest, action, guest string
	effects, change         string
	params, set, secrets    pairs
	patience                int
	json, log               bool
}

// pairs are the NAME=VALUE of an option that may be given several times.
type pairs map[string]string

func (p pairs) String() string { return "" }

func (p pairs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("want NAME=VALUE")
	}
	p[name] = value
	return nil
}

func newTrial(e *env) *trial {
	t := &trial{FlagSet: flag.NewFlagSet("plugin test", flag.ContinueOnError), params: pairs{}, set: pairs{}, secrets: pairs{}}
	t.SetOutput(e.stderr)
	t.StringVar(&t.manifest, "manifest", "", "manifest `FILE`: executable, arguments, environment, config, secrets and files come from it; pins are not needed")
	t.Var(t.secrets, "secret", "`NAME=FILE`: hand over the content of a file as a secret")
	t.StringVar(&t.action, "action", "", "action `KIND` to apply; without it a vendor's kind is applied and the core's are not, because they change guests")
	t.StringVar(&t.guest, "guest", "lxc/101", "`GUESTS` the actions are about, each the next one's turn: lxc/101,lxc/102 or lxc/101-120")
	t.Var(t.params, "param", "`NAME=VALUE`: a parameter of the action")
	t.Var(t.set, "set", "`KEY=VALUE`: a config key that the action sets")
	t.StringVar(&t.effects, "effects", "", "shell `COMMAND` that prints how often the op id in $1 was carried out")
	t.StringVar(&t.change, "change", "", "shell `COMMAND` that changes what a provider reads, differently each time")
	t.IntVar(&t.patience, "patience", 1, "give the plugin `N` times the time, on a slow or loaded machine")
	t.BoolVar(&t.json, "json", false, "print the report as JSON")
	t.BoolVar(&t.log, "log", false, "print what the plugin logs")
	t.Usage = func() {
		fmt.Fprint(e.stderr, "felhom-agent plugin test [OPTIONS] BINARY [ARGUMENTS]: check a plugin against the contract, with the agent's own host.\n\nOptions, before BINARY:\n")
		t.PrintDefaults()
	}
	return t
}

func cmdPluginTest(ctx context.Context, e *env, args []string) (int, error) {
	t := newTrial(e)
	if err := t.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitUsage, err
		}
		return exitUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	o, err := t.options()
	if err != nil {
		return exitUsage, err
	}
	if t.log {
		o.Log = e.stderr
	}
	if !t.json {
		fmt.Fprintf(e.stdout, "plugin test of %s\n", o.Path)
		o.Each = func(r plugincheck.Result) { printResult(e.stdout, e.style, r) }
	}
	rep, err := plugincheck.Run(ctx, o)
	if err != nil {
		return exitError, err
	}
	code := exitOK
	if rep.Count(plugincheck.Failed) > 0 {
		code = exitError
	}
	if t.json {
		return code, printJSON(e.stdout, rep)
	}
	if rep.Name != "" {
		fmt.Fprintf(e.stdout, "%s %s, %s, sha256 %s\n", rep.Name, rep.Version, joined(rep.Kinds), rep.SHA256)
	}
	fmt.Fprintf(e.stdout, "plugin test: %d checks, %d failed, %d skipped\n", len(rep.Results), rep.Count(plugincheck.Failed), rep.Count(plugincheck.Skipped))
	return code, nil
}

func joined(kinds []plugin.Kind) string {
	var all []string
	for _, k := range kinds {
		all = append(all, string(k))
	}
	return strings.Join(all, " and ")
}

// printResult is one line, and one more for the rule that a plugin breaks.
func printResult(w io.Writer, s style, r plugincheck.Result) {
	mark := fmt.Sprintf("%-8s", r.Status)
	switch r.Status {
	case plugincheck.OK:
		mark = s.green(mark)
	case plugincheck.Failed:
		mark = s.red(mark)
	case plugincheck.Skipped:
		mark = s.yellow(mark)
	}
	detail := strings.Join(strings.Fields(r.Detail), " ")
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%s %-28s %8s  %s", mark, r.Name, r.Took.Round(time.Millisecond), detail), " "))
	if r.Status == plugincheck.Failed {
		fmt.Fprintf(w, "         the rule: %s\n", r.Rule)
	}
}

// options are what the command line and the manifest say.
func (t *trial) options() (plugincheck.Options, error) {
	o := plugincheck.Options{Effects: t.effects, Change: t.change, Patience: t.patience, Secrets: map[string]pluginhost.SecretSource{}}
	if t.manifest != "" {
		s, err := pluginhost.DraftManifest(t.manifest)
		if err != nil {
			return o, err
		}
		o.Path, o.Args, o.Env, o.Config, o.Kinds = s.Path, s.Args, s.Env, s.Config, s.Kinds
		o.Files = slices.Sorted(maps.Keys(s.Files))
		maps.Copy(o.Secrets, s.Secrets)
		o.Action.Kind = vendors(s.Actions)
	}
	if t.NArg() > 0 {
		o.Path, o.Args = t.Arg(0), t.Args()[1:]
	}
	if o.Path == "" {
		return o, fmt.Errorf("%w: name the executable, or a manifest with --manifest", errUsage)
	}
	if _, err := os.Stat(o.Path); err != nil {
		return o, err
	}
	for name, file := range t.secrets {
		path, err := filepath.Abs(file)
		if err != nil {
			return o, err
		}
		o.Secrets[name] = pluginhost.SecretSource{File: path}
	}
	var err error
	if o.Guests, err = guestRanges(t.guest); err != nil {
		return o, fmt.Errorf("%w: --guest: %w", errUsage, err)
	}
	o.Action.Params, o.Action.Set = t.params, t.set
	o.Action.Kind = cmp.Or(plugin.ActionKind(t.action), o.Action.Kind)
	return o, nil
}

// maxTrialGuests bounds a range.
const maxTrialGuests = 1000

// guestRanges reads kind/VMID and kind/VMID-VMID, separated by commas.
func guestRanges(s string) ([]guest.ID, error) {
	var out []guest.ID
	for part := range strings.SplitSeq(s, ",") {
		head, end, isRange := strings.Cut(part, "-")
		id, err := guest.ParseID(head)
		if err != nil {
			return nil, err
		}
		last := id.VMID
		if isRange {
			if last, err = guest.ParseVMID(end); err != nil {
				return nil, err
			}
		}
		if last < id.VMID || int(last-id.VMID) > maxTrialGuests {
			return nil, fmt.Errorf("%q is not a range of at most %d guests", part, maxTrialGuests)
		}
		for ; id.VMID <= last; id.VMID++ {
			out = append(out, id)
		}
	}
	return out, nil
}

// vendors is the first kind that is not one of the core's.
func vendors(kinds []plugin.ActionKind) plugin.ActionKind {
	for _, k := range kinds {
		if strings.Contains(string(k), ".") {
			return k
		}
	}
	return ""
}
