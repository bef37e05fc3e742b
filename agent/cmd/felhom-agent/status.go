// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/power"
)

func cmdStatus(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "status", "how the agent and every managed guest stand, from what was last seen.").withJSON()
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var st agent.Status
	if err := c.Get(ctx, "/v1/status", &st); err != nil {
		return exitError, err
	}
	if f.json {
		return exitOK, printJSON(e.stdout, st)
	}
	writeStatus(e, st)
	return exitOK, nil
}

func writeStatus(e *env, st agent.Status) {
	w := e.stdout
	mode := string(st.Engine.Mode)
	if st.Engine.Paused {
		mode += ", paused by the operator"
	}
	fmt.Fprintf(w, "felhom-agent %s, mode %s, up %s\n", st.Version, e.style.bold(mode), time.Since(st.Started).Round(time.Second))
	writeNode(e, st)
	writePower(e, st.Power)
	writeProviders(e, st.Engine)
	writePluginLine(e, st.Plugins)
	for _, warn := range warnings(st.Engine) {
		fmt.Fprintln(w, e.style.red("! ")+warn)
	}
	fmt.Fprintln(w)
	if len(st.Engine.Guests) == 0 {
		fmt.Fprintln(w, "no guest is managed; nothing will be changed")
		return
	}
	writeGuests(e, st.Engine.Guests)
}

func writeNode(e *env, st agent.Status) {
	en := st.Engine
	switch {
	case !st.PVE:
		fmt.Fprintln(e.stdout, "node: no PVE connection is configured ([pve] url)")
	case en.NodeErr != "":
		fmt.Fprintf(e.stdout, "node %s: %s\n", en.Node, e.style.red("not reachable: "+en.NodeErr))
	case en.NodeAt.IsZero():
		fmt.Fprintf(e.stdout, "node %s: not looked at yet\n", en.Node)
	default:
		fmt.Fprintf(e.stdout, "node %s: PVE %s, seen %s ago, %s not managed\n", en.Node, en.PVE,
			time.Since(en.NodeAt).Round(time.Second), counted(en.Surplus, "guest"))
	}
}

// writePower tells what keeps guests from being started or stopped now.
func writePower(e *env, p power.State) {
	switch {
	case p.Frozen != "":
		fmt.Fprintln(e.stdout, e.style.red("! ")+"no guest is started or stopped: "+p.Frozen)
	case !p.Booted.IsZero():
		fmt.Fprintf(e.stdout, "%sno guest is started or stopped until a startall has ended, or until %s: the host has just come up\n",
			e.style.red("! "), p.Booted.Add(power.Settle).Local().Format(time.TimeOnly))
	}
	if p.Blind != "" {
		fmt.Fprintln(e.stdout, "host: whether it goes down is known from PVE's tasks only: "+p.Blind)
	}
}

func writeProviders(e *env, st engine.Status) {
	if len(st.Providers) == 0 {
		fmt.Fprintln(e.stdout, "desired state: no provider has delivered anything")
	}
	for _, p := range st.Providers {
		from := ""
		if p.Cached {
			from = fmt.Sprintf(", from the cache, accepted %s ago", time.Since(p.Accepted).Round(time.Second))
		} else if !p.Heard.IsZero() {
			from = fmt.Sprintf(", heard %s ago", time.Since(p.Heard).Round(time.Second))
		}
		if p.Revision == "" {
			fmt.Fprintf(e.stdout, "desired state: %s: nothing accepted yet\n", p.Name)
		} else {
			fmt.Fprintf(e.stdout, "desired state: %s: %s, revision %.12s%s\n", p.Name, counted(p.Guests, "guest"), p.Revision, from)
		}
		if len(p.Skipped) > 0 {
			fmt.Fprintf(e.stdout, "  skipped, meant for another host: %s\n", strings.Join(p.Skipped, ", "))
		}
		if p.Err != "" {
			fmt.Fprintf(e.stdout, "  %s\n", e.style.red("newest not accepted, the last good one stays: "+indentLines(p.Err)))
		}
	}
}

func indentLines(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }

func warnings(st engine.Status) []string {
	var out []string
	if st.Journal != "" {
		out = append(out, "the journal cannot be written, so nothing is changed: "+st.Journal)
	}
	for _, why := range []string{st.Breaker, st.Twin} {
		if why != "" {
			out = append(out, why)
		}
	}
	return append(out, st.Conflicts...)
}

