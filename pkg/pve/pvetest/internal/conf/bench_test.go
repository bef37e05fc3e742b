// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

var benchEnv = &Env{
	Storages: map[string]Storage{"local": {Type: "dir", Path: "/var/lib/vz", Content: []string{"images", "rootdir", "iso", "snippets"}}},
	Bridges:  map[string]Bridge{"vmbr0": {}},
}

func benchGuest(kind guest.Kind) *Guest {
	if kind == guest.QEMU {
		return New(kind, 200, map[string]string{
			"boot": "order=scsi0", "cores": "2", "cpu": "x86-64-v2-AES", "memory": "2048", "name": "web",
			"meta": "creation-qemu=9.2.0,ctime=1750000000", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1",
			"ostype": "l26", "scsi0": "local:200/vm-200-disk-0.raw,size=8G", "scsihw": "virtio-scsi-single",
			"smbios1": "uuid=11111111-2222-3333-4444-555555555555", "tags": "a;b", "onboot": "1",
		})
	}
	return New(kind, 101, map[string]string{
		"arch": "amd64", "cores": "2", "features": "nesting=1", "hostname": "web", "memory": "1024", "swap": "512",
		"net0":   "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:2E:5F:01,ip=dhcp,type=veth",
		"ostype": "debian", "rootfs": "local:101/vm-101-disk-0.raw,size=8G", "unprivileged": "1", "tags": "a;b",
		"onboot": "1", "description": "managed\n",
	})
}

func BenchmarkView(b *testing.B) {
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		g := benchGuest(kind)
		b.Run(string(kind), func(b *testing.B) {
			for b.Loop() {
				g.View(false)
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	params := map[guest.Kind]map[string]string{
		guest.LXC:  {"memory": "2048", "tags": "b;a;c", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:2E:5F:01,ip=10.0.0.2/24"},
		guest.QEMU: {"memory": "4096", "tags": "b;a;c", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"},
	}
	for kind, p := range params {
		for _, running := range []bool{false, true} {
			g := benchGuest(kind).SetRunning(running)
			name := string(kind) + "/stopped"
			if running {
				name = string(kind) + "/running"
			}
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					if res := g.Put(Request{Version: 9, Caller: Caller{User: rootUser}, Params: p, Env: benchEnv}); res.Err != nil {
						b.Fatal(res.Err)
					}
				}
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		g := benchGuest(kind)
		b.Run(string(kind), func(b *testing.B) {
			for b.Loop() {
				parse(kind, g.VMID, g.text)
			}
		})
	}
}
