// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command felhom-agent keeps the guests of a Proxmox VE node as they are
// wanted. It is the daemon (felhom-agent run) and the operator's command line
// in one binary.
//
// Every reading command takes --json and prints then what the control API
// answered. Exit status: 0 done, 1 an error, 64 a wrong command line; plan
// exits 2 when there is something to do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// The exit statuses.
const (
	exitOK      = 0
	exitError   = 1
	exitChanges = 2
	exitUsage   = 64 // EX_USAGE of sysexits.h
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// env is what a command gets from main.
type env struct {
	stdout, stderr io.Writer
	style          style
}

// command is one subcommand.
type command struct {
	name  string
	args  string // for the usage line
	short string
	group string
	run   func(ctx context.Context, e *env, args []string) (int, error)
}

func commands() []command {
	return []command{
		{"status", "[--json]", "how the agent and every managed guest stand", groupRead, cmdStatus},
		{"plan", "[--json]", "what would be changed, and what is left alone and why", groupRead, cmdPlan},
		{"explain", "GUEST [--json]", "everything about one guest", groupRead, cmdExplain},
		{"events", "[-f] [--json]", "what happened: hook events, ops, decisions", groupRead, cmdEvents},
		{"ops", "[--all] [--json]", "the operations that wait, run or ended", groupRead, cmdOps},
		{"plugins", "[--json]", "the plugins and how they are", groupRead, cmdPlugins},
		{"apply", "[--yes] [--key KEY] [GUEST...]", "carry out the plan once, whatever the mode", groupChange, cmdApply},
		{"pause", "[GUEST...]", "change nothing about these guests (none named: any)", groupChange, cmdPause},
		{"resume", "[GUEST...]", "end a pause, a hold or a tripped breaker", groupChange, cmdResume},
		{"ask", "ACTION GUEST [NAME=VALUE...]", "have one action done: snapshot, backup, destroy, ...", groupChange, cmdAsk},
		{"approve", "OP [--sign-with FILE]", "sign what waits for a signature", groupChange, cmdApprove},
		{"reject", "OP", "end an op that waits, or a quarantine", groupChange, cmdReject},
		{"undo", "OP", "take an op back, or a guest out of quarantine", groupChange, cmdUndo},
		{"permit", "new|add|list|withdraw", "standing permits", groupChange, cmdPermit},
		{"accept", "GUEST...", "take a changed guest for the one that is meant", groupChange, cmdAccept},
		{"forget", "GUEST...", "let a guest that is gone be made anew", groupChange, cmdForget},
		{"reload", "", "read the configuration again", groupChange, cmdReload},
		{"selftest", "GUEST", "write and read back every key on a scratch guest", groupChange, cmdSelftest},
		{"setup", "[--run] [--role ROLE]", "user, role and token in PVE, CA and credential here", groupRoot, cmdSetup},
		{"hook", "install|remove|status", "the hookscript of guests", groupRoot, cmdHook},
		{"doctor", "[--json]", "check every precondition, also without the agent", groupRoot, cmdDoctor},
		{"run", "", "be the daemon", groupDaemon, cmdRun},
		{"config", "check [FILE]", "check a configuration file", groupDaemon, cmdConfig},
		{"journal", "check|show|export", "read the journal, also without the agent", groupDaemon, cmdJournal},
		{"plugin", "test|new", "check a plugin you write, or begin one", groupDaemon, cmdPlugin},
		{"index", "make|check", "list a set's files for signing, check a signed set", groupDaemon, cmdIndex},
		{"version", "", "print the version", groupDaemon, cmdVersion},
	}
}

const (
	groupRead   = "Reading (nothing is changed)"
	groupChange = "Changing"
	groupRoot   = "Setting up (as root on the node)"
	groupDaemon = "Daemon and files"
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := &env{style: styleFor(stdout)}
	stdout, stderr = shown(stdout), shown(stderr)
	e.stdout, e.stderr = stdout, stderr
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	name := args[0]
	if name == "help" || name == "-h" || name == "--help" {
		usage(stdout)
		return exitOK
	}
	cmds := commands()
	i := slices.IndexFunc(cmds, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(stderr, "felhom-agent: there is no command %q; `felhom-agent help` lists them\n", name)
		return exitUsage
	}
	code, err := cmds[i].run(ctx, e, args[1:])
	return report(stderr, name, code, err)
}

// errUsage marks an error of the command line.
var errUsage = errors.New("usage")

func report(stderr io.Writer, name string, code int, err error) int {
	switch {
	case err == nil:
		return code
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "felhom-agent %s: %s\n", name, strings.TrimPrefix(err.Error(), "usage: "))
		return exitUsage
	}
	fmt.Fprintf(stderr, "felhom-agent %s: %v\n", name, err)
	if code == exitOK {
		code = exitError
	}
	return code
}

func usage(w io.Writer) {
	fmt.Fprint(w, "felhom-agent keeps the guests of a Proxmox VE node as they are wanted.\n\nUsage: felhom-agent COMMAND [--config FILE] [ARGUMENTS]\n")
	group := ""
	for _, c := range commands() {
		if c.group != group {
			group = c.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		fmt.Fprintf(w, "  %-28s %s\n", strings.TrimSpace(c.name+" "+c.args), c.short)
	}
	fmt.Fprint(w, "\nGUEST is a VMID (101) or kind/VMID (lxc/101). `felhom-agent COMMAND --help` tells more.\nManual: felhom-agent(8), felhom-agent.toml(5), felhom-desired(5).\n")
}
