// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"regexp"
	"slices"
)

// The privileges that keys need, and who alone may write the rest.
const (
	privCPU     = "VM.Config.CPU"
	privMemory  = "VM.Config.Memory"
	privNetwork = "VM.Config.Network"
	privOptions = "VM.Config.Options"
	privHWType  = "VM.Config.HWType"
	privDisk    = "VM.Config.Disk"
	privBridge  = "VM.Config.Network, SDN.Use"
	privCloud   = "VM.Config.Cloudinit|VM.Config.Network"
	rootOnly    = "root@pam"
)

// lxcForms are the rows of a container's config.
func lxcForms() []Form {
	forms := append(lxcResources(), lxcOptions()...)
	forms = append(forms, lxcNetwork()...)
	forms = append(forms, lxcVolumes()...)
	forms = append(forms, lxcNever()...)
	return forKind(LXC, append(forms, requestForms()...))
}

func forKind(kind Kind, forms []Form) []Form {
	for i := range forms {
		forms[i].Kind = kind
	}
	return forms
}

func lxcResources() []Form {
	return []Form{
		{
			Key: "cores", Value: Int{1, 8192}, Class: Benign, Effect: Live, Privilege: privCPU,
			Note: "Absent means all cores of the node.",
		},
		{
			Key: "cpulimit", Value: Number{0, 8192}, Unit: "cores", Default: "0", Class: Benign, Effect: Live,
			Privilege: privCPU, ByDelete: true,
			Note: "0 is no limit; a running container cannot be given 0, so the key is deleted.",
		},
		{
			Key: "cpuunits", Value: Shares{Int{0, 500000}}, Class: Benign, Effect: Live, Privilege: privCPU,
			Note: "Absent is 100 with cgroup v2 and 1024 with v1.",
		},
		{
			Key: "memory", Value: Int{16, noMax}, Unit: "MiB", Default: "512", Class: Benign, Effect: Live,
			Privilege: privMemory, RefuseOf: refuseDelete,
			Note: "Cannot be deleted. Less than is in use makes the kernel reclaim or kill inside.",
		},
		{
			Key: "swap", Value: Int{0, noMax}, Unit: "MiB", Default: "0", Class: Benign, Effect: Live, Privilege: privMemory,
			Note: "Absent is 0 at run time, although create writes 512.",
		},
	}
}

func lxcOptions() []Form {
	forms := []Form{
		{Key: "description", Value: Description{}, Effect: Live, Note: "PVE gives it back with a newline at its end."},
		{Key: "tags", Value: tags, Effect: Live, Note: "The datacenter may reserve tags: those need Sys.Modify on /."},
		{Key: "onboot", Value: Bool{}, Default: "0", Effect: Live},
		{Key: "startup", Value: startup, Effect: Live, Note: "Kept as it was spelled: 5 and order=5 are the same."},
		{Key: "protection", Value: Bool{}, Default: "0", Effect: Live, ClassOf: protectionClass, Note: "1 to 0 is irreversible: it is what stands between a guest and its end."},
		{Key: "arch", Value: Enum{"amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"}, Default: "amd64", Effect: Restart, RefuseOf: refuseDelete, Note: "Deleting it breaks the container."},
		{Key: "cmode", Value: Enum{"shell", "console", "tty"}, Default: "tty", Effect: Restart},
		{Key: "console", Value: Bool{}, Default: "1", Effect: Restart},
		{Key: "debug", Value: Bool{}, Default: "0", Effect: Restart},
		{Key: "entrypoint", Value: entrypoint, Default: "/sbin/init", Effect: Restart, Since: 9},
		{Key: "env", Value: Env{}, Secret: true, Effect: Restart, Since: 9, Note: "May hold passwords; PVE shows it only to whoever has VM.Config.Options."},
		{Key: "ostype", Value: Enum{"debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine", "gentoo", "nixos", "unmanaged"}, Effect: Restart, RefuseOf: refuseDelete, Note: "Cannot be deleted. unmanaged: PVE writes no file inside."},
		{Key: "timezone", Value: timezone, Effect: Restart, Note: "Which zones there are, the node decides."},
		{Key: "tty", Value: Int{0, 6}, Default: "2", Effect: Restart},
	}
	for i := range forms {
		forms[i].Class, forms[i].Privilege = Benign, privOptions
	}
	return append(forms, Form{
		Key: "features", Value: lxcFeatures, Class: Benign, Effect: Restart, Privilege: "VM.Allocate",
		ClassOf: featuresClass, EffectOf: featuresEffect, PrivilegeOf: featuresPrivilege, RefuseOf: featuresRefusal,
		Note: "A token may change nesting of an unprivileged container; all else is for root@pam.",
	})
}

