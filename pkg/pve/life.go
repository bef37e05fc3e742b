// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Create makes a guest, of a template or a backup, or puts a backup over the
// one that is there, as params say. The VMID is r's.
func (c *Client) Create(ctx context.Context, r Ref, params map[string]string) (UPID, error) {
	if err := r.check(http.MethodPost); err != nil {
		return UPID{}, err
	}
	form := formOf(params)
	form.Set("vmid", r.ID.VMID.String())
	return c.task(ctx, http.MethodPost, "/nodes/"+r.Node+"/"+string(r.ID.Kind), form)
}

// Clone copies a guest to a new VMID as params say. The task's id is the
// source's VMID.
func (c *Client) Clone(ctx context.Context, source Ref, to guest.VMID, params map[string]string) (UPID, error) {
	form := formOf(params)
	form.Set("newid", to.String())
	return c.change(ctx, http.MethodPost, source, "/clone", form)
}

// Destroy removes a guest with the volumes its config names, and with purge
// its place in jobs and HA. There is no digest to send along: who must not
// destroy another guest has to write to its config first.
func (c *Client) Destroy(ctx context.Context, r Ref, purge bool) (UPID, error) {
	form := url.Values{"destroy-unreferenced-disks": {"0"}}
	if purge {
		form.Set("purge", "1")
	}
	return c.change(ctx, http.MethodDelete, r, "", form)
}

// Resize grows a disk to size, in bytes, if the config still has the digest.
// The size must be whole KiB.
func (c *Client) Resize(ctx context.Context, r Ref, disk string, size int64, digest string) (UPID, error) {
	form := url.Values{"disk": {disk}, "size": {SizeText(size)}}
	if digest != "" {
		form.Set("digest", digest)
	}
	return c.change(ctx, http.MethodPut, r, "/resize", form)
}

// SizeText is a number of bytes as PVE writes it: in the largest unit that
// divides it.
func SizeText(bytes int64) string {
	units := "BKMGT"
	i := 0
	for bytes != 0 && bytes%1024 == 0 && i < len(units)-1 {
		bytes /= 1024
		i++
	}
	return strings.TrimSuffix(fmt.Sprintf("%d%c", bytes, units[i]), "B")
}

// BackupJob says how to back up one guest, once. Nothing but the new backup
// changes: others are not pruned.
type BackupJob struct {
	Storage string
	Mode    string // "snapshot", "suspend" or "stop"
	// Notes is the backup's text. PVE replaces {{...}} in it.
	Notes string
}

// Backup begins a backup of one guest. A zero UPID without an error means that
// PVE found no such guest on the node and did nothing.
func (c *Client) Backup(ctx context.Context, r Ref, job BackupJob) (UPID, error) {
	if err := r.check(http.MethodPost); err != nil {
		return UPID{}, err
	}
	form := url.Values{
		"vmid": {r.ID.VMID.String()}, "storage": {job.Storage}, "mode": {job.Mode}, "compress": {"zstd"}, "remove": {"0"},
	}
	if job.Notes != "" {
		form.Set("notes-template", strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(job.Notes))
	}
	return c.task(ctx, http.MethodPost, "/nodes/"+r.Node+"/vzdump", form)
}

func formOf(params map[string]string) url.Values {
	form := make(url.Values, len(params)+1)
	for k, v := range params {
		form.Set(k, v)
	}
	return form
}

// task makes a call that begins a task.
func (c *Client) task(ctx context.Context, method, path string, form url.Values) (UPID, error) {
	data, err := c.Call(ctx, method, path, form)
	if err != nil {
		return UPID{}, err
	}
	return c.upidOf(method, path, data)
}
