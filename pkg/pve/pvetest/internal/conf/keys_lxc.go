// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"strings"
)

// Privileges on a guest that config keys need.
const (
	privDisk      = "VM.Config.Disk"
	privCDROM     = "VM.Config.CDROM"
	privCPU       = "VM.Config.CPU"
	privMemory    = "VM.Config.Memory"
	privNetwork   = "VM.Config.Network"
	privHWType    = "VM.Config.HWType"
	privOptions   = "VM.Config.Options"
	privCloudinit = "VM.Config.Cloudinit"
	privPower     = "VM.PowerMgmt"
	privAllocate  = "VM.Allocate"
)

const (
	idChars        = `[-_.a-zA-Z0-9]+`
	mountOptions   = `(discard|lazytime|noatime|nodev|noexec|nosuid)`
	plainText9     = `[^\x00-\x08\x0a-\x1f\x7f]`
	lxcMountPoints = 256
)

var rootfsProps = newProps(
	prop{name: "volume", rule: formatted(mountPath), required: true, bare: true},
	prop{name: "size", rule: formatted(diskSize), size: true},
	prop{name: "acl", rule: boolean()},
	prop{name: "mountoptions", rule: matching(mountOptions + `(;` + mountOptions + `)*`)},
	prop{name: "ro", rule: boolean()},
	prop{name: "quota", rule: boolean()},
	prop{name: "replicate", rule: boolean()},
	prop{name: "shared", rule: boolean()},
	prop{name: "idmap", rule: matching(`passthrough|` + idmapEntry + `(;` + idmapEntry + `)*`), since: 9},
)

const idmapEntry = `[ug]:[0-9]+:[0-9]+:[1-9][0-9]*`

var mpProps = rootfsProps.with(
	prop{name: "backup", rule: boolean()},
	prop{name: "mp", rule: formatted(mountPath), required: true},
	prop{name: "keepattrs", rule: boolean(), since: 9},
)

var unusedProps = newProps(
	prop{name: "volume", rule: formatted(volumeID), required: true, bare: true},
)

var lxcNetProps = newProps(
	prop{name: "type", rule: oneOf("veth")},
	prop{name: "name", rule: matching(idChars), required: true},
	prop{name: "bridge", rule: matching(idChars)},
	prop{name: "hwaddr", rule: formatted(macAddress)},
	prop{name: "mtu", rule: integer(64, 65535)},
	prop{name: "ip", rule: formatted(ipv4Config)},
	prop{name: "gw", rule: formatted(ipv4)},
	prop{name: "ip6", rule: formatted(ipv6Config)},
	prop{name: "gw6", rule: formatted(ipv6)},
	prop{name: "firewall", rule: boolean()},
	prop{name: "tag", rule: integer(1, 4094)},
	prop{name: "trunks", rule: matching(`[0-9]+(;[0-9]+)*`)},
	prop{name: "rate", rule: decimal()},
	prop{name: "link_down", rule: boolean()},
	prop{name: "host-managed", rule: boolean(), since: 9},
)

var featureProps = newProps(
	prop{name: "mount", rule: matching(`[a-zA-Z0-9_; ]+`)},
	prop{name: "nesting", rule: boolean()},
	prop{name: "keyctl", rule: boolean()},
	prop{name: "fuse", rule: boolean()},
	prop{name: "mknod", rule: boolean()},
	prop{name: "force_rw_sys", rule: boolean()},
)

var devProps = newProps(
	prop{name: "path", rule: formatted(devicePath), bare: true},
	prop{name: "mode", rule: matching(`0[0-7]{3}`)},
	prop{name: "uid", rule: integer(0)},
	prop{name: "gid", rule: integer(0)},
	prop{name: "deny-write", rule: boolean()},
)

