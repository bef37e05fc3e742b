// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// Orders of a step:
//
//	api TOKEN METHOD PATH [BODY]   a request that was made and not kept
//	pct|qm start|stop|shutdown|reboot|unlock VMID
//	pct|qm set VMID k=v&k=v        the config, as root (form encoded)
//	lock VMID NAME                 a lock left over (NAME - clears it)
//	poweroff|crash VMID            from inside
//	remove VMID                    the guest was destroyed
//	failtask TYPE VMID TEXT        the next such task fails with TEXT
//	restart                        the node was rebooted
//	wait [DURATION]                until every task has ended, or so long
//	reads VMID N                   the next N reads meet a closing container
//	conf VMID k=v&k=v              the config file was edited (empty v deletes)
//	login USER PASSWORD
//	grant PATH WHO ROLE            an ACL entry more
//	role NAME PRIV,PRIV            a role more
//	storage k=v&k=v                a storage more: id path content total used avail keep fs
//	volume ID CONTENT FORMAT [VMID]  a file more on a storage
//	datacenter k=v&k=v             lower, upper of the free VMIDs; bwlimit of backups
//	times VMID k=v&k=v             start, stop, shutdown, lingering: how long it takes;
//	                               noshutdown=1: it does not hear
//	hold VMID DURATION             something else holds the guest's lock
//	begin pct|qm start|stop VMID   as above, without waiting for its end
func (r *runner) do(order string) error {
	verb, rest, _ := strings.Cut(order, " ")
	f := strings.Fields(rest)
	switch verb {
	case "api":
		return r.apiStep(rest)
	case "pct", "qm":
		return r.operatorStep(verb, f)
	case "login":
		return r.apiStep("- POST /access/ticket username=" + url.QueryEscape(f[0]) + "&password=" + url.QueryEscape(f[1]))
	case "wait":
		return r.waitStep(f)
	case "restart":
		r.sim.Crashed()
		return nil
	case "failtask":
		return r.failStep(rest)
	case "grant":
		r.sim.Grant(pvetest.Grant{Path: f[0], Who: f[1], Role: f[2]})
		return nil
	case "role":
		r.sim.SetRole(f[0], strings.Split(f[1], ","))
		return nil
	}
	if do, ok := nodeOrders[verb]; ok {
		return do(r.sim, f)
	}
	if verb == "begin" {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.operator(ended, f[0], f[1:]); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
	return r.guestStep(verb, f)
}

func (r *runner) guestStep(verb string, f []string) error {
	vmid, err := strconv.Atoi(f[0])
	if err != nil {
		return fmt.Errorf("order %s: %w", verb, err)
	}
	switch verb {
	case "lock":
		return r.sim.SetLock(vmid, strings.Trim(f[1], "-"))
	case "remove":
		return r.sim.Remove(vmid)
	case "poweroff":
		return r.sim.Poweroff(vmid)
	case "crash":
		return r.sim.Crash(vmid)
	case "reads":
		n, err := strconv.Atoi(f[1])
		if err != nil {
			return fmt.Errorf("order reads: %w", err)
		}
		return r.sim.ResetReads(vmid, n)
	case "conf":
		vals, err := formMap(f[1])
		if err != nil {
			return err
		}
		return r.sim.EditConfig(vmid, vals)
	}
	return fmt.Errorf("no such order: %s", verb)
}

func (r *runner) failStep(rest string) error {
	f := strings.SplitN(rest, " ", 3)
	vmid, err := strconv.Atoi(f[1])
	if err != nil {
		return fmt.Errorf("order failtask: %w", err)
	}
	_, err = r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultTask, Task: f[0], VMID: vmid, Reason: f[2]})
	return err
}

func (r *runner) apiStep(rest string) error {
	f := strings.SplitN(rest, " ", 4)
	e := &exchange{ID: "step", Method: f[1], URI: "/api2/json" + f[2], Header: map[string]string{}}
	if secret, ok := r.secrets[f[0]]; ok {
		e.Header["Authorization"] = "PVEAPIToken=" + f[0] + "=" + secret
	}
	if len(f) == 4 {
		e.Body = f[3]
		e.Header["Content-Type"] = "application/x-www-form-urlencoded"
	}
	got, err := r.send(e)
	r.keepTicket(got)
	r.lastUPID = generated[0].re.FindString(got.body)
	return err
}

func (r *runner) operatorStep(cmd string, f []string) error {
	return r.operator(context.Background(), cmd, f)
}

func (r *runner) operator(ctx context.Context, cmd string, f []string) error {
	kind := guest.LXC
	if cmd == "qm" {
		kind = guest.QEMU
	}
	vmid, err := strconv.Atoi(f[1])
	if err != nil {
		return fmt.Errorf("order %s: %w", cmd, err)
	}
	op := r.sim.Operator(kind)
	switch f[0] {
	case "unlock":
		err = op.Unlock(vmid)
	case "set":
		var vals map[string]string
		if vals, err = formMap(f[2]); err == nil {
			err = op.Set(ctx, vmid, vals)
		}
	default:
		_, err = op.Power(ctx, vmid, f[0])
	}
	return err
}

func (r *runner) waitStep(f []string) error {
	if len(f) > 0 {
		d, err := time.ParseDuration(f[0])
		time.Sleep(d)
		return err
	}
	for range 600 {
		if r.sim.Idle() {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("tasks do not end")
}

func formMap(s string) (map[string]string, error) {
	vals, err := url.ParseQuery(s)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	out := map[string]string{}
	for k := range vals {
		out[k] = vals.Get(k)
	}
	return out, nil
}
