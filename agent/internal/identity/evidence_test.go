// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestOf(t *testing.T) {
	long := "local:" + strings.Repeat("x", 401)
	for _, tt := range []struct {
		kind       guest.Kind
		key, value string
		want       string // the one fact as "field=value"; "" = none
	}{
		{guest.LXC, "net0", "name=eth0,bridge=vmbr0,hwaddr=bc:24:11:aa:bb:cc,type=veth", "net0=BC:24:11:AA:BB:CC"},
		{guest.LXC, "net31", "hwaddr=BC:24:11:AA:BB:CC", "net31=BC:24:11:AA:BB:CC"},
		{guest.LXC, "net0", "name=eth0,bridge=vmbr0", ""},
		{guest.LXC, "net0", "name=eth0,hwaddr=BC:24:11:AA:BB", ""},
		{guest.LXC, "net0", "name=eth0,hwaddr=BC:24:11:AA:BB:CC:DD", ""},
		{guest.LXC, "network0", "hwaddr=BC:24:11:AA:BB:CC", ""},
		{guest.LXC, "net", "hwaddr=BC:24:11:AA:BB:CC", ""},
		{guest.LXC, "description", "hwaddr=BC:24:11:AA:BB:CC", ""},
		{guest.QEMU, "net0", "virtio=BC:24:11:4B:0F:B3,bridge=vmbr0", "net0=BC:24:11:4B:0F:B3"},
		{guest.QEMU, "net0", "model=e1000,macaddr=BC:24:11:4B:0F:B3", "net0=BC:24:11:4B:0F:B3"},
		{guest.QEMU, "net0", "a-model-to-come=BC:24:11:4B:0F:B3", "net0=BC:24:11:4B:0F:B3"},
		{guest.QEMU, "net0", "bridge=vmbr0,virtio", ""},

		{guest.LXC, "rootfs", "local:101/vm-101-disk-0.raw,size=1G", "rootfs=local:101/vm-101-disk-0.raw"},
		{guest.LXC, "rootfs", "local-zfs:subvol-101-disk-0,size=8G", "rootfs=local-zfs:subvol-101-disk-0"},
		{guest.LXC, "rootfs", "size=8G,volume=lvm:vm-101-disk-0", "rootfs=lvm:vm-101-disk-0"},
		{guest.LXC, "rootfs", "local:1", ""},
		{guest.LXC, "rootfs", "local:0.5,size=1G", ""},
		{guest.LXC, "mp255", "lvm:vm-101-disk-9,mp=/x", "mp255=lvm:vm-101-disk-9"},
		{guest.LXC, "mp0", "/srv/data,mp=/data", ""},
		{guest.LXC, "unused3", "lvm:vm-101-disk-3", "unused3=lvm:vm-101-disk-3"},
		{guest.LXC, "rootfs", long, ""},
		{guest.LXC, "rootfs", "local:a b", ""},
		{guest.LXC, "rootfs", "local:a\x1b[2J", ""},
		{guest.LXC, "scsi0", "lvm:vm-101-disk-0", ""},
		{guest.LXC, "smbios1", "uuid=8becca7a-a295-4be9-a8d0-0b72950cd7e8", ""},
		{guest.LXC, "meta", "ctime=1795425126", ""},
		{guest.QEMU, "rootfs", "lvm:vm-101-disk-0", ""},
		{guest.QEMU, "mp0", "lvm:vm-101-disk-0", ""},
		{guest.QEMU, "scsi30", "lvm:vm-101-disk-0,iothread=1,size=8G", "scsi30=lvm:vm-101-disk-0"},
		{guest.QEMU, "virtio0", "file=lvm:vm-101-disk-0,size=8G", "virtio0=lvm:vm-101-disk-0"},
		{guest.QEMU, "sata0", "local:859/base-859-disk-0.qcow2/861/vm-861-disk-0.qcow2", "sata0=local:859/base-859-disk-0.qcow2/861/vm-861-disk-0.qcow2"},
		{guest.QEMU, "efidisk0", "lvm:vm-101-disk-1,efitype=4m,size=4M", "efidisk0=lvm:vm-101-disk-1"},
		{guest.QEMU, "tpmstate0", "lvm:vm-101-disk-2,size=4M,version=v2.0", "tpmstate0=lvm:vm-101-disk-2"},
		{guest.QEMU, "ide2", "local:iso/debian.iso,media=cdrom", ""},
		{guest.QEMU, "ide2", "none,media=cdrom", ""},
		{guest.QEMU, "ide2", "cdrom", ""},
		{guest.QEMU, "ide2", "local:876/vm-876-cloudinit.qcow2,media=cdrom", ""},
		{guest.QEMU, "scsi1", "local:cloudinit", ""},
		{guest.QEMU, "scsi1", "/dev/disk/by-id/x", ""},
		{guest.QEMU, "scsihw", "virtio-scsi-single", ""},
		{guest.QEMU, "vmstate", "lvm:vm-101-state-x", ""},
		{guest.QEMU, "smbios1", "base64=1,uuid=8BECCA7A-a295-4be9-a8d0-0b72950cd7e8", "smbios1=8becca7a-a295-4be9-a8d0-0b72950cd7e8"},
		{guest.QEMU, "smbios1", "uuid=8becca7aa2954be9a8d00b72950cd7e8", ""},
		{guest.QEMU, "smbios1", "serial=dXVpZA==", ""},
		{guest.QEMU, "meta", "creation-qemu=7.2.22,ctime=1795425126", "meta=1795425126"},
		{guest.QEMU, "meta", "ctime=soon", ""},
		{guest.QEMU, "vmgenid", "86c9f138-3f2b-4cd6-b38a-d8cc661a92a0", ""},
		{"pod", "net9", "hwaddr=BC:24:11:AA:BB:CC", "net9=BC:24:11:AA:BB:CC"},
		{"pod", "rootfs", "lvm:vm-101-disk-0", ""},
	} {
		got := ""
		for _, f := range Of(tt.kind, guest.Config{tt.key: tt.value}).facts() {
			got += f.field + "=" + f.value
		}
		if got != tt.want {
			t.Errorf("%s %s: %s gives %q, want %q", tt.kind, tt.key, tt.value, got, tt.want)
		}
	}
}