// lxcRows are a container's keys.
var lxcRows = []key{
	{name: "lock", rule: oneOf("backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback", "snapshot", "snapshot-delete"), fast: true},
	{name: "onboot", rule: boolean(), fast: true},
	{name: "startup", rule: formatted(startupOrder), fast: true},
	{name: "template", rule: boolean()},
	{name: "arch", rule: oneOf("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64")},
	{name: "ostype", rule: oneOf("debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine", "gentoo", "nixos", "unmanaged")},
	{name: "console", rule: boolean()},
	{name: "tty", rule: integer(0, 6)},
	{name: "cores", rule: integer(1, 8192), priv: privCPU, fast: true},
	{name: "cpulimit", rule: decimal(0, 8192), priv: privCPU},
	{name: "cpuunits", rule: integer(0, 500000), priv: privCPU},
	{name: "memory", rule: integer(16), priv: privMemory},
	{name: "swap", rule: integer(0), priv: privMemory},
	{name: "hostname", rule: formatted(dnsName).upTo(255), priv: privNetwork, fast: true},
	{name: "description", rule: text().upTo(8192), fast: true},
	{name: "searchdomain", rule: formatted(listOf(dnsName)), priv: privNetwork},
	{name: "nameserver", rule: formatted(listOf(ipWithInterface)), priv: privNetwork},
	{name: "timezone", rule: formatted(ctTimezone)},
	{name: "rootfs", rule: propString(rootfsProps), priv: privDisk},
	{name: "parent", rule: formatted(configID).upTo(40), internal: true},
	{name: "snaptime", rule: integer(0), internal: true},
	{name: "cmode", rule: oneOf("shell", "console", "tty")},
	{name: "protection", rule: boolean(), fast: true},
	{name: "unprivileged", rule: boolean()},
	{name: "features", rule: propString(featureProps)},
	{name: "hookscript", rule: formatted(volumeID), fast: true},
	{name: "tags", rule: formatted(listOf(tagName)), fast: true},
	{name: "debug", rule: boolean()},
	{name: "entrypoint", rule: matching(plainText9 + `+`), since: 9},
	{name: "env", rule: matching(envEntry + `(\x00` + envEntry + `)*`), since: 9},
	{name: "net", count: 32, rule: propString(lxcNetProps), priv: privNetwork},
	{name: "mp", count: lxcMountPoints, rule: propString(mpProps), priv: privDisk},
	{name: "unused", count: lxcMountPoints, rule: propString(unusedProps)},
	{name: "dev", count: 256, rule: propString(devProps)},
}

const envEntry = `[a-zA-Z0-9_]+=` + plainText9 + `*`

// mountPath takes everything but "." and ".." as a part of the path.
func mountPath(s string) error {
	if hasDotPart(s, true) {
		return errors.New(s + " contains illegal character sequences")
	}
	return nil
}

// devicePath takes a path below /dev.
func devicePath(s string) error {
	if hasDotPart(s, false) || !strings.HasPrefix(s, "/dev/") {
		return errors.New(s + " is not a valid device path")
	}
	return nil
}

// hasDotPart looks for /./, /../ and both at the end; leading counts "../" at
// the start too.
func hasDotPart(s string, leading bool) bool {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		if i > 0 && (p == "." || p == "..") {
			return true
		}
	}
	return leading && len(parts) > 1 && parts[0] == ".."
}

// readLXC is what PVE makes of a value in a container's file: a value it
// cannot take is kept as it stands.
func readLXC(name, value string) string {
	if k := lxcKeys[name]; k != nil {
		if v, ok := k.readValue(value); ok {
			return v
		}
	}
	return value
}

// rawKeys are the lxc.* keys a config may hold besides whole families.
var rawKeys = makeSet(`apparmor.profile apparmor.allow_incomplete apparmor.allow_nesting apparmor.raw
	selinux.context include arch uts.name signal.halt signal.reboot signal.stop init.cmd init.cwd init.uid
	init.gid init.groups pty.max console.logfile console.path tty.max devtty.dir hook.autodev autodev kmsg
	mount.fstab mount.entry mount.auto rootfs.mount cap.drop cap.keep seccomp.profile seccomp.notify.proxy
	seccomp.notify.cookie idmap hook.pre-start hook.pre-mount hook.mount hook.start hook.stop hook.post-stop
	hook.clone hook.destroy hook.version log.level log.file start.auto start.delay start.order group
	environment environment.runtime environment.hooks sysctl.fs.mqueue sysctl.kernel.msgmax
	sysctl.kernel.msgmnb sysctl.kernel.msgmni sysctl.kernel.sem sysctl.kernel.shmall sysctl.kernel.shmmax
	sysctl.kernel.shmmni sysctl.kernel.shm_rmid_forced
	aa_profile aa_allow_incomplete console devttydir haltsignal rebootsignal stopsignal id_map init_cmd
	loglevel logfile mount network.type network.flags network.link network.mtu network.name network.hwaddr
	network.ipv4 network.ipv4.gateway network.ipv6 network.ipv6.gateway network.script.up
	network.script.down pts se_context seccomp tty utsname`)

func makeSet(words string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// validRawKey reports whether PVE keeps a line with this lxc.* key.
func validRawKey(name string) bool {
	name = strings.TrimPrefix(name, "lxc.")
	for _, family := range []string{"cgroup.", "cgroup2.", "prlimit.", "limit.", "net."} {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return rawKeys[name]
}
