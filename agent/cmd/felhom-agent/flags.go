// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/pkg/guest"
)

const defaultConfig = "/etc/felhom-agent/agent.toml"

// flags are a subcommand's options: the common ones, and its own.
type flags struct {
	*flag.FlagSet
	config string
	json   bool
}

func newFlags(e *env, name, about string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(e.stderr)
	f.StringVar(&f.config, "config", defaultConfig, "configuration `file`")
	f.Usage = func() {
		fmt.Fprintf(e.stderr, "felhom-agent %s: %s\n\nOptions:\n", name, about)
		f.PrintDefaults()
	}
	return f
}

// withJSON adds --json.
func (f *flags) withJSON() *flags {
	f.BoolVar(&f.json, "json", false, "print what the control API answered")
	return f
}

// parse reads args; options may follow arguments. max is the greatest number
// of arguments, -1 for any.
func (f *flags) parse(args []string, least, most int) ([]string, error) {
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if f.NArg() == 0 {
			break
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(rest) < least || (most >= 0 && len(rest) > most) {
		return nil, fmt.Errorf("%w: wrong number of arguments (%d); `felhom-agent help` shows the form", errUsage, len(rest))
	}
	return rest, nil
}

// open reads the command line of a command that takes nothing but options, and
// returns a client for the agent.
func (f *flags) open(args []string) (*control.Client, error) {
	if _, err := f.parse(args, 0, 0); err != nil {
		return nil, err
	}
	return f.client()
}

// openOne is open for a command that takes one name.
func (f *flags) openOne(args []string) (string, *control.Client, error) {
	rest, err := f.parse(args, 1, 1)
	if err != nil {
		return "", nil, err
	}
	c, err := f.client()
	return rest[0], c, err
}

// openGuests is open for a command that takes guests.
func (f *flags) openGuests(args []string, least, most int) ([]guest.VMID, *control.Client, error) {
	rest, err := f.parse(args, least, most)
	if err != nil {
		return nil, nil, err
	}
	ids, err := guests(rest)
	if err != nil {
		return nil, nil, err
	}
	c, err := f.client()
	return ids, c, err
}

// client speaks to the agent that the configuration names.
func (f *flags) client() (*control.Client, error) {
	cfg, err := config.Load(f.config)
	if err != nil {
		return nil, err
	}
	return control.NewClient(cfg.Control.Socket), nil
}

// guests reads VMIDs, plain or as kind/VMID.
func guests(args []string) ([]guest.VMID, error) {
	out := make([]guest.VMID, 0, len(args))
	for _, a := range args {
		if i := strings.IndexByte(a, '/'); i >= 0 {
			id, err := guest.ParseID(a)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errUsage, err)
			}
			out = append(out, id.VMID)
			continue
		}
		v, err := guest.ParseVMID(a)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// style colours words on a terminal and nowhere else.
type style bool

func styleFor(w io.Writer) style {
	return style(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (s style) paint(code, text string) string {
	if !s {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string   { return s.paint("1", t) }
func (s style) green(t string) string  { return s.paint("32", t) }
func (s style) yellow(t string) string { return s.paint("33", t) }
func (s style) red(t string) string    { return s.paint("31", t) }
func (s style) dim(t string) string    { return s.paint("2", t) }
