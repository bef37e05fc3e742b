// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"regexp"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func resizeParams(kind guest.Kind) map[string]param {
	p := map[string]param{
		"disk":   {rule: oneOf(diskNames(kind)...), required: true},
		"size":   {rule: matching(`\+?[0-9]+(\.[0-9]+)?[KMGT]?`), required: true},
		"digest": {rule: text().upTo(40)},
	}
	if kind == guest.QEMU {
		p["skiplock"] = param{rule: boolean()}
	}
	return p
}

// diskNames are the keys resize takes, in PVE's order.
func diskNames(kind guest.Kind) []string {
	if kind == guest.LXC {
		names := []string{"rootfs"}
		for n := range lxcMountPoints {
			names = append(names, "mp"+itoa(n))
		}
		return names
	}
	var names []string
	for _, f := range []struct {
		family string
		count  int
	}{{"ide", 4}, {"scsi", 31}, {"virtio", 16}, {"sata", 6}} {
		for n := range f.count {
			names = append(names, f.family+itoa(n))
		}
	}
	return append(names, "efidisk0", "tpmstate0")
}

var resizeRE = regexp.MustCompile(`^(\+)?(.*)$`)

// Resize grows a disk as PUT .../resize does. Its answer is a task in both
// kinds; a virtual machine's is refused only there. The caller needs
// VM.Config.Disk for the method.
func (g *Guest) Resize(r Request) Result {
	res := Result{Guest: g}
	if res.Err = r.Caller.need(g.path(), privDisk); res.Err != nil {
		return res
	}
	if res.Err = CheckParams(r.Version, g.Kind, ResizeDisk, r.Params); res.Err != nil {
		return res
	}
	if g.Kind == guest.QEMU && r.Params["skiplock"] == "1" && !r.Caller.root() {
		res.Err = oneParam("skiplock", "Only root may use this option.")
		return res
	}
	err := g.resize(r, &res)
	res.Task = true
	if err != nil && g.Kind == guest.QEMU {
		res.TaskErr = taskText(err)
	} else if err != nil {
		res.Err, res.Task = err, false
	}
	return res
}

func (g *Guest) resize(r Request, res *Result) *Error {
	if d := r.Params["digest"]; truthy(d) && d != g.digest {
		if g.Kind == guest.QEMU {
			return died("checksum mismatch (file change by other user?)")
		}
		return died("detected modified configuration - file changed by other user? Try again.")
	}
	if l := g.Lock(); l != "" && r.Params["skiplock"] != "1" {
		return died("%s is locked (%s)", g.name(), l)
	}
	name := r.Params["disk"]
	if g.Kind == guest.QEMU {
		return g.resizeDrive(r, name, res)
	}
	return g.resizeMount(r, name, res)
}

// name is how PVE calls a guest of this kind.
func (g *Guest) name() string {
	if g.Kind == guest.QEMU {
		return "VM"
	}
	return "CT"
}

// wanted is the size a request asks for, given the present one.
func wanted(size string, now int64) int64 {
	m := resizeRE.FindStringSubmatch(size)
	n, _ := parseSize(m[2])
	if m[1] == "+" {
		n += now
	}
	return n
}

func (g *Guest) resizeMount(r Request, name string, res *Result) *Error {
	mp, err := parseMount(name, g.Current.Values[name])
	if err != nil {
		return codeError(err)
	}
	volid := mp["volume"]
	if mountType(volid) != "volume" {
		return died("can't resize mount point owned by another container (%s)", name)
	}
	id, _, _ := splitVolume(volid)
	if err := r.Caller.need("/storage/"+id, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	v, _ := r.Env.volume(volid)
	size := wanted(r.Params["size"], v.Size)
	switch {
	case size < v.Size:
		return died("unable to shrink disk size")
	case size == v.Size:
		return died("disk is already at specified size")
	}
	// The config tells what was asked for, the image is rounded up.
	mp["size"] = itoa64(size)
	res.Effects = append(res.Effects, Effect{Op: Resize, Volume: volid, Size: wholeKiB(size)})
	res.Guest = g.Edit(func(d *Guest) { d.Current.Set(name, printMount(name, mp)) })
	return nil
}

func printMount(name string, mp values) string {
	if name == "rootfs" {
		return rootfsProps.print(mp)
	}
	return mpProps.print(mp)
}

// wholeKiB rounds a size up as qemu-img does: to whole sectors, of which PVE
// shows KiB.
func wholeKiB(n int64) int64 { return (n + 511) &^ 511 }

func (g *Guest) resizeDrive(r Request, name string, res *Result) *Error {
	value, ok := g.Current.Values[name]
	if !ok {
		return died("disk '%s' does not exist", name)
	}
	d, err := parseDrive(name, value)
	if err != nil {
		return died("unable to parse drive options")
	}
	volid := d["file"]
	if isCDROM(d) {
		return died("can't resize a cdrom")
	}
	id, _, ok := splitVolume(volid)
	if !ok {
		return died("disk '%s' has no associated volume", name)
	}
	if err := r.Caller.need("/storage/"+id, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	v, found := r.Env.volume(volid)
	switch {
	case !found:
		return died("volume '%s' does not exist", volid)
	case v.busy():
		w := &qemuWrite{Request: r}
		return imageBusy(w.imagePath(volid))
	}
	size := wanted(r.Params["size"], v.Size)
	if size < v.Size {
		return died("shrinking disks is not supported")
	}
	if size == v.Size {
		return nil
	}
	d["size"] = itoa64(wholeKiB(size))
	res.Effects = append(res.Effects, Effect{Op: Resize, Volume: volid, Size: wholeKiB(size)})
	res.Guest = g.Edit(func(c *Guest) { c.Current.Set(name, strings.TrimSpace(printDrive(d))) })
	return nil
}
