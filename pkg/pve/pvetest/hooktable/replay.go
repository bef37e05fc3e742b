// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hooktable

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// Options say what is beside the recorder's script; the zero Options are for
// the script alone.
type Options struct {
	// Change adjusts the node before it is made.
	Change func(*pvetest.Options)
	// Tell is called as each script that told its phase begins, as a snippet
	// does that tells first and then runs its guest's former script. What a
	// script would have told that was killed or could not be executed is not
	// told.
	Tell func(pvetest.HookCall)
}

// Replay is one row on one node.
type Replay struct {
	row  *Row
	opt  Options
	set  setup
	sim  *pvetest.Sim
	pipe *pvetest.Pipe
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	seen  []Phase
	begun []time.Time // of seen
	diffs []string
	upid  string // of the first task
}

// Begin makes the row's node. Close ends it.
func (r *Row) Begin(opt Options) (*Replay, error) {
	x := &Replay{row: r, opt: opt, set: r.setup()}
	o := x.node()
	if opt.Change != nil {
		opt.Change(&o)
	}
	sim, err := pvetest.New(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	x.sim, x.pipe = sim, sim.Pipe()
	return x, nil
}

// node is what the recorder had.
func (x *Replay) node() pvetest.Options {
	version := "9.2.11"
	if x.row.PVE == 8 {
		version = "8.4.21"
	}
	snippets := map[string]bool{"hook.pl": !x.set.plain, "true.sh": true}
	if x.set.absent {
		delete(snippets, "hook.pl")
	}
	return pvetest.Options{
		Node: "N", Version: version, Seed: 1, RunHook: x.hook,
		Storages: []pvetest.Storage{{ID: "local", Snippets: snippets}},
		Users: []pvetest.User{
			{ID: "root@pam", Tokens: []pvetest.Token{{ID: "root", Secret: "r", NoPrivSep: true}}},
			{ID: "agent@pve", Tokens: []pvetest.Token{{ID: "full", Secret: "s", NoPrivSep: true}}},
		},
		ACL:    []pvetest.Grant{{Path: "/", Who: "agent@pve", Role: "PVEAdmin"}},
		Guests: []pvetest.GuestSpec{x.guest()},
	}
}

func (x *Replay) guest() pvetest.GuestSpec {
	vmid := int(x.row.VMID())
	c := map[string]string{"hookscript": "local:snippets/hook.pl", "memory": "128"}
	if x.row.Kind == guest.LXC {
		c["hostname"], c["ostype"], c["arch"] = "bb", "unmanaged", "amd64"
		c["rootfs"] = fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=1G", vmid, vmid)
	}
	for k, v := range x.set.conf {
		c[k] = v
		if v == "" {
			delete(c, k)
		}
	}
	running := x.row.Pre == guest.Running || x.row.Deleted()
	return pvetest.GuestSpec{Kind: x.row.Kind, VMID: vmid, Config: c, Running: running, Times: x.set.times}
}

// Sim is the row's node.
func (x *Replay) Sim() *pvetest.Sim { return x.sim }

// Play does what was done and returns a minute after all of it has ended.
func (x *Replay) Play(ctx context.Context) {
	acts := x.acts()
	slices.SortStableFunc(acts, func(a, b Act) int { return int((a.At - b.At) * 1e6) })
	start := time.Now()
	for i, a := range acts {
		time.Sleep(time.Until(start.Add(time.Duration(a.At*1e9) + time.Duration(i)*time.Microsecond)))
		x.wg.Go(func() { x.do(ctx, a) })
	}
	x.wg.Wait()
	time.Sleep(time.Minute)
}

// Close ends the node.
func (x *Replay) Close() {
	x.pipe.Close()
	x.sim.Close()
}

// acts are the recorded ones with those of the setup in place of lost ones.
func (x *Replay) acts() []Act {
	acts := slices.Clone(x.set.acts)
	if x.set.drop {
		return acts
	}
	rest := x.row.Acts
	if len(acts) > 0 && len(rest) > 0 && rest[0].API != "" && strings.HasSuffix(rest[0].API, "status/start") {
		acts = nil // nothing was lost
	}
	return append(acts, rest...)
}

func (x *Replay) differ(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.diffs = append(x.diffs, fmt.Sprintf(format, args...))
}

// Told are the phases that were told, in the order in which their scripts
// began.
func (x *Replay) Told() []Phase {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.seen)
}

// After is the guest's run state now; of one that is gone, stopped.
func (x *Replay) After() guest.RunState {
	for _, g := range x.sim.Operator(x.row.Kind).List() {
		if g.VMID == int(x.row.VMID()) {
			return g.Status
		}
	}
	return guest.Stopped
}

// Diff says in what the replay is not as recorded, excepted or not; "" if in
// nothing.
func (x *Replay) Diff() string {
	told, after := x.Told(), x.After()
	x.mu.Lock()
	defer x.mu.Unlock()
	out := strings.Join(x.diffs, "\n")
	if d := cmp.Diff(x.row.Hooks, told); d != "" && len(x.row.Hooks)+len(told) > 0 {
		out += "\nphases (-recorded +double):\n" + d
	}
	if after != x.row.After {
		out += fmt.Sprintf("\nafterwards: want %s, got %s", x.row.After, after)
	}
	return out
}
