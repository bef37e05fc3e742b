// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const numberSet = `[0-9]+(-[0-9]+)?(;[0-9]+(-[0-9]+)?)*`

var memoryProps = newProps(prop{name: "current", rule: integer(16), required: true, bare: true})

var sevProps = newProps(
	prop{name: "type", rule: oneOf("std", "es", "snp").upTo(3), required: true, bare: true},
	prop{name: "no-debug", rule: boolean()},
	prop{name: "no-key-sharing", rule: boolean()},
	prop{name: "allow-smt", rule: boolean()},
	prop{name: "kernel-hashes", rule: boolean()},
)

var tdxProps = newProps(
	prop{name: "type", rule: oneOf("tdx"), required: true, bare: true},
	prop{name: "attestation", rule: boolean(), required: true},
	prop{name: "vsock-cid", rule: integer(2)},
	prop{name: "vsock-port", rule: integer(0)},
)

var bootProps = newProps(
	prop{name: "legacy", rule: matching(`[acdn]{1,4}`), bare: true},
	prop{name: "order", rule: formatted(listOf(bootDevice))},
)

var agentProps = newProps(
	prop{name: "enabled", rule: boolean(), required: true, bare: true},
	prop{name: "fstrim_cloned_disks", rule: boolean()},
	prop{name: "freeze-fs", rule: boolean(), since: 9},
	prop{name: "freeze-fs-on-backup", alias: "freeze-fs", since: 9},
	prop{name: "guest-fsfreeze", alias: "freeze-fs", since: 9},
	prop{name: "freeze-fs-on-backup", rule: boolean(), until: 8},
	prop{name: "type", rule: oneOf("virtio", "isa")},
)

var vgaProps = newProps(
	prop{name: "type", rule: oneOf("cirrus", "qxl", "qxl2", "qxl3", "qxl4", "none", "serial0", "serial1", "serial2", "serial3", "std", "virtio", "virtio-gl", "vmware"), bare: true},
	prop{name: "memory", rule: integer(4, 512)},
	prop{name: "clipboard", rule: oneOf("vnc")},
)

var watchdogProps = newProps(
	prop{name: "model", rule: oneOf("i6300esb", "ib700"), bare: true},
	prop{name: "action", rule: oneOf("reset", "shutdown", "poweroff", "pause", "debug", "none")},
)

var ivshmemProps = newProps(
	prop{name: "size", rule: integer(1), required: true},
	prop{name: "name", rule: matching(`[a-zA-Z0-9-]+`)},
)

var audioProps = newProps(
	prop{name: "device", rule: oneOf("ich9-intel-hda", "intel-hda", "AC97"), required: true},
	prop{name: "driver", rule: oneOf("spice", "none")},
)

var spiceProps = newProps(
	prop{name: "foldersharing", rule: boolean()},
	prop{name: "videostreaming", rule: oneOf("off", "all", "filter")},
)

var rngProps = newProps(
	prop{name: "source", rule: oneOf("/dev/urandom", "/dev/random", "/dev/hwrng"), required: true, bare: true},
	prop{name: "max_bytes", rule: integer()},
	prop{name: "period", rule: integer()},
)

var metaProps = newProps(
	prop{name: "ctime", rule: integer(0)},
	prop{name: "creation-qemu", rule: matching(`[0-9]+(\.[0-9]+)+`)},
)

var machineProps = newProps(
	prop{name: "type", rule: matching(machineRE).upTo(40), bare: true},
	prop{name: "viommu", rule: oneOf("intel", "virtio")},
	prop{name: "enable-s3", rule: boolean()},
	prop{name: "enable-s4", rule: boolean()},
	prop{name: "aw-bits", rule: decimal(32, 64), since: 9},
)

const (
	pveRevision = `(\+pve[0-9]+)?(\.pxe)?`
	machineRE   = `pc|pc(-i440fx)?-[0-9]+(\.[0-9]+)+` + pveRevision + `|q35|pc-q35-[0-9]+(\.[0-9]+)+` + pveRevision +
		`|virt(-[0-9]+(\.[0-9]+)+)?(\+pve[0-9]+)?`
)

