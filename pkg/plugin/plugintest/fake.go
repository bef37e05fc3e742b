// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// World is a node with guests that exists in memory only. Its Executor and
// Observer act on it and can be told to misbehave. A World may be used by
// several goroutines; it starts none, and waits with package time's timers.
type World struct {
	name string

	mu       sync.Mutex // guards what follows
	guests   map[guest.VMID]*Guest
	attempts map[attemptKey]*attempt
	tasks    []*task
	calls    []Call
	script   func(a plugin.Action) Behaviour
	watchers map[chan plugin.Hint]bool
	node     plugin.NodeState // Guests unused
	listErr  error
	tasksGap string
	serial   int
}

// Guest is one guest of a World.
type Guest struct {
	ID         guest.ID
	Name       string
	Run        guest.RunState
	Config     guest.Config
	Lock       string
	Template   bool
	HA         plugin.HA
	Pending    map[string]string
	Presence   plugin.Presence // "" means Here
	ConfigErr  string          // the config cannot be read, and why
	Protection bool
	// What an inventory tells.
	Snapshots []plugin.SnapshotInfo
	Backups   []plugin.BackupInfo
	Jobs      []string
	Missing   []string
}

// Call is one call of a World's executor.
type Call struct {
	Method string // "apply" or "probe"
	Action plugin.Action
	Handle string
	Time   time.Time
}

// Behaviour is how an attempt to carry out an action goes. The zero value
// carries it out at once and well.
type Behaviour struct {
	// Delay passes before anything else happens.
	Delay time.Duration
	// Err ends the attempt with this error before anything was done.
	Err error
	// Outcome ends the attempt so, before anything was done.
	Outcome *plugin.Outcome
	// NoTask carries it out within the call: no handle.
	NoTask bool
	// Task is how long the task runs.
	Task time.Duration
	// Lose ends the call with ErrShutdown once the world has accepted the
	// action: before the handle was told, or, with LoseLate, after. The task
	// goes on.
	Lose, LoseLate bool
	// Fail is what the task ends with instead of OK; nothing was changed.
	Fail string
	// NoEffect says OK although nothing was changed: a lost start.
	NoEffect bool
	// Refuse are config keys that PVE refuses, with its words; nothing is
	// written then.
	Refuse map[string]string
	// Hang waits until the call's context ends; nothing is done.
	Hang bool
}

type attemptKey struct {
	op string
	n  int
}

// attempt is what became of one op id and attempt.
type attempt struct {
	done    chan struct{} // closed when outcome is set
	task    *task         // nil: none
	outcome plugin.Outcome
	effects int
}

type task struct {
	plugin.Task
	vmid guest.VMID
	done chan struct{} // closed when it has ended
}

// NewWorld makes a node without guests, of PVE 8.4, in quorum.
func NewWorld(node string) *World {
	return &World{
		name: node, guests: map[guest.VMID]*Guest{}, attempts: map[attemptKey]*attempt{}, watchers: map[chan plugin.Hint]bool{},
		script: func(plugin.Action) Behaviour { return Behaviour{} },
		node:   plugin.NodeState{Node: node, Version: "8.4.1", Quorate: true},
	}
}

// Script sets how attempts go from now on. It is called once for each attempt,
// without locks held.
func (w *World) Script(f func(a plugin.Action) Behaviour) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.script = f
}

// Put adds a guest, or replaces it, and gives a hint.
func (w *World) Put(g Guest) {
	w.Change(g.ID.VMID, func(old *Guest) { *old = cloneGuest(g) })
}

// Change changes a guest as somebody else would, and gives a hint. A guest
// that is not there is made.
func (w *World) Change(v guest.VMID, f func(g *Guest)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[v]
	if g == nil {
		g = &Guest{ID: guest.ID{Kind: guest.LXC, VMID: v}, Run: guest.Stopped, Config: guest.Config{}}
		w.guests[v] = g
	}
	f(g)
	w.hintLocked(v)
}

// Remove takes a guest away, and gives a hint.
func (w *World) Remove(v guest.VMID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.guests, v)
	w.hintLocked(v)
}

// Guest returns a copy of a guest.
func (w *World) Guest(v guest.VMID) (Guest, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, ok := w.guests[v]
	if !ok {
		return Guest{}, false
	}
	return cloneGuest(*g), true
}

// SetNode changes what List says of the node. Guests and Time are ignored.
func (w *World) SetNode(f func(n *plugin.NodeState)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.node)
}

// SetListError makes every read fail with err; nil ends that.
func (w *World) SetListError(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listErr = err
}

// SetTasksGap sets why observations may lack tasks; "" means that they do not.
func (w *World) SetTasksGap(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasksGap = why
}

// AddTask adds a task of somebody else to the task list. A zero Started is
// now.
func (w *World) AddTask(v guest.VMID, t plugin.Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.Started.IsZero() {
		t.Started = time.Now()
	}
	done := make(chan struct{})
	if !t.Ended.IsZero() {
		close(done)
	}
	w.tasks = append(w.tasks, &task{Task: t, vmid: v, done: done})
}

// ForgetTasks empties the task list, as PVE does with old tasks.
func (w *World) ForgetTasks() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks = nil
}

// Hint gives a hint to every watcher.
func (w *World) Hint(h plugin.Hint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendLocked(h)
}

// Calls are the calls of the executor so far.
func (w *World) Calls() []Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Effects counts how often actions with this op id were carried out.
func (w *World) Effects(opID string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for k, a := range w.attempts {
		if k.op == opID {
			n += a.effects
		}
	}
	return n
}

func (w *World) hintLocked(v guest.VMID) {
	w.sendLocked(plugin.Hint{Guests: []guest.VMID{v}, Reason: "changed"})
}

// sendLocked drops the hint for a watcher that does not keep up: hints may be
// lost.
func (w *World) sendLocked(h plugin.Hint) {
	for ch := range w.watchers {
		select {
		case ch <- h:
		default:
		}
	}
}

// newTaskLocked adds a task of our own token and gives it an UPID.
func (w *World) newTaskLocked(kind string, v guest.VMID) *task {
	w.serial++
	const user = "felhom@pve!agent"
	now := time.Now()
	t := &task{vmid: v, done: make(chan struct{}), Task: plugin.Task{
		UPID: fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", w.name, 1000+w.serial, w.serial, now.Unix(), kind, v, user),
		Type: kind, ID: v.String(), User: user, Started: now, Own: true,
	}}
	w.tasks = append(w.tasks, t)
	return t
}

func cloneGuest(g Guest) Guest {
	g.Config, g.Pending = maps.Clone(g.Config), maps.Clone(g.Pending)
	g.Snapshots, g.Backups = slices.Clone(g.Snapshots), slices.Clone(g.Backups)
	g.Jobs, g.Missing = slices.Clone(g.Jobs), slices.Clone(g.Missing)
	return g
}

// digest is a config's digest as PVE makes it: of the whole, in order.
func digest(c guest.Config) string {
	h := sha1.New()
	for _, k := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(h, "%s: %s\n", k, c[k])
	}
	return hex.EncodeToString(h.Sum(nil))
}
