// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"regexp"
)

// The property strings of virtual machines. They are never changed.

var qemuMemory = Props{What: "memory", Default: "current", Fields: []Field{
	{Name: "current", Value: Int{16, noMax}, Required: true},
}}

var qemuCPUType = Props{What: "CPU type", Default: "cputype", Fields: []Field{
	{Name: "cputype", Value: Text{What: "name", Want: "the name of a CPU type, or custom-NAME", Pattern: regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)}, Required: true},
	{Name: "flags", Value: List{Item: cpuFlag, Split: ";", Set: true}},
	{Name: "guest-phys-bits", Value: Int{32, 64}, Since: 9},
	{Name: "hidden", Value: flag, Default: "0"},
	{Name: "hv-vendor-id", Value: Text{What: "name", Want: "1 to 12 letters and digits", Pattern: regexp.MustCompile(`^[a-zA-Z0-9]{1,12}$`)}},
	{Name: "phys-bits", Value: Text{What: "bits", Want: "8 to 64, or host", Pattern: regexp.MustCompile(`^([89]|[1-5]\d|6[0-4]|host)$`)}},
	{Name: "reported-model", Value: Text{}, Default: "kvm64"},
}}

// cpuFlag are the flags PVE lets a guest set; the last only on PVE 9.
var cpuFlag = Text{
	What: "CPU flag", Want: "+ or - and one of the flags PVE lets a guest set",
	Pattern: regexp.MustCompile(`^[+-](aes|amd-no-ssb|amd-ssbd|hv-evmcs|hv-tlbflush|ibpb|md-clear|pcid|pdpe1gb|spec-ctrl|ssbd|virt-ssbd|nested-virt)$`),
}

var idRanges = List{
	Item:  Text{What: "range", Want: "numbers or ranges like 0-3", Pattern: regexp.MustCompile(`^\d+(-\d+)?$`)},
	Split: ";", Set: true,
}

var qemuNUMA = Props{What: "NUMA node", Fields: []Field{
	{Name: "cpus", Value: idRanges, Required: true},
	{Name: "hostnodes", Value: idRanges},
	{Name: "memory", Value: Number{0, noMax}},
	{Name: "policy", Value: Enum{"preferred", "bind", "interleave"}},
}}

var qemuAgent = Props{What: "guest agent", Default: "enabled", Fields: []Field{
	{Name: "enabled", Value: flag, Default: "0", Required: true},
	{Name: "freeze-fs", Value: flag, Default: "1", Since: 9},
	{Name: "freeze-fs-on-backup", Alias: "freeze-fs"},
	{Name: "fstrim_cloned_disks", Value: flag, Default: "0"},
	{Name: "guest-fsfreeze", Alias: "freeze-fs"},
	{Name: "type", Value: Enum{"virtio", "isa"}, Default: "virtio"},
}}

var qemuAudio = Props{What: "audio device", Fields: []Field{
	{Name: "device", Value: Enum{"ich9-intel-hda", "intel-hda", "AC97"}, Required: true},
	{Name: "driver", Value: Enum{"spice", "none"}, Default: "spice"},
}}

var qemuMachine = Props{What: "machine", Default: "type", Fields: []Field{
	{Name: "type", Value: Text{
		What: "machine type", Max: 40, Want: "pc, q35, virt or one with a version as in pc-q35-9.2",
		Pattern: regexp.MustCompile(`^(pc|pc(-i440fx)?-\d+(\.\d+)+(\+pve\d+)?(\.pxe)?|q35|pc-q35-\d+(\.\d+)+(\+pve\d+)?(\.pxe)?|virt(-\d+(\.\d+)+)?(\+pve\d+)?)$`),
	}},
	{Name: "aw-bits", Value: Number{32, 64}, Since: 9},
	{Name: "enable-s3", Value: flag},
	{Name: "enable-s4", Value: flag},
	{Name: "viommu", Value: Enum{"intel", "virtio"}},
}}

var qemuRNG = Props{What: "random number generator", Default: "source", Fields: []Field{
	{Name: "source", Value: Enum{"/dev/urandom", "/dev/random", "/dev/hwrng"}, Required: true},
	{Name: "max_bytes", Value: Int{0, noMax}, Default: "1024"},
	{Name: "period", Value: Int{0, noMax}, Default: "1000"},
}}

