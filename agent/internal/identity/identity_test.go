// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

var (
	noon     = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	unbroken = Continuity{Known: true}
	vm       = guest.Config{
		"smbios1": "uuid=8becca7a-a295-4be9-a8d0-0b72950cd7e8", "meta": "creation-qemu=7.2.22,ctime=1795425126",
		"net0": "virtio=BC:24:11:4B:0F:B3,bridge=vmbr0", "net1": "e1000=bc:24:11:94:80:c3,bridge=vmbr0",
		"scsi0": "local:876/vm-876-disk-0.qcow2,size=1G", "ide2": "local:876/vm-876-cloudinit.qcow2,media=cdrom",
		"vmgenid": "86c9f138-3f2b-4cd6-b38a-d8cc661a92a0", "name": "inc",
	}
	ct = guest.Config{
		"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:90:31:29,type=veth", "hostname": "inc", "ostype": "debian",
		"rootfs": "local:875/vm-875-disk-0.raw,size=1G", "mp0": "local:875/vm-875-disk-1.raw,mp=/data,size=1G",
	}
)

// edit is a copy of c with keys set; an empty value deletes.
func edit(c guest.Config, pairs ...string) guest.Config {
	out := guest.Config{}
	for k, v := range c {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
		if pairs[i+1] == "" {
			delete(out, pairs[i])
		}
	}
	return out
}

