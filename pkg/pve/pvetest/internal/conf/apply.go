// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import "github.com/felhom/felhom-agent/pkg/guest"

// ApplyPending carries out the pending changes, as PVE does when a guest is
// started (and when a container has stopped). A change that fails stays
// pending; its text is in the map by key.
func (g *Guest) ApplyPending(version int, env *Env) (Result, map[string]string) {
	if g.Pending.empty() && len(g.Delete) == 0 {
		return Result{Guest: g}, nil
	}
	r := Request{Version: version, Caller: Caller{User: rootUser}, Env: env}
	if g.Kind == guest.QEMU {
		w := &qemuWrite{Request: r, g: g.draft(), errs: map[string]string{}}
		w.apply()
		return Result{Guest: w.g.settle(), Effects: w.effects, Log: w.log}, w.errs
	}
	w := &lxcWrite{Request: r, before: g, g: g.draft(), errs: map[string]string{}}
	w.apply()
	return Result{Guest: w.g.settle(), Effects: w.effects, Log: w.log}, w.errs
}

// RegenerateCloudInit makes a virtual machine's cloud-init drive anew, as PUT
// .../cloudinit does: what it did not know yet is forgotten.
func (g *Guest) RegenerateCloudInit(c Caller) Result {
	if err := c.need(g.path(), privCloudinit); err != nil {
		return Result{Guest: g, Err: err}
	}
	if l := g.Lock(); l != "" {
		return Result{Guest: g, Err: died("VM is locked (%s)", l)}
	}
	if g.cloudInitDrive() == "" || g.Special["cloudinit"].empty() {
		return Result{Guest: g}
	}
	return Result{Guest: g.Edit(func(d *Guest) { delete(d.Special, "cloudinit") })}
}