var qemuSMBIOS = Props{What: "SMBIOS type 1", Fields: smbiosFields()}

func smbiosFields() []Field {
	fields := []Field{
		{Name: "uuid", Value: uuid, Generated: true},
		{Name: "base64", Value: flag, Default: "0"},
	}
	for _, name := range []string{"family", "manufacturer", "product", "serial", "sku", "version"} {
		fields = append(fields, Field{Name: name, Value: base64s})
	}
	return fields
}

var qemuVGA = Props{What: "display", Default: "type", Fields: []Field{
	{Name: "type", Value: Enum{"cirrus", "qxl", "qxl2", "qxl3", "qxl4", "none", "serial0", "serial1", "serial2", "serial3", "std", "virtio", "virtio-gl", "vmware"}},
	{Name: "clipboard", Value: Enum{"vnc"}},
	{Name: "memory", Value: Int{4, 512}},
}}

var qemuWatchdog = Props{What: "watchdog", Default: "model", Filled: true, Present: true, Fields: []Field{
	{Name: "model", Value: Enum{"i6300esb", "ib700"}, Default: "i6300esb"},
	{Name: "action", Value: Enum{"reset", "shutdown", "poweroff", "pause", "debug", "none"}},
}}

var qemuUSB = Props{What: "USB device", Default: "host", Valid: hostOrMapping, Fields: []Field{
	{Name: "host", Value: Text{
		What: "device", Want: "spice (or a device like 1234:5678, for root@pam)", Fold: true,
		Pattern: regexp.MustCompile(`^((0x)?[0-9A-Fa-f]{4}:(0x)?[0-9A-Fa-f]{4}|\d+-\d+(\.\d+)*|[Ss][Pp][Ii][Cc][Ee])$`),
	}},
	{Name: "mapping", Value: configID},
	{Name: "usb3", Value: flag, Default: "0"},
}}

var hexID = Text{What: "hex id", Want: "0x and four hex digits", Pattern: regexp.MustCompile(`^0x[0-9a-fA-F]{4}$`), Fold: true}

var qemuPCI = Props{What: "PCI device", Default: "host", Valid: hostOrMapping, Fields: []Field{
	{Name: "host", Value: Text{What: "device", Want: "a device like 00:1f.0, for root@pam", Pattern: regexp.MustCompile(`^(([a-f0-9]{4,}:)?[a-f0-9]{2}:[a-f0-9]{2}(\.[a-f0-9])?)(;([a-f0-9]{4,}:)?[a-f0-9]{2}:[a-f0-9]{2}(\.[a-f0-9])?)*$`)}},
	{Name: "device-id", Value: hexID},
	{Name: "driver", Value: Enum{"vfio", "keep"}, Default: "vfio", Since: 9},
	{Name: "legacy-igd", Value: flag, Default: "0"},
	{Name: "mapping", Value: configID},
	{Name: "mdev", Value: Text{What: "name", Want: "a name", Pattern: regexp.MustCompile(`^[^/.:]+$`)}},
	{Name: "pcie", Value: flag, Default: "0"},
	{Name: "rombar", Value: flag, Default: "1"},
	{Name: "romfile", Value: Text{}},
	{Name: "sub-device-id", Value: hexID},
	{Name: "sub-vendor-id", Value: hexID},
	{Name: "vendor-id", Value: hexID},
	{Name: "x-vga", Value: flag, Default: "0"},
}}

func hostOrMapping(props []Prop) error {
	_, host := get(props, "host")
	if _, mapping := get(props, "mapping"); !host && !mapping {
		return errors.New("neither host nor mapping is given")
	}
	return nil
}

var qemuVirtioFS = Props{What: "shared directory", Default: "dirid", Fields: []Field{
	{Name: "dirid", Value: configID, Required: true},
	{Name: "cache", Value: Enum{"auto", "always", "metadata", "never"}, Default: "auto"},
	{Name: "direct-io", Value: flag, Default: "0"},
	{Name: "expose-acl", Value: flag, Default: "0"},
	{Name: "expose-xattr", Value: flag, Default: "0"},
}}