// TestWhatIsNotReadIsNotEmpty: no config and no evidence are two things.
func TestWhatIsNotReadIsNotEmpty(t *testing.T) {
	if !Of(guest.LXC, nil).IsZero() || !Of(guest.LXC, guest.Config{}).IsZero() {
		t.Error("a config that was not read gives evidence")
	}
	if Of(guest.LXC, guest.Config{"arch": "amd64"}).IsZero() {
		t.Error("a config without evidence reads as one that was not read")
	}
}

// The journal keeps this form for ever.
func TestEvidenceInTheJournal(t *testing.T) {
	for want, e := range map[string]Evidence{
		`{"kind":"qemu","uuid":"8becca7a-a295-4be9-a8d0-0b72950cd7e8","ctime":"1795425126",` +
			`"addresses":{"net0":"BC:24:11:4B:0F:B3","net1":"BC:24:11:94:80:C3"},"volumes":{"scsi0":"local:876/vm-876-disk-0.qcow2"}}`: Of(guest.QEMU, vm),
		`{"kind":"lxc","addresses":{"net0":"BC:24:11:90:31:29"},` +
			`"volumes":{"mp0":"local:875/vm-875-disk-1.raw","rootfs":"local:875/vm-875-disk-0.raw"}}`: Of(guest.LXC, ct),
		`{"kind":"lxc"}`: Of(guest.LXC, guest.Config{"arch": "amd64"}),
	} {
		got, err := json.Marshal(e)
		if err != nil || string(got) != want {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
		var back Evidence
		if err := json.Unmarshal(got, &back); err != nil || !back.Equal(e) {
			t.Errorf("read back: %+v, %v", back, err)
		}
	}
}

func TestEqual(t *testing.T) {
	e := Of(guest.QEMU, vm)
	if !e.Equal(Of(guest.QEMU, maps.Clone(vm))) {
		t.Error("the same config gives unequal evidence")
	}
	for key, value := range map[string]string{
		"smbios1": "", "meta": "ctime=1", "net1": "", "net2": "virtio=BC:24:11:00:00:01", "scsi0": "a:b-1", "scsi1": "a:b-1",
	} {
		if e.Equal(Of(guest.QEMU, edit(vm, key, value))) {
			t.Errorf("%s changed and the evidence is equal", key)
		}
	}
	if e.Equal(Evidence{}) {
		t.Error("equal to none")
	}
}
