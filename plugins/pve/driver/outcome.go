// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// The reasons of an outcome "retry".
const (
	reasonLocked      = "locked"      // the config carries a lock
	reasonBusy        = "busy"        // PVE did not get its process lock in time
	reasonChanged     = "changed"     // the config is not the one planned on
	reasonQuorum      = "quorum"      // the cluster file system takes nothing
	reasonTransient   = "transient"   // PVE failed for the moment
	reasonUnreachable = "unreachable" // the daemon or node behind the API is away
	reasonUnsure      = "unsure"      // what has to be proven first is not proven
)

// How long to leave a guest alone after each.
const (
	afterLock        = 10 * time.Second
	afterBusy        = 5 * time.Second
	afterQuorum      = 30 * time.Second
	afterTransient   = 2 * time.Second
	afterUnreachable = 10 * time.Second
	afterUnsure      = 30 * time.Second
)

// words is what PVE said, or what there is to say if it said nothing.
func words(err error) string {
	if e, ok := errors.AsType[*pve.Error](err); ok && e.Words() != "" {
		return e.Words()
	}
	return err.Error()
}

func (j *job) done(message string) plugin.Outcome {
	return plugin.Outcome{Status: plugin.Done, Message: message, Undo: j.undo}
}

// mask removes the values of secret keys from a text: PVE quotes what it
// refuses.
func (j *job) mask(s string) string {
	for _, key := range j.Secret {
		if v := j.Set[key]; v != "" {
			s = strings.ReplaceAll(s, v, "***")
		}
	}
	return s
}

// masked is the outcome without the values of secret keys.
func (j *job) masked(o plugin.Outcome) plugin.Outcome {
	if len(j.Secret) == 0 {
		return o
	}
	o.Message = j.mask(o.Message)
	if o.RefusedKeys != nil {
		safe := make(map[string]string, len(o.RefusedKeys))
		for k, v := range o.RefusedKeys {
			safe[k] = j.mask(v)
		}
		o.RefusedKeys = safe
	}
	return o
}

// outcome is what the error of a sending means: the one place where PVE's
// answers are told apart.
func (d *Driver) outcome(ctx context.Context, j *job, err error) (plugin.Outcome, error) {
	o := plugin.Outcome{Message: words(err)}
	kind := pve.KindOf(err)
	switch kind {
	case pve.ErrNotSent:
		return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	case pve.ErrUnknownOutcome:
		o.Status, o.Message = plugin.Unknown, err.Error()
		return o, nil
	case pve.ErrUnreachable:
		return retry(o, reasonUnreachable, afterUnreachable), nil
	case pve.ErrLocked:
		return retry(o, reasonLocked, afterLock), nil
	case pve.ErrChanged:
		return retry(o, reasonChanged, 0), nil
	case pve.ErrDenied, pve.ErrNoGuest, pve.ErrUnsupported:
		o.Status = plugin.Refused
		o.RefusedKeys = d.refusedKeys(j.Action, err)
		return o, nil
	}
	switch j.Kind {
	case plugin.SetConfig:
		return d.writeFailed(ctx, j, err, o), nil
	case plugin.Start, plugin.Stop, plugin.Shutdown, plugin.Reboot:
		return powerFailed(j, kind, o), nil
	}
	o.RefusedKeys = d.refusedKeys(j.Action, err)
	return d.callFailed(ctx, j, kind, o), nil
}

// refusals are PVE's words for what it finds before it does anything.
var refusals = regexp.MustCompile(`protection mode enabled|is running|overwrite running|used in HA resources|There is a replication job` +
	`|already used|snapshot '[^']*' does not exist|feature is not available|unable to use snapshot name|incomplete snapshot` +
	`|unable to shrink|shrinking disks is not supported|already at specified size|on a running container without snapshots` +
	`|cannot remove protected volume|still in use by linked clones|if it's a template|max backup limit`)

// callFailed is the outcome of a call that PVE answered with an error instead
// of a task. Its checks come before the task, so there is little that can have
// changed; only what it makes a place for a new guest with comes before too.
func (d *Driver) callFailed(ctx context.Context, j *job, kind pve.Kind, o plugin.Outcome) plugin.Outcome {
	switch {
	case kind == pve.ErrExists && j.Kind == plugin.Provision:
		return somebodyElses(o)
	case kind == pve.ErrInvalid, kind == pve.ErrNotFound, kind == pve.ErrExists, refusals.MatchString(o.Message):
		o.Status = plugin.Refused
		return o
	}
	o.Status = plugin.Failed
	if j.Kind == plugin.Provision || j.Kind == plugin.Restore {
		if o = d.leftover(ctx, j, o); o.Params != nil {
			return o
		}
	}
	o, _ = weather(kind, o)
	return o
}