var qemuCICustom = Props{What: "cloud-init files", Fields: []Field{
	{Name: "meta", Value: volumeID},
	{Name: "network", Value: volumeID},
	{Name: "user", Value: volumeID},
	{Name: "vendor", Value: volumeID},
}}

var qemuIPConfig = Props{What: "IP configuration", Valid: gatewayNeedsAddress, Fields: []Field{
	{Name: "gw", Value: Addr{V4: true}},
	{Name: "gw6", Value: Addr{V6: true, Zone: true}},
	{Name: "ip", Value: Addr{V4: true, Prefix: true, Words: []string{"dhcp"}}},
	{Name: "ip6", Value: Addr{V6: true, Prefix: true, Words: []string{"auto", "dhcp"}}},
}}

func gatewayNeedsAddress(props []Prop) error {
	for gw, ip := range map[string]string{"gw": "ip", "gw6": "ip6"} {
		_, hasGW := get(props, gw)
		if _, hasIP := get(props, ip); hasGW && !hasIP {
			return errors.New(gw + " needs " + ip)
		}
	}
	return nil
}

var qemuBoot = Props{What: "boot order", Default: "legacy", Fields: []Field{
	{Name: "legacy", Value: Text{What: "letters", Want: "letters of a, c, d, n, or order=DEVICE;DEVICE", Pattern: regexp.MustCompile(`^[acdn]{1,4}$`)}},
	{Name: "order", Value: List{Split: ";", Item: Text{
		What: "device", Want: "a device like scsi0 or net0",
		Pattern: regexp.MustCompile(`^(ide|sata|scsi|virtio|net|usb|hostpci)\d+$`),
	}}},
}}

// qemuNet is a network interface; "virtio=MAC" is its model and MAC in one.
var qemuNet = Props{What: "network interface", Default: "model", Fields: qemuNetFields()}

func qemuNetFields() []Field {
	models := []string{
		"e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b",
		"i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3",
	}
	fields := []Field{
		{Name: "model", Value: Enum(models), Required: true},
		{Name: "bridge", Value: bridge},
		{Name: "firewall", Value: flag, Default: "0"},
		{Name: "link_down", Value: flag, Default: "0"},
		{Name: "macaddr", Value: mac, Generated: true},
		{Name: "mtu", Value: Int{1, 65520}},
		{Name: "queues", Value: Int{0, 64}, Default: "0"},
		{Name: "rate", Value: Number{0, noMax}},
		{Name: "tag", Value: Int{1, 4094}},
		{Name: "trunks", Value: idRanges},
	}
	for _, m := range models {
		fields = append(fields, Field{Name: m, Alias: "macaddr", Key: "model"})
	}
	return fields
}

// qemuDrives are the drives by the bus they are on.
var qemuDrives = func() map[string]Props {
	out := map[string]Props{}
	for _, bus := range []string{"ide", "sata", "scsi", "virtio", "efidisk", "tpmstate"} {
		out[bus] = qemuDrive(bus)
	}
	return out
}()

// qemuDrive is a drive on that bus.
func qemuDrive(bus string) Props {
	fields := []Field{
		{Name: "file", Value: Volume{}, Required: true},
		{Name: "volume", Alias: "file"},
		{Name: "format", Value: Enum{"raw", "qcow", "qed", "qcow2", "vmdk", "cloop"}, Ignored: true},
		{Name: "import-from", Value: Text{}, Ignored: true},
		{Name: "size", Value: Bytes{}, Ignored: true},
	}
	switch bus {
	case "efidisk":
		fields = append(fields,
			Field{Name: "efitype", Value: Enum{"2m", "4m"}, Default: "2m"},
			Field{Name: "ms-cert", Value: Enum{"2011", "2023", "2023w", "2023k"}, Default: "2011"},
			Field{Name: "pre-enrolled-keys", Value: flag, Default: "0"},
		)
	case "tpmstate":
		fields = append(fields, Field{Name: "version", Value: Enum{"v1.2", "v2.0"}, Default: "v1.2"})
	default:
		fields = append(fields, driveFields(bus)...)
	}
	return Props{What: "drive", Default: "file", Fix: addMedia, Fields: fields}
}
