// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// setDrive makes or takes the volume of a disk and puts it among the pending
// values.
func (w *qemuWrite) setDrive(name, value string) *Error {
	if old := w.g.Current.Values[name]; truthy(old) {
		if err := w.mayAttach(name, old); err != nil {
			return err
		}
		if name == "tpmstate0" {
			if err := tpmVersionError(old, value); err != nil {
				return err
			}
		}
	}
	if err := w.mayAttach(name, value); err != nil {
		return err
	}
	if old, ok := w.g.Pending.Values[name]; ok {
		w.keepUnused(name, old)
	}
	d, err := parseDrive(name, value)
	if err != nil {
		return oneParam(name, "unable to parse drive options")
	}
	if err := w.fillDrive(name, d); err != nil {
		return err
	}
	w.g.Pending.Set(name, printDrive(d))
	w.bootFrom(name, value)
	return nil
}

func tpmVersionError(old, value string) *Error {
	a, err1 := parseDrive("tpmstate0", old)
	b, err2 := parseDrive("tpmstate0", value)
	if err1 != nil || err2 != nil || a["file"] != b["file"] {
		return nil
	}
	version := func(d values) string {
		if d["version"] == "" {
			return "v1.2"
		}
		return d["version"]
	}
	if version(a) != version(b) {
		return died("cannot change TPM state version after creation")
	}
	return nil
}

// bootFrom appends a new CD-ROM to the boot order, if there is one.
func (w *qemuWrite) bootFrom(name, value string) {
	d, err := parseDrive(name, value)
	if err != nil || len(w.bootOrder) == 0 || !isCDROM(d) || isCloudInit(d) || slices.Contains(w.bootOrder, name) {
		return
	}
	w.bootOrder = append(w.bootOrder, name)
	w.setBoot()
}

const (
	cloudInitSize = 4 << 20
	tpmSize       = 4 << 20
	efiSize4M     = 528 << 10
	efiSize2M     = 128 << 10
)

// fillDrive allocates a new volume or looks at one that exists.
func (w *qemuWrite) fillDrive(name string, d values) *Error {
	file := d["file"]
	id, vol, isVolume := splitVolume(file)
	m := newDriveRE.FindStringSubmatch(file)
	switch {
	case file == "none" || file == "cdrom":
		delete(d, "size")
		return nil
	case isVolume && vol == "cloudinit":
		return w.allocCloudInit(name, id, d)
	case m != nil:
		return w.allocDrive(name, m[1], m[2], d)
	}
	return w.attach(name, d)
}

func (w *qemuWrite) cloudInitElsewhere(name string) *Error {
	for _, s := range []Section{w.g.Current, w.g.Pending} {
		if k := cloudInitOf(s, name); k != "" {
			return died("%s - cloud-init drive is already attached at '%s'", name, k)
		}
	}
	return nil
}

func (w *qemuWrite) allocCloudInit(name, id string, d values) *Error {
	if err := w.cloudInitElsewhere(name); err != nil {
		return err
	}
	s, err := w.Env.storage(id)
	if err != nil {
		return err
	}
	format := d["format"]
	vol := fmt.Sprintf("vm-%d-cloudinit", w.g.VMID)
	switch {
	case s.Path != "" && format == "":
		format = "qcow2"
	case format == "":
		format = "raw"
	}
	volid := id + ":" + vol
	if s.Path != "" {
		volid = fmt.Sprintf("%s:%d/%s.%s", id, w.g.VMID, vol, format)
		if w.exists(volid) {
			return died("disk image '%s/images/%d/%s.%s' already exists", s.Path, w.g.VMID, vol, format)
		}
	}
	w.effects = append(w.effects, Effect{Op: Allocate, Volume: volid, Size: cloudInitSize, Format: format})
	d["file"], d["media"] = volid, "cdrom"
	delete(d, "format")
	w.created(name, d)
	return nil
}

func (w *qemuWrite) exists(volid string) bool {
	_, ok := w.Env.volume(volid)
	for _, e := range w.effects {
		if e.Volume == volid {
			ok = e.Op != Free
		}
	}
	return ok
}

func (w *qemuWrite) created(name string, d values) {
	w.log = append(w.log, name+": successfully created disk '"+printDrive(d)+"'")
}

func (w *qemuWrite) allocDrive(name, id, gib string, d values) *Error {
	s, err := w.Env.storage(id)
	if err != nil {
		return err
	}
	format := d["format"]
	if format == "" {
		format = "raw"
	}
	size := gibBytes(gib)
	source := d["import-from"]
	delete(d, "import-from")
	switch {
	case source != "":
		v, ok := w.Env.volume(source)
		if !ok {
			return died("could not get size of %s", source)
		}
		size = v.Size
	case name == "efidisk0":
		if w.Env.Host.NoOVMF {
			return died("EFI base image '%s' not found", ovmfImage(d))
		}
		size = efiSize(d)
	case name == "tpmstate0":
		size, format = tpmSize, "raw"
	}
	d["file"] = w.g.newVolume(w.Env, id, s, format, w.effects)
	d["size"] = itoa64(size)
	delete(d, "format")
	w.effects = append(w.effects, Effect{Op: Allocate, Volume: d["file"], Size: size, Format: format})
	w.created(name, d)
	return nil
}

