// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

const (
	// maxBackoff is how rarely a PVE that does not answer is asked.
	maxBackoff = 30 * time.Second
	// recentTasks is how many entries of the task list are looked at: the
	// running ones come first, then the latest ended.
	recentTasks = 100
)

// The reasons of hints.
const (
	reasonBegin   = "the watch begins"
	reasonBack    = "PVE answers again"
	reasonFile    = "the cluster file system says so"
	reasonReset   = "the cluster file system's counters were reset"
	reasonList    = "the guest list changed"
	reasonTasks   = "the task list changed"
	reasonBulk    = "a task about many guests started or ended"
	reasonNotSeen = "more tasks ended than could be looked at"
)

// Watch emits hints until ctx ends or emit fails. It compares the guest list
// (which shows run state, lock, name, tags, processors and memory), the task
// list, and the counters of .vmlist where that can be read: without it a
// config change that shows in neither list gives no hint. While PVE does not
// answer it asks more and more rarely, and afterwards says that anything may
// have changed.
func (d *Driver) Watch(ctx context.Context, emit func(plugin.Hint) error) error {
	if err := d.ready(); err != nil {
		return err
	}
	w := &watch{d: d, emit: emit, tellAll: reasonBegin}
	w.file, _ = w.readFile()
	for due, backoff := time.Now(), d.opts.Poll; ; {
		if err := w.lookAtFile(); err != nil {
			return err
		}
		if !time.Now().Before(due) {
			ok, err := w.lookAtPVE(ctx)
			switch {
			case err != nil:
				return err
			case ok:
				backoff = d.opts.Poll
			default:
				backoff = min(2*backoff, max(maxBackoff, d.opts.Poll))
			}
			due = time.Now().Add(backoff)
		}
		pause := time.Until(due)
		if d.opts.VMList != "" {
			pause = min(pause, d.opts.PollFile)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// watch is one run of Watch: what it saw last.
type watch struct {
	d    *Driver
	emit func(plugin.Hint) error
	// file is nil while .vmlist cannot be read; lost says that it could be,
	// before.
	file *vmList
	lost bool
	// list and tasks are nil before the first look.
	list  map[guest.ID]sight
	tasks map[pve.UPID]bool // whether it had ended
	// tellAll is the reason to say, as soon as PVE answers, that anything may
	// have changed; "" for none.
	tellAll string
}

// sight is what the guest list shows of a guest that only changes if somebody
// changes it.
type sight struct {
	run             guest.RunState
	name, lock, tag string
	template        bool
	cpus            float64
	memory, swap    int64
	uptime          time.Duration
}

// sameAs compares but for the uptime, which may only grow.
func (s sight) sameAs(old sight) bool {
	restarted := s.uptime < old.uptime
	s.uptime, old.uptime = 0, 0
	return s == old && !restarted
}

func (w *watch) readFile() (*vmList, bool) {
	if w.d.opts.VMList == "" {
		return nil, false
	}
	l, err := readVMList(w.d.opts.VMList)
	if err != nil {
		return nil, false
	}
	return &l, true
}

// lookAtFile compares the counters with those of the last look.
func (w *watch) lookAtFile() error {
	now, ok := w.readFile()
	old := w.file
	w.file = now
	switch {
	case !ok:
		w.lost = w.lost || old != nil
		return nil
	case old == nil && w.lost:
		w.lost = false
		return w.emit(plugin.Hint{All: true, Reason: reasonReset})
	case old == nil:
		return nil
	}
	changed, all := now.since(*old)
	switch {
	case all:
		return w.emit(plugin.Hint{All: true, Reason: reasonReset})
	case len(changed) > 0:
		return w.emit(plugin.Hint{Guests: changed, Reason: reasonFile})
	}
	return nil
}

// lookAtPVE compares both lists with those of the last look. It is not ok if
// PVE did not answer; the error is emit's, or says that ctx has ended.
func (w *watch) lookAtPVE(ctx context.Context) (ok bool, err error) {
	guests, err := w.d.pve.Guests(ctx, w.d.opts.Node)
	var tasks []pve.Task
	if err == nil {
		tasks, err = w.d.pve.Tasks(ctx, w.d.opts.Node, pve.TaskQuery{Limit: recentTasks})
	}
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if w.tellAll == "" {
			w.tellAll = reasonBack
		}
		return false, nil
	}
	w.d.kinds.learn(guests)
	hints := w.compare(guests, tasks)
	if w.tellAll != "" {
		hints = []plugin.Hint{{All: true, Reason: w.tellAll}}
		w.tellAll = ""
	}
	for _, h := range hints {
		if err := w.emit(h); err != nil {
			return true, err
		}
	}
	return true, nil
}

// compare takes over both lists and tells what changed.
func (w *watch) compare(guests []pve.Guest, tasks []pve.Task) []plugin.Hint {
	var hints []plugin.Hint
	if changed := w.newList(guests); len(changed) > 0 {
		hints = append(hints, plugin.Hint{Guests: changed, Reason: reasonList})
	}
	changed, all := w.newTasks(tasks)
	if all != "" {
		hints = append(hints, plugin.Hint{All: true, Reason: all})
	}
	if len(changed) > 0 {
		hints = append(hints, plugin.Hint{Guests: changed, Reason: reasonTasks})
	}
	return hints
}

// newList takes over the guest list and tells which guests differ.
func (w *watch) newList(guests []pve.Guest) []guest.VMID {
	now := make(map[guest.ID]sight, len(guests))
	changed := make(map[guest.VMID]bool)
	for _, g := range guests {
		s := sight{g.Run, g.Name, g.Lock, g.Tags, g.Template, g.CPUs, g.MaxMem, g.MaxSwap, g.Uptime}
		now[g.ID] = s
		if old, ok := w.list[g.ID]; !ok || !s.sameAs(old) {
			changed[g.ID.VMID] = true
		}
	}
	for id := range w.list {
		if _, ok := now[id]; !ok {
			changed[id.VMID] = true
		}
	}
	w.list = now
	return slices.Sorted(maps.Keys(changed))
}

// newTasks takes over the task list and tells which guests a task started or
// ended of; all is the reason if anything may have changed.
func (w *watch) newTasks(tasks []pve.Task) (changed []guest.VMID, all string) {
	now := make(map[pve.UPID]bool, len(tasks))
	ids := make(map[guest.VMID]bool)
	known := len(w.tasks) == 0
	for _, t := range tasks {
		ended := !t.End.IsZero()
		now[t.UPID] = ended
		was, ok := w.tasks[t.UPID]
		known = known || ok
		if ok && was == ended {
			continue
		}
		if v, err := guest.ParseVMID(t.UPID.ID); err == nil {
			ids[v] = true
		} else if aboutMany(t.UPID) {
			all = reasonBulk
		}
	}
	if !known && len(tasks) >= recentTasks {
		all = reasonNotSeen // no entry of the last look is among so many
	}
	w.tasks = now
	return slices.Sorted(maps.Keys(ids)), all
}
