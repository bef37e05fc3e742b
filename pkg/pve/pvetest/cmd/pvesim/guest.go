// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

const guestUsage = `pvesim %[1]s - what %[1]s does on a node, as root@pam

  pvesim %[1]s list
  pvesim %[1]s start VMID
  pvesim %[1]s stop VMID
  pvesim %[1]s shutdown VMID [--timeout SECONDS] [--forceStop 1]
  pvesim %[1]s reboot VMID
  pvesim %[1]s set VMID --KEY VALUE ... [--delete KEY,KEY] [--digest DIGEST]
  pvesim %[1]s config VMID [--current]
  pvesim %[1]s unlock VMID
  pvesim %[1]s status VMID

Exit status 0 if it was done, 255 with PVE's words if it was refused.
`

// kindOf is the kind of guest a command is about.
func kindOf(cmd string) string {
	if cmd == "qm" {
		return "qemu"
	}
	return "lxc"
}

// guestCommand is pct or qm.
func guestCommand(ctx context.Context, a admin, cmd string, args []string, out io.Writer) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" {
		_, _ = fmt.Fprintf(out, guestUsage, cmd)
		return nil
	}
	if args[0] == "list" {
		return listCommand(ctx, a, cmd, out)
	}
	if len(args) < 2 {
		return fmt.Errorf("%s %s wants a VMID: %w", cmd, args[0], errUsage)
	}
	path := "/guests/" + kindOf(cmd) + "/" + args[1]
	switch args[0] {
	case "config":
		return configCommand(ctx, a, path, args[2:], out)
	case "set":
		params, err := setParams(args[2:])
		if err != nil {
			return err
		}
		return a.do(ctx, http.MethodPost, path+"/set", map[string]any{"params": params}, nil)
	case "status":
		return statusCommand(ctx, a, cmd, args[1], out)
	case "start", "stop", "shutdown", "reboot", "unlock":
		return powerCommand(ctx, a, path, args[0], args[2:], out)
	}
	return fmt.Errorf("unknown command '%s %s': %w", cmd, args[0], errUsage)
}

// powerCommand gives the order and prints the task's log, as pct does.
func powerCommand(ctx context.Context, a admin, path, action string, args []string, out io.Writer) error {
	fs := flag.NewFlagSet(action, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	timeout := fs.Int("timeout", 0, "")
	force := fs.Bool("forceStop", false, "")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%s: %w: %w", action, err, errUsage)
	}
	var res struct{ Log string }
	err := a.do(ctx, http.MethodPost, path+"/"+action, map[string]any{"timeout": *timeout, "force": *force}, &res)
	for line := range strings.Lines(res.Log) {
		if !strings.HasPrefix(line, "TASK ") {
			_, _ = io.WriteString(out, line)
		}
	}
	return err
}

// setParams reads --key value and --key=value.
func setParams(args []string) (map[string]string, error) {
	out := map[string]string{}
	for i := 0; i < len(args); i++ {
		key, ok := strings.CutPrefix(args[i], "-")
		if !ok {
			return nil, fmt.Errorf("%q is no option: %w", args[i], errUsage)
		}
		key = strings.TrimPrefix(key, "-")
		key, val, ok := strings.Cut(key, "=")
		if !ok {
			if i++; i >= len(args) {
				return nil, fmt.Errorf("--%s wants a value: %w", key, errUsage)
			}
			val = args[i]
		}
		if old, again := out[key]; again && key == "delete" {
			val = old + "," + val
		}
		out[key] = val
	}
	return out, nil
}

func configCommand(ctx context.Context, a admin, path string, args []string, out io.Writer) error {
	query := ""
	if slices.Contains(args, "--current") {
		query = "?current=1"
	}
	var cfg map[string]any
	if err := a.do(ctx, http.MethodGet, path+"/config"+query, nil, &cfg); err != nil {
		return err
	}
	delete(cfg, "digest")
	for _, k := range slices.Sorted(maps.Keys(cfg)) {
		v := fmt.Sprint(cfg[k])
		if f, ok := cfg[k].(float64); ok {
			v = strconv.FormatFloat(f, 'f', -1, 64)
		}
		_, _ = fmt.Fprintf(out, "%s: %s\n", k, strings.ReplaceAll(v, "\n", "%0A"))
	}
	return nil
}

func list(ctx context.Context, a admin, cmd string) ([]pvetest.GuestStatus, error) {
	var rows []pvetest.GuestStatus
	err := a.do(ctx, http.MethodGet, "/guests?kind="+kindOf(cmd), nil, &rows)
	return rows, err
}

func listCommand(ctx context.Context, a admin, cmd string, out io.Writer) error {
	rows, err := list(ctx, a, cmd)
	if err != nil || len(rows) == 0 {
		return err
	}
	if cmd == "qm" {
		_, _ = fmt.Fprintf(out, "%10s %-20s %-10s %-10s %12s %-10s\n", "VMID", "NAME", "STATUS", "MEM(MB)", "BOOTDISK(GB)", "PID")
		for _, g := range rows {
			_, _ = fmt.Fprintf(out, "%10d %-20s %-10s %-10d %12.2f %-10d\n", g.VMID, g.Name, g.Status, g.Memory, g.Disk, g.PID)
		}
		return nil
	}
	_, _ = fmt.Fprintf(out, "%-10s %-10s %-12s %-20s\n", "VMID", "Status", "Lock", "Name")
	for _, g := range rows {
		_, _ = fmt.Fprintf(out, "%-10d %-10s %-12s %-20s\n", g.VMID, g.Status, g.Lock, g.Name)
	}
	return nil
}

func statusCommand(ctx context.Context, a admin, cmd, vmid string, out io.Writer) error {
	rows, err := list(ctx, a, cmd)
	if err != nil {
		return err
	}
	for _, g := range rows {
		if strconv.Itoa(g.VMID) == vmid {
			_, _ = fmt.Fprintf(out, "status: %s\n", g.Status)
			return nil
		}
	}
	return fmt.Errorf("Configuration file for %s %s does not exist", cmd, vmid) //nolint:staticcheck // PVE's words begin so
}
