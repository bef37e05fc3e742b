// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"regexp"
	"strings"
)

var newDriveRE = regexp.MustCompile(`^(?:([^/:\s]+):)?([0-9]+(?:\.[0-9]+)?)$`)

// mayChange refuses keys by their names: first the deleted ones, then those
// that are set. PVE takes the latter in random order.
func (w *qemuWrite) mayChange() *Error {
	for _, list := range [][]string{w.deletes, sortedKeys(w.params)} {
		for _, k := range list {
			if err := w.mayKey(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *qemuWrite) mayKey(name string) *Error {
	k := qemuKeys[name]
	if w.Caller.root() || k == nil || k.priv == byValue {
		return nil
	}
	if k.priv == rootOnly {
		return died("only root can set '%s' config", name)
	}
	if err := w.Caller.needAny(w.g.path(), strings.Split(k.priv, "|")...); err != nil {
		return err
	}
	switch name {
	case "startup":
		return w.Caller.need("/", "Sys.Modify")
	case "vmstate":
		return w.Caller.need(w.g.path(), privPower)
	}
	return nil
}

// mayStore refuses disks on storages the caller may not use.
func (w *qemuWrite) mayStore() *Error {
	for _, k := range sortedKeys(w.params) {
		if !isDrive(k) {
			continue
		}
		d, err := parseDrive(k, w.params[k])
		if err != nil {
			continue
		}
		if err := w.mayDrive(k, d); err != nil {
			return err
		}
	}
	for _, k := range sortedKeys(w.params) {
		if inFamily(k, "unused") {
			if err := w.g.mayUseVolume(w.Version, w.Caller, w.Env, w.params[k], "images"); err != nil {
				return err
			}
		}
	}
	if s, ok := w.params["vmstatestorage"]; ok {
		return w.Caller.need("/storage/"+s, "Datastore.AllocateSpace")
	}
	return nil
}

func (w *qemuWrite) mayDrive(name string, d values) *Error {
	file := d["file"]
	_, vol, isVolume := splitVolume(file)
	m := newDriveRE.FindStringSubmatch(file)
	switch {
	case file == "none" || isVolume && vol == "cloudinit":
		return nil
	case isCDROM(d) && file == "cdrom":
		return w.Caller.need("/", "Sys.Console")
	case !isCDROM(d) && m != nil:
		if err := w.mayAllocate(m[1]); err != nil || d["import-from"] == "" {
			return err
		}
		return w.mayImport(name, d["import-from"])
	}
	if err := w.g.mayUseVolume(w.Version, w.Caller, w.Env, file, ""); err != nil || !isVolume {
		return err
	}
	info, err := w.Env.volumeInfo(file)
	if err == nil && info.content != "images" && info.content != "iso" {
		err = oneParam(name, "content type needs to be 'images' or 'iso'")
	}
	return err
}

// mayImport refuses an image the caller may not copy.
func (w *qemuWrite) mayImport(name, source string) *Error {
	if _, _, ok := splitVolume(source); ok {
		info, err := w.Env.volumeInfo(source)
		if err != nil {
			return err
		}
		if info.content != "images" && info.content != "import" {
			return oneParam(name, source+" has wrong type '"+info.content+"' - needs to be 'images' or 'import'")
		}
		if info.owner != 0 {
			return w.Caller.need("/vms/"+info.owner.String(), "VM.Clone")
		}
	}
	return w.g.mayUseVolume(w.Version, w.Caller, w.Env, source, "")
}

func (w *qemuWrite) mayAllocate(storage string) *Error {
	if err := w.Caller.need("/storage/"+storage, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	s, err := w.Env.storage(storage)
	if err == nil && !s.has("images") {
		err = oneParam("storage", "storage '"+storage+"' does not support vm images")
	}
	return err
}

// mayPlug refuses bridges the caller may not use.
func (w *qemuWrite) mayPlug() *Error {
	if w.Caller.root() {
		return nil
	}
	for _, k := range sortedKeys(w.params) {
		if inFamily(k, "net") {
			if err := w.mayNet(w.params[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *qemuWrite) mayNet(value string) *Error {
	if w.Caller.root() || value == "" {
		return nil
	}
	net, err := qemuNetProps.parse("", value)
	if err != nil {
		return codeError(err)
	}
	return mayBridge(w.Caller, net)
}

// mayAttach refuses a disk by what it is: cloud-init, CD-ROM or other.
func (w *qemuWrite) mayAttach(name, value string) *Error {
	d, err := parseDrive(name, value)
	if err != nil {
		return nil
	}
	switch {
	case isCloudInit(d):
		if err := w.Caller.need(w.g.path(), privCloudinit); err != nil {
			return err
		}
		return w.Caller.need(w.g.path(), privCDROM)
	case isCDROM(d):
		return w.Caller.need(w.g.path(), privCDROM)
	}
	return w.Caller.need(w.g.path(), privDisk)
}

// mayDevice refuses serial ports, USB and PCI devices, random sources and
// shared directories by their value. verb is what PVE says of serial ports.
func (w *qemuWrite) mayDevice(name, value, verb string) *Error {
	if w.Caller.root() {
		return nil
	}
	switch family, _, _ := indexOf(name); family {
	case "serial":
		if value != "socket" {
			return died("only root can %s '%s' config for real devices", verb, name)
		}
		return w.Caller.need(w.g.path(), privHWType)
	case "usb":
		return w.mayMapped(name, value, usbProps, "real", "usb")
	case "hostpci":
		return w.mayMapped(name, value, hostpciProps, "non-mapped", "pci")
	case "rng":
		if err := w.Caller.need(w.g.path(), privHWType); err != nil {
			return err
		}
		if v, err := rngProps.parse("", value); err == nil && v["source"] == "/dev/hwrng" {
			return w.Caller.need("/mapping/hwrng", "Mapping.Use")
		}
	case "virtiofs":
		if err := w.Caller.need(w.g.path(), privDisk); err != nil {
			return err
		}
		v, err := virtiofsProps.parse("", value)
		if err != nil {
			return codeError(err)
		}
		return w.Caller.need("/mapping/dir/"+v["dirid"], "Mapping.Use")
	}
	return nil
}

func (w *qemuWrite) mayMapped(name, value string, p *props, what, mapping string) *Error {
	if mapping == "usb" {
		if err := w.Caller.need(w.g.path(), privHWType); err != nil {
			return err
		}
	}
	v, err := p.parse("", value)
	if err != nil {
		return codeError(err)
	}
	switch {
	case mapping == "usb" && strings.EqualFold(v["host"], "spice"):
		return nil
	case v["host"] != "":
		return died("only root can set '%s' config for %s devices", name, what)
	case v["mapping"] == "":
		return died("either 'host' or 'mapping' must be set.")
	}
	if err := w.Caller.need("/mapping/"+mapping+"/"+v["mapping"], "Mapping.Use"); err != nil || mapping == "usb" {
		return err
	}
	if err := w.Caller.need(w.g.path(), privHWType); err != nil {
		return err
	}
	if v["romfile"] != "" {
		return oneParam(name, "only root@pam can set 'romfile' option")
	}
	return nil
}
