// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestRefuse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 65)
	disks := guest.Config{"scsi0": "local:101/vm-101-disk-0.raw,size=8G", "rootfs": "local:101/vm-101-disk-0.raw", "mp0": "local:101/vm-101-disk-1.raw,mp=/data"}
	protected := guest.Config{"protection": "1", "scsi0": "local:101/vm-101-disk-0.raw", "unused0": "local:101/vm-101-disk-3.raw"}
	benign := func(send, priv string) guest.Change {
		return guest.Change{Send: send, Class: guest.Benign, Effect: guest.Live, Privilege: priv}
	}
	never := func(send string, eff guest.Effect, priv string) guest.Change {
		return guest.Change{Send: send, Class: guest.Never, Effect: eff, Privilege: priv}
	}
	volume := func(send string, eff guest.Effect, priv string) guest.Change {
		return guest.Change{Send: send, Class: guest.Irreversible, Effect: eff, Privilege: priv}
	}
	gone := func(c guest.Change) guest.Change { c.Delete = true; return c }
	for _, o := range []one{
		{name: "long host name", kind: guest.LXC, running: true, key: "hostname", to: long, want: benign(long, "VM.Config.Network"), refuse: "stop of a running container hangs"},
		{name: "plus sign", kind: guest.LXC, key: "cores", to: "+2", want: benign("+2", cpuPriv), refuse: "not a whole number"},
		{name: "rootfs as an order elsewhere", kind: guest.LXC, key: "rootfs", to: "other:1", actual: disks, want: volume("other:1", guest.Live, diskPriv+", Datastore.AllocateSpace"), refuse: "literally"},
		{name: "an order over a volume", kind: guest.QEMU, key: "scsi0", to: "other:1", actual: disks, want: volume("other:1", guest.Live, diskPriv+", Datastore.AllocateSpace"), refuse: "moved, not ordered"},
		{name: "the volume of another key", kind: guest.LXC, key: "mp1", to: "local:101/vm-101-disk-1.raw,mp=/d", actual: disks, want: volume("local:101/vm-101-disk-1.raw,mp=/d", guest.Live, diskPriv), refuse: "volume of mp0 already"},
		{name: "the path of another mount point", kind: guest.LXC, key: "mp1", to: "local:1,mp=data/", actual: disks, want: guest.Change{Send: "local:1,mp=data/", Class: guest.Additive, Effect: guest.Live, Privilege: diskPriv + ", Datastore.AllocateSpace"}, refuse: "mount point of mp0 already"},
		{name: "a mount over the root", kind: guest.LXC, key: "mp1", to: "local:1,mp=/", actual: disks, want: guest.Change{Send: "local:1,mp=/", Class: guest.Additive, Effect: guest.Live, Privilege: diskPriv + ", Datastore.AllocateSpace"}, refuse: "hide the root"},
		{name: "a directory of the host", kind: guest.LXC, key: "mp1", to: "/srv,mp=/srv", want: never("/srv,mp=/srv", guest.NeedsRoot, root), refuse: "root@pam alone"},
		{name: "the name of another interface", kind: guest.LXC, key: "net1", to: "name=eth0,bridge=vmbr0", actual: guest.Config{"net0": "name=eth0,bridge=vmbr0"}, want: benign("name=eth0,bridge=vmbr0", "VM.Config.Network, SDN.Use"), refuse: "name of net0 already"},
		{name: "features of a privileged container", kind: guest.LXC, key: "features", to: "nesting=1", want: never("nesting=1", guest.NeedsRoot, root), refuse: "privileged container"},
		{name: "keyctl", kind: guest.LXC, key: "features", to: "keyctl=1", actual: guest.Config{"unprivileged": "1"}, want: never("keyctl=1", guest.NeedsRoot, root), refuse: "only nesting"},
		{name: "lock", kind: guest.LXC, key: "lock", to: "backup", want: never("backup", guest.Live, optPriv), refuse: "PVE's own"},
		{name: "template", kind: guest.QEMU, key: "template", to: "1", want: guest.Change{Send: "1", Class: guest.Never, Effect: guest.Live, Privilege: optPriv, AsText: true}, refuse: "cannot be undone"},
		{name: "hookscript", kind: guest.QEMU, running: true, key: "hookscript", to: "local:snippets/a", want: never("local:snippets/a", guest.NeedsRoot, root), refuse: "every token"},
		{name: "unprivileged", kind: guest.LXC, key: "unprivileged", to: "0", actual: guest.Config{"unprivileged": "1"}, want: never("0", guest.Live, optPriv), refuse: "when the container is made"},
		{name: "memory of a container deleted", kind: guest.LXC, key: "memory", to: "-", actual: guest.Config{"memory": "1024"}, want: gone(benign("", "VM.Config.Memory")), refuse: "cannot be deleted"},
		{name: "protected container", kind: guest.LXC, key: "mp1", to: "local:1,mp=/d", actual: protected, want: guest.Change{Send: "local:1,mp=/d", Class: guest.Additive, Effect: guest.Live, Privilege: diskPriv + ", Datastore.AllocateSpace"}, refuse: "protection is on"},
		{name: "protected machine", kind: guest.QEMU, key: "scsi0", to: "-", actual: protected, want: gone(volume("", guest.Live, diskPriv)), refuse: "protection is on"},
		{name: "protected unused volume", kind: guest.QEMU, key: "unused0", to: "-", actual: protected, want: gone(volume("", guest.Live, diskPriv)), refuse: "protection is on"},
		{name: "unused volume set", kind: guest.LXC, key: "unused1", to: "local:101/x.raw", want: volume("local:101/x.raw", guest.Live, optPriv), refuse: "PVE's own list"},
		{name: "unused volume deleted while one is detached", kind: guest.LXC, key: "unused0", to: "-", actual: guest.Config{"unused0": "local:1/a", "mp0": "local:1/b,mp=/b"}, del: []string{"mp0"}, want: gone(volume("", guest.Live, optPriv)), refuse: "may take this place"},
		{name: "disk into CD-ROM", kind: guest.QEMU, key: "scsi0", to: "none", actual: disks, want: volume("none", guest.Live, "VM.Config.CDROM"), refuse: "cannot turn"},
		{name: "balloon over memory", kind: guest.QEMU, key: "balloon", to: "2048", actual: guest.Config{"memory": "1024"}, want: benign("2048", "VM.Config.Memory"), refuse: "more than memory 1024"},
		{name: "balloon with memory", kind: guest.QEMU, key: "balloon", to: "2048", actual: guest.Config{"memory": "1024"}, desired: guest.Config{"memory": "4096"}, want: benign("2048", "VM.Config.Memory")},
		{name: "memory under balloon", kind: guest.QEMU, key: "memory", to: "1024", actual: guest.Config{"memory": "4096", "balloon": "2048"}, want: benign("1024", "VM.Config.Memory"), refuse: "balloon 2048"},
		{name: "boot from what is not there", kind: guest.QEMU, key: "boot", to: "order=scsi9", actual: disks, want: benign("order=scsi9", diskPriv), refuse: "does not have"},
		{name: "boot from what is made", kind: guest.QEMU, key: "boot", to: "order=scsi9", actual: disks, desired: guest.Config{"scsi9": "local:1"}, want: benign("order=scsi9", diskPriv)},
		{name: "real serial port", kind: guest.QEMU, key: "serial0", to: "/dev/ttyS0", want: never("/dev/ttyS0", guest.NeedsRoot, root), refuse: "real device"},
		{name: "away from a real device", kind: guest.QEMU, key: "usb0", to: "spice", actual: guest.Config{"usb0": "host=1234:5678"}, want: never("spice", guest.NeedsRoot, root), refuse: "real device"},
		{name: "a key of PVE 9 on 8", kind: guest.LXC, pve: 8, key: "entrypoint", to: "/bin/sh", want: benign("/bin/sh", optPriv), refuse: "from PVE 9 on"},
		{name: "a part of PVE 9 on 8", kind: guest.LXC, pve: 8, key: "net0", to: "name=eth0,bridge=vmbr0,host-managed=1", want: benign("name=eth0,bridge=vmbr0,host-managed=1", "VM.Config.Network, SDN.Use"), refuse: "host-managed exists from PVE 9"},
		{name: "set and deleted", kind: guest.LXC, key: "cores", to: "2", del: []string{"cores"}, want: benign("2", cpuPriv), refuse: "both desired and to be deleted"},
		{name: "unknown key", kind: guest.LXC, key: "corse", to: "2", want: guest.Change{Send: "2", Class: guest.Unclassed, Effect: guest.Live, AsText: true}, refuse: "no class"},
		{name: "a 0 without default deleted on a running machine", kind: guest.QEMU, running: true, key: "balloon", to: "-", actual: guest.Config{"balloon": "0"}, want: gone(guest.Change{Class: guest.Benign, Effect: guest.NeedsStop, Privilege: "VM.Config.Memory"}), refuse: "until the next start"},
	} {
		t.Run(o.name, func(t *testing.T) { t.Parallel(); o.run(t) })
	}
}
