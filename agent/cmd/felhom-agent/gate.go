// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

func cmdAsk(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "ask", `have one action carried out on one guest, named in a document or not.

  ask snapshot GUEST name=NAME [description=TEXT]
  ask backup GUEST storage=STORAGE [mode=snapshot|suspend|stop] [notes=TEXT]
  ask rollback GUEST name=NAME                needs a signature
  ask delete_snapshot GUEST name=NAME         needs a signature
  ask restore GUEST source=VOLUME             needs a signature; over the guest
  ask delete_backup GUEST volume=VOLUME       needs a signature
  ask delete_volume GUEST volume=VOLUME       needs a signature
  ask destroy GUEST [backup=STORAGE | without_backup=1] [purge=1]
                                              needs a signature; quarantine first

What needs a signature becomes a request: felhom-agent approve OP shows it.`).withJSON()
	key := f.String("key", "", "idempotency `key`: asked again under it, the journal answers and nothing is done")
	as := f.String("as", "", "the asker's `name` in allowed_signers, for the four-eyes rule")
	rest, err := f.parse(args, 2, -1)
	if err != nil {
		return exitError, err
	}
	q, err := readAsk(rest)
	if err != nil {
		return exitError, err
	}
	q.Key, q.As = *key, *as
	c, err := f.client()
	if err != nil {
		return exitError, err
	}
	var done engine.Applied
	if err := c.Post(ctx, "/v1/ask", q, &done); err != nil {
		return exitError, err
	}
	if f.json {
		return applied(e, done.Ops, true), printJSON(e.stdout, done)
	}
	return askedFor(e, done.Ops), nil
}

func readAsk(args []string) (control.Ask, error) {
	ids, err := guests(args[1:2])
	if err != nil {
		return control.Ask{}, err
	}
	q := control.Ask{Guest: ids[0], Action: plugin.ActionKind(args[0]), Params: map[string]string{}}
	for _, a := range args[2:] {
		k, v, ok := strings.Cut(a, "=")
		if _, twice := q.Params[k]; !ok || twice || k == "" {
			return q, fmt.Errorf("%w: %q is no parameter NAME=VALUE, or is there twice", errUsage, a)
		}
		q.Params[k] = v
	}
	return q, nil
}

// askedFor prints how ops ended, or what they wait for.
func askedFor(e *env, ops []op.Op) int {
	for _, o := range ops {
		switch o.State {
		case op.Awaiting:
			fmt.Fprintf(e.stdout, "%s  %s  %s: %s\nop %s waits for a signature; see it and sign it with\n\n  felhom-agent approve %s\n",
				e.style.yellow(string(o.State)), o.Guest, o.Kind, o.Reason, o.ID, o.ID)
			return exitOK
		case op.Granted:
			fmt.Fprintf(e.stdout, "%s  %s  %s: the guest goes into quarantine now and is deleted not before %s;\nfelhom-agent undo %s takes it out\n",
				e.style.green(string(o.State)), o.Guest, o.Kind, o.NotBefore.Local().Format("2006-01-02 15:04:05"), o.ID)
			return exitOK
		}
	}
	return applied(e, ops, false)
}

func cmdReject(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "reject", "end an op that waits for a signature, or whose guest is in quarantine.")
	name, c, err := f.openOne(args)
	if err != nil {
		return exitError, err
	}
	var ok map[string]bool
	return exitOK, c.Post(ctx, "/v1/ops/"+name+"/reject", struct{}{}, &ok)
}

func cmdUndo(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "undo", "take an op back: a guest out of quarantine, as it was before; or what a benign op\nchanged, if nothing changed it since. What a document wants is then done again.").withJSON()
	name, c, err := f.openOne(args)
	if err != nil {
		return exitError, err
	}
	var done engine.Applied
	if err := c.Post(ctx, "/v1/ops/"+name+"/undo", struct{}{}, &done); err != nil {
		return exitError, err
	}
	if f.json {
		return applied(e, done.Ops, true), printJSON(e.stdout, done)
	}
	return applied(e, done.Ops, false), nil
}

func cmdAccept(ctx context.Context, e *env, args []string) (int, error) {
	return post(ctx, e, args, 1, "accept", "take a guest as it is now for the one that is meant, after its identity changed\nor another guest got its VMID.")
}

func cmdForget(ctx context.Context, e *env, args []string) (int, error) {
	return post(ctx, e, args, 1, "forget", "wipe what is known of a guest that is gone, so that its document may make it\nanew.")
}

