// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"regexp"
	"strings"
)

// qemuForms are the rows of a virtual machine's config.
func qemuForms() []Form {
	forms := append(qemuCPU(), qemuMemoryForms()...)
	forms = append(forms, qemuOptions()...)
	forms = append(forms, qemuHardware()...)
	forms = append(forms, qemuDevices()...)
	forms = append(forms, qemuCloudInit()...)
	forms = append(forms, qemuVolumes()...)
	forms = append(forms, qemuNever()...)
	forms = append(forms, requestForms()...)
	forms = append(forms, qemuRequest()...)
	return forKind(QEMU, forms)
}

// with fills in the class, effect and privilege that rows have in common.
func with(privilege string, effect Effect, forms []Form) []Form {
	for i := range forms {
		f := &forms[i]
		if f.Class == "" {
			f.Class = Benign
		}
		if f.Effect == "" {
			f.Effect = effect
		}
		if f.Privilege == "" {
			f.Privilege = privilege
		}
	}
	return forms
}

func qemuCPU() []Form {
	return with(privCPU, Restart, []Form{
		{Key: "cores", Value: Int{1, noMax}, Default: "1", Note: "Per socket."},
		{Key: "cpu", Value: qemuCPUType, Note: "Which types there are, the node decides."},
		{Key: "cpulimit", Value: Number{0, 128}, Unit: "cores", Default: "0", Effect: Live, Note: "0 is no limit."},
		{Key: "cpuunits", Value: Shares{Int{1, 262144}}, Effect: Live, Note: "Absent is 100 with cgroup v2 and 1024 with v1."},
		{Key: "numa", Value: Bool{}, Default: "0"},
		{Key: "numa[n]", Last: 7, Value: qemuNUMA},
		{Key: "sockets", Value: Int{1, noMax}, Default: "1"},
		{Key: "vcpus", Value: Int{1, noMax}, EffectOf: ifHotplug("cpu"), Note: "Absent is all of them. Live if hotplug has cpu."},
	})
}

func qemuMemoryForms() []Form {
	return with(privMemory, Restart, []Form{
		{Key: "allow-ksm", Value: Bool{}, Default: "1", Since: 9},
		{Key: "balloon", Value: Int{0, noMax}, Unit: "MiB", EffectOf: balloonEffect, RefuseOf: balloonRefusal, Note: "0 takes the device away; more than memory is refused."},
		{Key: "memory", Value: qemuMemory, Unit: "MiB", Default: "512", EffectOf: ifHotplug("memory"), RefuseOf: balloonRefusal, Note: "Live if hotplug has memory."},
		{Key: "shares", Value: Int{0, 50000}, Default: "1000", Effect: Live},
	})
}

func qemuOptions() []Form {
	return with(privOptions, Restart, []Form{
		{Key: "agent", Value: qemuAgent},
		{Key: "autostart", Value: Bool{}, Default: "0", Note: "PVE ignores it."},
		{Key: "bios", Value: Enum{"seabios", "ovmf"}, Default: "seabios"},
		{Key: "description", Value: Description{}, Effect: Live, Note: "PVE gives it back without blanks at its end."},
		{Key: "freeze", Value: Bool{}, Default: "0", Privilege: "VM.PowerMgmt"},
		{Key: "keyboard", Value: Enum{"de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is", "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr"}},
		{Key: "localtime", Value: Bool{}, Note: "Absent follows ostype."},
		{Key: "migrate_downtime", Value: Number{0, noMax}, Unit: "s", Default: "0.1", Effect: Live},
		{Key: "migrate_speed", Value: Int{0, noMax}, Unit: "MB/s", Default: "0", Effect: Live},
		{Key: "name", Value: dnsName, Effect: Live},
		{Key: "onboot", Value: Bool{}, Default: "0", Effect: Live},
		{Key: "ostype", Value: Enum{"other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26", "solaris"}, Default: "other", Note: "Changing it to Windows pins the machine version."},
		{Key: "protection", Value: Bool{}, Default: "0", Effect: Live, ClassOf: protectionClass, Note: "1 to 0 is irreversible: it is what stands between a guest and its end."},
		{Key: "reboot", Value: Bool{}, Default: "1"},
		{Key: "startdate", Value: startDate, Default: "now"},
		{Key: "startup", Value: startup, Effect: Live, Privilege: "VM.Config.Options, Sys.Modify", Note: "Sys.Modify on /. Kept as it was spelled: 5 and order=5 are the same."},
		{Key: "tags", Value: tags, Effect: Live, Note: "The datacenter may reserve tags: those need Sys.Modify on /."},
		{Key: "tdf", Value: Bool{}, Default: "0"},
	})
}

