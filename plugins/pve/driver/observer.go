// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// bulk are the types of tasks that start or stop many guests, by the word that
// the contract has for them. The last four are PVE 9's.
var bulk = map[string]string{
	"startall": "startall", "stopall": "stopall", "suspendall": "suspendall", "migrateall": "migrateall",
	"bulk-start": "startall", "bulk-shutdown": "stopall", "bulk-suspend": "suspendall", "bulk-migrate": "migrateall",
}

// aboutMany reports whether a task acts on more guests than its ID says.
func aboutMany(u pve.UPID) bool { return bulk[u.Type] != "" || u.Type == "vzdump" }

// kinds remembers which kind a VMID was last seen as, to ask for the right one
// first. Being wrong costs a call.
type kinds struct {
	mu   sync.Mutex // guards what follows
	qemu map[guest.VMID]bool
}

func (k *kinds) learn(list []pve.Guest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.qemu = make(map[guest.VMID]bool)
	for _, g := range list {
		if g.ID.Kind == guest.QEMU {
			k.qemu[g.ID.VMID] = true
		}
	}
}

// order is in which order to ask for a guest.
func (k *kinds) order(v guest.VMID) []guest.Kind {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.qemu[v] {
		return []guest.Kind{guest.QEMU, guest.LXC}
	}
	return []guest.Kind{guest.LXC, guest.QEMU}
}

// List returns the node and every guest the token may audit on it.
func (d *Driver) List(ctx context.Context) (plugin.NodeState, error) {
	if err := d.ready(); err != nil {
		return plugin.NodeState{}, err
	}
	out := plugin.NodeState{Node: d.opts.Node}
	version, err := d.pve.Version(ctx)
	if err != nil {
		return plugin.NodeState{}, readError(err)
	}
	out.Version = version.Version
	if out.Quorate, err = d.quorate(ctx); err != nil {
		return plugin.NodeState{}, err
	}
	if out.Busy, err = d.busy(ctx); err != nil {
		return plugin.NodeState{}, err
	}
	list, err := d.pve.Guests(ctx, d.opts.Node)
	if err != nil {
		return plugin.NodeState{}, readError(err)
	}
	d.kinds.learn(list)
	for _, g := range list {
		out.Guests = append(out.Guests, state(g))
	}
	out.Privileges = d.privileges(ctx)
	out.Time = d.now()
	return out, nil
}

func state(g pve.Guest) plugin.GuestState {
	return plugin.GuestState{
		ID: g.ID, Name: g.Name, Run: g.Run, Lock: g.Lock, Template: g.Template, Tags: g.Tags, Uptime: g.Uptime,
	}
}

// quorate is false only if the cluster says so: a token without Sys.Audit on
// "/" may not ask, and a write without quorum is refused anyway.
func (d *Driver) quorate(ctx context.Context) (bool, error) {
	c, err := d.pve.Cluster(ctx)
	if errors.Is(err, pve.ErrDenied) {
		return true, nil
	}
	if err != nil {
		return false, readError(err)
	}
	return c.Quorate, nil
}

// busy names a running task that acts on many guests. An entry of the list may
// be some seconds behind, so the task itself is asked.
func (d *Driver) busy(ctx context.Context) (string, error) {
	list, err := d.pve.Tasks(ctx, d.opts.Node, pve.TaskQuery{Active: true})
	if err != nil {
		return "", readError(err)
	}
	for _, t := range list {
		if bulk[t.UPID.Type] == "" {
			continue
		}
		if t, err = d.fresh(ctx, t); err != nil {
			return "", readError(err)
		}
		if t.End.IsZero() {
			return bulk[t.UPID.Type], nil
		}
	}
	return "", nil
}

// fresh is a list entry as it is now: PVE notices the end of a task up to ten
// seconds late. When it ended is then not known better than "by now".
func (d *Driver) fresh(ctx context.Context, t pve.Task) (pve.Task, error) {
	if !t.End.IsZero() {
		return t, nil
	}
	s, err := d.pve.TaskStatus(ctx, t.UPID)
	switch {
	case err != nil && !errors.Is(err, pve.ErrNoTask):
		return t, err
	case err != nil || !s.Running:
		t.End, t.Text = d.now(), orElse(s.Text, "unexpected status")
	}
	return t, nil
}