func lxcNetwork() []Form {
	return []Form{
		{
			Key: "hostname", Value: dnsName, Class: Benign, Effect: Live, Privilege: privNetwork, RefuseOf: refuseLongName,
			Note: "Inside from the next start on. More than 64 characters make a running container's stop hang.",
		},
		{Key: "nameserver", Value: List{Item: Addr{V4: true, V6: true, Zone: true}}, Class: Benign, Effect: Restart, Privilege: privNetwork, Note: "Absent, without searchdomain too: those of the node."},
		{Key: "searchdomain", Value: List{Item: dnsName}, Class: Benign, Effect: Restart, Privilege: privNetwork},
		{
			Key: "net[n]", Last: 31, Value: lxcNet, Class: Benign, Effect: Live, EffectOf: lxcNetEffect, Privilege: privBridge, RefuseOf: nameTaken,
			Note: "SDN.Use on the old and the new bridge. PVE makes a new MAC where none is sent. Deleting net10 and up waits for a restart.",
		},
	}
}

func lxcVolumes() []Form {
	return []Form{
		{Key: "rootfs", Value: lxcRootfs, Class: Irreversible, Effect: Restart, Privilege: privDisk, ClassOf: volumeClass, EffectOf: volumeEffect, PrivilegeOf: volumePrivilege, RefuseOf: lxcVolumeRefusal, Note: "An order like local:8 is taken by create only; PUT would store it literally and break the container."},
		{Key: "mp[n]", Last: 255, Value: lxcMP, Class: Irreversible, Effect: Restart, Privilege: privDisk, ClassOf: volumeClass, EffectOf: volumeEffect, PrivilegeOf: volumePrivilege, RefuseOf: lxcVolumeRefusal, Note: "A new volume is additive, mounted at once and needs Datastore.AllocateSpace; every other change is irreversible. A path of the host is for root@pam and never written."},
		{Key: "unused[n]", Last: 255, Value: lxcUnused, Class: Irreversible, Effect: Live, EffectOf: unusedEffect, Privilege: privOptions, RefuseOf: unusedRefusal, Note: "Deleting it destroys the volume, for which PVE asks no more than that."},
	}
}

func lxcNever() []Form {
	return []Form{
		{Key: "dev[n]", Last: 255, Value: lxcDevice, Class: Never, Effect: NeedsRoot, Privilege: rootOnly, Note: "device passthrough is for root@pam alone"},
		{Key: "hookscript", Value: volumeID, Class: Never, Effect: NeedsRoot, Privilege: rootOnly, Note: "PVE refuses it to every token, root's included"},
		{Key: "lock", Value: lxcLock, Class: Never, Privilege: privOptions, Note: "a lock is PVE's own; through the API nobody could take it off a container again"},
		{Key: "template", Value: Bool{}, Default: "0", Class: Never, Effect: Restart, Privilege: privOptions, Note: "a state, not a setting; it cannot be undone"},
		{Key: "unprivileged", Value: Bool{}, Default: "0", Class: Never, Privilege: privOptions, Note: "PVE fixes it when the container is made"},
	}
}

// requestForms are the parameters of the write itself, which PVE lists among
// the config keys.
func requestForms() []Form {
	keys := []string{"delete", "digest", "node", "revert", "vmid"}
	forms := make([]Form, 0, len(keys))
	for _, key := range keys {
		forms = append(forms, Form{Key: key, Value: Text{}, AsText: true, Class: Never, Note: "a parameter of the request, no config key"})
	}
	return forms
}

var lxcLock = Enum{"backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback", "snapshot", "snapshot-delete"}

// startup is the boot order of both kinds.
var startup = Props{What: "startup order", Default: "order", Filled: true, Fields: []Field{
	{Name: "order", Value: Int{0, noMax}}, {Name: "up", Value: Int{0, noMax}}, {Name: "down", Value: Int{0, noMax}},
}}