func qemuHardware() []Form {
	return with(privHWType, Restart, []Form{
		{Key: "acpi", Value: Bool{}, Default: "1"},
		{Key: "audio0", Value: qemuAudio},
		{Key: "hotplug", Value: hotplug{}, Default: "network,disk,usb", EffectOf: hotplugEffect, Note: "Restart where cpu or memory is in it."},
		{Key: "kvm", Value: Bool{}, Default: "1"},
		{Key: "machine", Value: qemuMachine, CompleteOf: pinned, Note: "On a Windows guest a type without a version is any version of it, because PVE pins one."},
		{Key: "rng0", Value: qemuRNG, PrivilegeOf: rngPrivilege, Note: "/dev/hwrng needs Mapping.Use too."},
		{Key: "scsihw", Value: Enum{"lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"}, Default: "lsi"},
		{Key: "smbios1", Value: qemuSMBIOS, ClassOf: smbiosClass, Note: "The uuid is carried over; another uuid is irreversible: the guest is known by it."},
		{Key: "tablet", Value: Bool{}, Default: "1", EffectOf: ifHotplug("usb"), Note: "Live if hotplug has usb."},
		{Key: "vga", Value: qemuVGA, Note: "Absent follows ostype."},
		{Key: "watchdog", Value: qemuWatchdog},
	})
}

func qemuDevices() []Form {
	return []Form{
		{Key: "hostpci[n]", Class: Benign, Effect: Restart, Privilege: privHWType, Last: 15, Value: qemuPCI, ClassOf: deviceClass, EffectOf: deviceEffect(Restart), PrivilegeOf: devicePrivilege, RefuseOf: deviceRefusal, Note: "A mapping needs Mapping.Use; a real device is for root@pam and never written."},
		{Key: "net[n]", Last: 31, Value: qemuNet, Class: Benign, Effect: Restart, EffectOf: ifHotplug("network"), Privilege: privBridge, Note: "SDN.Use on the old and the new bridge. PVE makes a new MAC where none is sent. Live if hotplug has network."},
		{Key: "serial[n]", Class: Benign, Effect: Restart, Privilege: privHWType, Last: 3, Value: serialPort, ClassOf: deviceClass, EffectOf: deviceEffect(Restart), PrivilegeOf: devicePrivilege, RefuseOf: deviceRefusal, Note: "A real port is for root@pam and never written."},
		{Key: "usb[n]", Class: Benign, Effect: Restart, Privilege: privHWType, Last: 13, Value: qemuUSB, ClassOf: deviceClass, EffectOf: deviceEffect(""), PrivilegeOf: devicePrivilege, RefuseOf: deviceRefusal, Note: "A mapping needs Mapping.Use; a real device is for root@pam and never written. Live if hotplug has usb and the guest is Linux or Windows 8 and later."},
		{Key: "virtiofs[n]", Last: 9, Value: qemuVirtioFS, Class: Benign, Effect: Restart, Privilege: "VM.Config.Disk, Mapping.Use", Since: 8},
	}
}

// deviceEffect: eff for what a token may write; "" stands for what USB does.
func deviceEffect(eff Effect) func(Edit) Effect {
	return func(e Edit) Effect {
		switch {
		case touchesDevice(e):
			return NeedsRoot
		case eff == "":
			return usbEffect(e)
		}
		return eff
	}
}

func qemuCloudInit() []Form {
	forms := []Form{
		{Key: "cicustom", Value: qemuCICustom},
		{Key: "cipassword", Value: Text{What: "password"}, Secret: true, RefuseOf: secretRefusal, Note: "PVE gives back stars: it is sent only where the document's value changed."},
		{Key: "citype", Value: Enum{"configdrive2", "nocloud", "opennebula"}, Note: "Absent follows ostype."},
		{Key: "ciupgrade", Value: Bool{}, Default: "1"},
		{Key: "ciuser", Value: Text{Trim: true}},
		{Key: "ipconfig[n]", Last: 31, Value: qemuIPConfig},
		{Key: "nameserver", Value: List{Item: Text{}}, Note: "PVE takes any text."},
		{Key: "searchdomain", Value: List{Item: Text{}}, Note: "PVE takes any text."},
		{Key: "sshkeys", Value: SSHKeys{}},
	}
	for i := range forms {
		f := &forms[i]
		f.EffectOf = cloudInitEffect
		f.Note = strings.TrimSpace(f.Note + " With a cloud-init drive it waits until that is written anew.")
	}
	return with(privCloud, Live, forms)
}

