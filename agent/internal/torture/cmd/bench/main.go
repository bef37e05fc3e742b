// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures what must be fast, each figure beside a reference that is measured in the same run, prints one
// table and writes the same as JSON: an array of {name, value, unit, reference, reference_value, ratio}. A ratio above 1
// is better than the reference, whatever the unit.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"text/tabwriter"
)

// figure is one line of the table.
type figure struct {
	Name           string  `json:"name"`
	Value          float64 `json:"value"`
	Unit           string  `json:"unit"`
	Reference      string  `json:"reference"`
	ReferenceValue float64 `json:"reference_value"`
	Ratio          float64 `json:"ratio"`
}

// more is a figure of which more is better, less one of which less is.
func more(name string, value float64, unit, reference string, ref float64) figure {
	return figure{Name: name, Value: value, Unit: unit, Reference: reference, ReferenceValue: ref, Ratio: value / ref}
}

func less(name string, value float64, unit, reference string, ref float64) figure {
	return figure{Name: name, Value: value, Unit: unit, Reference: reference, ReferenceValue: ref, Ratio: ref / value}
}

// bench is one group of figures; dir is on the file system to be measured.
type bench struct {
	name string
	run  func(ctx context.Context, dir string) ([]figure, error)
}

var benches = []bench{
	{"journal", benchJournal},
	{"reopen", benchReopen},
	{"ledger", benchLedger},
	{"queue", benchQueue},
	{"engine", benchEngine},
	{"plugin", benchPlugin},
	{"hook", benchHook},
}

func main() {
	dir := flag.String("dir", "build", "`directory` to measure in and to write bench.json to")
	only := flag.String("only", "", "measure this `group` alone: journal, reopen, ledger, queue, engine, plugin or hook")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *dir, *only, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, only string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var all []figure
	for _, b := range benches {
		if only != "" && b.name != only {
			continue
		}
		figs, err := inTemp(dir, func(tmp string) ([]figure, error) { return b.run(ctx, tmp) })
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		all = append(all, figs...)
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bench.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	return table(out, all)
}

func inTemp(dir string, f func(tmp string) ([]figure, error)) ([]figure, error) {
	tmp, err := os.MkdirTemp(dir, "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	return f(tmp)
}

func table(w io.Writer, all []figure) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "name\tvalue\tunit\treference\tvalue\tratio")
	for _, f := range all {
		fmt.Fprintf(tw, "%s\t%.4g\t%s\t%s\t%.4g\t%.2f\n", f.Name, f.Value, f.Unit, f.Reference, f.ReferenceValue, f.Ratio)
	}
	return tw.Flush()
}
