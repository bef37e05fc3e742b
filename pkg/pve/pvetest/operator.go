// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// Operator is root@pam at the node's command line: what pct and qm do. Its
// tasks run in the foreground, as theirs do.
type Operator struct {
	sim  *Sim
	kind guest.Kind
}

// Operator returns the command line for one kind of guest.
func (s *Sim) Operator(kind guest.Kind) Operator { return Operator{sim: s, kind: kind} }

// GuestStatus is a line of pct list or qm list.
type GuestStatus struct {
	Kind   guest.Kind     `json:"kind"`
	VMID   int            `json:"vmid"`
	Status guest.RunState `json:"status"`
	Lock   string         `json:"lock"`
	Name   string         `json:"name"`
	Memory int64          `json:"memory"` // MiB
	Disk   float64        `json:"disk"`   // GiB
	PID    int            `json:"pid"`
}

// List returns the guests of the kind by VMID.
func (o Operator) List() []GuestStatus {
	s := o.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []GuestStatus{}
	for _, g := range s.sortedGuests() {
		if g.kind != o.kind {
			continue
		}
		out = append(out, GuestStatus{
			Kind: g.kind, VMID: g.vmid, Status: guest.RunState(runState(g)), Lock: g.conf.Lock(), Name: g.name(),
			Memory: s.maxMem(g) >> 20, Disk: float64(bootDiskSize(g)) / (1 << 30), PID: g.pid,
		})
	}
	return out
}

// Start starts a guest and waits for the task.
func (o Operator) Start(ctx context.Context, vmid int) (string, error) {
	return o.power(ctx, vmid, "start", nil)
}

// Stop stops a guest hard and waits for the task.
func (o Operator) Stop(ctx context.Context, vmid int) (string, error) {
	return o.power(ctx, vmid, "stop", nil)
}

// Shutdown asks a guest to shut down; the zero timeout is PVE's 60 seconds.
func (o Operator) Shutdown(ctx context.Context, vmid int, timeout time.Duration, force bool) (string, error) {
	in := schema.Values{}
	if timeout > 0 {
		in["timeout"] = schema.Value{S: itoa(int(timeout.Seconds()))}
	}
	if force {
		in["forceStop"] = schema.Value{S: "1"}
	}
	return o.power(ctx, vmid, "shutdown", in)
}

// Reboot reboots a guest and waits for the task.
func (o Operator) Reboot(ctx context.Context, vmid int) (string, error) {
	return o.power(ctx, vmid, "reboot", nil)
}

// Power is start, stop, shutdown or reboot, by its name and as it is without
// options.
func (o Operator) Power(ctx context.Context, vmid int, action string) (string, error) {
	switch action {
	case "start", "stop", "shutdown", "reboot":
		return o.power(ctx, vmid, action, nil)
	}
	return "", fmt.Errorf("pvetest: %q is none of start, stop, shutdown and reboot", action)
}

// power calls the API's own code for the action as root@pam and waits for
// its task; the string is the task's log.
func (o Operator) power(ctx context.Context, vmid int, action string, in schema.Values) (string, error) {
	s := o.sim
	uri := fmt.Sprintf("/nodes/%s/%s/%d/status/%s", s.opt.Node, o.kind, vmid, action)
	rt, vals := s.routes.find("POST", uri)
	c := &call{sim: s, ctx: s.ctx, authid: acl.Root, uri: uri, path: vals, in: schema.Values{}, cli: true}
	maps.Copy(c.in, in)
	data, err := rt.run(c)
	if err != nil {
		return "", err
	}
	upid, _ := data.(string)
	return s.WaitTask(ctx, upid)
}

// Bulk is what pve-guests.service asks for as root@pam, startall at boot and
// stopall at shutdown; it waits for the task and returns its log.
func (s *Sim) Bulk(ctx context.Context, action string) (string, error) {
	uri := fmt.Sprintf("/nodes/%s/%s", s.opt.Node, action)
	rt, vals := s.routes.find("POST", uri)
	data, err := rt.run(&call{sim: s, ctx: s.ctx, authid: acl.Root, uri: uri, path: vals, in: schema.Values{}})
	if err != nil {
		return "", err
	}
	upid, _ := data.(string)
	return s.WaitTask(ctx, upid)
}

// WaitTask waits until a task has ended and returns its log. A status other
// than OK or WARNINGS is an error.
func (s *Sim) WaitTask(ctx context.Context, upid string) (string, error) {
	s.mu.Lock()
	t := s.tasks.byUPID[upid]
	s.mu.Unlock()
	if t == nil {
		return "", fmt.Errorf("pvetest: no task %q", upid)
	}
	select {
	case <-t.done:
	case <-t.dead:
	case <-ctx.Done():
		return t.log(), ctx.Err()
	}
	if st := t.result(); st != "OK" && !warningsRE.MatchString(st) {
		return t.log(), errors.New(st)
	}
	return t.log(), nil
}

// Config returns a guest's config as the API shows it.
func (o Operator) Config(vmid int, current bool) (map[string]any, error) {
	g, err := o.sim.find(o.kind, vmid)
	if err != nil {
		return nil, err
	}
	o.sim.mu.Lock()
	defer o.sim.mu.Unlock()
	return g.conf.View(current), nil
}

// Set writes config keys as pct set and qm set do; the key "delete" removes
// keys.
func (o Operator) Set(ctx context.Context, vmid int, params map[string]string) error {
	s := o.sim
	for k, v := range params {
		params[k] = strings.TrimSpace(v)
	}
	if err := conf.CheckParams(s.major, o.kind, conf.PutConfig, params); err != nil {
		return fromConf(err)
	}
	unlock, err := s.lockGuest(ctx, o.kind, vmid, nil)
	if err != nil {
		return err
	}
	defer unlock()
	res, err := s.applyWrite(o.kind, vmid, acl.Root, params, false, "")
	if err != nil {
		return err
	}
	if res.Err != nil {
		return fromConf(res.Err)
	}
	return nil
}

// Unlock removes a guest's lock, whatever it is.
func (o Operator) Unlock(vmid int) error {
	if _, err := o.sim.find(o.kind, vmid); err != nil {
		return err
	}
	if err := o.sim.SetLock(vmid, ""); err != nil {
		return err
	}
	o.sim.note(Mutation{Kind: string(o.kind), VMID: vmid, What: "unlock", User: acl.Root})
	return nil
}

// Explain gives an error of this package with PVE's complaints about
// parameters, one a line, as the command line prints them.
func Explain(err error) string {
	var ae *apiError
	if !errors.As(err, &ae) {
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(strings.TrimRight(ae.reason, "\n"))
	for _, k := range sortedKeys(ae.params) {
		b.WriteString("\n" + k + ": " + strings.TrimRight(ae.params[k], "\n"))
	}
	return b.String()
}
