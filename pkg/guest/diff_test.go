// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	actual := guest.Config{
		"cores": "2", "description": "web\n", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:08:01,type=veth",
		"protection": "1", "tags": "a;b", "swap": "0", "timezone": "host",
	}
	desired := guest.Config{
		"cores": "4", "description": "web", "net0": "bridge=vmbr1,name=eth0", "tags": "B,a", "onboot": "0",
	}
	got := guest.Standard().Diff(guest.Facts{Kind: guest.LXC, Running: true, PVE: 8}, desired, []string{"protection", "swap", "timezone"}, actual)
	want := []guest.Change{
		{Key: "cores", From: "2", HasFrom: true, To: "4", Send: "4", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.CPU"},
		{
			Key: "net0", From: actual["net0"], HasFrom: true, To: "bridge=vmbr1,name=eth0",
			Send:  "bridge=vmbr1,name=eth0,hwaddr=BC:24:11:00:08:01,type=veth",
			Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.Network, SDN.Use",
		},
		{Key: "protection", Delete: true, From: "1", HasFrom: true, Class: guest.Irreversible, Effect: guest.Live, Privilege: "VM.Config.Options"},
		{Key: "timezone", Delete: true, From: "host", HasFrom: true, Class: guest.Benign, Effect: guest.Restart, Privilege: "VM.Config.Options"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Diff (-want +got):\n%s", d)
	}
}

// TestEmptyIsNoDeletionOfWhatPVEMade: a value that says nothing takes the key
// away only if nothing of PVE's own is in it.
func TestEmptyIsNoDeletionOfWhatPVEMade(t *testing.T) {
	t.Parallel()
	const uuid = "uuid=11111111-2222-3333-4444-555555555555"
	for _, actual := range []string{uuid + ",serial=YWJj,base64=1", uuid + ",serial=YWJj"} {
		got := guest.Standard().Diff(guest.Facts{Kind: guest.QEMU, PVE: 8}, guest.Config{"smbios1": "base64=0"}, nil, guest.Config{"smbios1": actual})
		if len(got) != 1 || got[0].Delete || got[0].Class != guest.Benign || !strings.Contains(got[0].Send, uuid) || strings.Contains(got[0].Send, "serial") {
			t.Errorf("%s: %+v", actual, got)
		}
	}
}

// one is a change of one key, and what the test looks at.
type one struct {
	name            string
	kind            guest.Kind
	running         bool
	pve             int
	key, to         string // to "-" deletes
	actual, desired guest.Config
	del             []string
	want            guest.Change // Key, From, To and HasFrom are filled in
	refuse          string       // a part of the reason
	none            bool         // no change at all
}

func (o one) run(t *testing.T) {
	t.Helper()
	desired, del := guest.Config{}, o.del
	for k, v := range o.desired {
		desired[k] = v
	}
	if o.to == "-" {
		del = append(del, o.key)
	} else {
		desired[o.key] = o.to
	}
	var got []guest.Change
	for _, c := range guest.Standard().Diff(guest.Facts{Kind: o.kind, Running: o.running, PVE: o.pve}, desired, del, o.actual) {
		if c.Key == o.key {
			got = append(got, c)
		}
	}
	if o.none {
		if len(got) != 0 {
			t.Errorf("got %+v, want no change", got)
		}
		return
	}
	if len(got) != 1 {
		t.Fatalf("got %d changes, want one", len(got))
	}
	if !strings.Contains(got[0].Refuse, o.refuse) || (o.refuse == "") != (got[0].Refuse == "") {
		t.Errorf("Refuse = %q, want %q in it", got[0].Refuse, o.refuse)
	}
	want := o.want
	want.Key, want.From, want.To, want.Refuse = o.key, got[0].From, got[0].To, got[0].Refuse
	want.HasFrom = got[0].HasFrom
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Errorf("change (-want +got):\n%s", d)
	}
}

const (
	cpuPriv  = "VM.Config.CPU"
	optPriv  = "VM.Config.Options"
	diskPriv = "VM.Config.Disk"
	root     = "root@pam"
)

