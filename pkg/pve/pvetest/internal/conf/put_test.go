// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// nodeWith is a node whose storages hold the given volumes.
func nodeWith(volumes map[string]Volume) *Env {
	env := *benchEnv
	env.Storages = map[string]Storage{
		"local": benchEnv.Storages["local"],
		"lvm":   {Type: "lvmthin", Content: []string{"images", "rootdir"}},
		"iso":   {Type: "dir", Path: "/iso", Content: []string{"iso"}},
	}
	env.Volume = func(id string) (Volume, bool) { v, ok := volumes[id]; return v, ok }
	env.Volumes = func(storage string, vmid guest.VMID) []string {
		var out []string
		for id, v := range volumes {
			if s, _, _ := splitVolume(id); s == storage && v.Owner == vmid {
				out = append(out, id)
			}
		}
		return out
	}
	env.Path = func(p string) PathKind {
		return map[string]PathKind{"local:snippets/ok": PathExecutable, "local:snippets/plain": PathFile, "/dev/null": PathDevice, "/etc": PathOther}[p]
	}
	return &env
}

func root(version int, env *Env, params map[string]string) Request {
	return Request{Version: version, Caller: Caller{User: rootUser}, Params: params, Env: env}
}

// TestEffects holds what a write does to volumes.
func TestEffects(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	ctVols := map[string]Volume{
		"local:101/vm-101-disk-0.raw": {Size: 8 * gib, Owner: 101, Format: "raw"},
		"local:101/vm-101-disk-2.raw": {Size: gib, Owner: 101, Format: "raw"},
	}
	ct := benchGuest(guest.LXC)
	withMP := ct.Edit(func(g *Guest) { g.Current.Set("mp0", "local:101/vm-101-disk-2.raw,mp=/data,size=1G") })
	unused := ct.Edit(func(g *Guest) { g.Current.Set("unused3", "local:101/vm-101-disk-2.raw") })
	snapped := unused.Edit(func(g *Guest) {
		g.Snapshots = map[string]Section{"s1": {Values: map[string]string{"mp0": "local:101/vm-101-disk-2.raw,mp=/data,size=1G"}}}
	})
	foreign := ct.Edit(func(g *Guest) { g.Current.Set("unused0", "local:102/vm-102-disk-0.raw") })
	vm := benchGuest(guest.QEMU)
	for _, tc := range []struct {
		name    string
		g       *Guest
		params  map[string]string
		effects []Effect
		changed map[string]string // current values that are new
	}{
		{
			"new volume takes the lowest free number", ct,
			map[string]string{"mp0": "local:1.5,mp=/data"},
			[]Effect{{Op: Allocate, Volume: "local:101/vm-101-disk-1.raw", Size: gib * 3 / 2, Format: "raw"}},
			map[string]string{"mp0": "local:101/vm-101-disk-1.raw,mp=/data,size=1536M"},
		},
		{
			"a block storage names volumes plainly", ct,
			map[string]string{"mp0": "lvm:1,mp=/data"},
			[]Effect{{Op: Allocate, Volume: "lvm:vm-101-disk-0", Size: gib, Format: "raw"}},
			map[string]string{"mp0": "lvm:vm-101-disk-0,mp=/data,size=1G"},
		},
		{
			"size 0 on a directory is a plain directory", ct,
			map[string]string{"mp0": "local:0,mp=/data"},
			[]Effect{{Op: Allocate, Volume: "local:101/subvol-101-disk-1.subvol", Format: "subvol"}},
			map[string]string{"mp0": "local:101/subvol-101-disk-1.subvol,mp=/data,size=0T"},
		},
		{
			"a removed mount point stays as unused", withMP,
			map[string]string{"delete": "mp0"},
			nil,
			map[string]string{"unused0": "local:101/vm-101-disk-2.raw"},
		},
		{
			"deleting an unused volume frees it", unused,
			map[string]string{"delete": "unused3"},
			[]Effect{{Op: Free, Volume: "local:101/vm-101-disk-2.raw"}},
			map[string]string{},
		},
		{"but not while a snapshot has it", snapped, map[string]string{"delete": "unused3"}, nil, map[string]string{}},
		{"nor another guest's", foreign, map[string]string{"delete": "unused0"}, nil, map[string]string{}},
		{
			"attaching an unused volume takes it off the list", unused,
			map[string]string{"mp0": "local:101/vm-101-disk-2.raw,mp=/d"},
			nil,
			map[string]string{"mp0": "local:101/vm-101-disk-2.raw,mp=/d,size=1G"},
		},
		{
			"a disk in a given format", vm,
			map[string]string{"virtio1": "local:2,format=qcow2,discard=on"},
			[]Effect{{Op: Allocate, Volume: "local:200/vm-200-disk-1.qcow2", Size: 2 * gib, Format: "qcow2"}},
			map[string]string{"virtio1": "local:200/vm-200-disk-1.qcow2,discard=on,size=2G"},
		},
		{
			"two disks in one write", vm,
			map[string]string{"scsi1": "lvm:1", "scsi2": "lvm:1"},
			[]Effect{{Op: Allocate, Volume: "lvm:vm-200-disk-0", Size: gib, Format: "raw"}, {Op: Allocate, Volume: "lvm:vm-200-disk-1", Size: gib, Format: "raw"}},
			map[string]string{"scsi1": "lvm:vm-200-disk-0,size=1G", "scsi2": "lvm:vm-200-disk-1,size=1G"},
		},
		{
			"EFI variables", vm,
			map[string]string{"efidisk0": "local:1,efitype=4m"},
			[]Effect{{Op: Allocate, Volume: "local:200/vm-200-disk-1.raw", Size: 528 << 10, Format: "raw"}},
			map[string]string{"efidisk0": "local:200/vm-200-disk-1.raw,efitype=4m,size=528K"},
		},
		{
			"an import has the size of its source", vm,
			map[string]string{"scsi1": "local:0,import-from=local:101/vm-101-disk-0.raw"},
			[]Effect{{Op: Allocate, Volume: "local:200/vm-200-disk-1.raw", Size: 8 * gib, Format: "raw"}},
			map[string]string{"scsi1": "local:200/vm-200-disk-1.raw,size=8G"},
		},
		{
			"a CD-ROM is appended to the boot order", vm,
			map[string]string{"ide2": "none,media=cdrom"},
			nil,
			map[string]string{"ide2": "none,media=cdrom", "boot": "order=scsi0;ide2"},
		},
		{
			"detaching by force frees the volume", vm,
			map[string]string{"delete": "scsi0", "force": "1"},
			[]Effect{{Op: Free, Volume: "local:200/vm-200-disk-0.raw"}},
			map[string]string{"boot": " "},
		},
		{"another name of a CD-ROM", vm, map[string]string{"cdrom": "none"}, nil, map[string]string{"ide2": "none,media=cdrom", "boot": "order=scsi0;ide2"}},
	} {
		vols := maps.Clone(ctVols)
		vols["local:200/vm-200-disk-0.raw"] = Volume{Size: 8 * gib, Owner: 200, Format: "raw"}
		vols["local:102/vm-102-disk-0.raw"] = Volume{Size: gib, Owner: 102, Format: "raw"}
		res := tc.g.Put(root(9, nodeWith(vols), tc.params))
		if res.Err != nil {
			t.Errorf("%s: %v", tc.name, res.Err)
			continue
		}
		if d := cmp.Diff(tc.effects, res.Effects); d != "" {
			t.Errorf("%s: effects (-want +got)\n%s", tc.name, d)
		}
		if d := cmp.Diff(tc.changed, newValues(tc.g, res.Guest)); d != "" {
			t.Errorf("%s: values (-want +got)\n%s", tc.name, d)
		}
	}
}