func TestJudge(t *testing.T) {
	gone := Continuity{Known: true, Gone: []string{"away"}}
	doubt := Continuity{Known: true, Doubts: []string{"blind"}}
	otherMAC := "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth"
	bare := guest.Config{"rootfs": ct["rootfs"]}
	for _, tt := range []struct {
		name        string
		kind        guest.Kind
		known, seen guest.Config
		c           Continuity
		explained   []string
		want        Verdict
		reasons     int
	}{
		{"identical CT", guest.LXC, ct, ct, unbroken, nil, Same, 0},
		{"identical VM", guest.QEMU, vm, vm, unbroken, nil, Same, 0},
		{"settings differ", guest.LXC, ct, edit(ct, "hostname", "b", "ostype", "alpine", "memory", "5"), unbroken, nil, Same, 0},
		{"vmgenid renewed", guest.QEMU, vm, edit(vm, "vmgenid", "0"), unbroken, nil, Same, 0},
		{"disk grown", guest.LXC, ct, edit(ct, "rootfs", "local:875/vm-875-disk-0.raw,size=2G"), unbroken, nil, Same, 0},
		{"cloud-init drive gone", guest.QEMU, vm, edit(vm, "ide2", ""), unbroken, nil, Same, 0},
		{"interface added", guest.LXC, ct, edit(ct, "net1", "name=eth1,hwaddr=BC:24:11:00:00:02"), unbroken, nil, Same, 0},
		{"interface moved", guest.LXC, ct, edit(ct, "net0", "", "net3", ct["net0"]), unbroken, nil, Same, 0},
		{"volume detached", guest.LXC, ct, edit(ct, "mp0", "", "unused0", "local:875/vm-875-disk-1.raw"), unbroken, nil, Same, 0},
		{"letter case", guest.QEMU, vm, edit(vm, "net0", "virtio=bc:24:11:4b:0f:b3", "smbios1", "uuid=8BECCA7A-a295-4be9-a8d0-0b72950cd7e8"), unbroken, nil, Same, 0},

		{"address changed", guest.LXC, ct, edit(ct, "net0", otherMAC), unbroken, nil, Changed, 1},
		{"address changed by us", guest.LXC, ct, edit(ct, "net0", otherMAC), unbroken, []string{"net0"}, Same, 0},
		{"another key explained", guest.LXC, ct, edit(ct, "net0", otherMAC), unbroken, []string{"net1", "rootfs"}, Changed, 1},
		{"volume deleted", guest.LXC, ct, edit(ct, "mp0", ""), unbroken, nil, Changed, 1},
		{"volume deleted by us", guest.LXC, ct, edit(ct, "mp0", ""), unbroken, []string{"mp0"}, Same, 0},
		{"rolled back by us", guest.QEMU, vm, edit(vm, "net0", "", "scsi0", ""), unbroken, []string{AllAddresses, "smbios1", AllVolumes}, Same, 0},
		{"a rollback does not explain ctime", guest.QEMU, vm, edit(vm, "meta", "ctime=1"), unbroken, []string{AllAddresses, "smbios1", AllVolumes}, Changed, 1},
		{"restored by us", guest.LXC, ct, edit(ct, "net0", otherMAC, "rootfs", "local:875/vm-875-disk-2.raw"), unbroken, []string{Everything}, Same, 0},
		{"uuid changed", guest.QEMU, vm, edit(vm, "smbios1", "uuid=ee9f4f1d-594c-4c66-adae-17d18e8b09db"), unbroken, nil, Changed, 1},
		{"smbios1 deleted", guest.QEMU, vm, edit(vm, "smbios1", ""), unbroken, nil, Changed, 1},
		{"nothing in common", guest.LXC, ct, edit(ct, "net0", otherMAC, "rootfs", "a:b-1", "mp0", ""), unbroken, nil, Stranger, 4},
		{"explained is not in common", guest.LXC, ct, edit(ct, "net0", otherMAC, "rootfs", "a:b-1", "mp0", ""), unbroken, []string{"net0"}, Stranger, 3},

		{"away, all as before", guest.LXC, ct, ct, gone, nil, Changed, 1},
		{"away, volumes as before", guest.LXC, ct, edit(ct, "net0", otherMAC), gone, nil, Stranger, 3},
		{"away, no hard evidence", guest.LXC, bare, bare, gone, nil, Stranger, 2},
		{"blind, all as before", guest.QEMU, vm, vm, doubt, nil, Changed, 1},
		{"blind, volumes as before", guest.LXC, ct, edit(ct, "net0", otherMAC), doubt, nil, Stranger, 3},
		{"blind, no hard evidence", guest.LXC, bare, bare, doubt, nil, Changed, 1},
		{"blind, other rootfs", guest.LXC, bare, guest.Config{"rootfs": "local:1/vm-1-disk-9.raw"}, doubt, nil, Stranger, 3},
		{"blind, nothing to know it by", guest.LXC, guest.Config{"arch": "amd64"}, ct, doubt, nil, Changed, 1},
		{"nothing to know it by", guest.LXC, guest.Config{"arch": "amd64"}, ct, unbroken, nil, Same, 0},
		{"not known", guest.LXC, ct, ct, Continuity{}, nil, Changed, 1},

		{"re-created", guest.LXC, ct, ct, Continuity{Known: true, Recreated: []string{"x"}}, []string{Everything}, Stranger, 1},
		{"being re-created", guest.LXC, ct, ct, Continuity{Known: true, Underway: []string{"x"}}, nil, Stranger, 1},
		{"config not read", guest.LXC, ct, nil, unbroken, nil, Unsure, 1},
		{"config not read, everything explained", guest.LXC, ct, nil, unbroken, []string{Everything}, Unsure, 1},
		{"config not read, away", guest.LXC, ct, nil, gone, nil, Stranger, 2},
		{"config not read, blind", guest.LXC, ct, nil, doubt, nil, Stranger, 2},
		{"config not read, re-created", guest.LXC, ct, nil, Continuity{Known: true, Recreated: []string{"x"}}, nil, Stranger, 1},
		{"none recorded", guest.LXC, nil, ct, unbroken, nil, Unsure, 1},
		{"none recorded, blind", guest.LXC, nil, ct, doubt, nil, Stranger, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := Judge(Of(tt.kind, tt.known), Of(tt.kind, tt.seen), tt.c, tt.explained)
			if got != tt.want || len(why) != tt.reasons {
				t.Errorf("%s %q, want %s with %d reasons", got, why, tt.want, tt.reasons)
			}
		})
	}
}

func TestAnotherKindIsAStranger(t *testing.T) {
	known, seen := Of(guest.LXC, ct), Of(guest.QEMU, vm)
	if v, _ := Judge(known, seen, unbroken, []string{Everything}); v != Stranger {
		t.Errorf("a container that is now a VM: %s", v)
	}
}

func TestWhatAVerdictAllows(t *testing.T) {
	classes := []guest.Class{guest.Benign, guest.Additive, guest.Irreversible}
	for v, want := range map[Verdict][]guest.Class{
		Same: classes, Changed: classes[:1], Unsure: classes[:1], Stranger: nil, "": nil, "what": nil,
	} {
		var got []guest.Class
		for _, c := range classes {
			if v.Allows(c) {
				got = append(got, c)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q allows %v, want %v", v, got, want)
		}
	}
}
