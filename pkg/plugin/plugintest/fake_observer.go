// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// hintBuffer is how many hints a slow watcher may be behind.
const hintBuffer = 64

// Observer is an observer of the world.
func (w *World) Observer() plugin.Observer { return worldObserver{w} }

type worldObserver struct{ w *World }

func (worldObserver) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "fake", Version: "1"}, nil
}

func (o worldObserver) Watch(ctx context.Context, emit func(plugin.Hint) error) error {
	ch := make(chan plugin.Hint, hintBuffer)
	o.w.mu.Lock()
	o.w.watchers[ch] = true
	o.w.mu.Unlock()
	defer func() {
		o.w.mu.Lock()
		defer o.w.mu.Unlock()
		delete(o.w.watchers, ch)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-ch:
			if err := emit(h); err != nil {
				return err
			}
		}
	}
}

func (o worldObserver) List(ctx context.Context) (plugin.NodeState, error) {
	w := o.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := firstOf(ctx.Err(), w.listErr); err != nil {
		return plugin.NodeState{}, err
	}
	n := w.node
	n.Time = time.Now()
	for _, v := range slices.Sorted(maps.Keys(w.guests)) {
		if g := w.guests[v]; presence(g) == plugin.Here {
			n.Guests = append(n.Guests, stateOf(g))
		}
	}
	return n, nil
}

func (o worldObserver) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	w := o.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := firstOf(ctx.Err(), w.listErr); err != nil {
		return plugin.Observation{}, err
	}
	obs := plugin.Observation{Presence: plugin.Gone, Time: time.Now()}
	if !q.TasksSince.IsZero() {
		for _, t := range w.tasks {
			if t.vmid == q.VMID && !t.Started.Before(q.TasksSince) {
				obs.Tasks = append(obs.Tasks, t.Task)
			}
		}
	}
	g := w.guests[q.VMID]
	if g == nil || presence(g) != plugin.Here {
		if g != nil {
			obs.Presence = g.Presence
		}
		return obs, nil
	}
	obs.Presence, obs.State, obs.HA, obs.Protection = plugin.Here, stateOf(g), g.HA, g.Protection
	if q.Inventory {
		c := cloneGuest(*g)
		obs.TasksGap = w.tasksGap
		obs.Inventory = &plugin.Inventory{Snapshots: c.Snapshots, Backups: c.Backups, Jobs: c.Jobs, Missing: c.Missing}
	}
	if g.ConfigErr != "" {
		obs.ConfigError = g.ConfigErr
		return obs, nil
	}
	obs.Config, obs.Digest, obs.Pending = guest.Config{}, digest(g.Config), maps.Clone(g.Pending)
	maps.Copy(obs.Config, g.Config)
	return obs, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func presence(g *Guest) plugin.Presence {
	if g.Presence == "" {
		return plugin.Here
	}
	return g.Presence
}

func stateOf(g *Guest) plugin.GuestState {
	return plugin.GuestState{
		ID: g.ID, Name: g.Name, Run: g.Run, Lock: g.Lock, Template: g.Template, Tags: g.Config["tags"],
	}
}