// privileges is a fingerprint of the token's effective privileges.
func (d *Driver) privileges(ctx context.Context) string {
	p, err := d.pve.Permissions(ctx, "")
	if err != nil {
		return ""
	}
	text, err := json.Marshal(p) // with sorted keys
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// reReads is how often a config and its pending changes are read until both
// are of the same moment.
const reReads = 3

// Guest returns one guest in full. It is gone only on proof: the cluster is
// quorate, PVE says of both kinds that there is no such config, neither the
// list of the cluster's guests nor .vmlist knows the VMID, and the token still
// may see it. Everything short of that is unsure.
func (d *Driver) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	if err := d.ready(); err != nil {
		return plugin.Observation{}, err
	}
	if q.VMID < guest.MinVMID || q.VMID > guest.MaxVMID {
		return plugin.Observation{}, fmt.Errorf("%w: %d is not a VMID", plugin.ErrInvalid, q.VMID)
	}
	at := d.now() // what is read is not older than that
	out, err := d.observe(ctx, q.VMID)
	if err != nil {
		return plugin.Observation{}, err
	}
	if !q.TasksSince.IsZero() {
		if out.Tasks, err = d.tasks(ctx, q.VMID, q.TasksSince); err != nil {
			return plugin.Observation{}, err
		}
	}
	if q.Inventory && out.Presence == plugin.Here {
		out.Inventory = d.inventory(ctx, d.ref(out.State.ID))
		out.TasksGap = d.tasksGap(ctx, q.TasksSince)
	}
	out.Time = at
	return out, nil
}

// observe finds the guest under either kind.
func (d *Driver) observe(ctx context.Context, v guest.VMID) (plugin.Observation, error) {
	denied := ""
	for _, kind := range d.kinds.order(v) {
		ref := d.ref(guest.ID{Kind: kind, VMID: v})
		g, err := d.pve.Status(ctx, ref)
		switch {
		case err == nil:
			out, err := d.here(ctx, ref, g)
			if !errors.Is(err, pve.ErrNoGuest) {
				return out, err
			}
			// It went away between two calls: look where it is now.
		case errors.Is(err, pve.ErrNoGuest):
		case errors.Is(err, pve.ErrDenied):
			denied = words(err)
		default:
			return plugin.Observation{}, readError(err)
		}
	}
	if denied != "" {
		return plugin.Observation{Presence: plugin.Unsure, ConfigError: denied}, nil
	}
	return d.absent(ctx, v)
}

// here fills in a guest whose status is known. Its error is ErrNoGuest when
// the config is not there any more, else one of the contract's.
func (d *Driver) here(ctx context.Context, ref pve.Ref, g pve.Guest) (plugin.Observation, error) {
	out := plugin.Observation{
		Presence: plugin.Here, State: state(g),
		HA: plugin.HA{Managed: g.HA.Managed, State: g.HA.State},
	}
	conf, pending, err := d.configAndPending(ctx, ref)
	switch {
	case errors.Is(err, pve.ErrNoGuest):
		return out, err
	case err != nil:
		out.ConfigError = words(err)
		return out, nil
	}
	out.Config, out.Digest, out.Pending = conf.Values, conf.Digest, pending
	out.State.Lock = conf.Lock // read later than the state
	out.Protection = conf.Values["protection"] == "1"
	return out, nil
}

// configAndPending reads both at one moment, which equal digests prove. A
// config whose pending changes cannot be told is not known.
func (d *Driver) configAndPending(ctx context.Context, ref pve.Ref) (pve.Config, map[string]string, error) {
	for range reReads {
		conf, err := d.pve.Config(ctx, ref)
		if err != nil {
			return pve.Config{}, nil, err
		}
		changes, digest, err := d.pve.Pending(ctx, ref)
		if err != nil {
			return pve.Config{}, nil, err
		}
		if digest != conf.Digest {
			continue
		}
		var pending map[string]string
		for _, c := range changes {
			if pending == nil {
				pending = make(map[string]string)
			}
			pending[c.Key] = c.Value // "" for a deletion
		}
		return conf, pending, nil
	}
	return pve.Config{}, nil, fmt.Errorf("the config changed %d times while it was read", reReads)
}

// tasks are the guest's tasks since then, and those that act on many guests:
// since then, or earlier and still running.
func (d *Driver) tasks(ctx context.Context, v guest.VMID, since time.Time) ([]plugin.Task, error) {
	list, err := d.pve.Tasks(ctx, d.opts.Node, pve.TaskQuery{Since: since})
	if err != nil {
		return nil, readError(err)
	}
	running, err := d.pve.Tasks(ctx, d.opts.Node, pve.TaskQuery{Active: true})
	if err != nil {
		return nil, readError(err)
	}
	seen := make(map[pve.UPID]bool)
	var out []plugin.Task
	for _, t := range slices.Concat(list, running) {
		wanted := t.UPID.ID == v.String() || aboutMany(t.UPID)
		if !wanted || seen[t.UPID] {
			continue
		}
		seen[t.UPID] = true
		if t, err = d.fresh(ctx, t); err != nil {
			return nil, readError(err)
		}
		out = append(out, d.task(t))
	}
	slices.SortFunc(out, func(a, b plugin.Task) int {
		if c := b.Started.Compare(a.Started); c != 0 {
			return c
		}
		return strings.Compare(a.UPID, b.UPID)
	})
	return out, nil
}

func (d *Driver) task(t pve.Task) plugin.Task {
	return plugin.Task{
		UPID: t.UPID.String(), Type: t.UPID.Type, ID: t.UPID.ID, User: t.UPID.User,
		Started: t.UPID.Started(), Ended: t.End, Status: t.Text, Own: t.UPID.User == d.pve.User(),
	}
}
