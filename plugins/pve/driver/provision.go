// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// The ways to provision.
const (
	byTemplate = "template"
	byBackup   = "backup"
	byClone    = "clone"
)

// ParamHalfMade in an outcome's Params says that a guest was left that is not
// finished, with the lock it carries ("" if none).
const ParamHalfMade = "half_made"

// The rootfs that PVE makes when none is asked for.
const (
	defaultRootfs  = 4 << 30
	defaultStorage = "local"
)

func provisionMethod() method {
	return method{
		params: []string{"how", "source", "storage", "pool", plugin.ParamReserve}, config: true,
		check: checkProvision, send: (*Driver).provision, types: provisionTypes, id: provisionTaskID, about: aboutClone,
		effect: (*Driver).made, finish: (*Driver).toldMade,
	}
}

// provisionTypes: only a container's restore from a backup is no create.
func provisionTypes(a plugin.Action) []string {
	switch a.Params["how"] {
	case byClone:
		return []string{ofKind(a, "clone")}
	case byBackup:
		return []string{ofKind(a, "restore")}
	}
	return []string{ofKind(a, "create")}
}

// provisionTaskID: the id of a clone's task is the source's VMID.
func provisionTaskID(a plugin.Action) string {
	if a.Params["how"] == byClone {
		return a.Params["source"]
	}
	return a.Guest.VMID.String()
}

func checkProvision(a plugin.Action) error {
	storage, pool := a.Params["storage"], a.Params["pool"]
	switch {
	case storage != "" && !pve.ValidStorage(storage):
		return invalid("storage: %q is no name of a storage", storage)
	case pool != "" && !poolPattern.MatchString(pool):
		return invalid("pool: %q is no name of a pool", pool)
	case len(a.Delete) > 0:
		return invalid("a guest that is made has no keys to delete")
	}
	if err := checkSource(a); err != nil {
		return err
	}
	if err := checkKeys(a); err != nil {
		return err
	}
	for _, key := range touched(a) {
		if !takenBy(a, key) {
			return invalid("%s: cannot be set while a guest is made from a %s: set it afterwards", key, a.Params["how"])
		}
	}
	return nil
}

var poolPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$`)

// checkSource refuses a source that is not of the kind that the way takes.
func checkSource(a plugin.Action) error {
	source := a.Params["source"]
	_, name, isVolume := pve.SplitVolume(source)
	switch how := a.Params["how"]; {
	case how == byClone:
		if v, err := guest.ParseVMID(source); err != nil || v == a.Guest.VMID || v.String() != source {
			return invalid("source: %q is no VMID to clone", source)
		}
	case how == byBackup:
		if id, ok := backupOwner(source); !ok || id.Kind != a.Guest.Kind {
			return invalid("source: %q is no backup of a guest of kind %s", source, a.Guest.Kind)
		}
	case how == byTemplate && a.Guest.Kind == guest.LXC:
		if !isVolume || !strings.HasPrefix(name, "vztmpl/") {
			return invalid("source: %q is no template of containers", source)
		}
	case how == byTemplate:
		if source != "" {
			return invalid("source: a virtual machine is made of its disks; to make one from a template, clone it")
		}
	default:
		return invalid("how: %q is none of template, backup, clone", how)
	}
	return nil
}

// ownKeys are what PVE's calls take of the call itself, not of the guest: they
// are in no Set.
var ownKeys = []string{
	"ostemplate", "archive", "restore", "unique", "force", "start", "storage", "pool", "newid", "full", "target", "snapname",
	"live-restore", "ha-managed", "ignore-unpack-errors", "bwlimit", "import-working-storage",
}

// takenBy reports whether a key can be set while a guest is made that way. A
// clone takes a name and a description only. A virtual machine from a backup
// takes nothing; a container no volumes, which would be made beside those in
// the backup.
func takenBy(a plugin.Action, key string) bool {
	if slices.Contains(ownKeys, key) {
		return false
	}
	isLXC := a.Guest.Kind == guest.LXC
	switch a.Params["how"] {
	case byClone:
		return key == "description" || key == "hostname" && isLXC || key == "name" && !isLXC
	case byBackup:
		return isLXC && !diskKey.MatchString(key) && key != "password" && key != "ssh-public-keys"
	}
	return true
}

// provision proves that nobody has the VMID, and makes the guest. What comes
// between the proof and the making finds PVE's own refusal to make a guest
// twice.
func (d *Driver) provision(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) {
		if o, err := d.beforeMaking(ctx, j); err != nil || o.Status != "" {
			return o, err
		}
		return d.vacant(ctx, j)
	})
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	var upid pve.UPID
	if j.Params["how"] == byClone {
		upid, err = d.pve.Clone(ctx, d.ref(sourceGuest(j.Action)), j.Guest.VMID, makingParams(j.Action))
	} else {
		upid, err = d.pve.Create(ctx, j.ref, makingParams(j.Action))
	}
	return d.sent(ctx, j, upid, err)
}

func sourceGuest(a plugin.Action) guest.ID {
	v, _ := guest.ParseVMID(a.Params["source"]) // checkSource has parsed it
	return guest.ID{Kind: a.Guest.Kind, VMID: v}
}

// makingParams are the parameters of the call that makes the guest.
func makingParams(a plugin.Action) map[string]string {
	out := maps.Clone(a.Set)
	if out == nil {
		out = make(map[string]string)
	}
	for _, p := range []string{"storage", "pool"} {
		if v := a.Params[p]; v != "" {
			out[p] = v
		}
	}
	source, isLXC := a.Params["source"], a.Guest.Kind == guest.LXC
	switch a.Params["how"] {
	case byClone:
		out["full"] = "1"
		return out
	case byBackup:
		out["unique"] = "1"
		fromBackup(out, a.Guest.Kind, source)
	case byTemplate:
		if isLXC {
			out["ostemplate"] = source
			if out["unprivileged"] == "" { // PVE's default is another in 8 than in 9
				out["unprivileged"] = "1"
			}
		}
	}
	out["start"] = "0"
	return out
}

// fromBackup adds what makes a create a restore.
func fromBackup(params map[string]string, k guest.Kind, source string) {
	if k == guest.QEMU {
		params["archive"] = source
		return
	}
	params["ostemplate"], params["restore"] = source, "1"
}

// beforeMaking looks at the source and at the room for its copy.
func (d *Driver) beforeMaking(ctx context.Context, j *job) (plugin.Outcome, error) {
	_, asked, err := reserve(j.Action)
	if err != nil {
		return plugin.Outcome{}, err
	}
	on := j.Params["storage"]
	switch how := j.Params["how"]; {
	case how == byClone:
		src := &job{Action: plugin.Action{Guest: sourceGuest(j.Action)}, ref: d.ref(sourceGuest(j.Action))}
		s, o, err := d.subject(ctx, src)
		if err != nil || o.Status != "" {
			return o, err
		}
		return d.room(ctx, j, spaceOf(s.conf.Values, on))
	case !asked:
		return plugin.Outcome{}, nil
	case how == byBackup:
		return d.roomForBackup(ctx, j)
	}
	takes := spaceOfNew(j.Set, orElse(on, defaultStorage))
	if _, ok := j.Set["rootfs"]; !ok && j.Guest.Kind == guest.LXC {
		takes[orElse(on, defaultStorage)] += defaultRootfs
	}
	return d.room(ctx, j, takes)
}

func (d *Driver) roomForBackup(ctx context.Context, j *job) (plugin.Outcome, error) {
	takes, err := d.spaceOfBackup(ctx, j.Params["source"], j.Params["storage"])
	if errors.Is(err, pve.ErrNotFound) {
		return refused("%s; nothing was sent", words(err)), nil
	}
	if err != nil {
		return lookFailed(err)
	}
	return d.room(ctx, j, takes)
}

// vacant proves that nobody in the cluster has the VMID.
func (d *Driver) vacant(ctx context.Context, j *job) (plugin.Outcome, error) {
	o, err := d.observe(ctx, j.Guest.VMID)
	if err != nil {
		return lookFailed(err)
	}
	switch o.Presence {
	case plugin.Here:
		return refused("%s is there already: it is somebody else's; nothing was sent", o.State.ID), nil
	case plugin.Elsewhere:
		return refused("%s is there already: %s; nothing was sent", o.State.ID, o.ConfigError), nil
	case plugin.Gone:
	default:
		return retry(plugin.Outcome{Message: "that nobody has the VMID is not proven: " + o.ConfigError + "; nothing was sent"}, reasonUnsure, afterUnsure), nil
	}
	taken, err := d.pve.Taken(ctx, j.Guest.VMID)
	if err != nil {
		return lookFailed(err)
	}
	if taken {
		return refused("VMID %s is taken in the cluster by a guest that the token may not see; nothing was sent", j.Guest.VMID), nil
	}
	return plugin.Outcome{}, nil
}

// aboutClone: a source may be cloned to several VMIDs at once. The log of a
// clone names the volumes that it makes, or the VMID.
func aboutClone(a plugin.Action, log []string) (is, sure bool) {
	if a.Params["how"] != byClone {
		return true, true
	}
	own := a.Guest.VMID.String()
	for _, line := range log {
		if strings.HasPrefix(line, "create full clone of") { // names the source's
			continue
		}
		for _, m := range madeVMID.FindAllStringSubmatch(line, -1) {
			if v := m[1] + m[2]; v != a.Params["source"] {
				return v == own, true
			}
		}
	}
	return false, false
}

// madeVMID is whose a volume is by its name, or who is made by PVE 9's words.
var madeVMID = regexp.MustCompile(`\b(?:vm|subvol)-(\d+)-(?:disk|cloudinit|state)|\bwith ID (\d+)\b`)

// made looks whether the guest was made.
func (d *Driver) made(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	conf, err := d.pve.Config(ctx, j.ref)
	switch {
	case errors.Is(err, pve.ErrNoGuest):
		return happened(false, "there is no such guest"), nil
	case err != nil:
		return effect{}, err
	case conf.Lock != "":
		e := happened(false, "a half-made guest is there, locked ("+conf.Lock+")")
		e.params = map[string]string{ParamHalfMade: conf.Lock}
		return e, nil
	}
	return happened(true, "the guest is there"), nil
}

// toldMade completes the outcome of a task that did not make the guest as it
// should: PVE cleans up after some failures and not after others.
func (d *Driver) toldMade(ctx context.Context, j *job, _ pve.UPID, o plugin.Outcome) plugin.Outcome {
	if o.Status == plugin.Done || o.Status == plugin.Refused { // what is there then is not ours
		return o
	}
	return d.leftover(ctx, j, o)
}

// leftover says whether a guest was left that is not finished.
func (d *Driver) leftover(ctx context.Context, j *job, o plugin.Outcome) plugin.Outcome {
	conf, err := d.pve.Config(ctx, j.ref)
	switch {
	case errors.Is(err, pve.ErrNoGuest):
	case err != nil:
		o.Message += "; what is left could not be seen: " + words(err)
	case conf.Lock == "" && j.Kind == plugin.Restore && conf.Digest == j.Digest:
		// It is as it was.
	default:
		o.Message += "; a guest that is not finished was left" + lockText(conf.Lock)
		o.Params = map[string]string{ParamHalfMade: conf.Lock}
	}
	return o
}

func lockText(lock string) string {
	if lock == "" {
		return ""
	}
	return ", locked (" + lock + ")"
}
