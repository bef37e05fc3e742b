// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// TestAdditive: what makes something new is planned only where the policy
// allows it, and never on a guest whose identity is in doubt.
func TestAdditive(t *testing.T) {
	grow := lxc(101, func(g *desired.Guest) { g.Disks = map[string]int64{"rootfs": 16 << 30} })
	small := here(101, guest.Running, guest.Config{"rootfs": "local:101/vm-101-disk-0.raw,size=8G"})
	mixed := lxc(101, func(g *desired.Guest) {
		g.Config["cores"], g.Config["mp1"] = "4", "local:8,mp=/data"
		g.Delete = []string{"mp0"}
	})
	rich := here(101, guest.Stopped, guest.Config{"cores": "2", "mp0": "local:101/vm-101-disk-1.raw,mp=/old,size=1G"})
	tests := []struct {
		name   string
		in     Input
		want   *desired.Guest
		obs    plugin.Observation
		sketch []string
	}{
		{
			"a disk grows",
			Input{AllowAdditive: true},
			grow, small,
			[]string{"grow_disk: rootfs size 8G -> 16G"},
		},
		{
			"not one whose size is not known",
			Input{AllowAdditive: true},
			grow, here(101, guest.Running, guest.Config{}),
			[]string{"withheld rootfs: rootfs grow to 16G | the volume is not there or its size is not known"},
		},
		{
			"not on a guest that changed",
			Input{AllowAdditive: true, Guests: map[guest.VMID]Policy{101: {Changed: "its identity changed"}}},
			grow, small,
			[]string{"withheld rootfs: rootfs size 8G -> 16G | its identity changed"},
		},
		{
			"one set_config per class",
			Input{AllowAdditive: true, PVE: 8},
			mixed, rich,
			[]string{
				"set_config: cores 2 -> 4", "set_config: mp1 (absent) -> local:8,mp=/data",
				"gated set_config: mp0 local:101/vm-101-disk-1.raw,mp=/old,size=1G -> (absent)",
				"withheld mp0: mp0 local:101/vm-101-disk-1.raw,mp=/old,size=1G -> (absent) | irreversible: it needs a signed approval",
			},
		},
		{
			"what is benign goes on, on a guest that changed",
			Input{AllowAdditive: true, PVE: 8, Guests: map[guest.VMID]Policy{101: {Changed: "changed"}}},
			mixed, rich,
			[]string{
				"set_config: cores 2 -> 4",
				"withheld mp0: mp0 local:101/vm-101-disk-1.raw,mp=/old,size=1G -> (absent) | changed",
				"withheld mp1: mp1 (absent) -> local:8,mp=/data | changed",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.sketch, sketch(tt.in.Guest(tt.want, tt.obs))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProvision(t *testing.T) {
	gone := plugin.Observation{Presence: plugin.Gone}
	template := func(f func(*desired.Guest)) *desired.Guest {
		return lxc(101, func(g *desired.Guest) {
			g.Run, g.Config["hostname"], g.Config["cores"] = guest.Running, "web", "2"
			g.Provision = &desired.Provision{
				Template: "local:vztmpl/debian.tar.zst", Storage: "local", Config: guest.Config{"rootfs": "local:8", "unprivileged": "1"},
			}
			if f != nil {
				f(g)
			}
		})
	}
	clone := lxc(101, func(g *desired.Guest) { g.Provision = &desired.Provision{Clone: 900} })
	tests := []struct {
		name   string
		want   *desired.Guest
		in     Input
		sketch []string
	}{
		{"made from a template", template(nil), Input{AllowAdditive: true}, []string{"provision: make it from template local:vztmpl/debian.tar.zst"}},
		{"made by a clone", clone, Input{AllowAdditive: true}, []string{"provision: make it from clone 900"}},
		{"not without the policy", clone, Input{}, []string{"withheld guest: absent | " + whyAdditive}},
		{
			"not one that was known", clone,
			Input{AllowAdditive: true, Guests: map[guest.VMID]Policy{101: {Lost: "it was here and is gone"}}},
			[]string{"withheld guest: lost | it was here and is gone; it is not made again by itself: `felhom-agent forget 101` lets its document make it"},
		},
		{
			"not while the host goes down", clone,
			Input{AllowAdditive: true, Frozen: "a stopall is running"},
			[]string{"withheld guest: to be made | waiting: a stopall is running"},
		},
		{
			"not with what PVE would be hurt by", template(func(g *desired.Guest) { g.Config["lock"] = "backup" }),
			Input{AllowAdditive: true},
			[]string{"withheld guest: absent | lock: lock is never written: a lock is PVE's own; through the API nobody could take it off a container again"},
		},
		{
			// PVE would unpack the template over what is on that volume.
			"not onto a volume that exists", template(func(g *desired.Guest) { g.Provision.Config["rootfs"] = "local:200/vm-200-disk-0.raw" }),
			Input{AllowAdditive: true},
			[]string{"withheld guest: absent | rootfs: " + whyExists},
		},
		{
			"nor with one", template(func(g *desired.Guest) { g.Config["mp0"] = "local:200/vm-200-disk-1.raw,mp=/data" }),
			Input{AllowAdditive: true, PVE: 8},
			[]string{"withheld guest: absent | mp0: " + whyExists},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.sketch, sketch(tt.in.Guest(tt.want, gone))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
	a := Input{AllowAdditive: true, Reserve: 1 << 30}.Guest(template(nil), gone).Actions[0]
	wantSet := map[string]string{"hostname": "web", "cores": "2", "rootfs": "local:8", "unprivileged": "1"}
	wantParams := map[string]string{"how": "template", "source": "local:vztmpl/debian.tar.zst", "storage": "local", "reserve": "1073741824"}
	if diff := cmp.Diff(wantSet, a.Set); diff != "" {
		t.Errorf("set (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantParams, a.Params); diff != "" {
		t.Errorf("params (-want +got):\n%s", diff)
	}
}
