// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

func cmdPlan(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "plan", "observe every managed guest afresh and show what would be changed.\nExit status: 0 nothing to do, 2 there is, 1 an error.").withJSON()
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var p plan.Plan
	if err := c.Get(ctx, "/v1/plan", &p); err != nil {
		return exitError, err
	}
	if f.json {
		err = printJSON(e.stdout, p)
	} else {
		writePlan(e, p)
	}
	if p.Changes() > 0 {
		return exitChanges, err
	}
	return exitOK, err
}

// writePlan prints a plan as a readable diff.
func writePlan(e *env, p plan.Plan) {
	for _, g := range p.Guests {
		fmt.Fprintln(e.stdout, e.style.bold(g.ID.String()), g.Name)
		writeGuestPlan(e, g, "  ")
	}
	if len(p.Guests) > 0 {
		fmt.Fprintln(e.stdout)
	}
	left := 0
	for _, g := range p.Guests {
		for _, w := range g.Withheld {
			if !w.Waiting {
				left++
			}
		}
	}
	fmt.Fprintf(e.stdout, "%s; %s left alone; %s as wanted; %s on the node not managed.\n",
		counted(p.Changes(), "change"), counted(left, "difference"), counted(p.Converged, "guest"), counted(p.Surplus, "guest"))
}

func counted(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func writeGuestPlan(e *env, g plan.Guest, indent string) {
	for _, a := range g.Actions {
		writeAction(e, a, indent)
	}
	for _, w := range g.Withheld {
		verb := "left alone: "
		if w.Waiting {
			verb = "waiting: "
		}
		fmt.Fprintf(e.stdout, "%s%s %s\n%s    %s\n", indent, e.style.dim("."), w.What, indent, e.style.dim(verb+w.Why))
	}
	if len(g.RestartNeeded) > 0 {
		fmt.Fprintf(e.stdout, "%s%s takes effect at the guest's next start: %s\n", indent, e.style.dim("i"), strings.Join(g.RestartNeeded, ", "))
	}
}

func writeAction(e *env, a plan.Action, indent string) {
	if a.Kind != plugin.SetConfig {
		fmt.Fprintf(e.stdout, "%s%s %s: %s\n", indent, runMark(e, a.Kind), a.Kind, a.Reason)
		return
	}
	for _, c := range a.Changes {
		fmt.Fprint(e.stdout, indent)
		writeChange(e.stdout, e.style, c)
	}
}

func runMark(e *env, k plugin.ActionKind) string {
	if k == plugin.Start {
		return e.style.green("^")
	}
	return e.style.red("v")
}

func writeChange(w io.Writer, s style, c plan.Change) {
	when := ""
	if c.Effect == guest.Restart {
		when = s.dim("  (at the guest's next start)")
	}
	switch {
	case c.To == nil:
		fmt.Fprintf(w, "%s %s: %s -> (absent)%s\n", s.red("-"), c.Key, oneLine(*c.From), when)
	case c.From == nil:
		fmt.Fprintf(w, "%s %s: (absent) -> %s%s\n", s.green("+"), c.Key, oneLine(*c.To), when)
	default:
		fmt.Fprintf(w, "%s %s: %s -> %s%s\n", s.yellow("~"), c.Key, oneLine(*c.From), oneLine(*c.To), when)
	}
}

func oneLine(v string) string {
	v = strings.TrimRight(v, "\n")
	if v == "" || strings.ContainsAny(v, "\n\r\t") {
		return fmt.Sprintf("%q", v)
	}
	return v
}