func writeGuests(e *env, views []engine.View) {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "GUEST\tNAME\tRUN\tSTATE\tWHY")
	for _, v := range views {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", v.ID, v.Name, v.Run, v.State, why(v))
	}
	tw.Flush()
}

// why is the one line that says most about a guest.
func why(v engine.View) string {
	switch {
	case v.State == engine.StateQuarantine:
		return v.Note
	case v.Op != nil && v.Op.State == op.Awaiting:
		return fmt.Sprintf("felhom-agent approve %s: %s: %s", v.Op.ID, v.Op.Kind, v.Op.Reason)
	case v.Op != nil:
		return fmt.Sprintf("%s: %s", v.Op.Kind, v.Op.Reason)
	case v.Err != "":
		return v.Err
	case len(v.Plan.Actions) > 0:
		reasons := make([]string, len(v.Plan.Actions))
		for i, a := range v.Plan.Actions {
			reasons[i] = a.Reason
		}
		return join(strings.Join(reasons, ", "), v.Note)
	case len(v.Plan.Withheld) > 0:
		w := v.Plan.Withheld[0]
		return join(w.What, w.Why)
	case len(v.Plan.RestartNeeded) > 0:
		return "waits for the guest's next start: " + strings.Join(v.Plan.RestartNeeded, ", ")
	}
	return v.Note
}

func join(what, why string) string {
	if why == "" {
		return what
	}
	return what + " (" + why + ")"
}

func cmdExplain(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "explain", "everything about one guest: what is wanted and by which file, what was seen,\nwhat will be done or left alone and why, and what happened lately.").withJSON()
	ids, c, err := f.openGuests(args, 1, 1)
	if err != nil {
		return exitError, err
	}
	var v engine.View
	if err := c.Get(ctx, "/v1/guests/"+ids[0].String(), &v); err != nil {
		return exitError, err
	}
	if f.json {
		return exitOK, printJSON(e.stdout, v)
	}
	fmt.Fprintf(e.stdout, "%s %s: %s\n", e.style.bold(v.ID.String()), v.Name, v.State)
	fmt.Fprintf(e.stdout, "wanted by   %s, %s:%d\n", v.Doc.Provider, v.Doc.File, v.Doc.Line)
	fmt.Fprintf(e.stdout, "observed    %s, %s\n", v.At.Local().Format(time.DateTime), orWord(string(v.Run), "run state not known"))
	if reason := why(v); reason != "" {
		fmt.Fprintf(e.stdout, "now         %s\n", reason)
	}
	writeGuestPlan(e, v.Plan, "  ")
	fmt.Fprintln(e.stdout, "\nlately:")
	return exitOK, c.Events(ctx, 0, false, func(en ledger.Entry) bool {
		if en.Record.VMID() == ids[0] {
			writeEvent(e, en, "")
		}
		return true
	})
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

func cmdOps(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "ops", "the operations that wait or run; with --all also those that ended.").withJSON()
	all := f.Bool("all", false, "ended ones too")
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var ops, shown []op.Op
	if err := c.Get(ctx, "/v1/ops", &ops); err != nil {
		return exitError, err
	}
	for _, o := range ops {
		if *all || !o.State.Ended() {
			shown = append(shown, o)
		}
	}
	if f.json {
		return exitOK, printJSON(e.stdout, shown)
	}
	if len(shown) == 0 {
		fmt.Fprintln(e.stdout, "no operation waits or runs")
		return exitOK, nil
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "OP\tGUEST\tACTION\tSTATE\tASKER\tREASON\tMESSAGE")
	for _, o := range shown {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.ID, o.Guest, o.Kind, o.State, o.Asker, o.Reason, o.Message)
	}
	return exitOK, tw.Flush()
}

func cmdEvents(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "events", "what happened lately: hook events, ops and decisions, oldest first.").withJSON()
	follow := f.Bool("f", false, "go on with what is to come")
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	return exitOK, c.Events(ctx, 0, *follow, func(en ledger.Entry) bool {
		if f.json {
			return printLine(e.stdout, en) == nil
		}
		writeEvent(e, en, "")
		return true
	})
}

func writeEvent(e *env, en ledger.Entry, note string) {
	who := "-"
	if v := en.Record.VMID(); v != 0 {
		who = v.String()
	}
	if note != "" {
		note = " (" + note + ")"
	}
	fmt.Fprintf(e.stdout, "%s %6d %5s  %s%s\n", en.Time.Local().Format("2006-01-02 15:04:05.000"), en.Seq, who, en.Record.Text(), note)
}