var smbiosProps = newProps(
	prop{name: "uuid", rule: matching(uuidRE)},
	prop{name: "version", rule: matching(base64RE)},
	prop{name: "serial", rule: matching(base64RE)},
	prop{name: "manufacturer", rule: matching(base64RE)},
	prop{name: "product", rule: matching(base64RE)},
	prop{name: "sku", rule: matching(base64RE)},
	prop{name: "family", rule: matching(base64RE)},
	prop{name: "base64", rule: boolean()},
)

const base64RE = `[A-Za-z0-9+/]+={0,2}`

var numaProps = newProps(
	prop{name: "cpus", rule: matching(numberSet), required: true},
	prop{name: "memory", rule: decimal()},
	prop{name: "hostnodes", rule: matching(numberSet)},
	prop{name: "policy", rule: oneOf("preferred", "bind", "interleave")},
)

var virtiofsProps = newProps(
	prop{name: "dirid", rule: formatted(configID), required: true, bare: true},
	prop{name: "cache", rule: oneOf("auto", "always", "metadata", "never")},
	prop{name: "direct-io", rule: boolean()},
	prop{name: "expose-xattr", rule: boolean()},
	prop{name: "expose-acl", rule: boolean()},
)

var qemuNetProps = newProps(slices.Concat([]prop{
	{name: "macaddr", rule: formatted(macAddress)},
	{name: "model", rule: oneOf(nicModels...), required: true, bare: true},
	{name: "bridge", rule: formatted(bridgeID)},
	{name: "queues", rule: integer(0, 64)},
	{name: "rate", rule: decimal(0)},
	{name: "tag", rule: integer(1, 4094)},
	{name: "trunks", rule: matching(numberSet)},
	{name: "firewall", rule: boolean()},
	{name: "link_down", rule: boolean()},
	{name: "mtu", rule: integer(1, 65520)},
}, aliases(nicModels, "macaddr", "model"))...)

var nicModels = strings.Fields(`e1000 e1000-82540em e1000-82544gc e1000-82545em e1000e i82551 i82557b i82559er
	ne2k_isa ne2k_pci pcnet rtl8139 virtio vmxnet3`)

// aliases makes "NAME=x" stand for alias=x and keyAlias=NAME.
func aliases(names []string, alias, keyAlias string) []prop {
	var out []prop
	for _, n := range names {
		out = append(out, prop{name: n, alias: alias, keyAlias: keyAlias})
	}
	return out
}

var ipconfigProps = newProps(
	prop{name: "ip", rule: formatted(ipv4Config)},
	prop{name: "gw", rule: formatted(ipv4), requires: "ip"},
	prop{name: "ip6", rule: formatted(ipv6Config)},
	prop{name: "gw6", rule: formatted(ipv6), requires: "ip6"},
)

const pciRE = `([a-f0-9]{4,}:)?[a-f0-9]{2}:[a-f0-9]{2}(\.[a-f0-9])?`

var hostpciProps = newProps(
	prop{name: "host", rule: matching(pciRE + `(;` + pciRE + `)*`), bare: true},
	prop{name: "mapping", rule: formatted(configID)},
	prop{name: "rombar", rule: boolean()},
	prop{name: "romfile", rule: matching(`[^,;]+`)},
	prop{name: "pcie", rule: boolean()},
	prop{name: "x-vga", rule: boolean()},
	prop{name: "legacy-igd", rule: boolean()},
	prop{name: "mdev", rule: matching(`[^/.:]+`)},
	prop{name: "vendor-id", rule: matching(hexID)},
	prop{name: "device-id", rule: matching(hexID)},
	prop{name: "sub-vendor-id", rule: matching(hexID)},
	prop{name: "sub-device-id", rule: matching(hexID)},
	prop{name: "driver", rule: oneOf("vfio", "keep"), since: 9},
)

const hexID = `0x[0-9a-fA-F]{4}`

