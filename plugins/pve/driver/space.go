// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// reserve is the parameter of that name, in bytes; asked is false if there is
// none.
func reserve(a plugin.Action) (n int64, asked bool, err error) {
	s, ok := a.Params[plugin.ParamReserve]
	if !ok {
		return 0, false, nil
	}
	n, err = parseBytes(s)
	if err != nil {
		return 0, false, invalid("%s: %q is not a number of bytes", plugin.ParamReserve, s)
	}
	return n, true, nil
}

// parseBytes reads a number of bytes: digits only.
func parseBytes(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// space is how many bytes an action takes, by storage. What it takes beyond
// that is not known.
type space map[string]int64

// zero is the same storages with no known size.
func (s space) zero() space {
	out := make(space, len(s))
	for id := range s {
		out[id] = 0
	}
	return out
}

// room refuses an action after which less than the reserve would be free.
func (d *Driver) room(ctx context.Context, j *job, takes space) (plugin.Outcome, error) {
	keep, asked, err := reserve(j.Action)
	if err != nil || !asked {
		return plugin.Outcome{}, err
	}
	for _, id := range slices.Sorted(maps.Keys(takes)) {
		st, err := d.pve.Storage(ctx, d.opts.Node, id)
		if err != nil {
			return lookFailed(err)
		}
		if left := st.Avail - takes[id]; left < keep {
			return refused("storage %s has %s free; this takes %s and %s must stay free; nothing was sent",
				id, human(st.Avail), human(takes[id]), human(keep)), nil
		}
	}
	return plugin.Outcome{}, nil
}

// human is a number of bytes for people.
func human(n int64) string {
	f, unit := float64(n), "bytes"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) + " " + unit
}

// disk is a volume that a config key names.
type disk struct {
	volid, storage string
	size           int64 // bytes, 0 if the config does not tell
}

// diskKey are the keys whose value names a volume.
var diskKey = regexp.MustCompile(`^(?:rootfs|mp\d+|unused\d+|scsi\d+|virtio\d+|sata\d+|ide\d+|efidisk\d+|tpmstate\d+)$`)

// diskOf reads the value of a config key that names a volume; ok is false for
// what names none: a bind mount, an empty drive, a physical one.
func diskOf(key, value string) (v disk, ok bool) {
	if !diskKey.MatchString(key) {
		return disk{}, false
	}
	for part := range strings.SplitSeq(value, ",") {
		name, val, pair := strings.Cut(part, "=")
		switch {
		case !pair, name == "volume", name == "file":
			v.volid = part[strings.LastIndexByte(part, '=')+1:]
		case name == "size":
			v.size = sizeOf(val)
		}
	}
	storage, _, ok := strings.Cut(v.volid, ":")
	v.storage = storage
	return v, ok && pve.ValidStorage(storage)
}

// medium reports whether a drive is a CD, which is not the guest's own.
func medium(value string) bool { return strings.Contains(value, "media=cdrom") }

var sizePattern = regexp.MustCompile(`^(\d+(?:\.\d+)?)([KMGT]?)$`)

// sizeOf is a size as PVE writes it, in bytes; 0 for what is none.
func sizeOf(s string) int64 {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0
	}
	unit := map[string]float64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[m[2]]
	return int64(f * unit)
}

// spaceOf is what the volumes of a config take; on says that they go to one
// storage.
func spaceOf(conf guest.Config, on string) space {
	out := make(space)
	for key, value := range conf {
		if v, ok := diskOf(key, value); ok && !medium(value) && !strings.HasPrefix(key, "unused") {
			out[orElse(on, v.storage)] += v.size
		}
	}
	return out
}

// newVolume is the order of a new volume: [STORAGE:]GiB.
var newVolume = regexp.MustCompile(`^(?:([a-zA-Z][a-zA-Z0-9._-]*):)?(\d+(?:\.\d+)?)$`)

// spaceOfNew is what the new volumes take that config values order; on is the
// storage of those that name none.
func spaceOfNew(set map[string]string, on string) space {
	out := make(space)
	for key, value := range set {
		if !diskKey.MatchString(key) {
			continue
		}
		first, _, _ := strings.Cut(value, ",")
		m := newVolume.FindStringSubmatch(strings.TrimPrefix(strings.TrimPrefix(first, "volume="), "file="))
		if m == nil {
			continue
		}
		gib, err := strconv.ParseFloat(m[2], 64)
		if err == nil {
			out[orElse(m[1], on)] += int64(gib * (1 << 30))
		}
	}
	return out
}

// spaceOfBackup is what the volumes of the config in a backup take.
func (d *Driver) spaceOfBackup(ctx context.Context, volid, on string) (space, error) {
	text, err := d.pve.ExtractConfig(ctx, d.opts.Node, volid)
	if err != nil {
		return nil, fmt.Errorf("the config in %s: %w", volid, err)
	}
	conf := make(guest.Config)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "[") { // a snapshot's
			break
		}
		if key, value, ok := strings.Cut(line, ": "); ok && diskKey.MatchString(key) {
			conf[key] = strings.TrimSpace(value)
		}
	}
	return spaceOf(conf, on), nil
}