// somebodyElses is the end of a making whose VMID was taken since nobody had it.
func somebodyElses(o plugin.Outcome) plugin.Outcome {
	o.Status, o.Message = plugin.Refused, o.Message+": it is somebody else's"
	return o
}

func retry(o plugin.Outcome, reason string, after time.Duration) plugin.Outcome {
	o.Status, o.Reason, o.RetryAfter = plugin.Retry, reason, after
	return o
}

// weather is the retry that a kind of error asks for, if it does.
func weather(kind pve.Kind, o plugin.Outcome) (plugin.Outcome, bool) {
	switch kind {
	case pve.ErrLocked:
		return retry(o, reasonLocked, afterLock), true
	case pve.ErrBusy:
		return retry(o, reasonBusy, afterBusy), true
	case pve.ErrNoQuorum:
		return retry(o, reasonQuorum, afterQuorum), true
	case pve.ErrTransient:
		return retry(o, reasonTransient, afterTransient), true
	}
	return o, false
}

// powerFailed is the outcome of a power call that PVE refused before it made
// a task: nothing has happened.
func powerFailed(j *job, kind pve.Kind, o plugin.Outcome) plugin.Outcome {
	if o, ok := weather(kind, o); ok {
		return o
	}
	switch {
	case kind == pve.ErrRunning && j.Kind == plugin.Start,
		kind == pve.ErrNotRunning && (j.Kind == plugin.Stop || j.Kind == plugin.Shutdown):
		o.Status = plugin.Done
	case kind == pve.ErrInvalid, kind == pve.ErrNotRunning, kind == pve.ErrRunning:
		o.Status = plugin.Refused
	default:
		o.Status = plugin.Failed
	}
	return o
}

// taskFailed is the outcome of a task that ended with an error.
func taskFailed(j *job, s pve.TaskStatus) plugin.Outcome {
	kind := pve.KindOf(s.Err())
	o := plugin.Outcome{Message: s.Text}
	switch {
	case kind == pve.ErrRunning && j.Kind == plugin.Start,
		kind == pve.ErrNotRunning && (j.Kind == plugin.Stop || j.Kind == plugin.Shutdown):
		o.Status = plugin.Done
		return o
	case kind == pve.ErrExists && j.Kind == plugin.Provision:
		return somebodyElses(o)
	}
	m, _ := methodOf(j.Kind)
	if m.passes && kind != pve.ErrTransient {
		if o, ok := weather(kind, o); ok {
			return o
		}
	}
	o.Status = plugin.Failed
	if m.refuses && refusals.MatchString(s.Text) {
		o.Status = plugin.Refused
	}
	return o
}

// writeFailed is the outcome of a config write that PVE answered with an
// error. Such an error may come after the write, or after a part of its
// effects (design section 14.11): only an unchanged digest shows that nothing
// was stored, and only on a guest that does not run does that show that
// nothing was done.
func (d *Driver) writeFailed(ctx context.Context, j *job, err error, o plugin.Outcome) plugin.Outcome {
	e, _ := errors.AsType[*pve.Error](err)
	o.RefusedKeys = d.refusedKeys(j.Action, err)
	if e.Kind == pve.ErrInvalid && !e.Late() {
		o.Status = plugin.Refused
		return o
	}
	stored, live := d.aftermath(ctx, j)
	if w, ok := weather(e.Kind, o); ok {
		w.RefusedKeys, o.RefusedKeys = nil, nil // it is no key that was refused
		if !stored {
			return w
		}
	}
	o.Status = plugin.Failed
	if !stored && !live {
		o.Status = plugin.Refused
	}
	return o
}

// aftermath tells whether a failed write may have stored something, and
// whether it may have reached a running guest.
func (d *Driver) aftermath(ctx context.Context, j *job) (stored, live bool) {
	ctx, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	conf, err := d.pve.Config(ctx, j.ref)
	stored = err != nil || conf.Digest != j.Digest
	g, err := d.pve.Status(ctx, j.ref)
	return stored, err != nil || g.Run != guest.Stopped
}
