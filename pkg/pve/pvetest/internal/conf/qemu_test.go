// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// withCloudInit is a running virtual machine whose cloud-init drive is in use.
func withCloudInit() *Guest {
	return benchGuest(guest.QEMU).Edit(func(g *Guest) {
		g.Current.Set("ide2", "local:200/vm-200-cloudinit.qcow2,media=cdrom")
		g.Current.Set("ciuser", "ann")
	}).SetRunning(true)
}

// TestCloudInitSection follows what PVE notes of changes that the cloud-init
// drive of a running guest does not know yet.
func TestCloudInitSection(t *testing.T) {
	t.Parallel()
	g := withCloudInit()
	for _, step := range []struct {
		name   string
		params map[string]string
		want   map[string]string
	}{
		{"a value is changed: the old one is noted", map[string]string{"ciuser": "bob"}, map[string]string{"ciuser": "ann"}},
		{"and again: the first is kept", map[string]string{"ciuser": "eve"}, map[string]string{"ciuser": "ann"}},
		{"a value is added", map[string]string{"citype": "nocloud"}, map[string]string{"ciuser": "ann", "added": "citype"}},
		{
			"another, and the name is changed",
			map[string]string{"ipconfig0": "ip=dhcp", "name": "db"},
			map[string]string{"ciuser": "ann", "name": "web", "added": "citype,ipconfig0"},
		},
		{"an added one is removed", map[string]string{"delete": "citype"}, map[string]string{"ciuser": "ann", "name": "web", "added": "ipconfig0"}},
		{"one is set back", map[string]string{"ciuser": "ann"}, map[string]string{"name": "web", "added": "ipconfig0"}},
		{"a known one is removed", map[string]string{"delete": "ciuser"}, map[string]string{"ciuser": "ann", "name": "web", "added": "ipconfig0"}},
		{"what has nothing to do with it", map[string]string{"onboot": "0"}, map[string]string{"ciuser": "ann", "name": "web", "added": "ipconfig0"}},
	} {
		res := g.Put(root(8, nodeWith(nil), step.params))
		if res.Err != nil {
			t.Fatalf("%s: %v", step.name, res.Err)
		}
		g = res.Guest
		if d := cmp.Diff(step.want, g.Special["cloudinit"].Values); d != "" {
			t.Errorf("%s (-want +got)\n%s", step.name, d)
		}
	}
	if g = g.RegenerateCloudInit(Caller{User: rootUser}).Guest; !g.Special["cloudinit"].empty() {
		t.Errorf("regenerated, but still there: %v", g.Special)
	}
}

// TestPasswordIsMasked: a password is stored as a hash and never shown.
func TestPasswordIsMasked(t *testing.T) {
	t.Parallel()
	res := withCloudInit().Put(root(8, nodeWith(nil), map[string]string{"cipassword": "secret"}))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	stored := res.Guest.Current.Values["cipassword"]
	if !regexp.MustCompile(`^\$5\$[./0-9A-Za-z]{8}\$[./0-9A-Za-z]{43}$`).MatchString(stored) {
		t.Errorf("stored as %q", stored)
	}
	if got := res.Guest.View(false)["cipassword"]; got != "**********" {
		t.Errorf("shown as %v", got)
	}
	for _, line := range res.Log {
		if regexp.MustCompile(`secret`).MatchString(line) {
			t.Errorf("in the log: %s", line)
		}
	}
	pending := res.Guest.Edit(func(g *Guest) { g.Pending.Set("cipassword", "x") })
	want := PendingEntry{Key: "cipassword", Value: "**********", Pending: "********** "}
	if d := cmp.Diff(want, entry(pending, "cipassword")); d != "" {
		t.Errorf("pending (-want +got)\n%s", d)
	}
}

func entry(g *Guest, key string) PendingEntry {
	for _, e := range g.PendingList() {
		if e.Key == key {
			return e
		}
	}
	return PendingEntry{}
}

// TestPendingDelete: 1, or 2 if forced; PVE says 2 also of a key not set.
func TestPendingDelete(t *testing.T) {
	t.Parallel()
	g := benchGuest(guest.QEMU).Edit(func(g *Guest) {
		g.Delete = map[string]bool{"cores": false, "scsi0": true, "cpulimit": false}
	})
	for key, want := range map[string]int{"cores": 1, "scsi0": 2, "cpulimit": 2} {
		if got := entry(g, key).Delete; got != want {
			t.Errorf("%s: %d, want %d", key, got, want)
		}
	}
}

// TestHotplugNet holds which changes of a running guest's interface can be
// made, depending on the guest's hotplug setting.
func TestHotplugNet(t *testing.T) {
	t.Parallel()
	const old = "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"
	for _, tc := range []struct {
		name, net, hotplug string
		pending            bool
	}{
		{"another bridge", "virtio=BC:24:11:00:00:01,bridge=vmbr1", "disk", false},
		{"link down", old + ",link_down=1", "0", false},
		{"another address", "virtio=BC:24:11:00:00:02,bridge=vmbr0", "1", false},
		{"another address, no hotplug", "virtio=BC:24:11:00:00:02,bridge=vmbr0", "disk", true},
		{"another model, no hotplug", "e1000=BC:24:11:00:00:01,bridge=vmbr0", "0", true},
		{"queues, no hotplug", old + ",queues=2", "disk,usb", true},
		{"no bridge any more, no hotplug", "virtio=BC:24:11:00:00:01", "disk", true},
	} {
		g := benchGuest(guest.QEMU).Edit(func(g *Guest) { g.Current.Set("hotplug", tc.hotplug) }).SetRunning(true)
		env := nodeWith(nil)
		env.Bridges = map[string]Bridge{"vmbr0": {}, "vmbr1": {}}
		res := g.Put(root(8, env, map[string]string{"net0": tc.net}))
		if _, pending := res.Guest.Pending.Get("net0"); res.Err != nil || pending != tc.pending {
			t.Errorf("%s: pending %v, want %v, error %v", tc.name, pending, tc.pending, res.Err)
		}
	}
}

// TestUnplugBootDisk: the disk a running guest boots from stays.
func TestUnplugBootDisk(t *testing.T) {
	t.Parallel()
	const want = "400 hotplug problem - can't unplug bootdisk 'scsi0'\n"
	for boot, params := range map[string]map[string]string{
		"order=scsi0": {"delete": "scsi0"},
		" ":           {"delete": "scsi0"},
		"legacy=cdn":  {"scsi0": "none,media=disk"},
	} {
		g := benchGuest(guest.QEMU).Edit(func(g *Guest) {
			g.Current.Set("boot", boot)
			g.Current.Set("bootdisk", "scsi0")
		}).SetRunning(true)
		if got := short(g.Put(root(8, nodeWith(nil), params)).Err); got != want {
			t.Errorf("boot %q: %s", boot, got)
		}
	}
}

// TestGenerated holds the form of what PVE generates.
func TestGenerated(t *testing.T) {
	t.Parallel()
	e := &Env{Rand: func() uint64 { return 0xfedcba9876543210 }, Datacenter: Datacenter{MACPrefix: "AA:BB"}}
	if got := e.mac(); got != "AA:BB:10:32:54:76" {
		t.Errorf("mac %q", got)
	}
	if got := e.uuid(); !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got) {
		t.Errorf("uuid %q", got)
	}
}