var usbProps = newProps(
	prop{name: "host", rule: matching(`(0x)?[0-9A-Fa-f]{4}:(0x)?[0-9A-Fa-f]{4}|[0-9]+-[0-9]+(\.[0-9]+)*|[Ss][Pp][Ii][Cc][Ee]`), bare: true},
	prop{name: "mapping", rule: formatted(configID)},
	prop{name: "usb3", rule: boolean()},
)

var cicustomProps = newProps(
	prop{name: "meta", rule: formatted(volumeID)},
	prop{name: "network", rule: formatted(volumeID)},
	prop{name: "user", rule: formatted(volumeID)},
	prop{name: "vendor", rule: formatted(volumeID)},
)

var cpuProps = newProps(
	prop{name: "cputype", rule: text(), bare: true},
	prop{name: "reported-model", rule: oneOf(cpuModelsIn(9)...), since: 9},
	prop{name: "reported-model", rule: oneOf(cpuModelsIn(8)...), until: 8},
	prop{name: "hidden", rule: boolean()},
	prop{name: "hv-vendor-id", rule: matching(`[a-zA-Z0-9]{1,12}`)},
	prop{name: "flags", rule: matching(anyFlag + `(;` + anyFlag + `)*`)},
	prop{name: "phys-bits", rule: formatted(physBits)},
	prop{name: "guest-phys-bits", rule: integer(32, 64), since: 9},
	prop{name: "level", rule: integer(0, 4294967295), since: 9},
).checked(checkCPU)

const anyFlag = `[+-][a-zA-Z0-9\-_.]+`

// cpuModels are the processors QEMU knows in both versions.
var cpuModels = strings.Fields(`486 athlon Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS
	Cascadelake-Server Cascadelake-Server-noTSX Cascadelake-Server-v2 Cascadelake-Server-v4 Cascadelake-Server-v5
	Conroe Cooperlake Cooperlake-v2 core2duo coreduo EPYC EPYC-Genoa EPYC-IBPB EPYC-Milan EPYC-Milan-v2 EPYC-Rome
	EPYC-Rome-v2 EPYC-Rome-v3 EPYC-Rome-v4 EPYC-v3 EPYC-v4 GraniteRapids Haswell Haswell-IBRS Haswell-noTSX
	Haswell-noTSX-IBRS host Icelake-Client Icelake-Client-noTSX Icelake-Server Icelake-Server-noTSX
	Icelake-Server-v3 Icelake-Server-v4 Icelake-Server-v5 Icelake-Server-v6 IvyBridge IvyBridge-IBRS KnightsMill
	kvm32 kvm64 max Nehalem Nehalem-IBRS Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5 Penryn pentium
	pentium2 pentium3 phenom qemu32 qemu64 SandyBridge SandyBridge-IBRS SapphireRapids SapphireRapids-v2
	Skylake-Client Skylake-Client-IBRS Skylake-Client-noTSX-IBRS Skylake-Client-v4 Skylake-Server
	Skylake-Server-IBRS Skylake-Server-noTSX-IBRS Skylake-Server-v4 Skylake-Server-v5 Westmere Westmere-IBRS`)

// cpuModels9 are those that came with PVE 9.
var cpuModels9 = strings.Fields(`Icelake-Server-v7 SapphireRapids-v3 SapphireRapids-v4 GraniteRapids-v2
	GraniteRapids-v3 SierraForest SierraForest-v2 SierraForest-v3 ClearwaterForest EPYC-v5 EPYC-Rome-v5
	EPYC-Milan-v3 EPYC-Genoa-v2 EPYC-Turin a64fx cortex-a35 cortex-a53 cortex-a55 cortex-a57 cortex-a710
	cortex-a72 cortex-a76 neoverse-n1 neoverse-n2 neoverse-v1`)

