// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"github.com/felhom/felhom-agent/pkg/guest"
)

// rootOnly stands in the privilege column for keys that PVE leaves to root.
const rootOnly = "root"

// cloudinitAny marks keys that either of two privileges opens.
const cloudinitAny = privCloudinit + "|" + privNetwork

// byValue marks keys whose privilege hangs on the value: it is looked for
// where the value is.
const byValue = "value"

// ci marks keys of cloud-init: fast, with its privileges.
func ci(name string, r rule) key { return key{name: name, rule: r, priv: cloudinitAny, fast: true} }

// qemuRows are a virtual machine's keys.
var qemuRows = []key{
	{name: "onboot", rule: boolean(), priv: privOptions, fast: true},
	{name: "autostart", rule: boolean(), priv: privOptions},
	{name: "hotplug", rule: formatted(hotplugFeatures), priv: privHWType},
	{name: "reboot", rule: boolean(), priv: privOptions},
	{name: "lock", rule: oneOf("backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending", "suspended"), priv: rootOnly, fast: true},
	{name: "cpulimit", rule: decimal(0, 128), priv: privCPU},
	{name: "cpuunits", rule: integer(1, 262144), priv: privCPU},
	{name: "memory", rule: propString(memoryProps), priv: privMemory},
	{name: "amd-sev", rule: propString(sevProps), priv: rootOnly},
	{name: "intel-tdx", rule: propString(tdxProps), priv: rootOnly, since: 9},
	{name: "balloon", rule: integer(0), priv: privMemory},
	{name: "shares", rule: integer(0, 50000), priv: privMemory, fast: true},
	{name: "keyboard", rule: oneOf("de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is", "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr"), priv: privOptions},
	{name: "name", rule: formatted(dnsName), priv: privOptions, fast: true},
	{name: "scsihw", rule: oneOf("lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"), priv: privHWType},
	{name: "description", rule: text().upTo(8192), priv: privOptions, fast: true},
	{name: "ostype", rule: oneOf("other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26", "solaris"), priv: privOptions},
	{name: "boot", rule: propString(bootProps), priv: privDisk},
	{name: "bootdisk", rule: bootdiskRule(), priv: privDisk},
	{name: "smp", rule: integer(1), priv: privCPU},
	{name: "sockets", rule: integer(1), priv: privCPU},
	{name: "cores", rule: integer(1), priv: privCPU},
	{name: "numa", rule: boolean(), priv: privCPU},
	{name: "hugepages", rule: oneOf("any", "2", "1024"), priv: rootOnly},
	{name: "keephugepages", rule: boolean(), priv: rootOnly},
	{name: "vcpus", rule: integer(1), priv: privCPU},
	{name: "acpi", rule: boolean(), priv: privHWType},
	{name: "agent", rule: propString(agentProps), priv: privOptions},
	{name: "kvm", rule: boolean(), priv: privHWType},
	{name: "tdf", rule: boolean(), priv: privOptions},
	{name: "localtime", rule: boolean(), priv: privOptions},
	{name: "freeze", rule: boolean(), priv: privPower},
	{name: "vga", rule: propString(vgaProps), priv: privHWType},
	{name: "watchdog", rule: propString(watchdogProps), priv: privHWType},
	{name: "startdate", rule: matching(`now|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(T[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2})?`), priv: privOptions},
	{name: "startup", rule: formatted(startupOrder), priv: privOptions, fast: true},
	{name: "template", rule: boolean(), priv: privOptions},
	{name: "args", rule: text(), priv: rootOnly},
	{name: "tablet", rule: boolean(), priv: privHWType},
	{name: "migrate_speed", rule: integer(0), priv: privOptions, fast: true},
	{name: "migrate_downtime", rule: decimal(0), priv: privOptions, fast: true},
	{name: "cdrom", rule: propString(ideProps), priv: byValue},
	{name: "cpu", rule: propString(cpuProps), priv: privCPU},
	{name: "parent", rule: formatted(configID).upTo(40), internal: true},
	{name: "snaptime", rule: integer(0), internal: true},
	{name: "vmstate", rule: formatted(volumeID), internal: true, priv: privDisk},
	{name: "vmstatestorage", rule: formatted(storageID), priv: privDisk, fast: true},
	{name: "runningmachine", rule: propString(machineProps), internal: true, priv: privHWType},
	{name: "runningcpu", rule: text(), internal: true, priv: privCPU},
	{name: "running-nets-host-mtu", rule: matching(`net[0-9]+=[0-9]+(,net[0-9]+=[0-9]+)*`), internal: true, since: 9, priv: privNetwork},
	{name: "machine", rule: propString(machineProps), priv: privHWType},
	{name: "arch", rule: oneOf("x86_64", "aarch64"), priv: rootOnly},
	{name: "smbios1", rule: propString(smbiosProps).upTo(512), priv: privHWType},
	{name: "protection", rule: boolean(), priv: privOptions, fast: true},
	{name: "bios", rule: oneOf("seabios", "ovmf"), priv: privOptions},
	{name: "vmgenid", rule: matching(uuidRE + `|[01]`), priv: rootOnly},
	{name: "hookscript", rule: formatted(volumeID), priv: rootOnly, fast: true},
	{name: "ivshmem", rule: propString(ivshmemProps), priv: rootOnly},
	{name: "audio0", rule: propString(audioProps), priv: privHWType},
	{name: "spice_enhancements", rule: propString(spiceProps), priv: rootOnly},
	{name: "tags", rule: formatted(listOf(tagName)), priv: byValue, fast: true},
	{name: "rng0", rule: propString(rngProps), priv: privHWType},
	{name: "meta", rule: propString(metaProps), internal: true, priv: rootOnly},
	{name: "affinity", rule: formatted(cpuSet), priv: rootOnly},
	{name: "allow-ksm", rule: boolean(), since: 9, priv: privMemory},
	{name: "numa", count: 8, rule: propString(numaProps), priv: privCPU},
	{name: "virtiofs", count: 10, rule: propString(virtiofsProps), priv: byValue},
	{name: "net", count: 32, rule: propString(qemuNetProps), priv: privNetwork},
	{name: "ipconfig", count: 32, rule: propString(ipconfigProps), priv: cloudinitAny, fast: true},
	{name: "parallel", count: 3, rule: matching(`/dev/parport[0-9]+|/dev/usb/lp[0-9]+`), priv: rootOnly},
	{name: "serial", count: 4, rule: matching(`/dev/.+|socket`), priv: byValue},
	{name: "hostpci", count: 16, rule: propString(hostpciProps), priv: byValue},
	{name: "usb", count: 14, rule: propString(usbProps), priv: byValue},
	{name: "ide", count: 4, rule: propString(ideProps), priv: byValue},
	{name: "sata", count: 6, rule: propString(sataProps), priv: byValue},
	{name: "scsi", count: 31, rule: propString(scsiProps), priv: byValue},
	{name: "virtio", count: 16, rule: propString(virtioProps), priv: byValue},
	{name: "efidisk0", rule: propString(efiProps), priv: byValue},
	{name: "tpmstate0", rule: propString(tpmProps), priv: byValue},
	{name: "unused", count: 256, rule: propString(qemuUnusedProps), priv: byValue},
	ci("citype", oneOf("configdrive2", "nocloud", "opennebula")),
	ci("ciuser", text()),
	ci("cipassword", text()),
	ci("ciupgrade", boolean()),
	ci("cicustom", propString(cicustomProps)),
	ci("searchdomain", text()),
	ci("nameserver", formatted(listOf(address))),
	ci("sshkeys", formatted(urlEncoded)),
}

const uuidRE = `[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}`

func bootdiskRule() rule {
	r := matching(`(ide|sata|scsi|virtio)[0-9]+`)
	r.format = bootDisk
	return r
}

// readQEMU is what PVE makes of a value in a virtual machine's file; ok is
// false if it drops the line. Drives are re-printed.
func readQEMU(name, value string, vmid guest.VMID) (string, bool) {
	k := qemuKeys[name]
	if k == nil {
		return "", false
	}
	if name == "args" {
		return value, true
	}
	v, ok := k.readValue(value)
	if !ok || k.formatErr("", v) != nil {
		return "", false
	}
	if k.typ == tString && k.format == nil && k.props == nil && len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	if !isPlainDrive(name) {
		return v, true
	}
	d, err := parseDrive(name, v)
	if err != nil {
		return "", false
	}
	if d["file"], ok = fileToVolume(vmid, d["file"], d["media"]); !ok {
		return "", false
	}
	return printDrive(d), true
}
