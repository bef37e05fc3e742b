// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// baseDrive are the properties that every disk has.
var baseDrive = slices.Concat([]prop{
	{name: "file", rule: formatted(driveFile), required: true, bare: true},
	{name: "volume", alias: "file"},
	{name: "media", rule: oneOf("cdrom", "disk")},
	{name: "cyls", rule: integer(), until: 8},
	{name: "heads", rule: integer(), until: 8},
	{name: "secs", rule: integer(), until: 8},
	{name: "trans", rule: oneOf("none", "lba", "auto"), until: 8},
	{name: "snapshot", rule: boolean()},
	{name: "cache", rule: oneOf("none", "writethrough", "writeback", "unsafe", "directsync")},
	{name: "format", rule: oneOf("raw", "qcow", "qed", "qcow2", "vmdk", "cloop")},
	{name: "size", rule: formatted(diskSize), size: true},
	{name: "backup", rule: boolean()},
	{name: "replicate", rule: boolean()},
	{name: "rerror", rule: oneOf("ignore", "report", "stop")},
	{name: "werror", rule: oneOf("enospc", "ignore", "report", "stop")},
	{name: "aio", rule: oneOf("native", "threads", "io_uring")},
	{name: "discard", rule: oneOf("ignore", "on")},
	{name: "detect_zeroes", rule: boolean()},
	{name: "serial", rule: formatted(urlEncoded).upTo(60)},
	{name: "shared", rule: boolean()},
	{name: "bps_rd_length", alias: "bps_rd_max_length"},
	{name: "bps_wr_length", alias: "bps_wr_max_length"},
	{name: "iops_rd_length", alias: "iops_rd_max_length"},
	{name: "iops_wr_length", alias: "iops_wr_max_length"},
}, throttles())

// throttles are the limits of throughput and operations.
func throttles() []prop {
	var out []prop
	for _, dir := range []string{"", "_rd", "_wr"} {
		out = append(out,
			prop{name: "bps" + dir, rule: integer()},
			prop{name: "mbps" + dir, rule: decimal()},
			prop{name: "mbps" + dir + "_max", rule: decimal()},
			prop{name: "bps" + dir + "_max_length", rule: integer(1)},
			prop{name: "iops" + dir, rule: integer()},
			prop{name: "iops" + dir + "_max", rule: integer()},
			prop{name: "iops" + dir + "_max_length", rule: integer(1)},
		)
	}
	return out
}

var (
	iothreadProp = prop{name: "iothread", rule: boolean()}
	productProp  = prop{name: "product", rule: matching(`[A-Za-z0-9\-_\s]{0,16}`)}
	vendorProp   = prop{name: "vendor", rule: matching(`[A-Za-z0-9\-_\s]{0,8}`)}
	modelProp    = prop{name: "model", rule: formatted(urlEncoded).upTo(120)}
	queuesProp   = prop{name: "queues", rule: integer(2)}
	roProp       = prop{name: "ro", rule: boolean()}
	scsiBlock    = prop{name: "scsiblock", rule: boolean()}
	ssdProp      = prop{name: "ssd", rule: boolean()}
	wwnProp      = prop{name: "wwn", rule: matching(`0x[0-9a-fA-F]{16}`)}
	importProp   = prop{name: "import-from", rule: formatted(volumeOrPath)}
	efiTypes     = []prop{
		{name: "efitype", rule: oneOf("2m", "4m")},
		{name: "pre-enrolled-keys", rule: boolean()},
		{name: "ms-cert", rule: oneOf("2011", "2023", "2023w", "2023k")},
	}
	tpmVersion = prop{name: "version", rule: oneOf("v1.2", "v2.0")}
	sizedFile  = []prop{
		{name: "file", rule: formatted(driveFile), required: true, bare: true},
		{name: "volume", alias: "file"},
		{name: "size", rule: formatted(diskSize), size: true},
	}
)

var (
	baseDriveProps  = newProps(append(baseDrive, importProp)...)
	ideProps        = baseDriveProps.with(modelProp, ssdProp, wwnProp)
	sataProps       = baseDriveProps.with(ssdProp, wwnProp)
	scsiProps       = baseDriveProps.with(iothreadProp, productProp, queuesProp, roProp, scsiBlock, ssdProp, vendorProp, wwnProp)
	virtioProps     = baseDriveProps.with(iothreadProp, roProp)
	efiProps        = newProps(slices.Concat(sizedFile, efiTypes)...).with(*baseDriveProps.index["format"], importProp)
	tpmProps        = newProps(sizedFile...).with(tpmVersion, importProp, prop{name: "format", rule: oneOf("raw", "qcow2", "vmdk"), since: 9})
	qemuUnusedProps = newProps(
		prop{name: "file", rule: formatted(volumeID), required: true, bare: true},
		prop{name: "volume", alias: "file"},
	)
	// anyDriveProps are all of them, for printing.
	anyDriveProps = baseDriveProps.with(slices.Concat(efiTypes, []prop{
		iothreadProp, modelProp, productProp,
		queuesProp, roProp, scsiBlock, ssdProp, vendorProp, wwnProp, tpmVersion,
	})...)
)

