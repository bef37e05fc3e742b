// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// parseMount parses a rootfs, mpN or unusedN.
func parseMount(name, value string) (values, error) {
	switch {
	case name == "rootfs":
		return rootfsProps.parse("", value)
	case inFamily(name, "unused"):
		return unusedProps.parse("", value)
	}
	return mpProps.parse("", value)
}

// mountType tells a volume from a bind mount and a device.
func mountType(volume string) string {
	switch {
	case strings.HasPrefix(volume, "/dev/"):
		return "device"
	case strings.HasPrefix(volume, "/"):
		return "bind"
	}
	return "volume"
}

// idRange is one entry of an idmap, seen from one side.
type idRange struct {
	entry        string
	start, count int
}

// idmapError refuses an idmap that maps an id twice.
func idmapError(idmap string) *Error {
	if idmap == "" || idmap == "passthrough" {
		return nil
	}
	for _, kind := range []string{"u", "g"} {
		for side, at := range []string{"container", "host"} {
			if err := overlap(idRanges(idmap, kind, side), kind, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func idRanges(idmap, kind string, side int) []idRange {
	var out []idRange
	for e := range strings.SplitSeq(idmap, ";") {
		f := strings.Split(e, ":")
		if len(f) != 4 || f[0] != kind {
			continue
		}
		start, _ := strconv.Atoi(f[1+side])
		count, _ := strconv.Atoi(f[3])
		out = append(out, idRange{strings.Join(f, " "), start, count})
	}
	slices.SortStableFunc(out, func(a, b idRange) int { return a.start - b.start })
	return out
}

func overlap(ranges []idRange, kind, side string) *Error {
	for i := 1; i < len(ranges); i++ {
		a, b := ranges[i-1], ranges[i]
		if a.start+a.count > b.start {
			return died("invalid map entry '%s': %s %sid %d is also mapped by entry '%s'", b.entry, side, kind, b.start, a.entry)
		}
	}
	return nil
}

func itoa(n int) string { return strconv.Itoa(n) }

// apply carries out the changes of a container that is stopped.
func (w *lxcWrite) apply() {
	for _, k := range sortedKeys(w.g.Delete) {
		if w.modified == nil || w.modified[k] {
			w.applyDelete(k)
		}
	}
	w.g.dropUnchanged()
	for _, k := range sortedKeys(w.g.Pending.Values) {
		if w.modified != nil && !w.modified[k] {
			continue
		}
		if err := w.applySet(k); err != nil {
			w.errs[k] = "unable to apply pending change " + k + " : " + err.Error() + "\n"
			continue
		}
		w.g.applyKey(k)
	}
}

func (w *lxcWrite) applyDelete(name string) {
	switch {
	case inFamily(name, "mp"):
		if mp, err := parseMount(name, w.g.Current.Values[name]); err == nil && mountType(mp["volume"]) == "volume" {
			w.g.addUnused(mp["volume"])
		}
	case inFamily(name, "unused"):
		w.freeUnused(name)
	}
	w.g.dropKey(name)
}

func (w *lxcWrite) applySet(name string) error {
	switch {
	case inFamily(name, "mp"):
		return w.applyMount(name, false)
	case inFamily(name, "net"):
		net, err := completeNet(w.Env, w.g.Pending.Values[name])
		if err == nil {
			w.g.Pending.Set(name, lxcNetProps.print(net))
		}
		return err
	}
	return nil
}

// plugMount adds a mount point to a running container; one that exists is
// changed at the next start.
func (w *lxcWrite) plugMount(name string) error {
	if _, ok := w.g.Current.Values[name]; ok {
		return errSkip
	}
	return w.applyMount(name, true)
}

// applyMount makes the volume of a pending mount point or looks at the size
// of one that exists. The volume it replaces becomes an unused one.
func (w *lxcWrite) applyMount(name string, running bool) error {
	given := w.g.Pending.Values[name]
	mp, err := parseMount(name, given)
	if err != nil {
		return err
	}
	made := len(w.effects)
	if mountType(mp["volume"]) == "volume" {
		if err := w.fillVolume(mp); err != nil {
			return err
		}
	}
	if err := profileError(w.Env); running && err != nil {
		w.undo(made)
		return err
	}
	w.g.Pending.Set(name, mpProps.print(mp))
	if old, err := parseMount(name, w.g.Current.Values[name]); err == nil && mountType(old["volume"]) == "volume" {
		w.g.addUnused(old["volume"])
	}
	return nil
}

// undo frees what was allocated since.
func (w *lxcWrite) undo(from int) {
	for _, e := range w.effects[from:] {
		if e.Op == Allocate {
			w.effects = append(w.effects, Effect{Op: Free, Volume: e.Volume})
		}
	}
}

func (w *lxcWrite) fillVolume(mp values) error {
	m := newDiskRE.FindStringSubmatch(mp["volume"])
	if m == nil {
		if v, ok := w.Env.volume(mp["volume"]); ok {
			mp["size"] = itoa64(v.Size)
		}
		return nil
	}
	s, perr := w.Env.storage(m[1])
	if perr != nil {
		return errors.New(perr.Message)
	}
	gib, err := strconv.ParseFloat(m[2], 64)
	if err != nil {
		return fmt.Errorf("size %q: %w", m[2], err)
	}
	size := int64(gib*1024) << 20
	format := containerFormat(s, size)
	mp["volume"] = w.g.newVolume(w.Env, m[1], s, format, w.effects)
	mp["size"] = itoa64(size)
	w.effects = append(w.effects, Effect{Op: Allocate, Volume: mp["volume"], Size: size, Format: format})
	return nil
}

// containerFormat is the format PVE chooses for a container's volume.
func containerFormat(s Storage, size int64) string {
	if s.Type == "zfspool" || s.Path != "" && size == 0 {
		return "subvol"
	}
	return "raw"
}

func itoa64(n int64) string { return strconv.FormatInt(n, 10) }