func TestClasses(t *testing.T) {
	t.Parallel()
	lxcDisk := guest.Config{"rootfs": "local:101/vm-101-disk-0.raw,size=8G"}
	qemuDisk := guest.Config{"scsi0": "local:101/vm-101-disk-0.raw,size=8G", "ide2": "local:iso/a.iso,media=cdrom,size=5M", "boot": "order=scsi0;ide2"}
	for _, o := range []one{
		{name: "protection on", kind: guest.LXC, key: "protection", to: "1", want: guest.Change{Send: "1", Class: guest.Benign, Effect: guest.Live, Privilege: optPriv}},
		{name: "protection off", kind: guest.QEMU, key: "protection", to: "0", actual: guest.Config{"protection": "1"}, want: guest.Change{Send: "0", Class: guest.Irreversible, Effect: guest.Live, Privilege: optPriv}},
		{name: "new mount point", kind: guest.LXC, running: true, key: "mp0", to: "local:8,mp=/data", actual: lxcDisk, want: guest.Change{Send: "local:8,mp=/data", Class: guest.Additive, Effect: guest.Live, Privilege: diskPriv + ", Datastore.AllocateSpace"}},
		{name: "a volume that exists", kind: guest.LXC, key: "mp0", to: "local:999/vm-999-disk-0.raw,mp=/data", actual: lxcDisk, want: guest.Change{Send: "local:999/vm-999-disk-0.raw,mp=/data", Class: guest.Irreversible, Effect: guest.Live, Privilege: diskPriv}},
		{name: "option of rootfs", kind: guest.LXC, running: true, key: "rootfs", to: "local:101/vm-101-disk-0.raw,quota=1", actual: lxcDisk, want: guest.Change{Send: "local:101/vm-101-disk-0.raw,quota=1,size=8G", Class: guest.Irreversible, Effect: guest.Restart, Privilege: diskPriv}},
		{name: "delete a mount point", kind: guest.LXC, running: true, key: "mp1", to: "-", actual: guest.Config{"mp1": "local:101/vm-101-disk-1.raw,mp=/d"}, want: guest.Change{Delete: true, Class: guest.Irreversible, Effect: guest.Restart, Privilege: diskPriv}},
		{name: "delete an unused volume", kind: guest.LXC, key: "unused0", to: "-", actual: guest.Config{"unused0": "local:101/vm-101-disk-1.raw"}, want: guest.Change{Delete: true, Class: guest.Irreversible, Effect: guest.Live, Privilege: optPriv}},
		{name: "new disk", kind: guest.QEMU, running: true, key: "scsi1", to: "local:8,format=qcow2", actual: qemuDisk, want: guest.Change{Send: "local:8,format=qcow2", Class: guest.Additive, Effect: guest.Live, Privilege: diskPriv + ", Datastore.AllocateSpace"}},
		{name: "new disk on a bus without hotplug", kind: guest.QEMU, running: true, key: "sata0", to: "local:8", actual: qemuDisk, want: guest.Change{Send: "local:8", Class: guest.Additive, Effect: guest.Restart, Privilege: diskPriv + ", Datastore.AllocateSpace"}},
		{name: "hotplug off", kind: guest.QEMU, running: true, key: "scsi1", to: "local:8", actual: guest.Config{"hotplug": "0"}, want: guest.Change{Send: "local:8", Class: guest.Additive, Effect: guest.Restart, Privilege: diskPriv + ", Datastore.AllocateSpace"}},
		{name: "boot disk of a running guest", kind: guest.QEMU, running: true, key: "scsi0", to: "-", actual: qemuDisk, want: guest.Change{Delete: true, Class: guest.Irreversible, Effect: guest.NeedsStop, Privilege: diskPriv}},
		{name: "another medium", kind: guest.QEMU, running: true, key: "ide2", to: "local:iso/b.iso,media=cdrom", actual: qemuDisk, want: guest.Change{Send: "local:iso/b.iso,media=cdrom", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.CDROM"}},
		{name: "no medium", kind: guest.QEMU, running: true, key: "ide2", to: "none", actual: qemuDisk, want: guest.Change{Send: "none", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.CDROM"}},
		{name: "cloud-init drive", kind: guest.QEMU, key: "ide2", to: "local:cloudinit", want: guest.Change{Send: "local:cloudinit", Class: guest.Additive, Effect: guest.Live, Privilege: "VM.Config.Cloudinit, VM.Config.CDROM, Datastore.AllocateSpace"}},
		{name: "delete the cloud-init drive", kind: guest.QEMU, key: "ide2", to: "-", actual: guest.Config{"ide2": "local:101/vm-101-cloudinit.qcow2,media=cdrom"}, want: guest.Change{Delete: true, Class: guest.Irreversible, Effect: guest.Live, Privilege: "VM.Config.Cloudinit, VM.Config.CDROM"}},
		{name: "another uuid", kind: guest.QEMU, key: "smbios1", to: "uuid=11111111-2222-3333-4444-555555555555", actual: guest.Config{"smbios1": "uuid=ab291e81-a35c-4312-ae16-37350ed13170"}, want: guest.Change{Send: "uuid=11111111-2222-3333-4444-555555555555", Class: guest.Irreversible, Effect: guest.Live, Privilege: "VM.Config.HWType"}},
		{name: "a serial beside the uuid", kind: guest.QEMU, key: "smbios1", to: "base64=1,serial=YQ==", actual: guest.Config{"smbios1": "uuid=ab291e81-a35c-4312-ae16-37350ed13170"}, want: guest.Change{Send: "base64=1,serial=YQ==,uuid=ab291e81-a35c-4312-ae16-37350ed13170", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.HWType"}},
		{name: "nesting", kind: guest.LXC, running: true, key: "features", to: "nesting=1", actual: guest.Config{"unprivileged": "1"}, want: guest.Change{Send: "nesting=1", Class: guest.Benign, Effect: guest.Restart, Privilege: "VM.Allocate"}},
		{name: "nesting beside keyctl", kind: guest.LXC, key: "features", to: "nesting=1", actual: guest.Config{"unprivileged": "1", "features": "keyctl=0,nesting=0"}, want: guest.Change{Send: "nesting=1,keyctl=0", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Allocate"}},
		{name: "a mapping", kind: guest.QEMU, key: "hostpci0", to: "mapping=gpu", want: guest.Change{Send: "mapping=gpu", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.HWType, Mapping.Use"}},
		{name: "interface beyond the tenth", kind: guest.LXC, running: true, key: "net10", to: "-", actual: guest.Config{"net10": "name=eth10,bridge=vmbr0"}, want: guest.Change{Delete: true, Class: guest.Benign, Effect: guest.Restart, Privilege: "VM.Config.Network, SDN.Use"}},
		{name: "memory with memory hotplug", kind: guest.QEMU, running: true, key: "memory", to: "2048", actual: guest.Config{"memory": "1024", "hotplug": "memory"}, want: guest.Change{Send: "2048", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.Memory"}},
		{name: "cloud-init value with a drive", kind: guest.QEMU, running: true, key: "ciuser", to: "a", actual: guest.Config{"ide2": "local:101/vm-101-cloudinit.qcow2,media=cdrom"}, want: guest.Change{Send: "a", Class: guest.Benign, Effect: guest.Restart, Privilege: "VM.Config.Cloudinit|VM.Config.Network"}},
	} {
		t.Run(o.name, func(t *testing.T) { t.Parallel(); o.run(t) })
	}
}

func TestCarryOver(t *testing.T) {
	t.Parallel()
	net := guest.Config{"net0": "virtio=BC:24:11:00:08:20,bridge=vmbr0,firewall=1"}
	priv := "VM.Config.Network, SDN.Use"
	for _, o := range []one{
		{name: "another model keeps the MAC", kind: guest.QEMU, key: "net0", to: "e1000,bridge=vmbr0,firewall=1", actual: net, want: guest.Change{Send: "e1000=BC:24:11:00:08:20,bridge=vmbr0,firewall=1", Class: guest.Benign, Effect: guest.Live, Privilege: priv}},
		{name: "the spelling of the MAC stays", kind: guest.QEMU, key: "net0", to: "virtio=bc:24:11:00:08:20,bridge=vmbr1,firewall=yes", actual: net, want: guest.Change{Send: "virtio=BC:24:11:00:08:20,bridge=vmbr1,firewall=1", Class: guest.Benign, Effect: guest.Live, Privilege: priv}},
		{name: "a default that is said is left as it is", kind: guest.LXC, key: "net0", to: "name=eth0,bridge=vmbr1", actual: guest.Config{"net0": "name=eth0,bridge=vmbr0,firewall=0,hwaddr=BC:24:11:00:08:01,type=veth"}, want: guest.Change{Send: "name=eth0,bridge=vmbr1,firewall=0,hwaddr=BC:24:11:00:08:01,type=veth", Class: guest.Benign, Effect: guest.Live, Privilege: priv}},
		{name: "the size of a volume is not desired", kind: guest.QEMU, running: true, key: "scsi0", to: "local:8,discard=on,format=qcow2", actual: guest.Config{"scsi0": "local:101/vm-101-disk-0.raw,size=9G"}, want: guest.Change{Send: "local:101/vm-101-disk-0.raw,discard=on,size=9G", Class: guest.Irreversible, Effect: guest.Restart, Privilege: diskPriv}},
		{name: "the size of another volume is its own", kind: guest.LXC, key: "mp0", to: "local:101/vm-101-disk-7.raw,mp=/d", actual: guest.Config{"mp0": "local:101/vm-101-disk-1.raw,mp=/d,size=9G"}, want: guest.Change{Send: "local:101/vm-101-disk-7.raw,mp=/d", Class: guest.Irreversible, Effect: guest.Live, Privilege: diskPriv}},
		{name: "an alias keeps its name", kind: guest.QEMU, pve: 8, key: "agent", to: "1,freeze-fs-on-backup=0", actual: guest.Config{"agent": "1"}, want: guest.Change{Send: "1,freeze-fs-on-backup=0", Class: guest.Benign, Effect: guest.Live, Privilege: optPriv}},
		{name: "emptied tags are deleted", kind: guest.LXC, key: "tags", to: "", actual: guest.Config{"tags": "a"}, want: guest.Change{Delete: true, Class: guest.Benign, Effect: guest.Live, Privilege: optPriv}},
		{name: "a running container's cpulimit is deleted, not set to 0", kind: guest.LXC, running: true, key: "cpulimit", to: "0", actual: guest.Config{"cpulimit": "2"}, want: guest.Change{Delete: true, Class: guest.Benign, Effect: guest.Live, Privilege: cpuPriv}},
		{name: "a stopped one's is set", kind: guest.LXC, key: "cpulimit", to: "0", actual: guest.Config{"cpulimit": "2"}, want: guest.Change{Send: "0", Class: guest.Benign, Effect: guest.Live, Privilege: cpuPriv}},
		{name: "a 0 of a running machine is set to the default, not deleted", kind: guest.QEMU, running: true, key: "kvm", to: "-", actual: guest.Config{"kvm": "0"}, want: guest.Change{Send: "1", Class: guest.Benign, Effect: guest.Restart, Privilege: "VM.Config.HWType"}},
		{name: "a clamped weight is the desired one", kind: guest.LXC, key: "cpuunits", to: "50000", actual: guest.Config{"cpuunits": "10000"}, none: true},
		{name: "a weight below the bound", kind: guest.LXC, key: "cpuunits", to: "0", actual: guest.Config{"cpuunits": "2"}, none: true},
		{name: "a pinned machine of a Windows guest", kind: guest.QEMU, key: "machine", to: "q35", actual: guest.Config{"machine": "pc-q35-9.2+pve1", "ostype": "win11"}, none: true},
		{name: "a pinned machine of another guest", kind: guest.QEMU, key: "machine", to: "q35", actual: guest.Config{"machine": "pc-q35-9.2", "ostype": "l26"}, want: guest.Change{Send: "q35", Class: guest.Benign, Effect: guest.Live, Privilege: "VM.Config.HWType"}},
		{name: "the same address", kind: guest.QEMU, key: "ipconfig0", to: "ip6=FD00:0::5/64", actual: guest.Config{"ipconfig0": "ip6=fd00::5/64"}, none: true},
		{name: "an unknown part of a newer PVE", kind: guest.LXC, key: "net0", to: "name=eth0,bridge=vmbr0,new=1", actual: guest.Config{"net0": "bridge=vmbr0,name=eth0,new=1"}, none: true},
	} {
		t.Run(o.name, func(t *testing.T) { t.Parallel(); o.run(t) })
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	facts := guest.Facts{Kind: guest.QEMU}
	want := guest.Config{"cipassword": "geheim"}
	if got := table.Diff(facts, want, nil, guest.Config{"cipassword": "**********"}); len(got) != 0 {
		t.Errorf("a masked password reads as a change: %+v", got)
	}
	got := table.Diff(facts, want, nil, guest.Config{})
	anew := table.Set(facts, "cipassword", "geheim", guest.Config{"cipassword": "**********"})
	gone := table.Diff(facts, nil, []string{"cipassword"}, guest.Config{"cipassword": "**********"})
	for _, c := range append(got, anew, gone[0]) {
		if !c.Secret || strings.Contains(c.From+c.To+c.Refuse, "geheim") || !c.Delete && c.Send != "geheim" {
			t.Errorf("secret shown or not sent: %+v", c)
		}
	}
	env := table.Diff(guest.Facts{Kind: guest.LXC}, guest.Config{"env": "P=neu"}, nil, guest.Config{"env": "P=alt"})[0]
	if env.Send != "P=neu" || strings.Contains(env.From+env.To, "P=") {
		t.Errorf("a readable secret is not compared, or shown: %+v", env)
	}
	bad := table.Set(guest.Facts{Kind: guest.LXC}, "env", "geheim", guest.Config{})
	if err := table.Check(guest.LXC, "env", "geheim"); bad.Refuse == "" || strings.Contains(bad.Refuse+errText(err), "geheim") {
		t.Errorf("a secret in a reason: %v, %+v", err, bad)
	}
	if c := table.Set(facts, "cipassword", "**********", guest.Config{}); c.Refuse == "" {
		t.Error("PVE's mask would be stored as the password")
	}
}
