// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func kindOf(qemu bool) guest.Kind {
	if qemu {
		return guest.QEMU
	}
	return guest.LXC
}

// FuzzParse: any file is read without a panic, and what PVE would write of it
// says the same when it is read again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "#a%3Ab\n#\nmemory: 128\n\n[pve:pending]\ndelete: !mp0,net1\ncores: 2\n\n[snap]\n#d\nsnaptime: 1\nsnapstate: prepare\n",
		"args: -a  \nscsi0: local:100/vm-100-disk-0.raw,bps=5,size=1024M\nide2: x.iso,media=cdrom\n[special:cloudinit]\nadded: name\n[PENDING]\n#\n",
		"lxc.cap.drop: x\nlxc.environment.runtime: A=b\nlxc.environment.runtime: C=d\nlxc.bogus = 1\ntags:  \nunused0: local:1/a.raw\n",
		"smp: 2\ncores: 4\nboot: order=scsi0\r\n[unknown section]\nmemory: 1\n", "description: x\ncdrom: none\n",
	} {
		f.Add(false, seed)
		f.Add(true, seed)
	}
	f.Fuzz(func(t *testing.T, qemu bool, text string) {
		g, err := Parse(kindOf(qemu), 100, text)
		if err != nil {
			return
		}
		once := g.Edit(func(*Guest) {})
		twice := once.Edit(func(*Guest) {})
		if d := cmp.Diff(facts(once), facts(twice)); d != "" {
			t.Errorf("written and read again it differs (-once +twice)\n%s\nfile:\n%s", d, once.Text())
		}
		if d := cmp.Diff(once.pendingMap(), once.SetRunning(true).pendingMap()); d != "" {
			t.Error(d)
		}
	})
}

// facts is what a guest's config says, digest aside.
func facts(g *Guest) map[string]any {
	v := g.View(false)
	cur := g.View(true)
	delete(v, "digest")
	delete(cur, "digest")
	snaps := map[string]any{}
	for name, s := range g.Snapshots {
		snaps[name] = s.Values
	}
	return map[string]any{"view": v, "current": cur, "deletes": printDelete(g.Delete), "snapshots": snaps}
}

// FuzzProps: a property string that is accepted says the same after it was
// printed.
func FuzzProps(f *testing.F) {
	for _, seed := range []string{
		"name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp", "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5",
		"local:100/vm-100-disk-0.raw,size=1024M,ssd=yes", "local:1,mp=/x,acl=on", "enabled=1,type=isa", "model=virtio,virtio=x",
		"order=scsi0;net0", "qemu64,flags=+aes;-pcid", "a=b=c,,", "=", ",", "size=0,file=none", "uuid=1",
	} {
		f.Add(seed)
	}
	all := map[string]*props{
		"lxc net": lxcNetProps, "mp": mpProps, "rootfs": rootfsProps, "features": featureProps, "dev": devProps,
		"net": qemuNetProps, "scsi": scsiProps, "efi": efiProps, "agent": agentProps.in(9), "agent8": agentProps.in(8),
		"cpu": cpuProps, "boot": bootProps, "machine": machineProps, "memory": memoryProps, "vga": vgaProps, "usb": usbProps,
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, p := range all {
			v, err := p.parse("", s)
			if err != nil || strings.ContainsAny(s, "\n") {
				continue
			}
			again, err := p.parse("", p.print(v))
			if err != nil {
				t.Errorf("%s: %q is printed as %q, which is refused: %v", name, s, p.print(v), err)
				continue
			}
			sizes(p, v)
			sizes(p, again)
			if d := cmp.Diff(v, again); d != "" {
				t.Errorf("%s: %q is printed as %q (-parsed +again)\n%s", name, s, p.print(v), d)
			}
		}
	})
}

// sizes prints sizes in one form.
func sizes(p *props, v values) {
	for _, q := range p.props {
		if q.size && v[q.name] != "" {
			v[q.name] = formatSizeText(v[q.name])
		}
	}
}
