// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// gated is an action with what it will do, in lines that people sign.
type gated struct {
	plan.Action
	effects []string
	// basis are the effects that must still be the same at a later phase: what
	// would be lost.
	basis []string
}

// hash stands for the whole of what is planned. The digest is not in it:
// what is benign may change between the signature and the deed.
func (a gated) hash(incarnation string) string {
	b, err := json.Marshal(struct {
		Kind        plugin.ActionKind
		Class       guest.Class
		Set         map[string]string
		Delete      []string
		Params      map[string]string
		Effects     []string
		Incarnation string
	}{a.Kind, a.Class, a.maskedSet(), a.Delete, a.Params, a.effects, incarnation})
	if err != nil {
		panic(err) // strings only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// maskedSet has a secret's fingerprint instead of it.
func (a gated) maskedSet() map[string]string {
	out := maps.Clone(a.Set)
	for _, k := range a.Secret {
		if _, ok := out[k]; ok {
			out[k] = fingerprint(a.Set, k)
		}
	}
	return out
}

func configEffects(a plan.Action) []string {
	var out []string
	for _, c := range a.Changes {
		from, to := "(absent)", "(absent)"
		if c.From != nil {
			from = *c.From
		}
		if c.To != nil {
			to = *c.To
		}
		out = append(out, fmt.Sprintf("%s: %s -> %s", c.Key, from, to))
	}
	return out
}

// ordered makes the action of an order from what is there.
func (e *Engine) ordered(s sighting, kind plugin.ActionKind, params map[string]string) (gated, error) {
	a := gated{Action: plan.Action{Kind: kind, Class: e.classOf(kind), Params: maps.Clone(params), Digest: s.obs.Digest}}
	if a.Params == nil {
		a.Params = map[string]string{}
	}
	var err error
	switch kind {
	case plugin.TakeSnapshot:
		a.Reason = "snapshot " + params["name"]
	case plugin.Backup:
		a.Reason = "backup to " + params["storage"]
		a.Params["mode"] = cmp.Or(params["mode"], "snapshot")
	case plugin.Rollback, plugin.DeleteSnapshot:
		err = a.snapshot(s.obs, params["name"])
	case plugin.Restore:
		err = a.restore(s.obs, params["source"])
	case plugin.DeleteBackup:
		err = a.backup(s.obs, params["volume"])
	case plugin.DeleteVolume:
		a.Reason = "delete volume " + params["volume"]
		a.effects = []string{"volume " + params["volume"] + " is deleted"}
	case plugin.Destroy:
		err = e.destruction(&a, s)
	default:
		a.Reason = "asked for"
		a.effects = vendorEffects(kind, params)
	}
	return a, err
}

func vendorEffects(kind plugin.ActionKind, params map[string]string) []string {
	out := []string{"action " + string(kind) + " of a vendor's plugin, whose effect this agent does not know"}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		out = append(out, fmt.Sprintf("parameter %s=%s", k, params[k]))
	}
	return out
}

func inventory(obs plugin.Observation) plugin.Inventory {
	if obs.Inventory == nil {
		return plugin.Inventory{Missing: []string{"what hangs on the guest was not told"}}
	}
	return *obs.Inventory
}

func (a *gated) snapshot(obs plugin.Observation, name string) error {
	all := inventory(obs).Snapshots
	i := slices.IndexFunc(all, func(s plugin.SnapshotInfo) bool { return s.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: it has no snapshot %q%s", ErrOrder, name, named(all))
	}
	line := fmt.Sprintf("snapshot %s of %s", name, utc(all[i].Time))
	if a.Kind == plugin.DeleteSnapshot {
		a.Reason = "delete " + line
		a.effects = []string{line + " is deleted"}
		return nil
	}
	a.Reason = "roll back to " + line
	a.effects = append([]string{"config and disks go back to " + line + "; what was written since is lost"}, volumes(obs)...)
	return nil
}

func named(all []plugin.SnapshotInfo) string {
	if len(all) == 0 {
		return ", nor any other"
	}
	out := "; it has"
	for _, s := range all {
		out += " " + s.Name
	}
	return out
}

func (a *gated) backup(obs plugin.Observation, volume string) error {
	b, err := findBackup(obs, volume)
	if err != nil {
		return err
	}
	a.Reason = "delete backup " + volume
	a.effects = []string{fmt.Sprintf("backup %s of %s is deleted", volume, utc(b.Time))}
	return nil
}

func (a *gated) restore(obs plugin.Observation, volume string) error {
	b, err := findBackup(obs, volume)
	if err != nil {
		return err
	}
	a.Reason = "restore " + volume + " over it"
	a.effects = append([]string{fmt.Sprintf("everything in it is replaced by backup %s of %s", volume, utc(b.Time))}, volumes(obs)...)
	a.effects = append(a.effects, snapshots(obs, "is lost")...)
	return nil
}

func findBackup(obs plugin.Observation, volume string) (plugin.BackupInfo, error) {
	inv := inventory(obs)
	for _, b := range inv.Backups {
		if b.Volume == volume {
			return b, nil
		}
	}
	err := fmt.Errorf("%w: no backup %q of this guest is to be seen", ErrOrder, volume)
	if len(inv.Missing) > 0 {
		err = fmt.Errorf("%w (not everything could be read: %s)", err, inv.Missing[0])
	}
	return plugin.BackupInfo{}, err
}

// destruction says what a destroy does, in its two phases.
func (e *Engine) destruction(a *gated, s sighting) error {
	set := e.gate()
	a.Reason = "destroy it"
	var err error
	if a.basis, err = lost(s.obs, a.Params); err != nil {
		return err
	}
	proof, err := backupProof(a.Params, inventory(s.obs), set.BackupAge)
	if err != nil {
		return err
	}
	a.effects = []string{
		"first quarantine: shut down, onboot=0, protection=1, tag " + quarantineTag,
		fmt.Sprintf("then deletion, after at least %s in quarantine; `felhom-agent undo` takes it out", set.Quarantine), proof,
	}
	a.effects = append(a.effects, a.basis...)
	return nil
}

// lost are the lines about what goes with a guest, to its jobs.
func lost(obs plugin.Observation, params map[string]string) ([]string, error) {
	inv := inventory(obs)
	if len(inv.Missing) > 0 {
		return nil, fmt.Errorf("%w: what would be lost is not known: %s", ErrOrder, inv.Missing[0])
	}
	lines := append(volumes(obs), snapshots(obs, "is lost")...)
	for _, j := range inv.Jobs {
		lines = append(lines, "it is in "+j)
	}
	if params["purge"] == "1" {
		lines = append(lines, "it is taken out of all jobs")
	}
	return lines, nil
}

// backupProof is the line about what is left of a guest that is destroyed. A
// recent backup is wanted unless the asker says otherwise.
func backupProof(params map[string]string, inv plugin.Inventory, age time.Duration) (string, error) {
	switch {
	case params["without_backup"] == "1":
		return "no backup is asked for: what is in it may be lost for good", nil
	case params["backup"] != "":
		return "before that a backup to " + params["backup"] + ", which must be there and not fail its verification", nil
	case recentBackup(inv, time.Now().Add(-age)) != nil:
		return fmt.Sprintf("a backup not older than %s exists and is kept", age), nil
	}
	return "", fmt.Errorf("%w: no backup of it is younger than %s; say backup=STORAGE to have one made first, or without_backup=1", ErrOrder, age)
}

// recentBackup is the newest backup since then whose verification did not
// fail, or nil.
func recentBackup(inv plugin.Inventory, since time.Time) *plugin.BackupInfo {
	for i, b := range inv.Backups {
		if b.Time.After(since) && b.Verified != "failed" && b.Size > 0 {
			return &inv.Backups[i]
		}
	}
	return nil
}

// volumes are the lines about a guest's disks.
func volumes(obs plugin.Observation) []string {
	var out []string
	kind := obs.State.ID.Kind
	for _, key := range slices.Sorted(maps.Keys(identity.Of(kind, obs.Config).Volumes)) {
		line := key + ": " + obs.Config[key]
		if size, ok := guest.DiskSize(kind, key, obs.Config[key]); ok {
			line += " (" + guest.FormatSize(size) + ")"
		}
		out = append(out, line)
	}
	return out
}

func snapshots(obs plugin.Observation, what string) []string {
	var out []string
	for _, s := range inventory(obs).Snapshots {
		out = append(out, fmt.Sprintf("snapshot %s of %s %s", s.Name, utc(s.Time), what))
	}
	return out
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
