// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// finding is what an observation tells of an op whose outcome is not known.
type finding struct {
	state op.State // "" = nothing yet, look again
	why   string
}

func happened(yes bool, format string, args ...any) finding {
	f := finding{op.Failed, "settled by observation: " + fmt.Sprintf(format, args...)}
	if yes {
		f.state = op.Succeeded
	}
	return f
}

// undecided is for what leaves no trace that could be told from what was there.
// The op ends there: it is not done again.
func undecided(what string) finding {
	return finding{op.Abandoned, "it is not known whether it happened: " + what}
}

// observed tells whether the guest is as the op would have made it.
func (e *Engine) observed(o *op.Op, obs plugin.Observation) (op.State, string, bool) {
	f := e.find(o, obs)
	return f.state, f.why, f.state != ""
}

func (e *Engine) find(o *op.Op, obs plugin.Observation) finding {
	here := obs.Presence == plugin.Here && obs.State.ID == o.Guest
	switch {
	case obs.Presence == plugin.Unsure:
		return finding{}
	case o.Kind == plugin.Destroy && obs.Presence == plugin.Elsewhere:
		return happened(false, "the guest is on another node")
	case o.Kind == plugin.Destroy && obs.Presence != plugin.Here:
		return happened(true, "the guest is not here any more")
	case o.Kind == plugin.Provision && here:
		return happened(false, "a guest is there; nothing proves that it was finished%s", lockWords(obs))
	case !here:
		return happened(false, "the guest is not here any more")
	}
	switch o.Kind {
	case plugin.Start, plugin.Stop, plugin.Shutdown:
		wanted := guest.Stopped
		if o.Kind == plugin.Start {
			wanted = guest.Running
		}
		return happened(obs.State.Run == wanted, "the guest is %s", obs.State.Run)
	case plugin.SetConfig, plugin.GrowDisk:
		return e.findConfig(o, obs)
	case plugin.Destroy:
		return happened(false, "the guest is still there")
	case plugin.TakeSnapshot, plugin.DeleteSnapshot, plugin.Backup, plugin.DeleteBackup:
		return findInInventory(o, obs)
	case plugin.Rollback, plugin.Restore, plugin.DeleteVolume:
		return undecided("what it does leaves no mark")
	}
	if vendors(o.Kind) {
		return undecided("only its plugin could tell")
	}
	return happened(false, "nothing shows that it happened")
}

func lockWords(obs plugin.Observation) string {
	if obs.State.Lock == "" {
		return ""
	}
	return ", and it is locked (" + obs.State.Lock + ")"
}

func (e *Engine) findConfig(o *op.Op, obs plugin.Observation) finding {
	if obs.Config == nil {
		return finding{}
	}
	if o.Kind == plugin.GrowDisk {
		disk := o.Params["disk"]
		want, _ := strconv.ParseInt(o.Params["size"], 10, 64)
		have, ok := guest.DiskSize(o.Guest.Kind, disk, obs.Config[disk])
		return happened(ok && have >= want, "%s has %s", disk, guest.FormatSize(have))
	}
	diff := e.forms.Diff(guest.Facts{Kind: o.Guest.Kind}, e.comparable(o), o.Delete, obs.Config)
	return happened(len(diff) == 0, "%d of the keys differ from what was written", len(diff))
}

// findInInventory looks for what the op was to make or to delete.
func findInInventory(o *op.Op, obs plugin.Observation) finding {
	inv := inventory(obs)
	if len(inv.Missing) > 0 {
		return undecided(inv.Missing[0])
	}
	switch o.Kind {
	case plugin.TakeSnapshot, plugin.DeleteSnapshot:
		there := slices.ContainsFunc(inv.Snapshots, func(s plugin.SnapshotInfo) bool { return s.Name == o.Params["name"] })
		return happened(there == (o.Kind == plugin.TakeSnapshot), "snapshot %s is %s", o.Params["name"], thereOrNot(there))
	case plugin.DeleteBackup:
		there := slices.ContainsFunc(inv.Backups, func(b plugin.BackupInfo) bool { return b.Volume == o.Params["volume"] })
		return happened(!there, "backup %s is %s", o.Params["volume"], thereOrNot(there))
	}
	for _, b := range inv.Backups { // its time is when it began
		if strings.HasPrefix(b.Volume, o.Params["storage"]+":") && !b.Time.Before(o.Sent.Truncate(time.Second)) {
			return happened(true, "backup %s is there", b.Volume)
		}
	}
	return happened(false, "no backup of that time is there")
}

func thereOrNot(there bool) string {
	if there {
		return "there"
	}
	return "not there"
}

// comparable are the values of a set_config that the journal kept.
func (e *Engine) comparable(o *op.Op) guest.Config {
	out := guest.Config{}
	for k, v := range o.Set {
		if v != op.Masked {
			out[k] = v
		}
	}
	return out
}
