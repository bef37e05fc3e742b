// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Evidence is what in a guest's config tells it from another that has had, or
// will have, the same VMID. The zero Evidence means that no config was read.
// It is a value: nobody changes the maps of one that exists.
type Evidence struct {
	Kind guest.Kind `json:"kind"`
	// UUID is a VM's SMBIOS uuid, in lower case.
	UUID string `json:"uuid,omitempty"`
	// CTime is when a VM was made, as `meta` has it: Unix seconds.
	CTime string `json:"ctime,omitempty"`
	// Addresses are the hardware addresses by config key, in upper case.
	Addresses map[string]string `json:"addresses,omitempty"`
	// Volumes are the volume ids by config key, unused ones included.
	Volumes map[string]string `json:"volumes,omitempty"`
}

// IsZero reports whether nothing was read.
func (e Evidence) IsZero() bool { return e.Kind == "" }

// Equal reports whether both say the same, to the key: whether there is
// anything new to record.
func (e Evidence) Equal(o Evidence) bool {
	return e.Kind == o.Kind && e.UUID == o.UUID && e.CTime == o.CTime &&
		maps.Equal(e.Addresses, o.Addresses) && maps.Equal(e.Volumes, o.Volumes)
}

// Of is the evidence in a config. A nil or empty config is one that was not
// read: PVE has no empty ones, but for the moment in which it makes a guest.
func Of(kind guest.Kind, config guest.Config) Evidence {
	if len(config) == 0 {
		return Evidence{}
	}
	e := Evidence{Kind: kind}
	if kind == guest.QEMU {
		e.UUID = wanted(uuidPattern, strings.ToLower(part(config["smbios1"], "uuid")))
		e.CTime = wanted(ctimePattern, part(config["meta"], "ctime"))
	}
	for key, value := range config {
		switch {
		case isNet(key):
			e.Addresses = with(e.Addresses, key, address(value))
		case isVolume(kind, key):
			e.Volumes = with(e.Volumes, key, volume(value))
		}
	}
	return e
}

// What is taken as evidence. All else is none, whoever wrote it: a plugin's
// word goes into the journal, so it is bounded here.
var (
	uuidPattern    = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	ctimePattern   = regexp.MustCompile(`^[0-9]{1,20}$`)
	addressPattern = regexp.MustCompile(`^[0-9A-F]{2}(:[0-9A-F]{2}){5}$`)
	volumePattern  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*:[!-~]{1,400}$`)
	orderPattern   = regexp.MustCompile(`^[^:]*:[0-9.]+$`)

	netKey        = regexp.MustCompile(`^net[0-9]{1,3}$`)
	lxcVolumeKey  = regexp.MustCompile(`^(rootfs|(mp|unused)[0-9]{1,3})$`)
	qemuVolumeKey = regexp.MustCompile(`^(ide|sata|scsi|virtio|efidisk|tpmstate|unused)[0-9]{1,3}$`)
)

func isNet(key string) bool { return netKey.MatchString(key) }

func isVolume(kind guest.Kind, key string) bool {
	if kind == guest.LXC {
		return lxcVolumeKey.MatchString(key)
	}
	return kind == guest.QEMU && qemuVolumeKey.MatchString(key)
}

// wanted is s if it has that form, else "".
func wanted(form *regexp.Regexp, s string) string {
	if form.MatchString(s) {
		return s
	}
	return ""
}

func with(m map[string]string, key, value string) map[string]string {
	if value == "" {
		return m
	}
	if m == nil {
		m = make(map[string]string)
	}
	m[key] = value
	return m
}

// part is the value of a named part of a property string, "" if there is none.
func part(s, name string) string {
	for p := range strings.SplitSeq(s, ",") {
		if n, v, _ := strings.Cut(p, "="); n == name {
			return v
		}
	}
	return ""
}

// address is the hardware address in a netN: "hwaddr=MAC" of a container,
// "virtio=MAC" or "macaddr=MAC" of a VM. No other part looks like one.
func address(s string) string {
	for p := range strings.SplitSeq(s, ",") {
		_, v, _ := strings.Cut(p, "=")
		if mac := wanted(addressPattern, strings.ToUpper(v)); mac != "" {
			return mac
		}
	}
	return ""
}

// volume is the volume id in a key that holds one. A path of the host, a disc
// in a CD-ROM drive and a cloud-init drive are none: their names are no
// guest's own, or follow from the VMID.
func volume(s string) string {
	var id string
	for i, p := range slices.Collect(strings.SplitSeq(s, ",")) {
		name, v, named := strings.Cut(p, "=")
		switch {
		case !named && i == 0:
			id = p
		case name == "file" || name == "volume":
			id = v
		case p == "media=cdrom":
			return ""
		}
	}
	if strings.Contains(id, "cloudinit") || orderPattern.MatchString(id) {
		return ""
	}
	return wanted(volumePattern, id)
}
