// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       guest.Kind
		key, value string
		want       string // a part of the error, "" = valid
	}{
		{guest.LXC, "cores", "4", ""},
		{guest.LXC, "cores", "+4", "not a whole number: want digits only, 1 to 8192"},
		{guest.LXC, "cores", "0", "out of range: want 1 to 8192"},
		{guest.LXC, "cores", "4.0", "not a whole number"},
		{guest.LXC, "memory", "15", "want at least 16"},
		{guest.LXC, "memory", "999999999999999999999", "not a whole number"},
		{guest.LXC, "cpulimit", "1.5", ""},
		{guest.LXC, "cpulimit", "1,5", "not a number: want 0 to 8192"},
		{guest.LXC, "cpulimit", "nan", "not a number"},
		{guest.LXC, "onboot", "true", "PVE takes 0 and 1"},
		{guest.LXC, "arch", "AMD64", "want one of amd64, i386"},
		{guest.LXC, "hostname", "a_b", "want letters, digits and dashes"},
		{guest.LXC, "hostname", strings.Repeat("a.", 128) + "b", "longer than 255"},
		{guest.LXC, "description", strings.Repeat("é", 8192), ""},
		{guest.LXC, "description", strings.Repeat("é", 8193), "PVE takes 8192"},
		{guest.LXC, "tags", "a b;c,D", ""},
		{guest.LXC, "tags", "a;-b", `item "-b" is not allowed`},
		{guest.LXC, "nameserver", "1.1.1.1 2001:db8::1 fe80::1%eth0", ""},
		{guest.LXC, "nameserver", "01.1.1.1", "want IP address"},
		{guest.LXC, "nameserver", "2001:db8::1%eth0", "want IP address"},
		{guest.LXC, "searchdomain", "example.org lan", ""},
		{guest.LXC, "timezone", "Europe/Zurich", ""},
		{guest.LXC, "timezone", "America/Argentina/Buenos_Aires", ""},
		{guest.LXC, "timezone", "Etc/UTC", "write UTC or a place"},
		{guest.LXC, "startup", "5,up=3", ""},
		{guest.LXC, "startup", "", "empty: want order, up, down"},
		{guest.LXC, "startup", "order=1, up=5", `" up" is not a part of it`},
		{guest.LXC, "startup", "order=1,order=2", "order is given twice"},
		{guest.LXC, "startup", "order=", "not of the form name=value"},
		{guest.LXC, "features", "nesting", "has no name"},
		{guest.LXC, "features", "nesting=yes,mount=nfs;cifs", ""},
		{guest.LXC, "net31", "name=eth0,bridge=vmbr0,ip=dhcp,ip6=auto,trunks=3;2", ""},
		{guest.LXC, "net0", "name=eth0", "bridge is missing"},
		{guest.LXC, "net0", "name=eth0,bridge=vmbr0,hwaddr=01:00:5E:00:00:01", "want a unicast MAC"},
		{guest.LXC, "net0", "name=eth0,bridge=vmbr0,ip=10.0.0.1", "want IPv4 address with prefix length, dhcp, manual"},
		{guest.LXC, "net0", "name=eth0,bridge=vmbr0,ip=10.0.0.1/4", "want IPv4"},
		{guest.LXC, "mp0", "local:8,mp=/data,mountoptions=noatime;discard", ""},
		{guest.LXC, "mp0", "local:8", "mp is missing"},
		{guest.LXC, "mp0", "local:8,mp=/a/../b", "holds . or .."},
		{guest.LXC, "rootfs", "local:8", ""},
		{guest.LXC, "rootfs", "local:101/vm-101-disk-0.raw,size=2GiB", "want it as in 8G"},
		{guest.LXC, "env", "A=b\x00C=d", ""},
		{guest.LXC, "env", "A", "not shown, is not allowed: want NAME=value pairs"},
		{guest.LXC, "env", "A=b\nC=d", "not allowed"},
		{guest.LXC, "timezone", "a\nb", "line break"},
		{guest.QEMU, "memory", "current=2048", ""},
		{guest.QEMU, "memory", "", "current is missing"},
		{guest.QEMU, "agent", "enabled=yes", ""},
		{guest.QEMU, "agent", "true", "enabled: \"true\" is not a boolean"},
		{guest.QEMU, "cpu", "host,flags=+aes;-pcid", ""},
		{guest.QEMU, "cpu", "host,flags=aes", "+ or - and one of the flags"},
		{guest.QEMU, "ipconfig0", "gw=10.0.0.1", "gw needs ip"},
		{guest.QEMU, "boot", "order=scsi0;net0", ""},
		{guest.QEMU, "boot", "order=scsi0,net0", "legacy:"},
		{guest.QEMU, "usb0", "usb3=1", "neither host nor mapping"},
		{guest.QEMU, "hotplug", "1", ""},
		{guest.QEMU, "hotplug", "network,fax", "want one of network"},
		{guest.QEMU, "scsi0", "local:8,iothread=1,ssd=1,mbps_rd=10,bps_rd_length=5", ""},
		{guest.QEMU, "scsi0", "local:8,wwn=0x12", "16 hex digits"},
		{guest.QEMU, "ide0", "local:8,iothread=1", `"iothread" is not a part of it`},
		{guest.QEMU, "net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0", ""},
		{guest.QEMU, "net0", "virtio,e1000=BC:24:11:00:00:01", "model is given twice"},
		{guest.QEMU, "sshkeys", "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIMdbWK7WZLB9nMamuY4uTJF09JNJq87KmKnjyRWIQ9ab%20me%40x%0A", ""},
		{guest.QEMU, "sshkeys", "ssh-ed25519 AAAA", "not URL-encoded"},
		{guest.QEMU, "sshkeys", "ssh-ed25519%20aaaac3nzac1lzdi1nte5aaaaimdbwk7wzlb9nmamuy4utjf09jnjq87kmknjyrwiq9ab", "not an SSH public key"},
		{guest.QEMU, "sshkeys", "bogus", "not an SSH public key"},
	} {
		err := guest.Standard().Check(c.kind, c.key, c.value)
		if got := errText(err); !strings.Contains(got, c.want) || (c.want == "") != (err == nil) {
			t.Errorf("Check(%s, %s, %.60q) = %q, want %q in it", c.kind, c.key, c.value, got, c.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCheckUnknownKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"corse", "net32", "net01", "net", "net-1", "net[n]x", "", "0", "scsi31"} {
		if err := guest.Standard().Check(guest.LXC, key, "1"); !errors.Is(err, guest.ErrUnknownKey) {
			t.Errorf("Check(%q) = %v, want ErrUnknownKey", key, err)
		}
	}
}

func TestForm(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	for key, want := range map[string]string{
		"net0": "net[n]", "net31": "net[n]", "net32": "", "numa": "numa", "numa7": "numa[n]", "numa8": "",
		"efidisk0": "efidisk0", "efidisk1": "", "scsi30": "scsi[n]", "cores": "cores", "core": "", "net007": "",
	} {
		if f, ok := table.Form(guest.QEMU, key); f.Key != want && ok || ok != (want != "") {
			t.Errorf("Form(%q) = %q, %v, want %q", key, f.Key, ok, want)
		}
	}
}

func TestWith(t *testing.T) {
	t.Parallel()
	base := guest.Standard()
	mine := base.With(
		guest.Form{Kind: guest.LXC, Key: "vendor-key", Value: guest.Int{Min: 1, Max: 3}, Class: guest.Benign},
		guest.Form{Kind: guest.LXC, Key: "cores", Value: guest.Text{}, Class: guest.Never, Note: "because"},
	)
	facts := guest.Facts{Kind: guest.LXC}
	desired := guest.Config{"cores": "2", "vendor-key": "02"}
	got := mine.Diff(facts, desired, nil, guest.Config{"vendor-key": "2"})
	want := []guest.Change{{Key: "cores", To: "2", Send: "2", Class: guest.Never, Effect: guest.Live, Refuse: "cores is never written: because"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Diff with added forms (-want +got):\n%s", d)
	}
	if c := base.Diff(facts, desired, nil, nil); c[0].Class != guest.Benign || c[1].Class != guest.Unclassed {
		t.Errorf("With changed the table it was called on: %+v", c)
	}
	if n, m := len(base.Forms(guest.LXC)), len(mine.Forms(guest.LXC)); m != n+1 {
		t.Errorf("%d forms became %d", n, m)
	}
}

func TestParseMemory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want int
		err  string
	}{
		{"2GiB", 2048, ""},
		{"512MiB", 512, ""},
		{"1.5GiB", 1536, ""},
		{"1048576KiB", 1024, ""},
		{"1TiB", 1 << 20, ""},
		{"512", 0, `has no unit: write "512MiB"`},
		{"1.5", 0, "has no unit"},
		{"1.0001GiB", 0, "not a whole number"},
		{"1.5MiB", 0, "not a whole number of MiB"},
		{"2GB", 0, "want a number with KiB, MiB, GiB or TiB"},
		{"2gib", 0, "want a number"},
		{" 2GiB", 0, "want a number"},
		{"-2GiB", 0, "want a number"},
		{"", 0, "want a number"},
		{"999999999999TiB", 0, "more than 1 EiB"},
	} {
		got, err := guest.ParseMemory(c.in)
		if got != c.want || !strings.Contains(errText(err), c.err) || (c.err == "") != (err == nil) {
			t.Errorf("ParseMemory(%q) = %d, %v, want %d, %q", c.in, got, err, c.want, c.err)
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"8GiB": 8 << 30, "8G": 8 << 30, "512M": 512 << 20, "1.5G": 1536 << 20, "1048577K": 1048577 << 10, "7": 7, "2T": 2 << 40, "0": 0,
		"8GB": -1, "8g": -1, "": -1, "+1G": -1, "0.1K": -1, "99999999T": -1,
	} {
		got, err := guest.ParseSize(in)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for in, want := range map[int64]string{8 << 30: "8G", 1536 << 20: "1536M", 1 << 40: "1T", 1025: "1025", 0: "0", 1048577 << 10: "1048577K"} {
		if got := guest.FormatSize(in); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestDiskSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       guest.Kind
		key, value string
		want       int64 // -1: none
	}{
		{guest.LXC, "rootfs", "local:101/vm-101-disk-0.raw,size=8G", 8 << 30},
		{guest.LXC, "rootfs", "volume=local:8", 8 << 30},
		{guest.LXC, "mp3", "local:0.5,mp=/data,size=7G", 512 << 20},
		{guest.LXC, "mp3", "local:101/vm-101-disk-0.raw,mp=/data", -1},
		{guest.LXC, "unused0", "local:101/vm-101-disk-0.raw", -1},
		{guest.QEMU, "scsi0", "file=local:1,ssd=1", 1 << 30},
		{guest.QEMU, "scsi0", "local:0.001", 1049 << 10},
		{guest.QEMU, "efidisk0", "local:101/vm-101-disk-1.raw,size=528K", 528 << 10},
		{guest.QEMU, "ide2", "none,media=cdrom", -1},
		{guest.QEMU, "ide2", "local:cloudinit", -1},
		{guest.QEMU, "net0", "virtio,bridge=vmbr0", -1},
		{guest.QEMU, "rootfs", "local:8", -1},
		{guest.LXC, "scsi0", "local:8", -1},
		{guest.LXC, "rootfs", "a=b,a=c", -1},
	} {
		got, ok := guest.DiskSize(c.kind, c.key, c.value)
		if !ok {
			got = -1
		}
		if got != c.want {
			t.Errorf("DiskSize(%s, %s, %q) = %d, want %d", c.kind, c.key, c.value, got, c.want)
		}
	}
}

func TestPropsParse(t *testing.T) {
	t.Parallel()
	form, _ := guest.Standard().Form(guest.QEMU, "net0")
	p := form.Value.(guest.Props)
	got, err := p.Parse("virtio=BC:24:11:00:08:20,bridge=vmbr0,,new=1")
	want := []guest.Prop{{Name: "model", Value: "virtio"}, {Name: "macaddr", Value: "BC:24:11:00:08:20"}, {Name: "bridge", Value: "vmbr0"}, {Name: "new", Value: "1"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("Parse (-want +got):\n%s%v", d, err)
	}
	if s := p.Print(got); s != "virtio=BC:24:11:00:08:20,bridge=vmbr0,new=1" {
		t.Errorf("Print = %q", s)
	}
	if _, err := p.Parse(strings.Repeat("a=b,", 4000)); err == nil {
		t.Error("a text without bound is read")
	}
}