// newValues are the current values of b that a has not.
func newValues(a, b *Guest) map[string]string {
	out := make(map[string]string)
	for k, v := range b.Current.Values {
		if a.Current.Values[k] != v {
			out[k] = v
		}
	}
	return out
}

// TestRefusals holds refusals that the recordings do not show.
func TestRefusals(t *testing.T) {
	t.Parallel()
	ct, vm := benchGuest(guest.LXC), benchGuest(guest.QEMU)
	mp := ct.Edit(func(g *Guest) {
		g.Current.Set("protection", "1")
		g.Current.Set("mp0", "local:101/vm-101-disk-1.raw,mp=/x")
	})
	env := nodeWith(map[string]Volume{"local:200/vm-200-disk-0.raw": {Size: 1 << 30, Owner: 200, Format: "raw"}, "iso:iso/a.iso": {Size: 1}})
	for _, tc := range []struct {
		name   string
		g      *Guest
		params map[string]string
		want   string
	}{
		{"storage without containers", ct, map[string]string{"mp0": "iso:1,mp=/x"}, "500 storage 'iso' does not allow content type 'rootdir' (Container)"},
		{"protected mount point", mp, map[string]string{"delete": "mp0"}, "500 can't remove CT 101 drive 'mp0' - protection mode enabled"},
		{"set and reverted", ct, map[string]string{"cores": "1", "revert": "cores"}, "400 you can't use '-cores' and '-revert cores' at the same time"},
		{"deleted and reverted", ct, map[string]string{"delete": "cores", "revert": "cores"}, "400 you can't use '-delete cores' and '-revert cores' at the same time"},
		{"script that is no executable", ct, map[string]string{"hookscript": "local:snippets/plain"}, "500 script 'local:snippets/plain' is not executable"},
		{"script of a VM", vm, map[string]string{"hookscript": "local:snippets/none"}, "400 script 'local:snippets/none' does not exist\n"},
		{"device that is none", ct, map[string]string{"dev0": "/dev/../etc"}, "400 invalid format - format error\ndev0.path: invalid format - /dev/../etc is not a valid device path\n\n"},
		{"ISO without media", vm, map[string]string{"scsi1": "iso:iso/a.iso"}, "400 explicit 'media=cdrom' is required for iso images"},
		{"storage without images", vm, map[string]string{"scsi1": "iso:1"}, "400 storage 'iso' does not support vm images"},
		{
			"import in the wrong form", vm,
			map[string]string{"scsi1": "local:1,import-from=local:200/vm-200-disk-0.raw"},
			"400 'import-from' requires special syntax - use <storage ID>:0,import-from=<source>",
		},
		{
			"format unlike the volume's", vm,
			map[string]string{"scsi1": "local:200/vm-200-disk-0.raw,format=qcow2"},
			"500 drive 'scsi1' - volume 'local:200/vm-200-disk-0.raw' - 'format=qcow2' option different from storage format 'raw'",
		},
		{"limits that exclude each other", vm, map[string]string{"scsi1": "local:1,mbps=5,mbps_rd=3"}, "400 unable to parse drive options"},
		{"pool of a limit without the limit", vm, map[string]string{"scsi1": "local:1,mbps_max=5"}, "400 unable to parse drive options"},
		{"Intel IOMMU without q35", vm, map[string]string{"machine": "viommu=intel"}, "500 to use Intel vIOMMU please set the machine type to q35"},
		{"VNC clipboard on no display", vm, map[string]string{"vga": "none,clipboard=vnc"}, "500 vga type none is not compatible with VNC clipboard"},
	} {
		res := tc.g.Put(root(9, env, tc.params))
		if d := cmp.Diff(tc.want, short(res.Err)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
	}
}

// TestGuestIsNotModified: Put leaves the guest it was asked of alone.
func TestGuestIsNotModified(t *testing.T) {
	t.Parallel()
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		g := benchGuest(kind).SetRunning(true)
		text, view := g.Text(), g.View(false)
		g.Put(root(8, nodeWith(nil), map[string]string{"memory": "64", "delete": "tags,onboot", "description": "new"}))
		if g.Text() != text || g.print() != text {
			t.Errorf("%s: the file changed", kind)
		}
		if d := cmp.Diff(view, g.View(false)); d != "" {
			t.Errorf("%s: the view changed\n%s", kind, d)
		}
	}
}

