// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Executor is an executor that acts on the world.
func (w *World) Executor() plugin.Executor { return worldExecutor{w} }

type worldExecutor struct{ w *World }

func (worldExecutor) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{
		Name: "fake", Version: "1",
		Actions: plugin.CoreActions(),
	}, nil
}

func (e worldExecutor) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return plugin.Outcome{}, err
	}
	at, b, first := e.w.attempt(a, handle)
	if handle != "" {
		return e.w.resume(ctx, handle)
	}
	if !first { // the same op and attempt again: its end is told, it is not done again
		return wait(ctx, at)
	}
	if out, err, end := b.before(ctx); end {
		e.w.end(a, at, out)
		return out, err
	}
	if err := e.w.accept(a, at, b); err != nil {
		e.w.end(a, at, plugin.Outcome{})
		return plugin.Outcome{}, err
	}
	if b.Lose {
		return plugin.Outcome{}, plugin.ErrShutdown
	}
	if at.task != nil {
		if err := emit(plugin.Progress{Handle: at.task.UPID}); err != nil {
			return plugin.Outcome{}, err
		}
	}
	if b.LoseLate {
		return plugin.Outcome{}, plugin.ErrShutdown
	}
	return wait(ctx, at)
}

func (e worldExecutor) Probe(_ context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	w := e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, Call{Method: "probe", Action: q.Action, Handle: q.Handle, Time: time.Now()})
	at := w.attempts[keyOf(q.Action)]
	switch {
	case at == nil && time.Now().Before(q.Until):
		return plugin.Verdict{Finding: plugin.Unclear, Message: "it may still arrive"}, nil
	case at == nil:
		return plugin.Verdict{Finding: plugin.NotSent, Message: "no trace of it"}, nil
	case at.outcome.Status != "":
		return plugin.Verdict{Finding: plugin.Settled, Outcome: at.outcome}, nil
	case at.task != nil:
		return plugin.Verdict{Finding: plugin.Found, Handle: at.task.UPID}, nil
	}
	return plugin.Verdict{Finding: plugin.Unclear, Message: "not accepted yet"}, nil
}

func keyOf(a plugin.Action) attemptKey { return attemptKey{op: a.OpID, n: a.Attempt} }

// attempt finds or begins the attempt of a; first says that it was begun.
func (w *World) attempt(a plugin.Action, handle string) (at *attempt, b Behaviour, first bool) {
	w.mu.Lock()
	w.calls = append(w.calls, Call{Method: "apply", Action: a, Handle: handle, Time: time.Now()})
	at = w.attempts[keyOf(a)]
	first = at == nil && handle == ""
	if first {
		at = &attempt{done: make(chan struct{})}
		w.attempts[keyOf(a)] = at
	}
	script := w.script
	w.mu.Unlock()
	if first {
		b = script(a)
	}
	return at, b, first
}

// before is what happens ahead of the acceptance; end says that the attempt
// ends there.
func (b Behaviour) before(ctx context.Context) (out plugin.Outcome, err error, end bool) {
	if b.Delay > 0 || b.Hang {
		if err := pause(ctx, b.Delay, b.Hang); err != nil {
			return plugin.Outcome{}, err, true
		}
	}
	switch {
	case b.Err != nil:
		return plugin.Outcome{}, b.Err, true
	case b.Outcome != nil:
		return *b.Outcome, nil, true
	case len(b.Refuse) > 0:
		return plugin.Outcome{Status: plugin.Refused, RefusedKeys: b.Refuse, Message: "parameter verification failed"}, nil, true
	}
	return plugin.Outcome{}, nil, false
}

func pause(ctx context.Context, d time.Duration, forever bool) error {
	if forever {
		<-ctx.Done()
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// accept takes the action up: from here on it happens, whoever goes away.
func (w *World) accept(a plugin.Action, at *attempt, b Behaviour) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.guests[a.Guest.VMID]
	if g == nil && a.Kind != plugin.Provision {
		return fmt.Errorf("%w: configuration file '%s' does not exist", plugin.ErrInvalid, a.Guest)
	}
	change, err := effectOf(a)
	if err != nil {
		return err
	}
	if g != nil && a.Digest != "" && a.Digest != digest(g.Config) {
		w.finishLocked(at, plugin.Outcome{Status: plugin.Retry, Reason: "digest", Message: "detected modified configuration"})
		return nil
	}
	finish := func() { w.finishLocked(at, w.performLocked(a, at, b, change)) }
	if b.NoTask || a.Kind == plugin.SetConfig && b.Task == 0 {
		finish()
		return nil
	}
	at.task = w.newTaskLocked(taskType(a), a.Guest.VMID)
	if b.Task == 0 {
		finish()
		return nil
	}
	time.AfterFunc(b.Task, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		finish()
	})
	return nil
}

