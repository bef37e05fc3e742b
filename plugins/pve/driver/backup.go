// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

func backupMethod() method {
	return method{
		params: []string{"storage", "mode", "notes", plugin.ParamReserve}, check: checkBackup, send: (*Driver).backup,
		types: func(plugin.Action) []string { return []string{"vzdump"} }, effect: (*Driver).backedUp, finish: (*Driver).toldBackup, passes: true,
	}
}

// backupModes are PVE's.
var backupModes = []string{"snapshot", "suspend", "stop"}

func checkBackup(a plugin.Action) error {
	mode, notes := a.Params["mode"], a.Params["notes"]
	switch {
	case !pve.ValidStorage(a.Params["storage"]):
		return invalid("storage: %q is no name of a storage", a.Params["storage"])
	case mode != "" && !slices.Contains(backupModes, mode):
		return invalid("mode: %q is none of %s", mode, strings.Join(backupModes, ", "))
	case len(notes) > maxText:
		return invalid("notes: longer than %d bytes", maxText)
	case strings.Contains(notes, "{{"):
		return invalid("notes: PVE replaces what is in {{ }}")
	}
	return nil
}

// backup asks for a backup that removes no other one.
func (d *Driver) backup(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) {
		if _, o, err := d.subject(ctx, j); err != nil || o.Status != "" {
			return o, err
		}
		return d.room(ctx, j, space{j.Params["storage"]: 0})
	})
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	upid, err := d.pve.Backup(ctx, j.ref, pve.BackupJob{
		Storage: j.Params["storage"], Mode: orElse(j.Params["mode"], "snapshot"), Notes: j.Params["notes"],
	})
	if err == nil && upid.IsZero() {
		return upid, refused("PVE found no such guest on the node; nothing was backed up"), nil
	}
	return d.sent(ctx, j, upid, err)
}

var (
	// archiveLine names the file that a backup makes, or the snapshot on a
	// backup server.
	archiveLine = regexp.MustCompile(`^INFO: creating (?:vzdump|Proxmox Backup Server) archive '([^']+)'`)
	// failureLine says why the backup of a guest failed.
	failureLine = regexp.MustCompile(`^ERROR: Backup of VM \d+ failed - (.+)`)
	// finishedLine is the last that a backup says of its guest.
	finishedLine = regexp.MustCompile(`^INFO: Finished Backup of VM \d+ `)
)

// archiveOf is the volume that a backup makes, as its log tells; "" if it does
// not.
func archiveOf(storage string, log []string) string {
	for _, line := range log {
		m := archiveLine.FindStringSubmatch(line)
		switch {
		case m == nil:
		case strings.HasPrefix(m[1], "/"):
			return storage + ":backup/" + path.Base(m[1])
		default:
			return storage + ":backup/" + m[1]
		}
	}
	return ""
}

// toldBackup completes the outcome of a backup by what its log tells: which
// volume it made, or why it failed, which the task itself calls "job errors".
func (d *Driver) toldBackup(ctx context.Context, j *job, u pve.UPID, o plugin.Outcome) plugin.Outcome {
	log, err := d.taskLog(ctx, u)
	switch {
	case err != nil:
		o.Message += "; its log could not be read: " + words(err)
		return o
	case o.Status == plugin.Done:
		if v := archiveOf(j.Params["storage"], log); v != "" {
			o.Params = map[string]string{"volume": v}
		}
		return o
	}
	for _, line := range log {
		m := failureLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		why := taskFailed(j, pve.TaskStatus{UPID: u, Text: strings.TrimSpace(m[1])})
		if refusals.MatchString(why.Message) {
			why.Status = plugin.Refused
		}
		why.Message = o.Message + ": " + why.Message
		return why
	}
	return o
}

// backedUp looks whether a backup was finished: a file that is not finished
// has another name, and is in no list.
func (d *Driver) backedUp(ctx context.Context, j *job, u pve.UPID) (effect, error) {
	log, err := d.taskLog(ctx, u)
	if err != nil {
		return effect{seen: "its log does not tell which backup it made"}, nil
	}
	volume := archiveOf(j.Params["storage"], log)
	if volume == "" {
		return happened(false, "by its log it did not begin a backup"), nil
	}
	list, err := d.pve.Content(ctx, d.opts.Node, j.Params["storage"], "backup", j.Guest.VMID)
	if err != nil {
		return effect{}, err
	}
	there := slices.ContainsFunc(list, func(v pve.Volume) bool { return v.ID == volume })
	if !there || !slices.ContainsFunc(log, finishedLine.MatchString) {
		return happened(false, "the backup "+volume+" was not finished"), nil
	}
	e := happened(true, "the backup "+volume+" is there")
	e.params = map[string]string{"volume": volume}
	return e, nil
}

// backupName takes apart the name of a backup: its kind and VMID.
var backupName = regexp.MustCompile(`^backup/(?:vzdump-(lxc|qemu|openvz)-(\d+)-[^/]+|(ct|vm)/(\d+)/[^/]+)$`)

// backupOwner tells whose backup a volume is by its name; ok is false for what
// is no backup.
func backupOwner(volid string) (id guest.ID, ok bool) {
	_, name, ok := pve.SplitVolume(volid)
	m := backupName.FindStringSubmatch(name)
	if !ok || m == nil {
		return guest.ID{}, false
	}
	v, err := guest.ParseVMID(m[2] + m[4])
	if err != nil {
		return guest.ID{}, false
	}
	if k := m[1] + m[3]; k == "qemu" || k == "vm" {
		return guest.ID{Kind: guest.QEMU, VMID: v}, true
	}
	return guest.ID{Kind: guest.LXC, VMID: v}, true
}