// gibBytes is a size in GiB, in whole KiB.
func gibBytes(gib string) int64 {
	f, _ := strconv.ParseFloat(gib, 64)
	return int64(math.Ceil(f*(1<<20))) << 10
}

func efiSize(d values) int64 {
	if d["efitype"] == "4m" {
		return efiSize4M
	}
	return efiSize2M
}

func ovmfImage(d values) string {
	if d["efitype"] == "4m" {
		return "/usr/share/pve-edk2-firmware//OVMF_CODE_4M.fd"
	}
	return "/usr/share/pve-edk2-firmware//OVMF_CODE.fd"
}

// attach takes a volume that exists, with the size the storage knows.
func (w *qemuWrite) attach(name string, d values) *Error {
	file := d["file"]
	if err := w.g.mayUseVolume(w.Version, w.Caller, w.Env, file, ""); err != nil {
		return err
	}
	if _, _, ok := splitVolume(file); ok {
		info, err := w.Env.volumeInfo(file)
		switch {
		case err != nil:
			return err
		case d["format"] != "" && d["format"] != info.format:
			return died("drive '%s' - volume '%s' - 'format=%s' option different from storage format '%s'", name, file, d["format"], info.format)
		}
		if isCloudInit(d) {
			if err := w.cloudInitElsewhere(name); err != nil {
				return err
			}
		}
	} else {
		return w.attachPath(file, d)
	}
	v, ok := w.Env.volume(file)
	switch {
	case !ok:
		return died("volume '%s' does not exist", file)
	case v.busy():
		return imageBusy(w.imagePath(file))
	}
	d["size"] = itoa64(v.Size)
	return nil
}

// imageBusy is what qemu-img says of an image that QEMU has open.
func imageBusy(path string) *Error {
	return died("qemu-img: Could not open '%s': Failed to get shared \"write\" lock\nIs another process using the image [%s]?", path, path)
}

// imagePath is where an image of a directory storage lies.
func (w *qemuWrite) imagePath(volid string) string {
	id, name, _ := splitVolume(volid)
	return w.Env.Storages[id].Path + "/images/" + name
}

// attachPath takes a block device, or the size of a file, of the node.
func (w *qemuWrite) attachPath(path string, d values) *Error {
	if w.Env.path(path) == PathAbsent {
		return died("volume %s does not exist", path)
	}
	if v, ok := w.Env.volume(path); ok {
		d["size"] = itoa64(v.Size)
	}
	return nil
}

// hotplugOn reports whether the guest's hotplug setting names a feature.
func (g *Guest) hotplugOn(feature string) bool {
	v, ok := g.Current.Values["hotplug"]
	if !ok || v == "1" {
		v = "network,disk,usb"
	}
	return v != "0" && slices.Contains(splitList(v), feature)
}

// changeDisk applies a disk to a running guest. ok: applied; errSkip: later.
func (w *qemuWrite) changeDisk(name, value string) error {
	d, err := parseDrive(name, value)
	if err != nil {
		return err
	}
	plug := w.g.hotplugOn("disk")
	old, err := parseDrive(name, w.g.Current.Values[name])
	if err == nil {
		switch {
		case isCDROM(old) != isCDROM(d):
			return fmt.Errorf("unable to change media type")
		case isCDROM(old):
			return w.changeMedium(name, old, d)
		case old["file"] == d["file"]:
			return tuneDisk(old, d)
		case !plug:
			return errSkip
		}
		if slices.Contains(w.bootDisks(), name) {
			return fmt.Errorf("can't unplug bootdisk '%s'", name)
		}
		w.keepUnused(name, w.g.Current.Values[name])
	}
	if !plug || strings.HasPrefix(name, "ide") || strings.HasPrefix(name, "sata") {
		return errSkip
	}
	return nil
}

func (w *qemuWrite) changeMedium(name string, old, d values) error {
	if d["file"] == "none" && isCloudInit(old) {
		w.keepUnused(name, w.g.Current.Values[name])
	}
	return nil
}

// tuneDisk: most settings of a disk need a restart, its limits do not.
func tuneDisk(old, d values) error {
	for _, k := range []string{"aio", "discard", "iothread", "queues", "product", "cache", "ssd", "vendor", "ro"} {
		if old[k] != d[k] {
			return errSkip
		}
	}
	return nil
}
