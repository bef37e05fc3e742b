// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command pvesim is a simulated Proxmox VE node: its API over TLS, its
// hookscripts, and pct and qm for whoever stands at its keyboard. See
// README.md beside this file.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

const usage = `pvesim - a simulated Proxmox VE node

Usage:
  pvesim [flags]                      run a node until interrupted
  pvesim pct COMMAND VMID [flags]     what pct does, as root@pam
  pvesim qm COMMAND VMID [flags]      what qm does, as root@pam
  pvesim pvesh get PATH [flags]       what pvesh does, as root@pam, in JSON
  pvesim pveum COMMAND [flags]        what pveum does
  pvesim fault KIND [flags]           make something go wrong
  pvesim startall|stopall             what pve-guests.service asks for at boot and shutdown
  pvesim record                       every mutation executed so far, as JSON

  pvesim pct help, pvesim fault help and pvesim --help tell more.
  The subcommands find the node by --dir DIR before their name, by
  PVESIM_DIR, or at ./pvesim.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	stop()
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(255) // as pct and qm do
}

// errUsage marks a command line that makes no sense.
var errUsage = errors.New("try pvesim --help")

// run is main with its parts as arguments.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	dir, args, err := socketDir(args)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		switch args[0] {
		case "pct", "qm":
			return guestCommand(ctx, admin{dir}, args[0], args[1:], out)
		case "pvesh":
			return pveshCommand(ctx, admin{dir}, args[1:], out)
		case "pveum":
			return pveumCommand(ctx, admin{dir}, args[1:], out)
		case "fault":
			return faultCommand(ctx, admin{dir}, args[1:], out)
		case "startall", "stopall":
			return admin{dir}.do(ctx, http.MethodPost, "/node/"+args[0], nil, nil)
		case "record":
			return admin{dir}.copy(ctx, "/record", out)
		}
	}
	return serveCommand(ctx, dir, args, out, errOut)
}

// socketDir takes a leading --dir off the arguments.
func socketDir(args []string) (string, []string, error) {
	dir := os.Getenv("PVESIM_DIR")
	if dir == "" {
		dir = "pvesim"
	}
	if len(args) > 0 && args[0] == "--dir" {
		if len(args) < 2 {
			return "", nil, fmt.Errorf("--dir wants a directory: %w", errUsage)
		}
		return args[1], args[2:], nil
	}
	return dir, args, nil
}
