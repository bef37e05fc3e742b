// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// lookBefore bounds the reads that come before a sending. The host counts the
// time in which a lost sending may still take effect from before it called
// Apply, so a sending must not come much later.
const lookBefore = 10 * time.Second

// job is one action on its way.
type job struct {
	plugin.Action
	ref  pve.Ref
	emit func(plugin.Progress) error
	// undo is set once the former state is known.
	undo *plugin.Action
	// accepted is called with the handle as soon as there is one.
	accepted func(handle string)
}

// Apply carries out one action, or with a handle waits for what was accepted
// under it. A second Apply of an attempt that this process already knows sends
// nothing: it tells how the first one ends.
func (d *Driver) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if err := d.ready(); err != nil {
		return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	if err := d.check(a); err != nil {
		return plugin.Outcome{}, err
	}
	j := &job{Action: a, ref: d.ref(a.Guest), emit: emit}
	if handle != "" {
		return d.resume(ctx, j, handle)
	}
	key := attempt{a.OpID, a.Attempt}
	k, mine := d.calls.claim(key)
	if !mine {
		return d.joined(ctx, j, k)
	}
	j.accepted = k.started
	o, err := d.perform(ctx, j)
	o = j.masked(o)
	d.calls.end(key, k, o, err)
	return o, err
}

// joined follows a call that somebody else made.
func (d *Driver) joined(ctx context.Context, j *job, k *call) (plugin.Outcome, error) {
	handle, o, err := k.join(ctx)
	if handle == "" {
		return o, err
	}
	if err := j.emit(plugin.Progress{Handle: handle}); err != nil {
		return plugin.Outcome{}, fmt.Errorf("handle %s was not taken: %w", handle, err)
	}
	return d.resume(ctx, j, handle)
}

// perform looks, sends and waits.
func (d *Driver) perform(ctx context.Context, j *job) (plugin.Outcome, error) {
	m, _ := methodOf(j.Kind)
	upid, o, err := m.send(d, ctx, j)
	if upid.IsZero() {
		return o, err
	}
	j.accepted(upid.String())
	if err := j.emit(plugin.Progress{Handle: upid.String()}); err != nil {
		return plugin.Outcome{}, fmt.Errorf("handle %s was not taken: %w", upid, err)
	}
	return d.await(ctx, j, upid)
}

// resume waits for what a handle stands for.
func (d *Driver) resume(ctx context.Context, j *job, handle string) (plugin.Outcome, error) {
	upid, err := pve.ParseUPID(handle)
	if err != nil {
		return plugin.Outcome{}, fmt.Errorf("%w: handle: %w", plugin.ErrInvalid, err)
	}
	j.undo = powerUndo(j.Action)
	o, err := d.await(ctx, j, upid)
	return j.masked(o), err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", plugin.ErrInvalid, fmt.Sprintf(format, args...))
}

func unsupported(k plugin.ActionKind) error {
	return fmt.Errorf("%w: action kind %q", plugin.ErrUnsupported, k)
}

// maxTimeout bounds how long a guest may be given to shut down.
const maxTimeout = 24 * time.Hour

// timeout is the parameter of that name, 0 if there is none.
func timeout(a plugin.Action) (time.Duration, error) {
	s, ok := a.Params["timeout"]
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > int(maxTimeout/time.Second) {
		return 0, fmt.Errorf("%w: timeout %q is not a number of seconds from 1 to %d", plugin.ErrInvalid, s, int(maxTimeout/time.Second))
	}
	return time.Duration(n) * time.Second, nil
}
