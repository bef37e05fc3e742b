// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

var keyPattern = regexp.MustCompile(`^[a-z][a-z_-]*[0-9]*$`)

// notKeys are what PVE takes beside config keys, and keys that lock a guest
// out: a token could set lock on a container and nobody could clear it.
var notKeys = []string{
	"lock", "template", "hookscript", "digest", "delete", "revert", "skiplock", "force",
	"background_delay", "node", "vmid",
}

// checkSetConfig refuses a write that must not be sent.
func checkSetConfig(a plugin.Action) error {
	if len(a.Set) == 0 && len(a.Delete) == 0 {
		return fmt.Errorf("%w: set_config without a key", plugin.ErrInvalid)
	}
	if err := checkKeys(a); err != nil {
		return err
	}
	for _, key := range a.Delete {
		if _, both := a.Set[key]; both {
			return fmt.Errorf("%w: %s is to be set and deleted", plugin.ErrInvalid, key)
		}
	}
	return nil
}

// checkKeys refuses what must not be sent among config keys.
func checkKeys(a plugin.Action) error {
	for _, key := range touched(a) {
		if !keyPattern.MatchString(key) || slices.Contains(notKeys, key) {
			return fmt.Errorf("%w: %q is no config key to write", plugin.ErrInvalid, key)
		}
	}
	return nil
}

// touched are the keys a set_config changes, in order.
func touched(a plugin.Action) []string {
	keys := slices.Clone(a.Delete)
	for k := range a.Set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// setConfig reads the config, and writes to it if it is still the one that the
// plan rests on.
func (d *Driver) setConfig(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	before, err := d.configBefore(ctx, j)
	if err != nil {
		o, err := lookFailed(err)
		return pve.UPID{}, o, err
	}
	switch {
	case before.Lock != "":
		return pve.UPID{}, locked(j, before.Lock), nil
	case before.Digest != j.Digest:
		return pve.UPID{}, changed(j), nil
	}
	j.undo = configUndo(j.Action, before)
	change, err := d.configChange(ctx, j)
	if err != nil {
		o, err := lookFailed(err)
		return pve.UPID{}, o, err
	}
	upid, err := d.pve.SetConfig(ctx, j.ref, change)
	if err == nil && upid.IsZero() {
		return upid, j.done(""), nil
	}
	return d.sent(ctx, j, upid, err)
}

// configChange is the write. A key that is only pending is not deleted but
// reverted: PVE answers 200 to its deletion and does nothing (recorded on
// containers).
func (d *Driver) configChange(ctx context.Context, j *job) (pve.ConfigChange, error) {
	change := pve.ConfigChange{Set: j.Set, Digest: j.Digest}
	if len(j.Delete) == 0 {
		return change, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	now, err := d.pve.CurrentConfig(ctx, j.ref)
	if err != nil {
		return change, err
	}
	for _, key := range j.Delete {
		if _, inForce := now.Values[key]; inForce {
			change.Delete = append(change.Delete, key)
		} else {
			change.Revert = append(change.Revert, key)
		}
	}
	return change, nil
}

func (d *Driver) configBefore(ctx context.Context, j *job) (pve.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	return d.pve.Config(ctx, j.ref)
}

// configUndo is the write that restores the former values of the keys that are
// not secret; nil if there are none. Its digest is for the host to fill in.
func configUndo(a plugin.Action, before pve.Config) *plugin.Action {
	undo := &plugin.Action{Node: a.Node, Guest: a.Guest, Kind: plugin.SetConfig, Set: make(map[string]string), Reason: "undo set_config"}
	for _, key := range touched(a) {
		was, had := before.Values[key]
		switch {
		case slices.Contains(a.Secret, key) || strings.HasPrefix(was, "****"):
			// PVE shows a secret as stars.
		case had:
			undo.Set[key] = was
		default:
			undo.Delete = append(undo.Delete, key)
		}
	}
	if len(undo.Set) == 0 && len(undo.Delete) == 0 {
		return nil
	}
	return undo
}