// performLocked changes the world, unless the behaviour says otherwise.
func (w *World) performLocked(a plugin.Action, at *attempt, b Behaviour, change effect) plugin.Outcome {
	if b.Fail != "" {
		return plugin.Outcome{Status: plugin.Failed, Message: b.Fail}
	}
	at.effects++
	g := w.guests[a.Guest.VMID]
	if g == nil && a.Kind != plugin.Provision { // removed while the task ran
		return plugin.Outcome{Status: plugin.Failed, Message: "no such guest"}
	}
	if b.NoEffect {
		return plugin.Outcome{Status: plugin.Done, Message: "OK"}
	}
	undo := inverse(a, g)
	params, err := change(w, g)
	if err != nil {
		at.effects--
		return plugin.Outcome{Status: plugin.Refused, Message: err.Error()}
	}
	w.hintLocked(a.Guest.VMID)
	return plugin.Outcome{Status: plugin.Done, Message: "OK", Params: params, Undo: undo}
}

// inverse is what takes a set_config back, nil for all else.
func inverse(a plugin.Action, g *Guest) *plugin.Action {
	if a.Kind != plugin.SetConfig {
		return nil
	}
	u := &plugin.Action{Kind: a.Kind, Guest: a.Guest, Set: map[string]string{}}
	for _, k := range slices.Concat(slices.Sorted(maps.Keys(a.Set)), a.Delete) {
		if was, ok := g.Config[k]; ok {
			u.Set[k] = was
		} else {
			u.Delete = append(u.Delete, k)
		}
	}
	return u
}

func (w *World) finishLocked(at *attempt, out plugin.Outcome) {
	if at.outcome.Status != "" {
		return
	}
	at.outcome = out
	if at.task != nil {
		at.task.Ended, at.task.Status = time.Now(), out.Message
		close(at.task.done)
	}
	close(at.done)
}

// end ends an attempt that was not accepted. One that ended with an error, that
// is without an outcome, leaves no trace.
func (w *World) end(a plugin.Action, at *attempt, out plugin.Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if out.Status == "" {
		delete(w.attempts, keyOf(a))
		out = plugin.Outcome{Status: plugin.Retry, Reason: "not-sent", Message: "it was not sent"}
	}
	w.finishLocked(at, out)
}

// resume waits for the task that handle names.
func (w *World) resume(ctx context.Context, handle string) (plugin.Outcome, error) {
	w.mu.Lock()
	var found *task
	for _, t := range w.tasks {
		if t.UPID == handle {
			found = t
		}
	}
	w.mu.Unlock()
	if found == nil {
		return plugin.Outcome{Status: plugin.Unknown, Message: "no such task"}, nil
	}
	select {
	case <-ctx.Done():
		return plugin.Outcome{}, ctx.Err()
	case <-found.done:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if found.Status == "OK" {
		return plugin.Outcome{Status: plugin.Done, Message: found.Status}, nil
	}
	return plugin.Outcome{Status: plugin.Failed, Message: found.Status}, nil
}

func wait(ctx context.Context, at *attempt) (plugin.Outcome, error) {
	select {
	case <-ctx.Done():
		return plugin.Outcome{}, ctx.Err()
	case <-at.done:
		return at.outcome, nil // not written after done was closed
	}
}

// taskType is PVE's name for the task.
func taskType(a plugin.Action) string {
	prefix := "vz"
	if a.Guest.Kind == guest.QEMU {
		prefix = "qm"
	}
	if t, ok := taskTypes[a.Kind]; ok {
		return strings.ReplaceAll(t, "*", prefix)
	}
	return prefix + string(a.Kind)
}

// taskTypes are the types that are not named like the kind; "*" is the
// prefix of the guest's kind.
var taskTypes = map[plugin.ActionKind]string{
	plugin.SetConfig: "*config", plugin.Provision: "*create", plugin.GrowDisk: "resize", plugin.Backup: "vzdump",
	plugin.DeleteSnapshot: "*delsnapshot", plugin.DeleteBackup: "imgdel", plugin.DeleteVolume: "imgdel",
}