// cpuModelsIn are the processors a version knows, in PVE's order: by their
// names in lower case.
func cpuModelsIn(version int) []string {
	list := slices.Clone(cpuModels)
	if version != 8 {
		list = append(list, cpuModels9...)
	}
	slices.SortFunc(list, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return list
}

// pveModels are PVE's own levels of them.
var pveModels = []string{"x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4"}

// vmFlags are the flags a virtual machine may set.
var vmFlags = []string{"pcid", "spec-ctrl", "ibpb", "ssbd", "virt-ssbd", "amd-ssbd", "amd-no-ssb", "pdpe1gb", "md-clear", "hv-tlbflush", "hv-evmcs", "aes"}

// vmFlagsIn are those of a version, in PVE's order.
func vmFlagsIn(version int) []string {
	if version == 8 {
		return vmFlags
	}
	list := append(slices.Clone(vmFlags), "nested-virt")
	slices.Sort(list)
	return list
}

func flagsOK(version int, list string) bool {
	for f := range strings.SplitSeq(list, ";") {
		if !slices.Contains(vmFlagsIn(version), f[1:]) {
			return false
		}
	}
	return true
}

// checkCPU is PVE's check of a processor beyond its properties. No custom
// models exist: the model knows no file of them.
func checkCPU(version int, v values) error {
	name := v["cputype"]
	custom, isCustom := strings.CutPrefix(name, "custom-")
	switch {
	case name == "" || name == "0":
		return errors.New("CPU is missing cputype")
	case isCustom:
		return fmt.Errorf("Custom cputype '%s' not found", custom)
	case !slices.Contains(cpuModels, name) && !slices.Contains(pveModels, name) && (version == 8 || !slices.Contains(cpuModels9, name)):
		return fmt.Errorf("Built-in cputype '%s' is not defined (missing 'custom-' prefix?)", name)
	}
	if v["flags"] != "" && !flagsOK(version, v["flags"]) {
		return fmt.Errorf("VM-specific CPU flags must be a subset of: %s", strings.Join(vmFlagsIn(version), ", "))
	}
	if v["reported-model"] != "" {
		return errors.New("Property 'reported-model' not allowed in VM-specific CPU config.")
	}
	return nil
}

func physBits(s string) error {
	if s == "host" {
		return nil
	}
	if n, err := strconv.Atoi(s); err != nil || !isDigits(s) || len(s) > 2 || n < 8 || n > 64 {
		return errors.New("value must be an integer between 8 and 64 or 'host'")
	}
	return nil
}

var hotplugRE = regexp.MustCompile(`^(network|disk|cpu|memory|usb|cloudinit)$`)

func hotplugFeatures(s string) error {
	if s == "0" || s == "1" {
		return nil
	}
	for _, f := range splitList(s) {
		if !hotplugRE.MatchString(f) {
			return fmt.Errorf("invalid hotplug feature '%s'", f)
		}
	}
	return nil
}

var cpuRangeRE = regexp.MustCompile(`^\s*([0-9]+)(?:-([0-9]+))?\s*$`)

func cpuSet(s string) error {
	for part := range strings.SplitSeq(strings.TrimRight(s, ","), ",") {
		m := cpuRangeRE.FindStringSubmatch(part)
		if m == nil {
			return errors.New("unable to parse cpuset option")
		}
		from, _ := strconv.Atoi(m[1])
		if to, err := strconv.Atoi(m[2]); err == nil && to < from {
			return errors.New("unable to parse cpuset option")
		}
	}
	return nil
}

var (
	bridgeID = matches(`[-_.a-zA-Z0-9]+`, "invalid bridge ID '%s'")
	bootDisk = matches(`(ide[0-3]|sata[0-5]|scsi([12]?[0-9]|30)|virtio([0-9]|1[0-5])|efidisk0|tpmstate0)`, "invalid boot disk '%s'")
)

func address(s string) error {
	if ip(s) != nil && dnsName(s) != nil {
		return fmt.Errorf("value does not look like a valid address: %s", s)
	}
	return nil
}

// bootDevice takes what a virtual machine can boot from.
func bootDevice(s string) error {
	if bootDisk(s) == nil && s != "efidisk0" && s != "tpmstate0" {
		return nil
	}
	family, n, ok := indexOf(s)
	limit := map[string]int{"net": 32, "usb": 14, "hostpci": 16}[family]
	if ok && n < limit {
		return nil
	}
	return fmt.Errorf("invalid boot device '%s'", s)
}
