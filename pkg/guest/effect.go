// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"slices"
	"strings"
)

// hotplugs reports whether the virtual machine takes changes of that feature
// while it runs.
func (e Edit) hotplugs(feature string) bool {
	features, set := e.Actual["hotplug"]
	if !set {
		features = "1"
	}
	return slices.Contains(strings.Split(hotplug{}.Normal(features), ";"), feature)
}

// ifHotplug is the effect of a change that hotplug of feature makes at once.
func ifHotplug(feature string) func(Edit) Effect {
	return func(e Edit) Effect {
		if e.hotplugs(feature) {
			return Live
		}
		return Restart
	}
}

// hotplugEffect: whether the guest can take CPUs and memory is settled when it
// starts.
func hotplugEffect(e Edit) Effect {
	for _, v := range []string{e.From, e.To} {
		if strings.Contains(v, "cpu") || strings.Contains(v, "memory") {
			return Restart
		}
	}
	return Live
}

// usbEffect: PVE plugs USB into Linux and newer Windows only.
func usbEffect(e Edit) Effect {
	switch e.Actual["ostype"] {
	case "l26", "win8", "win10", "win11":
		return ifHotplug("usb")(e)
	}
	return Restart
}

// balloonEffect: the device itself comes and goes with a start only.
func balloonEffect(e Edit) Effect {
	had := !e.HasFrom || e.From != "0"
	has := e.Delete || e.To != "0"
	if had != has {
		return Restart
	}
	return Live
}

// cloudInitEffect: with a cloud-init drive the change waits until the drive is
// written anew.
func cloudInitEffect(e Edit) Effect {
	for key, value := range e.Actual {
		if p, ok := volumeProps(QEMU, key); ok && isCloudInit(p.volumeOf(value)) && !e.hotplugs("cloudinit") {
			return Restart
		}
	}
	return Live
}

// volumeEffect is when a changed volume key takes hold.
func volumeEffect(e Edit) Effect {
	p, _ := volumeProps(e.Facts.Kind, e.Key)
	if isPath(p.volumeOf(e.To)) {
		return NeedsRoot
	}
	if e.Facts.Kind == LXC {
		return mountEffect(e)
	}
	return driveEffect(e)
}

// mountEffect: only a new mount point is mounted into a running container.
func mountEffect(e Edit) Effect {
	if e.HasFrom || e.Key == "rootfs" {
		return Restart
	}
	return Live
}

// coldFields are the parts of a drive that a running virtual machine keeps
// until its next start.
var coldFields = []string{"aio", "cache", "discard", "iothread", "product", "queues", "ro", "ssd", "vendor"}

func driveEffect(e Edit) Effect {
	base, _, _ := splitIndex(e.Key)
	p := qemuDrives[base]
	from, _ := p.Parse(e.From)
	to, _ := p.Parse(e.To)
	switch {
	case base == "efidisk", base == "tpmstate":
		return Restart
	case e.HasFrom && !e.Delete && isCDROM(addMedia(from)):
		return Live
	case e.HasFrom && !e.Delete && p.volumeOf(e.From) == p.volumeOf(e.To):
		return partsEffect(p, from, to)
	case e.Delete && strings.Contains(e.Actual["boot"], e.Key):
		return NeedsStop
	case base == "ide", base == "sata":
		return Restart
	}
	return ifHotplug("disk")(e)
}

func partsEffect(p Props, from, to []Prop) Effect {
	for _, name := range coldFields {
		f, _ := p.field(name)
		a, _ := get(from, name)
		b, _ := get(to, name)
		if f.Value != nil && f.Value.Normal(a) != f.Value.Normal(b) {
			return Restart
		}
	}
	return Live
}

// hotplug is the list of what a running virtual machine takes: 0 is nothing, 1
// the default.
type hotplug struct{}

var hotplugFeatures = List{Item: Enum{"network", "disk", "cpu", "memory", "usb", "cloudinit"}, Set: true}

func (hotplug) Name() string { return "set" }

func (hotplug) Rule() string { return "as a set; 0 is nothing, 1 is network,disk,usb" }

func (hotplug) Check(s string) error {
	if s == "0" || s == "1" {
		return nil
	}
	return hotplugFeatures.Check(s)
}

func (hotplug) Normal(s string) string {
	switch s {
	case "0":
		return ""
	case "1":
		s = "network,disk,usb"
	}
	return hotplugFeatures.Normal(s)
}
