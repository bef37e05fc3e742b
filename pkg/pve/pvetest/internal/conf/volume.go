// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

var (
	newDiskRE = regexp.MustCompile(`^([^:\s]+):([0-9]+(?:\.[0-9]+)?)$`)
	volumeRE  = regexp.MustCompile(`(?i)^([a-z][a-z0-9\-_.]*[a-z0-9]):(.+)$`)
	dirVolRE  = regexp.MustCompile(`^(?:([0-9]+)/(\S+)/)?([0-9]+)/(\S+)$`)
	plainVol  = regexp.MustCompile(`^(?:(?:base|basevol)-[0-9]+-\S+/)?((?:vm|base|subvol|basevol)-([0-9]+)-\S+)$`)
)

// splitVolume takes a volume id apart into storage and name.
func splitVolume(volid string) (storage, name string, ok bool) {
	m := volumeRE.FindStringSubmatch(volid)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// storage finds a storage or says as PVE does that there is none.
func (e *Env) storage(id string) (Storage, *Error) {
	s, ok := e.Storages[id]
	if !ok {
		return s, died("storage '%s' does not exist", id)
	}
	return s, nil
}

// volInfo is what a volume's name tells.
type volInfo struct {
	content string // "images", "iso", "vztmpl", "backup", "snippets", "import"
	owner   guest.VMID
	format  string
}

// volumeInfo reads a volume's name by the rules of its storage.
func (e *Env) volumeInfo(volid string) (volInfo, *Error) {
	id, name, ok := splitVolume(volid)
	if !ok {
		return volInfo{}, died("unable to parse volume ID '%s'", volid)
	}
	s, err := e.storage(id)
	if err != nil {
		return volInfo{}, err
	}
	if s.Path == "" {
		return blockVolume(s, name)
	}
	return dirVolume(name)
}

// blockVolume reads a name of a storage that is no directory.
func blockVolume(s Storage, name string) (volInfo, *Error) {
	m := plainVol.FindStringSubmatch(name)
	if m == nil {
		return volInfo{}, died("unable to parse %s volume name '%s'", strings.TrimSuffix(s.Type, "thin"), name)
	}
	format := "raw"
	if strings.HasPrefix(m[1], "subvol") || strings.HasPrefix(m[1], "basevol") {
		format = "subvol"
	}
	return volInfo{content: "images", owner: vmidOf(m[2]), format: format}, nil
}

var dirContents = []struct {
	content string
	re      *regexp.Regexp
}{
	{"iso", regexp.MustCompile(`^iso/[^/]+\.(?i:iso|img)$`)},
	{"vztmpl", regexp.MustCompile(`^vztmpl/[^/]+\.tar\.(gz|xz|zst|bz2)$`)},
	{"backup", regexp.MustCompile(`^backup/[^/]+\.(tgz|tar|tar\.(gz|lzo|zst)|vma|vma\.(gz|lzo|zst))$`)},
	{"snippets", regexp.MustCompile(`^snippets/[^/]+$`)},
	{"import", regexp.MustCompile(`^import/[^/]+\.(ova|ovf|qcow2|raw|vmdk)$`)},
}

// dirVolume reads a name of a directory storage.
func dirVolume(name string) (volInfo, *Error) {
	if m := dirVolRE.FindStringSubmatch(name); m != nil {
		format, ok := imageFormat(m[4])
		if !ok {
			return volInfo{}, died("unable to parse volume filename '%s'", m[4])
		}
		return volInfo{content: "images", owner: vmidOf(m[3]), format: format}, nil
	}
	for _, c := range dirContents {
		if c.re.MatchString(name) {
			return volInfo{content: c.content, format: "raw"}, nil
		}
	}
	return volInfo{}, died("unable to parse directory volume name '%s'", name)
}

// imageFormat is the format a file name of an image tells.
func imageFormat(file string) (string, bool) {
	if strings.HasPrefix(file, "subvol-") || strings.HasSuffix(file, ".subvol") {
		return "subvol", true
	}
	i := strings.LastIndexByte(file, '.')
	if i < 0 {
		return "", false
	}
	switch f := file[i+1:]; f {
	case "raw", "qcow2", "vmdk":
		return f, true
	}
	return "", false
}

func vmidOf(s string) guest.VMID {
	n, _ := strconv.Atoi(s)
	return guest.VMID(n)
}

// mayUseVolume is PVE's check that a caller may attach a volume that exists;
// want is the content it must have, "" = any.
func (g *Guest) mayUseVolume(version int, c Caller, env *Env, volid, want string) *Error {
	id, _, ok := splitVolume(volid)
	if !ok {
		if c.root() {
			return nil
		}
		return died("Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line %d.", sourceLine(version, 581, 651))
	}
	info, err := env.volumeInfo(volid)
	if err != nil {
		return err
	}
	if want != "" && info.content != want && !(want == "rootdir" && info.content == "images") {
		return died("unable to use volume %s - content type needs to be '%s'", volid, want)
	}
	path := "/storage/" + id
	if c.allowed(path, "Datastore.Allocate") {
		return nil
	}
	switch {
	case info.content == "iso" || info.content == "vztmpl" || info.content == "import":
		return c.needAny(path, "Datastore.AllocateSpace", "Datastore.Audit")
	case info.owner != 0 && info.owner == g.VMID:
		return nil
	case info.content == "images" && info.owner != 0:
		if err := c.need(path, "Datastore.Audit"); err != nil {
			return err
		}
		return c.need(fmt.Sprintf("/vms/%d", info.owner), privDisk)
	}
	return died("missing privileges to access %s", volid)
}

// sourceLine is the line of PVE's source that Perl adds to a message without a
// newline: it is another one in each version.
func sourceLine(version, in8, in9 int) int {
	if version >= 9 {
		return in9
	}
	return in8
}

// newVolume is the id PVE gives a new image of a guest: the lowest number
// that is free on the storage. taken are further ids in use.
func (g *Guest) newVolume(env *Env, id string, s Storage, format string, taken []Effect) string {
	used := make(map[int]bool)
	mark := func(volid string) {
		if n, ok := diskNumber(volid, g.VMID); ok {
			used[n] = true
		}
	}
	for _, v := range env.volumes(id, g.VMID) {
		mark(v)
	}
	for _, e := range taken {
		if e.Op == Allocate && strings.HasPrefix(e.Volume, id+":") {
			mark(e.Volume)
		}
	}
	n := 0
	for used[n] {
		n++
	}
	prefix := "vm"
	if format == "subvol" {
		prefix = "subvol"
	}
	name := fmt.Sprintf("%s-%d-disk-%d", prefix, g.VMID, n)
	if s.Path == "" {
		return id + ":" + name
	}
	return fmt.Sprintf("%s:%d/%s.%s", id, g.VMID, name, format)
}

var diskNumberRE = regexp.MustCompile(`(?:vm|base|subvol|basevol)-([0-9]+)-disk-([0-9]+)(?:\.[a-z0-9]+)?$`)

// diskNumber reads N of a volume named ...-VMID-disk-N.
func diskNumber(volid string, vmid guest.VMID) (int, bool) {
	m := diskNumberRE.FindStringSubmatch(volid)
	if m == nil || m[1] != vmid.String() {
		return 0, false
	}
	n, err := strconv.Atoi(m[2])
	return n, err == nil
}
