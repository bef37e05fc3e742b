// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

const (
	// startSkew is how much earlier than the sending a task may seem to have
	// started: UPIDs carry whole seconds, and clocks are not read at once.
	startSkew = 2 * time.Second
	// lookTwice is how long to wait before a task that was not found is looked
	// for again: PVE moves entries between two files, and a reader may find
	// one in neither.
	lookTwice = 500 * time.Millisecond
)

// Probe tells what became of an action whose outcome was lost (design section
// 7, "Settling an intent without a handle"). It believes evidence only: a task
// of the own token, the digest of the config, the values in it. Without
// evidence it says not-sent when the window in which a sending may still
// arrive is over and the task list provably reaches back, else unclear.
func (d *Driver) Probe(ctx context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	if err := d.ready(); err != nil {
		return plugin.Verdict{}, err
	}
	if err := d.check(q.Action); err != nil {
		return plugin.Verdict{}, err
	}
	j := &job{Action: q.Action, ref: d.ref(q.Action.Guest), undo: powerUndo(q.Action)}
	var v plugin.Verdict
	var err error
	switch {
	case q.Handle != "":
		v, err = d.probeTask(ctx, j, q.Handle)
	case q.Action.Kind == plugin.SetConfig:
		v, err = d.probeConfig(ctx, j, q)
	default:
		v, err = d.probeTasks(ctx, j, q)
	}
	if err != nil {
		return plugin.Verdict{}, err
	}
	v.Outcome = j.masked(v.Outcome)
	return v, nil
}

func unclear(format string, args ...any) plugin.Verdict {
	return plugin.Verdict{Finding: plugin.Unclear, Message: fmt.Sprintf(format, args...)}
}

// open reports whether a sending may still arrive, by either clock: which of
// them the query's times are from is not for us to guess.
func (d *Driver) open(q plugin.ProbeQuery) bool {
	return d.opts.Wall().Before(q.Until) || d.now().Before(q.Until)
}

func windowOpen(q plugin.ProbeQuery, evidence string) plugin.Verdict {
	return unclear("%s, but until %s the sending may still arrive", evidence, q.Until.UTC().Format(time.RFC3339))
}

// probeTask looks at a task that is known.
func (d *Driver) probeTask(ctx context.Context, j *job, handle string) (plugin.Verdict, error) {
	upid, err := pve.ParseUPID(handle)
	if err != nil {
		return plugin.Verdict{}, fmt.Errorf("%w: handle: %w", plugin.ErrInvalid, err)
	}
	s, err := d.pve.TaskStatus(ctx, upid)
	switch {
	case errors.Is(err, pve.ErrNoTask):
		return d.probeEffect(ctx, j, upid, "the task is over and its log is not kept any more")
	case err != nil:
		return plugin.Verdict{}, readError(err)
	case s.Running:
		return plugin.Verdict{Finding: plugin.Found, Handle: handle, Message: "the task is running"}, nil
	case s.Exit() == pve.ExitUnknown:
		return d.probeEffect(ctx, j, upid, "the task is over and nobody wrote how it ended")
	}
	return plugin.Verdict{Finding: plugin.Settled, Handle: handle, Outcome: d.ended(ctx, j, s), Message: "the task has ended: " + s.Text}, nil
}

// probeEffect settles an action whose task is over and tells nothing by what
// it was to bring about.
func (d *Driver) probeEffect(ctx context.Context, j *job, u pve.UPID, why string) (plugin.Verdict, error) {
	m, _ := methodOf(j.Kind)
	if m.effect == nil {
		return unclear("%s; nothing shows whether it happened", why), nil
	}
	e, err := m.effect(d, ctx, j, u)
	switch {
	case err != nil:
		return plugin.Verdict{}, readError(err)
	case !e.known:
		return unclear("%s; %s", why, e.seen), nil
	}
	v := plugin.Verdict{Finding: plugin.Settled, Handle: u.String(), Message: why + "; " + e.seen}
	v.Outcome = plugin.Outcome{Status: plugin.Failed, Message: v.Message}
	if e.happened {
		v.Outcome = j.done(v.Message)
	}
	v.Outcome.Params = e.params
	return v, nil
}

// written looks whether a config has what was to be written.
func (d *Driver) written(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	conf, err := d.pve.Config(ctx, j.ref)
	if err != nil {
		return effect{}, err
	}
	if d.holds(j.Action, conf) {
		return happened(true, "the config has every value"), nil
	}
	return happened(false, "the config does not have every value"), nil
}

// probeConfig settles a config write by digest and by value.
func (d *Driver) probeConfig(ctx context.Context, j *job, q plugin.ProbeQuery) (plugin.Verdict, error) {
	conf, err := d.pve.Config(ctx, j.ref)
	switch {
	case errors.Is(err, pve.ErrNoGuest):
		return unclear("the guest has no config here: %s", words(err)), nil
	case err != nil:
		return plugin.Verdict{}, readError(err)
	}
	same, open := conf.Digest == j.Digest, d.open(q)
	switch {
	case same && open:
		return windowOpen(q, "the digest sent along still stands"), nil
	case d.holds(j.Action, conf):
		// A copy that is still under way cannot do anything: its digest is old.
		return plugin.Verdict{
			Finding: plugin.Settled, Outcome: j.done("the config has every value that was to be written"),
			Message: "the config has every value as written",
		}, nil
	case same:
		return plugin.Verdict{Finding: plugin.NotSent, Message: "the digest sent along still stands: nothing was written"}, nil
	case open:
		return windowOpen(q, "the config has changed and does not have every value"), nil
	}
	return unclear("the config has changed since and does not have every value: it may have been written and changed again, or refused"), nil
}