var entrypoint = Text{
	What: "command line", Want: "a command without control characters",
	Pattern: regexp.MustCompile(`^[^\x00-\x08\x10-\x1f\x7f]+$`),
}

var lxcFeatures = Props{What: "features", Fields: []Field{
	{Name: "force_rw_sys", Value: flag, Default: "0"},
	{Name: "fuse", Value: flag, Default: "0"},
	{Name: "keyctl", Value: flag, Default: "0"},
	{Name: "mknod", Value: flag, Default: "0"},
	{Name: "mount", Value: List{Item: Text{}, Split: "; ", Set: true}},
	{Name: "nesting", Value: flag, Default: "0"},
}}

var lxcNet = Props{What: "network interface", Fields: []Field{
	{Name: "name", Value: Text{What: "name", Want: "a name", Pattern: regexp.MustCompile(`^[-_.\w]+$`)}, Required: true},
	{Name: "bridge", Value: bridge, Required: true},
	{Name: "firewall", Value: flag, Default: "0"},
	{Name: "gw", Value: Addr{V4: true}},
	{Name: "gw6", Value: Addr{V6: true, Zone: true}},
	{Name: "host-managed", Value: flag, Default: "0", Since: 9},
	{Name: "hwaddr", Value: mac, Generated: true},
	{Name: "ip", Value: Addr{V4: true, Prefix: true, Words: []string{"dhcp", "manual"}}},
	{Name: "ip6", Value: Addr{V6: true, Prefix: true, Words: []string{"auto", "dhcp", "manual"}}},
	{Name: "link_down", Value: flag, Default: "0"},
	{Name: "mtu", Value: Int{64, 65535}},
	{Name: "rate", Value: Number{0, noMax}},
	{Name: "tag", Value: Int{1, 4094}},
	{Name: "trunks", Value: List{Item: Int{1, 4094}, Split: ";", Set: true}},
	{Name: "type", Value: Enum{"veth"}, Default: "veth"},
}}

var lxcDevice = Props{What: "device", Default: "path", Fields: []Field{
	{Name: "path", Value: Text{What: "path", Want: "a path below /dev", Pattern: regexp.MustCompile(`^/dev/[^,]+$`)}, Required: true},
	{Name: "deny-write", Value: flag, Default: "0"},
	{Name: "gid", Value: Int{0, noMax}, Default: "0"},
	{Name: "mode", Value: Text{What: "mode", Want: "an octal mode like 0660", Pattern: regexp.MustCompile(`^0[0-7]{3}$`)}, Default: "0660"},
	{Name: "uid", Value: Int{0, noMax}, Default: "0"},
}}

var mountOption = Enum{"discard", "lazytime", "noatime", "nodev", "noexec", "nosuid"}

// The keys of a container that hold volumes, and the unused ones of both kinds.
var (
	lxcRootfs  = Props{What: "mount point", Default: "volume", Fields: mountFields}
	lxcMP      = Props{What: "mount point", Default: "volume", Fields: slices.Concat(mountPointFields, mountFields)}
	lxcUnused  = Props{What: "unused volume", Default: "volume", Fields: []Field{{Name: "volume", Value: Volume{}, Required: true}}}
	qemuUnused = Props{What: "unused volume", Default: "file", Fields: []Field{{Name: "file", Value: Volume{}, Required: true}, {Name: "volume", Alias: "file"}}}
)

var mountFields = []Field{
	{Name: "volume", Value: Volume{}, Required: true},
	{Name: "acl", Value: flag},
	{Name: "idmap", Value: Text{}, Since: 9},
	{Name: "mountoptions", Value: List{Item: mountOption, Split: ";", Set: true}},
	{Name: "quota", Value: flag, Default: "0"},
	{Name: "replicate", Value: flag, Default: "1"},
	{Name: "ro", Value: flag, Default: "0"},
	{Name: "shared", Value: flag, Default: "0"},
	{Name: "size", Value: Bytes{}, Ignored: true},
}

var mountPointFields = []Field{
	{Name: "mp", Value: Text{What: "path", Want: "a path inside", Pattern: regexp.MustCompile(`^/?[^,]+$`), Valid: noDots}, Required: true},
	{Name: "backup", Value: flag, Default: "0"},
	{Name: "keepattrs", Value: flag, Default: "0", Since: 9},
}
