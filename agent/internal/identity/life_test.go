// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// node is a Proxmox node with one VMID on it, and the truth about it.
type node struct {
	*rand.Rand
	now    time.Time
	truth  int          // counts the guests that have had the VMID
	config guest.Config // nil while there is none
	lock   string
	tasks  []plugin.Task
	macs   int
	log    []string
}

func (n *node) note(format string, args ...any) {
	n.log = append(n.log, n.now.Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (n *node) pass(most time.Duration) {
	n.now = n.now.Add(time.Duration(n.Int64N(int64(most))).Truncate(time.Millisecond))
}

// fresh is a config with a new address, of a volume that has had that name.
func (n *node) fresh() guest.Config {
	n.macs++
	return guest.Config{"net0": fmt.Sprintf("name=eth0,hwaddr=BC:24:11:00:%02X:%02X", n.macs>>8, n.macs&255), "rootfs": "local:101/vm-101-disk-0.raw"}
}

// run has a task of that type, with looks before, in the middle and after.
func (n *node) run(typ, lock string, own bool, look func(), effect func()) {
	t := plugin.Task{
		UPID: fmt.Sprint("UPID:", len(n.tasks)), Type: typ, ID: "101", User: "alice@pam",
		Started: n.now.Truncate(time.Second), Own: own,
	}
	if own {
		t.UPID += ":own"
	}
	n.tasks = append(n.tasks, t)
	n.note("%s begins, ours %v", typ, own)
	n.lock = lock
	if n.IntN(3) == 0 {
		n.pass(time.Second)
		look()
	}
	n.pass(2 * time.Second)
	effect()
	n.lock = ""
	last := &n.tasks[len(n.tasks)-1]
	last.Ended, last.Status = n.now.Truncate(time.Second), "OK"
	n.note("%s ends: %v", typ, n.config)
}

// observe is a look at the guest. PVE may notice the end of a task late, and
// then says that it was just now; after half a minute it has forgotten it.
func (n *node) observe(since time.Time) plugin.Observation {
	o := plugin.Observation{Presence: plugin.Gone, State: plugin.GuestState{ID: guest.ID{Kind: guest.LXC, VMID: 101}, Lock: n.lock}}
	if n.config != nil {
		o.Presence, o.Config = plugin.Here, maps.Clone(n.config)
	}
	for _, t := range n.tasks {
		age := n.now.Sub(t.Ended)
		if !t.Ended.IsZero() && age < 10*time.Second && n.IntN(2) == 0 {
			t.Ended = n.now
		}
		if !t.Ended.IsZero() && age > 30*time.Second {
			continue
		}
		if t.Ended.IsZero() || !t.Started.Before(since.Truncate(time.Second)) {
			o.Tasks = append(o.Tasks, t)
		}
	}
	o.Time = n.now
	return o
}

// endedInThisSecond: a deletion or restore of this second counts as later than
// a look in it, as the package's comment says.
func (n *node) endedInThisSecond() bool {
	return slices.ContainsFunc(n.tasks, func(t plugin.Task) bool {
		return t.Type != "vzcreate" && makesOrEnds(t) && t.Started.Equal(n.now.Truncate(time.Second))
	})
}

// keeper does what the package's comment says is to be done at each look.
type keeper struct {
	known     Evidence
	since     time.Time
	carried   Continuity
	explained []string
	truth     int  // the guest that was meant
	disturbed bool // something happened that an honest keeper cannot explain
}

func (k *keeper) look(t *testing.T, n *node) {
	t.Helper()
	o := n.observe(k.since)
	seen, unsteady := Of(guest.LXC, o.Config), Unsteady(o)
	switch {
	case k.truth == 0 && unsteady == "":
		*k = keeper{known: seen, since: o.Time, truth: n.truth, disturbed: n.endedInThisSecond()}
		n.note("first seen")
	case k.truth == 0:
	case o.Presence != plugin.Here:
		k.carried.Gone, k.disturbed = []string{"a look found it gone"}, true
		n.note("found gone")
	default:
		k.judge(t, n, o, seen, unsteady)
	}
}

func (k *keeper) judge(t *testing.T, n *node, o plugin.Observation, seen Evidence, unsteady string) {
	t.Helper()
	c := ContinuityOf(o.Tasks, 101, k.since, isOurs).Join(k.carried)
	if c.Broken() {
		k.carried = c
	}
	v, why := Judge(k.known, seen, c, k.explained)
	n.note("%s %q", v, why)
	switch {
	case v == Same && k.truth != n.truth:
		t.Fatalf("another guest is taken for the same:\n%q", n.log)
	case v != Same && !k.disturbed && len(c.Underway) == 0:
		t.Fatalf("the same guest is not recognised:\n%q", n.log)
	case v == Same && unsteady == "":
		k.known, k.explained, k.since = seen, nil, o.Time
	}
}

// accept is the operator's, who is not quicker than a second.
func (k *keeper) accept(n *node) {
	n.now = n.now.Truncate(time.Second).Add(time.Second)
	if o := n.observe(k.since); Unsteady(o) == "" {
		*k = keeper{known: Of(guest.LXC, o.Config), since: o.Time, truth: n.truth}
		n.note("accepted")
	}
}

// step has one thing happen.
func step(t *testing.T, n *node, k *keeper) {
	look := func() { k.look(t, n) }
	foreign := func(typ, lock string, config guest.Config) {
		k.disturbed = true
		n.run(typ, lock, false, look, func() { n.truth, n.config = n.truth+1, config })
	}
	old := n.config
	switch n.IntN(9) {
	case 0, 1:
		look()
	case 2: // nothing that matters
		n.run("vzdump", "backup", false, look, func() {})
	case 3: // restored over: its own backup, other volumes
		restored := maps.Clone(old)
		restored["rootfs"] = fmt.Sprintf("local:101/vm-101-disk-%d.raw", 1+n.IntN(2))
		foreign("vzrestore", "create", restored)
	case 4: // deleted, then made anew, restored or cloned into
		foreign("vzdestroy", "destroyed", nil)
		if n.IntN(2) == 0 {
			look()
		}
		switch n.pass(time.Second); n.IntN(3) {
		case 0:
			foreign("vzcreate", "create", n.fresh())
		case 1:
			foreign("vzcreate", "create", old) // to the byte
		case 2: // its task has the id of the source
			n.truth, n.config = n.truth+1, n.fresh()
			n.note("cloned into: %v", n.config)
		}
	case 5: // by hand
		k.disturbed = true
		n.config = n.fresh()
		n.note("edited: %v", n.config)
	case 6: // by an op of ours
		n.config = maps.Clone(old)
		n.config["net0"] = n.fresh()["net0"]
		k.explain(plugin.Action{Kind: plugin.SetConfig, Set: map[string]string{"net0": ""}, Guest: guest.ID{Kind: guest.LXC}})
		n.note("edited by us: %v", n.config)
	case 7:
		k.explain(plugin.Action{Kind: plugin.Restore})
		n.run("vzrestore", "create", true, look, func() {
			n.config = n.fresh()
			n.config["rootfs"] = fmt.Sprintf("local:101/vm-101-disk-%d.raw", n.IntN(3))
		})
	case 8:
		if k.truth != n.truth || k.disturbed {
			k.accept(n)
		}
	}
}

func (k *keeper) explain(a plugin.Action) {
	if k.truth != 0 { // else there is nothing to explain
		k.explained = append(k.explained, Changes(a)...)
	}
}

func live(t *testing.T, seed uint64) {
	n := &node{Rand: rand.New(rand.NewPCG(seed, 2)), now: noon}
	k := &keeper{}
	n.run("vzcreate", "create", false, func() { k.look(t, n) }, func() { n.truth, n.config = 1, n.fresh() })
	for range 20 {
		n.pass(3 * time.Second)
		step(t, n, k)
		k.look(t, n)
	}
}

// TestLives: through whatever happens to a VMID, with looks at any moment of
// it, another guest is never taken for the one that was meant, and that one is
// always recognised unless something happened that nobody can explain.
func TestLives(t *testing.T) {
	for seed := range uint64(300) {
		live(t, seed)
	}
}

func FuzzLives(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(live)
}
