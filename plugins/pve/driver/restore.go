// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

func restoreMethod() method {
	return method{
		params: []string{"source", "storage", plugin.ParamReserve}, digest: true, approved: true, check: checkRestore, send: (*Driver).restore,
		types:  func(a plugin.Action) []string { return []string{ofKind(a, "restore")} },
		effect: (*Driver).restored, finish: (*Driver).toldMade,
	}
}

func checkRestore(a plugin.Action) error {
	if id, ok := backupOwner(a.Params["source"]); !ok || id.Kind != a.Guest.Kind {
		return invalid("source: %q is no backup of a guest of kind %s", a.Params["source"], a.Guest.Kind)
	}
	if s := a.Params["storage"]; s != "" && !pve.ValidStorage(s) {
		return invalid("storage: %q is no name of a storage", s)
	}
	return nil
}

// restore compares the guest with the one that was approved, and puts a backup
// over it. The guest's hardware addresses are the backup's.
func (d *Driver) restore(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) { return d.beforeRestore(ctx, j) })
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	params := map[string]string{"force": "1", "start": "0"}
	if s := j.Params["storage"]; s != "" {
		params["storage"] = s
	}
	fromBackup(params, j.Guest.Kind, j.Params["source"])
	upid, err := d.pve.Create(ctx, j.ref, params)
	return d.sent(ctx, j, upid, err)
}

// beforeRestore looks at the backup first, so that nothing comes between the
// look at the guest and the sending.
func (d *Driver) beforeRestore(ctx context.Context, j *job) (plugin.Outcome, error) {
	if _, asked, _ := reserve(j.Action); asked { // check has parsed it
		if o, err := d.roomForBackup(ctx, j); err != nil || o.Status != "" {
			return o, err
		}
	}
	s, o, err := d.subject(ctx, j)
	switch {
	case err != nil || o.Status != "":
		return o, err
	case s.Run != guest.Stopped:
		return refused("%s is not stopped; nothing was sent", j.Guest), nil
	case s.conf.Values["protection"] == "1":
		return refused("%s is protected; nothing was sent", j.Guest), nil
	}
	return plugin.Outcome{}, nil
}

// restored looks what became of the guest. A config like before does not show
// that nothing happened: a guest that is put back to a backup just taken has
// the same one, to the names of its volumes.
func (d *Driver) restored(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	conf, err := d.pve.Config(ctx, j.ref)
	switch {
	case errors.Is(err, pve.ErrNoGuest):
		return happened(false, "there is no such guest"), nil
	case err != nil:
		return effect{}, err
	case conf.Lock != "":
		e := happened(false, "a half-restored guest is there, locked ("+conf.Lock+")")
		e.params = map[string]string{ParamHalfMade: conf.Lock}
		return e, nil
	}
	return effect{seen: "the guest's config does not show whether the backup is in place"}, nil
}
