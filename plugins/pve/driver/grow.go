// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"regexp"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

func growMethod() method {
	return method{
		params: []string{"disk", "size", plugin.ParamReserve}, digest: true, check: checkGrow, send: (*Driver).grow,
		types: func(plugin.Action) []string { return []string{"resize"} }, effect: (*Driver).grown, passes: true, refuses: true,
	}
}

// growable are the disks that can grow.
var growable = regexp.MustCompile(`^(?:rootfs|mp[0-9]{1,3}|(?:scsi|virtio|sata|ide)[0-9]{1,2})$`)

func checkGrow(a plugin.Action) error {
	if !growable.MatchString(a.Params["disk"]) {
		return invalid("disk: %q is no disk that can grow", a.Params["disk"])
	}
	_, err := growTo(a)
	return err
}

// growTo is the size to grow to, in bytes.
func growTo(a plugin.Action) (int64, error) {
	n, err := parseBytes(a.Params["size"])
	if err != nil || n == 0 || n%1024 != 0 {
		return 0, invalid("size: %q is not a whole number of KiB in bytes", a.Params["size"])
	}
	return n, nil
}

// grow compares the sizes and asks for the larger one. PVE would take a
// smaller one for an error; that is found here, before one of its workers is
// kept busy.
func (d *Driver) grow(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	size, err := growTo(j.Action)
	if err != nil {
		return pve.UPID{}, plugin.Outcome{}, err
	}
	o, err := before(ctx, func(ctx context.Context) (plugin.Outcome, error) { return d.beforeGrow(ctx, j, size) })
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	upid, err := d.pve.Resize(ctx, j.ref, j.Params["disk"], size, j.Digest)
	return d.sent(ctx, j, upid, err)
}

func (d *Driver) beforeGrow(ctx context.Context, j *job, size int64) (plugin.Outcome, error) {
	s, o, err := d.subject(ctx, j)
	if err != nil || o.Status != "" {
		return o, err
	}
	key := j.Params["disk"]
	disk, ok := diskOf(key, s.conf.Values[key])
	switch {
	case !ok || disk.size == 0:
		return refused("the config tells no size of %s (%q); nothing was sent", key, s.conf.Values[key]), nil
	case disk.size == size:
		return plugin.Outcome{Status: plugin.Done, Message: key + " has that size already; nothing was sent"}, nil
	case disk.size > size:
		return refused("%s has %s, more than %s: a disk never shrinks; nothing was sent", key, pve.SizeText(disk.size), pve.SizeText(size)), nil
	}
	return d.room(ctx, j, space{disk.storage: size - disk.size})
}

// grown looks whether the disk has the size; a storage may have made it
// larger.
func (d *Driver) grown(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	size, err := growTo(j.Action)
	if err != nil {
		return effect{}, err
	}
	conf, err := d.pve.Config(ctx, j.ref)
	if err != nil {
		return effect{}, err
	}
	key := j.Params["disk"]
	disk, _ := diskOf(key, conf.Values[key])
	return happened(disk.size >= size, key+" has "+pve.SizeText(disk.size)), nil
}
