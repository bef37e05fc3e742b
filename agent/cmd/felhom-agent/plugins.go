// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
)

func cmdPlugins(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "plugins", "the plugins, whether they run, and why not.").withJSON()
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var st agent.Status
	if err := c.Get(ctx, "/v1/status", &st); err != nil {
		return exitError, err
	}
	if f.json {
		return exitOK, printJSON(e.stdout, st.Plugins)
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PLUGIN\tVERSION\tSTATE\tPID\tISOLATION\tRESTARTS\tLAST ERROR")
	for _, p := range st.Plugins {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%d\t%s\n", p.Name, p.Version, p.State, p.PID, p.Isolation, p.Restarts, p.LastError)
	}
	return exitOK, tw.Flush()
}

// writePluginLine says in one line how the plugins are.
func writePluginLine(e *env, ps []pluginhost.PluginStatus) {
	if len(ps) == 0 {
		fmt.Fprintln(e.stdout, "plugins: none")
		return
	}
	fmt.Fprint(e.stdout, "plugins:")
	for _, p := range ps {
		fmt.Fprintf(e.stdout, " %s %s", p.Name, p.State)
	}
	fmt.Fprintln(e.stdout)
	for _, p := range ps {
		if p.LastError != "" && p.State != pluginhost.Running {
			fmt.Fprintf(e.stdout, "  %s\n", e.style.red(p.Name+": "+p.LastError))
		}
	}
}

func printLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