// TestApplyPending carries out what waited for the next start.
func TestApplyPending(t *testing.T) {
	t.Parallel()
	ct := benchGuest(guest.LXC).SetRunning(true)
	res := ct.Put(root(8, nodeWith(nil), map[string]string{"features": "nesting=1,fuse=1", "delete": "unprivileged_", "tty": "1"}))
	if res.Err == nil {
		t.Fatal("an unknown key was deleted")
	}
	res = ct.Put(root(8, nodeWith(nil), map[string]string{"features": "nesting=1,fuse=1", "tty": "1", "delete": "arch"}))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	g := res.Guest
	if got := slices.Sorted(maps.Keys(g.Pending.Values)); !slices.Equal(got, []string{"features", "tty"}) || !hasKey(g.Delete, "arch") {
		t.Fatalf("pending: %v, deletes %v", got, g.Delete)
	}
	applied, errs := g.ApplyPending(8, nodeWith(nil))
	if len(errs) > 0 || !applied.Guest.Pending.empty() || len(applied.Guest.Delete) > 0 {
		t.Errorf("left pending: %v, %v, errors %v", applied.Guest.Pending, applied.Guest.Delete, errs)
	}
	if _, has := applied.Guest.Current.Get("arch"); has || applied.Guest.Current.Values["tty"] != "1" {
		t.Errorf("not applied: %v", applied.Guest.Current.Values)
	}
	if same, _ := applied.Guest.ApplyPending(8, nodeWith(nil)); same.Guest != applied.Guest {
		t.Error("nothing pending, but the file was written")
	}
}

func hasKey(m map[string]bool, k string) bool { _, ok := m[k]; return ok }

// TestPostWaits: a POST that waits answers with its task's error.
func TestPostWaits(t *testing.T) {
	t.Parallel()
	vm := benchGuest(guest.QEMU)
	r := root(8, nodeWith(nil), map[string]string{"boot": "order=ide0", "background_delay": "3"})
	r.Post = true
	res := vm.Put(r)
	if want := "500 failed to update VM 200: invalid bootorder: device 'ide0' does not exist'"; short(res.Err) != want || res.Task {
		t.Errorf("waiting: %s, task %v; want %s", short(res.Err), res.Task, want)
	}
	r.Params = map[string]string{"boot": "order=ide0"}
	res = vm.Put(r)
	if want := "invalid bootorder: device 'ide0' does not exist'"; res.Err != nil || !res.Task || res.TaskErr != want {
		t.Errorf("not waiting: %v, task %v %q; want %q", res.Err, res.Task, res.TaskErr, want)
	}
}
