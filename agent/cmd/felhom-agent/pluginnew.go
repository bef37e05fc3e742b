// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/skeleton"
)

func cmdPluginNew(_ context.Context, e *env, args []string) (int, error) {
	f := &flags{FlagSet: flag.NewFlagSet("plugin new", flag.ContinueOnError)}
	f.SetOutput(e.stderr)
	lang := f.String("lang", "go", "`LANGUAGE`: "+strings.Join(skeleton.Languages, " or "))
	f.Usage = func() {
		fmt.Fprint(e.stderr, "felhom-agent plugin new [OPTIONS] NAME [DIRECTORY]: begin a plugin, an executor in Go or a provider in Python.\n\nOptions:\n")
		f.PrintDefaults()
	}
	rest, err := f.parse(args, 1, 2)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitUsage, err
		}
		return exitUsage, err
	}
	dir := rest[len(rest)-1]
	names, err := skeleton.Write(dir, *lang, rest[0])
	if err != nil {
		return exitError, err
	}
	for _, n := range names {
		fmt.Fprintln(e.stdout, filepath.Join(dir, n))
	}
	fmt.Fprintf(e.stdout, "next: %s\n", filepath.Join(dir, "README.md"))
	return exitOK, nil
}
