// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// manyStopped adds stopped containers from VMID 1000 on.
func manyStopped(n int) func(*pvetest.Options, *Options) {
	return func(o *pvetest.Options, _ *Options) {
		for i := range n {
			o.Guests = append(o.Guests, container(1000+i, false))
		}
	}
}

// starts is a case whose every action starts another guest.
func (r *rig) starts() plugintest.ExecutorCase {
	var mu sync.Mutex
	vmids := make(map[string]int)
	next := 1000
	return plugintest.ExecutorCase{
		Executor: r.Driver,
		Action: func() plugin.Action {
			mu.Lock()
			defer mu.Unlock()
			a := act(plugin.Start, guest.LXC, guest.VMID(next))
			vmids[a.OpID] = next
			next++
			return a
		},
		Effects: func(op string) (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range r.sim.Record() {
				if m.VMID == vmids[op] && m.What == "start" {
					n++
				}
			}
			return n
		},
	}
}

// writes is a case whose every action writes another guest's config.
func (r *rig) writes() plugintest.ExecutorCase {
	var mu sync.Mutex
	next := 1000
	return plugintest.ExecutorCase{
		Executor: r.Driver,
		Action: func() plugin.Action {
			mu.Lock()
			defer mu.Unlock()
			a := r.setAction(guest.LXC, guest.VMID(next), nil)
			a.Set = map[string]string{"description": a.OpID}
			next++
			return a
		},
		Effects: func(op string) (n int) {
			for _, m := range r.sim.Record() {
				if m.What == "config" && m.VMID >= 1000 && r.describes(m.VMID, op) {
					n++
				}
			}
			return n
		},
	}
}

func (r *rig) describes(vmid int, op string) bool {
	conf, err := r.sim.Operator(guest.LXC).Config(vmid, false)
	return err == nil && strings.TrimSpace(fmt.Sprint(conf["description"])) == op
}

// lives is a case whose every action is one of a kind about another guest,
// which the node notes as what.
func (r *rig) lives(what string, action func(vmid guest.VMID) plugin.Action) plugintest.ExecutorCase {
	var mu sync.Mutex
	vmids := make(map[string]int)
	next := guest.VMID(1000)
	return plugintest.ExecutorCase{
		Executor: r.Driver,
		Action: func() plugin.Action {
			mu.Lock()
			defer mu.Unlock()
			a := action(next)
			vmids[a.OpID] = int(a.Guest.VMID)
			next++
			return a
		},
		Effects: func(op string) (n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range r.sim.Record() {
				if m.VMID == vmids[op] && m.What == what {
					n++
				}
			}
			return n
		},
	}
}

func (r *rig) makes() plugintest.ExecutorCase {
	return r.lives("create", func(v guest.VMID) plugin.Action { return making(guest.ID{Kind: guest.LXC, VMID: 2000 + v}) })
}

func (r *rig) clones() plugintest.ExecutorCase {
	return r.lives("clone", func(v guest.VMID) plugin.Action {
		return withParams(act(plugin.Provision, guest.LXC, 2000+v), "how", "clone", "source", v.String())
	})
}

func (r *rig) destroys() plugintest.ExecutorCase {
	return r.lives("destroy", func(v guest.VMID) plugin.Action { return r.resting(act(plugin.Destroy, guest.LXC, v)) })
}

func (r *rig) snaps() plugintest.ExecutorCase {
	return r.lives("snapshot", func(v guest.VMID) plugin.Action {
		return withParams(act(plugin.TakeSnapshot, guest.LXC, v), "name", "before")
	})
}

func (r *rig) backups() plugintest.ExecutorCase {
	return r.lives("backup", func(v guest.VMID) plugin.Action { return backupOf(v, "local") })
}

func (r *rig) grows() plugintest.ExecutorCase {
	return r.lives("resize", func(v guest.VMID) plugin.Action {
		return r.resting(withParams(act(plugin.GrowDisk, guest.LXC, v), "disk", "rootfs", "size", "2147483648"))
	})
}

func TestExecutorContract(t *testing.T) {
	for name, makeCase := range map[string]func(*rig) plugintest.ExecutorCase{
		"starts": (*rig).starts, "writes": (*rig).writes, "makes": (*rig).makes, "clones": (*rig).clones, "destroys": (*rig).destroys,
		"snapshots": (*rig).snaps, "backups": (*rig).backups, "grows": (*rig).grows,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(o *pvetest.Options, do *Options) {
					manyStopped(40)(o, do)
					onZFS(o, do)
				})
				if err := plugintest.CheckExecutor(t.Context(), makeCase(r)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestContractOverTheWire runs the same checks through gRPC.
func TestContractOverTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, manyStopped(40))
		c := plugintest.Pipe(t, plugin.Set{Executor: r.Driver, Observer: r.Driver})
		ec := r.starts()
		ec.Executor = c.Executor()
		if err := plugintest.CheckExecutor(t.Context(), ec); err != nil {
			t.Error(err)
		}
		oc := plugintest.ObserverCase{Observer: c.Observer(), Change: r.flip()}
		if err := plugintest.CheckObserver(t.Context(), oc); err != nil {
			t.Error(err)
		}
	})
}

// flip changes something at each call.
func (r *rig) flip() func() {
	n := 1
	return func() {
		n++
		_ = r.sim.Operator(guest.LXC).Set(context.Background(), 101, map[string]string{"cores": fmt.Sprint(n%100 + 1)})
	}
}

func TestObserverContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if err := plugintest.CheckObserver(t.Context(), plugintest.ObserverCase{Observer: r.Driver, Change: r.flip()}); err != nil {
			t.Error(err)
		}
	})
}

// TestNotConfigured: the zero driver answers with errors of the contract.
func TestNotConfigured(t *testing.T) {
	var d Driver
	ctx := t.Context()
	if _, err := d.List(ctx); err == nil {
		t.Error("List of nothing")
	}
	if _, err := d.Guest(ctx, plugin.GuestQuery{VMID: 101}); err == nil {
		t.Error("Guest of nothing")
	}
	if err := d.Watch(ctx, nil); err == nil {
		t.Error("Watch of nothing")
	}
	if _, err := d.Probe(ctx, plugin.ProbeQuery{}); err == nil {
		t.Error("Probe of nothing")
	}
	if r := apply(ctx, &d, act(plugin.Start, guest.LXC, 101), ""); r.err == nil {
		t.Error("Apply to nothing")
	}
}
