// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
)

func cmdApply(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "apply", "show the plan and, when confirmed, carry it out once, also in mode observe.\nEvery op goes through the queue and the journal like any other.").withJSON()
	yes := f.Bool("yes", false, "do not ask")
	key := f.String("key", "", "idempotency `key`: asked again under it, the journal answers and nothing is done")
	ids, c, err := f.openGuests(args, 0, -1)
	if err != nil {
		return exitError, err
	}
	if sure, err := confirm(ctx, e, c, *yes || f.json); err != nil || !sure {
		return exitOK, err
	}
	var done engine.Applied
	if err := c.Post(ctx, "/v1/apply", control.Guests{Guests: ids, Key: *key}, &done); err != nil {
		return exitError, err
	}
	if f.json {
		err = printJSON(e.stdout, done)
	}
	if done.Already && !f.json {
		fmt.Fprintln(e.stdout, "already applied; it ended so:")
	}
	return applied(e, done.Ops, f.json), err
}

// confirm shows the plan and asks, unless told not to.
func confirm(ctx context.Context, e *env, c *control.Client, yes bool) (bool, error) {
	if yes {
		return true, nil
	}
	var p plan.Plan
	if err := c.Get(ctx, "/v1/plan", &p); err != nil {
		return false, err
	}
	writePlan(e, p)
	if p.Changes() == 0 {
		return false, nil
	}
	fmt.Fprint(e.stdout, "\nCarry this out? [y/N] ")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// applied prints how each op ended; the status is 1 if one did not succeed.
func applied(e *env, ops []op.Op, quiet bool) int {
	code := exitOK
	for _, o := range ops {
		mark := e.style.green("ok")
		if o.State != op.Succeeded {
			mark, code = e.style.red(string(o.State)), exitError
		}
		if !quiet {
			fmt.Fprintf(e.stdout, "%s  %s  %s: %s %s\n", mark, o.Guest, o.Kind, o.Reason, o.Message)
		}
	}
	if len(ops) == 0 && !quiet {
		fmt.Fprintln(e.stdout, "nothing to do")
	}
	return code
}

func cmdPause(ctx context.Context, e *env, args []string) (int, error) {
	return post(ctx, e, args, 0, "pause", "change nothing about the named guests, or about any guest when none is\nnamed, until resume. Looking and planning go on.")
}

func cmdResume(ctx context.Context, e *env, args []string) (int, error) {
	return post(ctx, e, args, 0, "resume", "end a pause, the hold after a manual change, and a tripped breaker of the named\nguests, or the host's pause and breaker when none is named.")
}

func cmdReload(ctx context.Context, e *env, args []string) (int, error) {
	return post(ctx, e, args, 0, "reload", "read the configuration again. A configuration with an error changes nothing.")
}

// post is a command on guests, at least so many of them.
func post(ctx context.Context, e *env, args []string, least int, name, about string) (int, error) {
	f := newFlags(e, name, about)
	ids, c, err := f.openGuests(args, least, -1)
	if err != nil {
		return exitError, err
	}
	var ok map[string]bool
	if err := c.Post(ctx, "/v1/"+name, control.Guests{Guests: ids}, &ok); err != nil {
		return exitError, err
	}
	return exitOK, nil
}

func cmdSelftest(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "selftest", "write every key of the normal forms to a scratch guest, read it back, and report\nthe keys whose round trip is not stable. The guest must carry the tag "+agent.SelftestTag+".\nIts config is put back afterwards.").withJSON()
	ids, c, err := f.openGuests(args, 1, 1)
	if err != nil {
		return exitError, err
	}
	var res agent.SelftestResult
	if err := c.Post(ctx, "/v1/selftest", control.Guests{Guests: ids}, &res); err != nil {
		return exitError, err
	}
	if f.json {
		err = printJSON(e.stdout, res)
	} else {
		writeSelftest(e, res)
	}
	if !res.OK() {
		return exitError, err
	}
	return exitOK, err
}

func writeSelftest(e *env, res agent.SelftestResult) {
	for _, r := range res.Unstable {
		fmt.Fprintf(e.stdout, "%s %s: wrote %q, read %q: %s\n", e.style.red("not stable"), r.Key, r.Wrote, r.Read, r.Why)
	}
	for _, r := range res.Refused {
		fmt.Fprintf(e.stdout, "%s %s=%s: %s\n", e.style.yellow("refused"), r.Key, r.Wrote, r.Why)
	}
	fmt.Fprintf(e.stdout, "selftest: %d values written and read back, %d not stable, %d refused by PVE\n",
		res.Tried, len(res.Unstable), len(res.Refused))
}
