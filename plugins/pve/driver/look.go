// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// subject is the guest just before a sending.
type subject struct {
	pve.Guest
	conf pve.Config
}

// before runs the reads that come before a sending, within their time. An
// outcome with a status ends the action there; an error means that nothing was
// sent.
func before(ctx context.Context, read func(ctx context.Context) (plugin.Outcome, error)) (plugin.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	return read(ctx)
}

// subject reads the guest's state and config. A guest that is locked is left
// alone, and so is one whose config is not the one that the action rests on.
func (d *Driver) subject(ctx context.Context, j *job) (subject, plugin.Outcome, error) {
	var s subject
	var err error
	if s.Guest, err = d.pve.Status(ctx, j.ref); err == nil {
		s.conf, err = d.pve.Config(ctx, j.ref)
	}
	if err != nil {
		o, err := lookFailed(err)
		return s, o, err
	}
	s.Lock = orElse(s.conf.Lock, s.Lock)
	switch {
	case s.Lock != "":
		return s, locked(j, s.Lock), nil
	case j.Digest != "" && s.conf.Digest != j.Digest:
		return s, changed(j), nil
	}
	return s, plugin.Outcome{}, nil
}

// changed is the end of an action that rests on another config.
func changed(j *job) plugin.Outcome {
	o := plugin.Outcome{Message: "the config has changed since it was planned on; nothing was sent"}
	if m, _ := methodOf(j.Kind); m.approved {
		o.Status = plugin.Refused
		return o
	}
	return retry(o, reasonChanged, 0)
}

func refused(format string, args ...any) plugin.Outcome {
	return plugin.Outcome{Status: plugin.Refused, Message: fmt.Sprintf(format, args...)}
}

// sent is what the answer to a sending means.
func (d *Driver) sent(ctx context.Context, j *job, upid pve.UPID, err error) (pve.UPID, plugin.Outcome, error) {
	switch {
	case err != nil:
		o, err := d.outcome(ctx, j, err)
		return pve.UPID{}, o, err
	case upid.IsZero():
		return upid, j.done("PVE answered without a task"), nil
	}
	return upid, plugin.Outcome{}, nil
}
