// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// effect is what an action does to a guest of the world; g is nil if there is
// none. What it returns are the outcome's params. An error refuses.
type effect func(w *World, g *Guest) (map[string]string, error)

// onGuest is an effect on a guest that is there.
func onGuest(f func(g *Guest)) effect {
	return func(_ *World, g *Guest) (map[string]string, error) { f(g); return nil, nil }
}

// paramsOf are the parameters that the kinds take.
var paramsOf = map[plugin.ActionKind][]string{
	plugin.Start: nil, plugin.Stop: nil, plugin.SetConfig: nil,
	plugin.Shutdown: {"timeout"}, plugin.Reboot: {"timeout"},
	plugin.Provision: {"how", "source", "storage", "pool", plugin.ParamReserve},
	plugin.GrowDisk:  {"disk", "size", plugin.ParamReserve}, plugin.TakeSnapshot: {"name", "description", plugin.ParamReserve},
	plugin.Backup:   {"storage", "mode", "notes", plugin.ParamReserve},
	plugin.Rollback: {"name"}, plugin.Restore: {"source", "storage", plugin.ParamReserve}, plugin.Destroy: {"purge"},
	plugin.DeleteSnapshot: {"name"}, plugin.DeleteBackup: {"volume"}, plugin.DeleteVolume: {"volume"},
}

// effectOf is what an action does.
func effectOf(a plugin.Action) (effect, error) {
	known, ok := paramsOf[a.Kind]
	if !ok {
		return nil, fmt.Errorf("%w: %q", plugin.ErrUnsupported, a.Kind)
	}
	for p := range a.Params {
		if !slices.Contains(known, p) {
			return nil, fmt.Errorf("%w: %s has no parameter %q", plugin.ErrInvalid, a.Kind, p)
		}
	}
	switch a.Kind {
	case plugin.Start, plugin.Reboot:
		return onGuest(func(g *Guest) { g.Run = guest.Running }), nil
	case plugin.Shutdown, plugin.Stop:
		return onGuest(func(g *Guest) { g.Run = guest.Stopped }), nil
	case plugin.SetConfig:
		if len(a.Set)+len(a.Delete) == 0 {
			return nil, fmt.Errorf("%w: set_config without keys", plugin.ErrInvalid)
		}
		return onGuest(func(g *Guest) { edit(g, a) }), nil
	case plugin.Provision:
		return provision(a), nil
	case plugin.Destroy:
		return destroy(a), nil
	case plugin.GrowDisk, plugin.Restore:
		return onGuest(func(*Guest) {}), nil
	}
	return inventoryEffect(a), nil
}

func edit(g *Guest, a plugin.Action) {
	if g.Config == nil {
		g.Config = guest.Config{}
	}
	maps.Copy(g.Config, a.Set)
	for _, k := range a.Delete {
		delete(g.Config, k)
	}
	if p, ok := a.Set["protection"]; ok {
		g.Protection = p == "1"
	}
	if slices.Contains(a.Delete, "protection") {
		g.Protection = false
	}
}

func provision(a plugin.Action) effect {
	return func(w *World, g *Guest) (map[string]string, error) {
		if g != nil {
			return nil, fmt.Errorf("%s already exists on node %q", a.Guest, w.name)
		}
		w.guests[a.Guest.VMID] = &Guest{ID: a.Guest, Run: guest.Stopped, Config: maps.Clone(guest.Config(a.Set))}
		return nil, nil
	}
}

func destroy(a plugin.Action) effect {
	return func(w *World, g *Guest) (map[string]string, error) {
		if g.Run == guest.Running {
			return nil, fmt.Errorf("%s is running", a.Guest)
		}
		delete(w.guests, a.Guest.VMID)
		return nil, nil
	}
}

// inventoryEffect is what the kinds do that change only what hangs on a guest.
func inventoryEffect(a plugin.Action) effect {
	name, volume := a.Params["name"], a.Params["volume"]
	return func(w *World, g *Guest) (map[string]string, error) {
		had := slices.ContainsFunc(g.Snapshots, func(s plugin.SnapshotInfo) bool { return s.Name == name })
		switch a.Kind {
		case plugin.TakeSnapshot:
			if had {
				return nil, fmt.Errorf("snapshot name '%s' already used", name)
			}
			g.Snapshots = append(g.Snapshots, plugin.SnapshotInfo{Name: name, Time: time.Now()})
		case plugin.Rollback, plugin.DeleteSnapshot:
			if !had {
				return nil, fmt.Errorf("snapshot '%s' does not exist", name)
			}
			if a.Kind == plugin.Rollback {
				g.Run = guest.Stopped
				return nil, nil
			}
			g.Snapshots = slices.DeleteFunc(g.Snapshots, func(s plugin.SnapshotInfo) bool { return s.Name == name })
		case plugin.Backup:
			w.serial++
			b := plugin.BackupInfo{Volume: fmt.Sprintf("%s:backup/vzdump-%s-%s-%d", a.Params["storage"], a.Guest.Kind, a.Guest.VMID, w.serial), Size: 1 << 20, Time: time.Now()}
			g.Backups = append([]plugin.BackupInfo{b}, g.Backups...)
			return map[string]string{"volume": b.Volume}, nil
		case plugin.DeleteBackup:
			g.Backups = slices.DeleteFunc(g.Backups, func(b plugin.BackupInfo) bool { return b.Volume == volume })
		}
		return nil, nil
	}
}