// holds reports whether a config says what an action was to write. Secret
// values are never compared: with one of them among the keys only the others
// tell, and alone it tells nothing.
func (d *Driver) holds(a plugin.Action, conf pve.Config) bool {
	desired := make(guest.Config, len(a.Set))
	for k, v := range a.Set {
		if !slices.Contains(a.Secret, k) {
			desired[k] = v
		}
	}
	if len(desired) == 0 && len(a.Delete) == 0 {
		return false
	}
	return len(d.forms.Diff(guest.Facts{Kind: a.Guest.Kind}, desired, a.Delete, conf.Values)) == 0
}

// probeTasks settles an action that makes a task by looking for the task.
func (d *Driver) probeTasks(ctx context.Context, j *job, q plugin.ProbeQuery) (plugin.Verdict, error) {
	// Asked before the tasks are: what arrives in between is found then.
	open := d.open(q)
	found, doubtful, err := d.ownTasks(ctx, j, q)
	if err != nil {
		return plugin.Verdict{}, err
	}
	if len(found) == 0 && !open {
		select {
		case <-ctx.Done():
			return plugin.Verdict{}, context.Cause(ctx)
		case <-time.After(lookTwice):
		}
		if found, doubtful, err = d.ownTasks(ctx, j, q); err != nil {
			return plugin.Verdict{}, err
		}
	}
	switch {
	case len(found) > 0:
		return d.foundTask(found, q, open), nil
	case doubtful:
		return unclear("a task of ours was found, but nothing tells whether it is this one"), nil
	case open:
		return windowOpen(q, "no task of ours was found"), nil
	}
	return d.noTask(ctx, j, q)
}

// noTask is the verdict when no task was found and none can come any more.
func (d *Driver) noTask(ctx context.Context, j *job, q plugin.ProbeQuery) (plugin.Verdict, error) {
	reaches, err := d.pve.TasksReachBack(ctx, d.opts.Node, d.searchFrom(q.Sent))
	switch {
	case err != nil:
		return plugin.Verdict{}, readError(err)
	case !reaches:
		return unclear("no task of ours was found, but the node's task list may not reach back to the sending"), nil
	}
	v := plugin.Verdict{Finding: plugin.NotSent, Message: "no task of ours was found in a task list that reaches back"}
	if j.Kind == plugin.Destroy {
		v.Message += "; its protection may have been cleared"
	}
	return v, nil
}

// searchFrom is where the search for a task begins. If the node's clock
// differs from ours, the sending may have been timed by either.
func (d *Driver) searchFrom(sent time.Time) time.Time {
	from := sent
	if off := d.now().Sub(d.opts.Wall()); off < -startSkew {
		from = sent.Add(off)
	}
	return from.Add(-startSkew).Truncate(time.Second)
}

// ownTasks are the tasks that the action may have become, earliest first. A
// task that another attempt became, maybe within the same second, is not among
// them. doubtful says that there is one of which it is not known.
func (d *Driver) ownTasks(ctx context.Context, j *job, q plugin.ProbeQuery) (found []pve.Task, doubtful bool, err error) {
	m, _ := methodOf(j.Kind)
	id := m.taskID(j.Action)
	query := pve.TaskQuery{Types: m.types(j.Action), User: d.pve.User(), Since: d.searchFrom(q.Sent)}
	if v, err := guest.ParseVMID(id); err == nil {
		query.VMID = v
	}
	list, err := d.pve.Tasks(ctx, d.opts.Node, query)
	if err != nil {
		return nil, false, readError(err)
	}
	for _, t := range slices.Backward(list) {
		if t.UPID.ID != id || slices.Contains(q.Taken, t.UPID.String()) {
			continue
		}
		is, sure, err := d.isAbout(ctx, m, j.Action, t.UPID)
		if err != nil {
			return nil, false, err
		}
		if is {
			found = append(found, t)
		}
		doubtful = doubtful || !sure
	}
	return found, doubtful, nil
}

// isAbout reports whether a task is about the action, by its log if its type
// and id leave a doubt.
func (d *Driver) isAbout(ctx context.Context, m method, a plugin.Action, u pve.UPID) (is, sure bool, err error) {
	if m.about == nil {
		return true, true, nil
	}
	log, err := d.taskLog(ctx, u)
	switch {
	case errors.Is(err, pve.ErrNoTask):
		log = nil
	case err != nil:
		return false, false, readError(err)
	}
	is, sure = m.about(a, log)
	return is, sure, nil
}

// foundTask picks the task that the sending became: the first that started at
// or after it. One that seems to have started before may be that of an earlier
// attempt, so it counts only when nothing else can come any more.
func (d *Driver) foundTask(found []pve.Task, q plugin.ProbeQuery, open bool) plugin.Verdict {
	sent := q.Sent.Truncate(time.Second)
	i := slices.IndexFunc(found, func(t pve.Task) bool { return !t.UPID.Started().Before(sent) })
	switch {
	case i >= 0:
	case open:
		return windowOpen(q, "only a task from just before the sending was found")
	case sent.Sub(found[len(found)-1].UPID.Started()) > startSkew:
		return unclear("a task of ours was found, but the clocks differ too much to tell whether it is this one")
	default:
		i = len(found) - 1
	}
	u := found[i].UPID
	return plugin.Verdict{Finding: plugin.Found, Handle: u.String(), Message: fmt.Sprintf("task %s of ours started %s", u.Type, u.Started().UTC().Format(time.RFC3339))}
}
