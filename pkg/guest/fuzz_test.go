// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// seedProps are property strings of every shape the table has.
var seedProps = []string{
	"", ",", "=", "a", "a=b", "a=b,a=c", "x=,y", "order=1,order=2", "5,up=3", "up=3,5", "nesting=1,", " a=b",
	"name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:08:01,ip=10.99.99.201/32,type=veth",
	"virtio=BC:24:11:00:08:20,bridge=vmbr0", "model=virtio,macaddr=BC:24:11:00:08:20,trunks=3;2",
	"local:8,mp=/data,backup=yes", "volume=local:8,mp=/data", "local:820/vm-820-disk-0.raw,size=1G,ssd=1",
	"none,media=cdrom", "none", "local:cloudinit", "uuid=ab291e81-a35c-4312-ae16-37350ed13170,base64=1,serial=YQ==",
	"1,freeze-fs-on-backup=0", "cputype=qemu64,flags=+aes;-pcid", "order=scsi0;net0", "legacy=cdn",
}

// allProps are the property strings of the table, by kind and key.
func allProps() map[string]guest.Props {
	out := map[string]guest.Props{}
	for _, kind := range kinds {
		for _, f := range guest.Standard().Forms(kind) {
			if p, ok := f.Value.(guest.Props); ok {
				out[string(kind)+" "+f.Key] = p
			}
		}
	}
	return out
}

// FuzzProps: reading what was written gives the same parts, a normal form is
// its own, and completing a value with itself changes nothing.
func FuzzProps(f *testing.F) {
	for _, s := range seedProps {
		f.Add(s)
	}
	all := allProps()
	f.Fuzz(func(t *testing.T, s string) {
		for name, p := range all {
			parts, err := p.Parse(s)
			if err != nil {
				if p.Check(s) == nil || p.Normal(s) != s {
					t.Errorf("%s: %q is no property string and yet checked or changed", name, s)
				}
				continue
			}
			again, err := p.Parse(p.Print(parts))
			if err != nil || p.Normal(p.Print(again)) != p.Normal(s) {
				t.Errorf("%s: %q printed as %q (%v): normal %q and %q", name, s, p.Print(parts), err, p.Normal(s), p.Normal(p.Print(again)))
			}
			if got := p.Complete(s, s); p.Normal(got) != p.Normal(s) {
				t.Errorf("%s: %q completed with itself is %q", name, s, got)
			}
		}
	})
}

// FuzzDiff: whatever is desired and whatever a human wrote into the config, a
// config that says what is desired differs in nothing, and one write makes it
// so: the next Diff is empty.
func FuzzDiff(f *testing.F) {
	for i, s := range seedProps {
		f.Add(uint16(i), s, seedProps[(i+7)%len(seedProps)], i%2 == 0)
	}
	f.Add(uint16(3), "0", "2", true)
	f.Add(uint16(9), "a\nb", "a\nb\n", true)
	table := guest.Standard()
	var forms []guest.Form
	for _, kind := range kinds {
		forms = append(forms, table.Forms(kind)...)
	}
	f.Fuzz(func(t *testing.T, n uint16, desired, actual string, running bool) {
		form := forms[int(n)%len(forms)]
		key := strings.Replace(form.Key, "[n]", "0", 1)
		facts := guest.Facts{Kind: form.Kind, Running: running, PVE: 9}
		want := guest.Config{key: desired}
		if d := table.Diff(facts, want, nil, guest.Config{key: desired}); len(d) != 0 {
			t.Errorf("%s %s: %q differs from itself: %+v", form.Kind, key, desired, d)
		}
		now := guest.Config{key: actual}
		apply(now, table.Diff(facts, want, nil, now))
		if d := table.Diff(facts, want, nil, now); len(d) != 0 {
			t.Errorf("%s %s: desired %q over %q: after the write %q still differs: %+v", form.Kind, key, desired, actual, now[key], d)
		}
		apply(now, table.Diff(facts, nil, []string{key}, now))
		if d := table.Diff(facts, nil, []string{key}, now); len(d) != 0 {
			t.Errorf("%s %s: deleted, %q still differs: %+v", form.Kind, key, now[key], d)
		}
	})
}

// apply writes changes as PVE would if it kept every value as it came.
func apply(c guest.Config, changes []guest.Change) {
	for _, ch := range changes {
		if ch.Delete {
			delete(c, ch.Key)
			continue
		}
		c[ch.Key] = ch.Send
	}
}

// FuzzSizes: what is formatted reads as the same number.
func FuzzSizes(f *testing.F) {
	for _, s := range []string{"8G", "8GiB", "1.5G", "512M", "1048577K", "1", "0", "2g", "", "9999999999999T", "0.1K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = guest.ParseMemory(s)
		n, err := guest.ParseSize(s)
		if err != nil {
			return
		}
		if m, err := guest.ParseSize(guest.FormatSize(n)); err != nil || m != n {
			t.Errorf("%q is %d, formatted %q, read back %d (%v)", s, n, guest.FormatSize(n), m, err)
		}
	})
}
