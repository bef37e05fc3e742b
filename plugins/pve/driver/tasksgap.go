// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve"
)

// wholeList is how many tasks a node may list before any can have been lost:
// its index is put aside at 50,000 bytes, less than a thousand tasks of a
// hundred bytes and more, and lost when that happens again (proxmox.md 4.4).
const wholeList = 400

// tasksGap says why the tasks since then may not all be there, or "".
func (d *Driver) tasksGap(ctx context.Context, since time.Time) string {
	if since.IsZero() {
		return ""
	}
	path := "/nodes/" + d.opts.Node
	p, err := d.pve.Permissions(ctx, path)
	if err != nil {
		return "whether the token may see every task is not known: " + words(err)
	}
	if !p.Has(path, "Sys.Audit") {
		return "the token sees only its own tasks: it has no Sys.Audit on " + path
	}
	reaches, err := d.pve.TasksReachBack(ctx, d.opts.Node, since)
	if err == nil && !reaches {
		var all []pve.Task
		all, err = d.pve.Tasks(ctx, d.opts.Node, pve.TaskQuery{})
		reaches = len(all) < wholeList
	}
	switch {
	case err != nil:
		return "whether PVE's task list reaches back is not known: " + words(err)
	case !reaches:
		return "PVE's task list does not reach back to " + since.UTC().Format(time.RFC3339)
	}
	return ""
}