func qemuVolumes() []Form {
	var forms []Form
	for _, d := range []struct {
		key  string
		last int
	}{{"efidisk0", 0}, {"ide[n]", 3}, {"sata[n]", 5}, {"scsi[n]", 30}, {"tpmstate0", 0}, {"virtio[n]", 15}} {
		base := strings.TrimSuffix(strings.TrimSuffix(d.key, "[n]"), "0")
		forms = append(forms, Form{
			Key: d.key, Last: d.last, Value: qemuDrives[base], Class: Irreversible, Effect: Restart, Privilege: privDisk,
			ClassOf: volumeClass, EffectOf: volumeEffect, PrivilegeOf: volumePrivilege, RefuseOf: qemuDriveRefusal,
			Note: driveNote(base),
		})
	}
	return append(forms,
		Form{Key: "boot", Value: qemuBoot, Class: Benign, Effect: Restart, Privilege: privDisk, RefuseOf: bootRefusal, Note: "PVE adds a new CD-ROM to it and takes out a deleted drive."},
		Form{Key: "bootdisk", Value: bootDisk, Class: Benign, Effect: Restart, Privilege: privDisk, Note: "Superseded by boot."},
		Form{Key: "unused[n]", Last: 255, Value: qemuUnused, Class: Irreversible, Effect: Live, EffectOf: unusedEffect, Privilege: privDisk, PrivilegeOf: unusedPrivilege, RefuseOf: unusedRefusal, Note: "Deleting it destroys the volume."},
		Form{Key: "vmstatestorage", Value: storageID, Class: Benign, Effect: Live, Privilege: "VM.Config.Disk, Datastore.AllocateSpace"},
	)
}

func driveNote(bus string) string {
	note := "A new volume is additive and needs Datastore.AllocateSpace; every other change is irreversible."
	switch bus {
	case "efidisk", "tpmstate":
		return note
	case "scsi", "virtio":
		note += " Plugged at once if hotplug has disk; limits, backup and serial are live."
	}
	return note + " A CD-ROM holds no data: benign, VM.Config.CDROM, a new medium is live. Deleting a boot disk needs a stop."
}

func qemuNever() []Form {
	forms := []Form{
		{Key: "affinity", Value: Text{}},
		{Key: "amd-sev", Value: Text{}},
		{Key: "arch", Value: Enum{"x86_64", "aarch64"}},
		{Key: "args", Value: Text{Trim: true}},
		{Key: "hookscript", Value: volumeID, Note: "PVE refuses it to every token, root's included"},
		{Key: "hugepages", Value: Enum{"any", "2", "1024"}},
		{Key: "intel-tdx", Value: Text{}, Since: 9},
		{Key: "ivshmem", Value: Text{}},
		{Key: "keephugepages", Value: Bool{}, Default: "0"},
		{Key: "lock", Value: qemuLock, Note: "a lock is PVE's own"},
		{Key: "parallel[n]", Last: 2, Value: parallelPort},
		{Key: "skiplock", Value: Bool{}, Note: "a parameter of the request, no config key"},
		{Key: "spice_enhancements", Value: Text{}},
		{Key: "vmgenid", Value: Text{Pattern: genID, Want: "a UUID, 0 or 1", Fold: true}, Note: "PVE gives a new one on rollback and clone, and leaves it to root@pam otherwise"},
	}
	for i := range forms {
		f := &forms[i]
		f.Class, f.Effect, f.Privilege = Never, NeedsRoot, rootOnly
		if f.Note == "" {
			f.Note = "PVE leaves it to root@pam"
		}
		if v, ok := f.Value.(Text); ok && v.Pattern == nil {
			f.AsText = true
		}
	}
	return forms
}

// qemuRequest are more parameters of the write, and other names of keys.
func qemuRequest() []Form {
	forms := []Form{
		{Key: "background_delay", Note: "a parameter of the request, no config key"},
		{Key: "cdrom", Privilege: "VM.Config.CDROM", Note: "another name of ide2, under which PVE stores it"},
		{Key: "force", Note: "a parameter of the request, no config key"},
		{Key: "import-working-storage", Note: "a parameter of the request, no config key"},
		{Key: "smp", Privilege: privCPU, Note: "superseded by sockets"},
		{Key: "template", Privilege: privOptions, Effect: Restart, Note: "a state, not a setting; it cannot be undone"},
	}
	for i := range forms {
		forms[i].Value, forms[i].AsText, forms[i].Class = Text{}, true, Never
	}
	return forms
}

var qemuLock = Enum{"backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending", "suspended"}

var (
	genID      = regexp.MustCompile(`^([a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}|[01])$`)
	startDate  = Text{What: "date", Want: "now, 2026-01-31 or 2026-01-31T12:00:00", Pattern: regexp.MustCompile(`^(now|\d{4}-\d{1,2}-\d{1,2}(T\d{1,2}:\d{1,2}:\d{1,2})?)$`)}
	serialPort = Text{What: "port", Want: "socket (or a path below /dev, for root@pam)", Pattern: regexp.MustCompile(`^(/dev/.+|socket)$`)}
	bootDisk   = Text{What: "drive", Want: "a drive like scsi0", Pattern: regexp.MustCompile(`^(ide|sata|scsi|virtio)\d+$`)}

	parallelPort = Text{What: "port", Want: "a path below /dev", Pattern: regexp.MustCompile(`^/dev/(parport\d+|usb/lp\d+)$`)}
)
