// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// logTail is how many of the last lines of a failed task's log are reported.
const logTail = 8

// maxLog is how many lines of a task's log are read for what it tells.
const maxLog = 2000

// lookAfter bounds the reads that complete the outcome of a task.
const lookAfter = 10 * time.Second

// haTask tells whether a task only hands a wish to the HA stack.
func haTask(taskType string) bool { return taskType == "hastart" || taskType == "hastop" }

// powerTypes are the types of the tasks that a power action may become.
func powerTypes(a plugin.Action) []string {
	own := ofKind(a, string(a.Kind))
	switch a.Kind {
	case plugin.Start:
		return []string{own, "hastart"}
	case plugin.Stop, plugin.Shutdown:
		return []string{own, "hastop"}
	}
	return []string{own}
}

// powerUndo is what would undo a power action, nil if nothing does.
func powerUndo(a plugin.Action) *plugin.Action {
	undo := &plugin.Action{Node: a.Node, Guest: a.Guest, Reason: "undo " + string(a.Kind)}
	switch a.Kind {
	case plugin.Start:
		undo.Kind = plugin.Shutdown
	case plugin.Stop, plugin.Shutdown:
		undo.Kind = plugin.Start
	default:
		return nil
	}
	return undo
}

// power looks at the guest and asks for a change of its run state. PVE would
// find out most of this too, but only after it made one of its three workers
// wait for the guest's lock; and a container's reboot does not look at the
// config lock at all.
func (d *Driver) power(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	g, o, err := d.look(ctx, j)
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	if o := settled(j, g); o.Status != "" {
		return pve.UPID{}, o, nil
	}
	limit, err := timeout(j.Action)
	if err != nil {
		return pve.UPID{}, plugin.Outcome{}, err
	}
	j.undo = powerUndo(j.Action)
	upid, err := d.pve.Power(ctx, j.ref, pve.PowerCall(j.Kind), limit)
	return d.sent(ctx, j, upid, err)
}

// runState looks whether a power action has happened.
func (d *Driver) runState(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	g, err := d.pve.Status(ctx, j.ref)
	if err != nil {
		return effect{}, err
	}
	want := guest.Stopped
	if j.Kind == plugin.Start {
		want = guest.Running
	}
	return happened(g.Run == want, "the guest is "+orElse(string(g.Run), "in no known state")), nil
}

// look reads the guest's state. An outcome with a status means that the action
// ends here, an error that nothing was sent.
func (d *Driver) look(ctx context.Context, j *job) (pve.Guest, plugin.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	g, err := d.pve.Status(ctx, j.ref)
	if err != nil {
		o, err := lookFailed(err)
		return g, o, err
	}
	if g.Lock != "" {
		return g, locked(j, g.Lock), nil
	}
	return g, plugin.Outcome{}, nil
}

// lookFailed tells a refusal to show the guest from a failure to.
func lookFailed(err error) (plugin.Outcome, error) {
	switch pve.KindOf(err) {
	case pve.ErrDenied, pve.ErrNoGuest, pve.ErrInvalid, pve.ErrUnsupported:
		return plugin.Outcome{Status: plugin.Refused, Message: words(err)}, nil
	}
	return plugin.Outcome{}, fmt.Errorf("%w: cannot look at the guest first: %w", plugin.ErrNotSent, err)
}

func locked(j *job, lock string) plugin.Outcome {
	return plugin.Outcome{
		Status: plugin.Retry, Reason: reasonLocked, RetryAfter: afterLock,
		Message: fmt.Sprintf("%s is locked (%s); nothing was sent", j.Guest, lock),
	}
}

// settled is the end of an action that has nothing to do, or no sense.
func settled(j *job, g pve.Guest) plugin.Outcome {
	switch {
	case j.Kind == plugin.Start && g.Run == guest.Running:
		return plugin.Outcome{Status: plugin.Done, Message: "is running already; nothing was sent"}
	case j.Kind == plugin.Start && g.Template:
		return plugin.Outcome{Status: plugin.Refused, Message: "is a template; nothing was sent"}
	case (j.Kind == plugin.Stop || j.Kind == plugin.Shutdown) && g.Run == guest.Stopped:
		return plugin.Outcome{Status: plugin.Done, Message: "is stopped already; nothing was sent"}
	case j.Kind == plugin.Reboot && g.Run == guest.Stopped:
		return plugin.Outcome{Status: plugin.Refused, Message: "is not running; nothing was sent"}
	}
	return plugin.Outcome{}
}

// await waits for a task and tells how it ended.
func (d *Driver) await(ctx context.Context, j *job, upid pve.UPID) (plugin.Outcome, error) {
	s, err := d.pve.Wait(ctx, upid, pve.DefaultPoll)
	switch {
	case pve.KindOf(err) == pve.ErrNoTask:
		return plugin.Outcome{Status: plugin.Unknown, Message: upid.String() + ": " + words(err)}, nil
	case err != nil:
		return plugin.Outcome{}, err // it goes on without us
	}
	o := d.ended(ctx, j, s)
	if o.Status == plugin.Failed {
		d.tellLog(ctx, j, upid)
	}
	return o, nil
}

// ended is the outcome of a task that has ended.
func (d *Driver) ended(ctx context.Context, j *job, s pve.TaskStatus) plugin.Outcome {
	var o plugin.Outcome
	switch s.Exit() {
	case pve.ExitOK, pve.ExitWarnings:
		text := s.Text
		if haTask(s.UPID.Type) {
			text += ": queued with the HA stack, which will act on its own time; the guest has not changed yet"
		}
		o = j.done(text)
		o.Warnings = s.Warnings()
	case pve.ExitUnknown:
		return plugin.Outcome{Status: plugin.Unknown, Message: orElse(s.Text, "the task ended without a status")}
	default:
		o = taskFailed(j, s)
	}
	if m, _ := methodOf(j.Kind); m.finish != nil {
		ctx, cancel := context.WithTimeout(ctx, lookAfter)
		defer cancel()
		return m.finish(d, ctx, j, s.UPID, o)
	}
	return o
}

// taskLog reads the log of a task from its begin, as much as matters.
func (d *Driver) taskLog(ctx context.Context, u pve.UPID) ([]string, error) {
	lines, _, err := d.pve.TaskLog(ctx, u, 0, maxLog)
	return lines, err
}

// tellLog reports the last lines of a failed task's log. They are for people:
// that they cannot be had changes nothing.
func (d *Driver) tellLog(ctx context.Context, j *job, upid pve.UPID) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, total, err := d.pve.TaskLog(ctx, upid, 0, 1)
	if err != nil {
		return
	}
	lines, _, err := d.pve.TaskLog(ctx, upid, max(0, total-logTail), logTail)
	if err != nil {
		return
	}
	for _, line := range lines {
		if j.emit(plugin.Progress{Text: j.mask(line)}) != nil {
			return
		}
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
