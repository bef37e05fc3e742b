// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

const faultUsage = `pvesim fault - make something go wrong

Requests (--method and --path choose them; * in a path is one segment):
  pvesim fault delay   --delay 5s                  held before it is worked on
  pvesim fault lost    --delay 15s [--hang 1s]     no answer; takes effect later
  pvesim fault timeout [--delay 0s] [--hang 30s]   596 while the work goes on
  pvesim fault status  --status 500 --reason TEXT [--execute]
Tasks:
  pvesim fault task    --task vzstart [--vmid 101] --reason TEXT
                       (the reason "unexpected status" loses the last line)
Guests:
  pvesim fault poweroff|crash|reboot-inside|remove --guest lxc/101
  pvesim fault lock         --guest lxc/101 --lock backup    ("" clears)
  pvesim fault replace      --guest lxc/101 [--running]      another under its VMID
  pvesim fault reset-reads  --guest lxc/101 --times 1        status reads that fail
  pvesim fault kill-monitor --guest lxc/101                  lxc-start killed: no hook
  pvesim fault move         --guest lxc/101 --node pve2      it is on another node now
  pvesim fault ha           --guest lxc/101 --state started  HA decides ("" takes it out)
Node:
  pvesim fault no-quorum | quorum | reset-counters
  pvesim fault kill-tasks                pvedaemon restarted: tasks lose their last line
  pvesim fault power-loss                the node is gone and boots at once
  pvesim fault deny --privs VM.PowerMgmt,VM.Audit    nobody holds them ("" ends it)
  pvesim fault list | clear

Each happens once, or --times N, or for ever with --times -1.
`

// faultCommand arms a fault or does something to a guest.
func faultCommand(ctx context.Context, a admin, args []string, out io.Writer) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" {
		_, _ = io.WriteString(out, faultUsage)
		return nil
	}
	f := pvetest.Fault{Kind: pvetest.FaultKind(args[0])}
	o, err := faultFlags(&f, args[1:])
	if err != nil {
		return err
	}
	switch what := args[0]; {
	case what == "list":
		return a.copy(ctx, "/faults", out)
	case what == "clear":
		return a.do(ctx, http.MethodDelete, "/faults", nil, nil)
	case what == "no-quorum", what == "quorum":
		return a.do(ctx, http.MethodPost, "/node/quorum", map[string]bool{"ok": what == "quorum"}, nil)
	case slices.Contains([]string{"reset-counters", "kill-tasks", "power-loss"}, what):
		return a.do(ctx, http.MethodPost, "/node/"+what, nil, nil)
	case what == "deny":
		privs := strings.FieldsFunc(o.privs, func(r rune) bool { return r == ',' })
		return a.do(ctx, http.MethodPost, "/node/deny", map[string]any{"privs": privs}, nil)
	case slices.Contains(guestFaults, what):
		if o.guest == "" {
			return fmt.Errorf("fault %s wants --guest lxc/VMID or qemu/VMID: %w", what, errUsage)
		}
		order := map[string]any{"lock": o.lock, "count": f.Times, "running": o.running, "node": o.node, "state": o.state}
		return a.do(ctx, http.MethodPost, "/guests/"+o.guest+"/"+what, order, nil)
	}
	var res struct{ ID int }
	if err := a.do(ctx, http.MethodPost, "/faults", f, &res); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "fault %d armed\n", res.ID)
	return nil
}

// guestFaults are what can happen to a guest.
var guestFaults = []string{
	"poweroff", "crash", "reboot-inside", "remove", "lock", "replace", "reset-reads", "kill-monitor", "move", "ha",
}

// faultOrder is what a fault says beyond a pvetest.Fault.
type faultOrder struct {
	guest, lock, node, state, privs string
	running                         bool
}

func faultFlags(f *pvetest.Fault, args []string) (faultOrder, error) {
	var o faultOrder
	fs := flag.NewFlagSet("fault", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&f.Method, "method", "", "")
	fs.StringVar(&f.Path, "path", "", "")
	fs.StringVar(&f.Task, "task", "", "")
	fs.IntVar(&f.VMID, "vmid", 0, "")
	fs.DurationVar(&f.Delay, "delay", 0, "")
	fs.DurationVar(&f.Hang, "hang", 0, "")
	fs.IntVar(&f.Status, "status", 0, "")
	fs.StringVar(&f.Reason, "reason", "", "")
	fs.BoolVar(&f.Execute, "execute", false, "")
	fs.IntVar(&f.Times, "times", 1, "")
	fs.StringVar(&o.guest, "guest", "", "")
	fs.StringVar(&o.lock, "lock", "", "")
	fs.StringVar(&o.node, "node", "", "")
	fs.StringVar(&o.state, "state", "", "")
	fs.StringVar(&o.privs, "privs", "", "")
	fs.BoolVar(&o.running, "running", false, "")
	if err := fs.Parse(args); err != nil {
		return o, fmt.Errorf("fault: %w: %w", err, errUsage)
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("fault: unexpected %q: %w", fs.Arg(0), errUsage)
	}
	return o, nil
}