// driveFile takes "none", "cdrom", an absolute path or a volume id.
func driveFile(s string) error {
	if s == "none" || s == "cdrom" {
		return nil
	}
	return volumeOrPath(s)
}

func volumeOrPath(s string) error {
	if strings.HasPrefix(s, "/") {
		return nil
	}
	return volumeID(s)
}

// isDrive reports whether a key is a disk of any kind, unused ones aside.
func isDrive(name string) bool {
	return isPlainDrive(name) || name == "efidisk0" || name == "tpmstate0"
}

// isPlainDrive reports whether a key is a disk on one of the four buses.
func isPlainDrive(name string) bool {
	family, _, ok := indexOf(name)
	switch family {
	case "ide", "sata", "scsi", "virtio":
		return ok && qemuKeys[name] != nil
	}
	return false
}

var errDrive = errors.New("unable to parse drive options")

// parseDrive parses a disk and refuses combinations PVE does not take.
func parseDrive(name, value string) (values, error) {
	k := qemuKeys[name]
	if k == nil || k.props == nil {
		return nil, errDrive
	}
	d, err := k.props.parse("", value)
	if err != nil {
		return nil, err
	}
	if !throttleOK(d) || !cdromOK(name, d) {
		return nil, errDrive
	}
	return d, nil
}

// needed lists the limits that go only with another one.
var needed = [][2]string{
	{"mbps_max", "mbps"},
	{"mbps_rd_max", "mbps_rd"},
	{"mbps_wr_max", "mbps_wr"},
	{"bps_max_length", "mbps_max"},
	{"bps_rd_max_length", "mbps_rd_max"},
	{"bps_wr_max_length", "mbps_wr_max"},
	{"iops_max_length", "iops_max"},
	{"iops_rd_max_length", "iops_rd_max"},
	{"iops_wr_max_length", "iops_wr_max"},
}

func throttleOK(d values) bool {
	for _, opt := range []string{"bps", "bps_rd", "bps_wr"} {
		if _, ok := d[opt]; !ok {
			continue
		}
		if _, both := d["m"+opt]; both {
			return false
		}
		delete(d, opt)
		d["m"+opt] = "0.000" // PVE divides the fact that it is set, not its value
	}
	for _, n := range needed {
		if truthy(d[n[0]]) && !truthy(d[n[1]]) {
			return false
		}
	}
	for _, unit := range []string{"mbps", "iops"} {
		if truthy(d[unit]) && (truthy(d[unit+"_rd"]) || truthy(d[unit+"_wr"])) {
			return false
		}
	}
	return true
}

func cdromOK(name string, d values) bool {
	if d["media"] != "cdrom" {
		return true
	}
	for _, opt := range []string{"snapshot", "trans", "format", "heads", "secs", "cyls"} {
		if truthy(d[opt]) {
			return false
		}
	}
	return !inFamily(name, "virtio")
}

// truthy is what Perl takes for true.
func truthy(s string) bool { return s != "" && s != "0" }

func printDrive(d values) string { return anyDriveProps.print(d) }

var cloudInitRE = regexp.MustCompile(`[:/](?:vm-[0-9]+-)?cloudinit(?:\.(?:raw|qcow|qcow2|qed|vmdk|cloop))?$`)

func isCloudInit(d values) bool { return cloudInitRE.MatchString(d["file"]) }

func isCDROM(d values) bool { return d["media"] == "cdrom" }

// cloudInitDrive names the key of the current config that holds the
// cloud-init drive, "" if there is none.
func (g *Guest) cloudInitDrive() string { return cloudInitOf(g.Current, "") }

func cloudInitOf(s Section, skip string) string {
	for _, k := range sortedKeys(s.Values) {
		if k == skip || !isDrive(k) || !strings.Contains(s.Values[k], "cloudinit") {
			continue
		}
		if d, err := parseDrive(k, s.Values[k]); err == nil && isCloudInit(d) {
			return k
		}
	}
	return ""
}

// fileToVolume completes the bare file names of old config files.
func fileToVolume(vmid guest.VMID, file, media string) (string, bool) {
	if file == "none" || file == "cdrom" || strings.HasPrefix(file, "/dev/") && len(file) > len("/dev/") || strings.Index(file, ":") > 0 {
		return file, true
	}
	if strings.Contains(file, "/") {
		return "", false
	}
	if media == "cdrom" {
		return "local:iso/" + file, true
	}
	return "local:" + vmid.String() + "/" + file, true
}