func cmdApprove(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "approve", `sign an op that waits, or hand in signatures that were made elsewhere.

  approve OP                        show what is to be signed, and how
  approve OP --sign-with FILE       sign it with ssh-keygen and hand it in
  approve OP --print | ssh-keygen -Y sign -n `+gate.ApprovalNamespace+` -f KEY
  approve OP --signature FILE       hand in what ssh-keygen made ("-": paste it)

Where more than one signature is needed, give --sign-with or --signature more than once.`).withJSON()
	var in signing
	in.flags(f)
	show := f.Bool("print", false, "print the text to be signed, byte for byte, and nothing else")
	name, c, err := f.openOne(args)
	if err != nil {
		return exitError, err
	}
	var o op.Op
	if err := c.Get(ctx, "/v1/ops/"+name, &o); err != nil {
		return exitError, err
	}
	if o.State != op.Awaiting {
		return exitError, fmt.Errorf("op %s does not wait for an approval, it is %s", o.ID, o.State)
	}
	if *show {
		fmt.Fprint(e.stdout, o.Request)
		return exitOK, nil
	}
	if !f.json {
		writeRequest(e, o)
	}
	if in.none() {
		fmt.Fprintf(e.stdout, "\nNothing was signed. To sign it here:\n  felhom-agent approve %s --sign-with ~/.ssh/id_ed25519\nElsewhere:\n  felhom-agent approve %s --print >request\n  ssh-keygen -Y sign -n %s -f KEY request\n  felhom-agent approve %s --signature request.sig\n",
			o.ID, o.ID, gate.ApprovalNamespace, o.ID)
		return exitOK, nil
	}
	return handIn(ctx, e, c, o, in, f.json)
}

// handIn collects the signatures and gives them to the agent.
func handIn(ctx context.Context, e *env, c *control.Client, o op.Op, in signing, quiet bool) (int, error) {
	sigs, err := in.collect(ctx, e, gate.ApprovalNamespace, o.Request)
	if err != nil {
		return exitError, err
	}
	var done engine.Applied
	if err := c.Post(ctx, "/v1/ops/"+o.ID+"/approve", control.Signed{Text: o.Request, Signatures: sigs}, &done); err != nil {
		return exitError, err
	}
	if quiet {
		return applied(e, done.Ops, true), printJSON(e.stdout, done)
	}
	fmt.Fprintln(e.stdout)
	return askedFor(e, done.Ops), nil
}

// writeRequest shows exactly what is signed.
func writeRequest(e *env, o op.Op) {
	fmt.Fprintln(e.stdout, e.style.dim("---- this is what is signed ----"))
	for line := range strings.Lines(o.Request) {
		if strings.HasPrefix(line, "effect: ") {
			line = e.style.bold(strings.TrimSuffix(line, "\n")) + "\n"
		}
		fmt.Fprint(e.stdout, line)
	}
	fmt.Fprintln(e.stdout, e.style.dim("--------------------------------"))
}

func cmdPermit(ctx context.Context, e *env, args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "new":
			return permitNew(ctx, e, args[1:])
		case "add":
			return permitAdd(ctx, e, args[1:])
		case "list":
			return permitList(ctx, e, args[1:])
		case "withdraw":
			return permitWithdraw(ctx, e, args[1:])
		}
	}
	return exitUsage, fmt.Errorf("%w: want `felhom-agent permit new`, `add`, `list` or `withdraw`", errUsage)
}

func permitList(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "permit list", "the standing permits, with what is used of them.").withJSON()
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var ps []ledger.Permit
	if err := c.Get(ctx, "/v1/permits", &ps); err != nil {
		return exitError, err
	}
	if f.json {
		return exitOK, printJSON(e.stdout, ps)
	}
	for _, p := range ps {
		state := ""
		if p.Withdrawn {
			state = ", withdrawn by " + p.By
		}
		fmt.Fprintf(e.stdout, "%s  used %s, signed by %s%s\n%s\n", e.style.bold(p.ID), counted(p.Used, "time"), strings.Join(p.Signers, ", "), state, indented(p.Text))
	}
	if len(ps) == 0 {
		fmt.Fprintln(e.stdout, "there is no standing permit")
	}
	return exitOK, nil
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

func permitWithdraw(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "permit withdraw", "end a standing permit, by its id or hash.")
	name, c, err := f.openOne(args)
	if err != nil {
		return exitError, err
	}
	var ok map[string]bool
	return exitOK, c.Post(ctx, "/v1/permits/"+name+"/withdraw", struct{}{}, &ok)
}
