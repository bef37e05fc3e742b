// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"crypto/sha1"
	"encoding/hex"
	"maps"
	"regexp"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// The laboratory as its recordings describe it: one directory storage, one
// bridge without a port, cgroup v1, no AppArmor, a kernel without policing.

var fullRole = makeSet(`VM.Audit VM.PowerMgmt VM.Allocate VM.Clone VM.Config.CPU VM.Config.Memory VM.Config.Disk
	VM.Config.Network VM.Config.Options VM.Config.HWType VM.Config.CDROM VM.Config.Cloudinit VM.Snapshot VM.Backup
	Datastore.Audit Datastore.AllocateSpace Datastore.AllocateTemplate SDN.Use SDN.Audit Sys.Audit Pool.Audit`)

// caller is who made a recorded write.
func (r *recorded) caller() Caller {
	role := fullRole
	if _, names, ok := strings.Cut(r.Note, "role of the token: "); ok {
		role = makeSet(names)
	}
	switch r.As {
	case "root cli", "ticket":
		return Caller{User: rootUser}
	case "token root":
		return Caller{User: "root@pam!root"}
	}
	return Caller{User: "agent@pve!full", Allowed: func(_, priv string) bool { return role[priv] }}
}

// absent are the volumes and devices that the recordings name as missing.
var absent = makeSet(`local:iso/nothere.iso local:snippets/nothere.pl /dev/nothere /dev/loop9`)

// others are volumes of other guests that the recordings attach.
var others = map[string]Volume{
	"local:101/vm-101-disk-0.raw": {Size: 1277724 << 10, Owner: 101},
	"local:200/vm-200-disk-0.raw": {Size: 1040 << 20, Owner: 200},
}

// labRandom makes generated values of letters, so that their case shows.
const labRandom = 0xabcdefabcdefabcd

// env is the laboratory's node before a recorded write.
func (r *recorded) env(g *Guest) *Env {
	volumes := labVolumes(g)
	e := &Env{
		Storages: map[string]Storage{"local": {
			Type: "dir", Path: "/var/lib/vz", Content: []string{"images", "rootdir", "iso", "vztmpl", "backup", "snippets"},
		}},
		Bridges: map[string]Bridge{"vmbr0": {NoPort: true}},
		Rand:    func() uint64 { return labRandom },
		Volume: func(id string) (Volume, bool) {
			if v, ok := volumes[id]; ok {
				return v, true
			}
			if v, ok := others[id]; ok {
				return v, true
			}
			return Volume{Size: 1 << 30}, !absent[id] && !strings.Contains(id, g.VMID.String()+"/")
		},
		Volumes: func(string, guest.VMID) []string { return sortedKeys(volumes) },
		Path: func(p string) PathKind {
			switch {
			case absent[p]:
				return PathAbsent
			case strings.HasPrefix(p, "/dev/"):
				return PathDevice
			}
			return PathExecutable
		},
		Host:      Host{CgroupV1: true, CPUs: 2, NoAppArmor: true, NoPolicing: true, NoOVMF: true, QEMU: "7.2.22"},
		GuestTags: func() []string { return append(splitList(g.Current.Values["tags"]), "a", "b") },
	}
	e.Datacenter = labDatacenter(r.Note)
	return e
}

var labSize = regexp.MustCompile(`size=([0-9A-Z]+)`)

// labVolumes are the volumes that a guest's config names.
func labVolumes(g *Guest) map[string]Volume {
	out := make(map[string]Volume)
	for _, s := range []Section{g.Current, g.Pending} {
		for k, v := range s.Values {
			id, ok := g.volumeOf(k, v)
			if inFamily(k, "unused") {
				id, ok = v, true
			}
			if !ok || strings.HasPrefix(id, "/") || id == "none" {
				continue
			}
			size := int64(1 << 30)
			if m := labSize.FindStringSubmatch(v); m != nil {
				size, _ = parseSize(m[1])
			}
			if strings.Contains(id, "cloudinit") {
				size = cloudInitSize
			}
			out[id] = Volume{Size: size, Owner: g.VMID, Format: id[strings.LastIndexByte(id, '.')+1:], InUse: g.Running && !inFamily(k, "unused")}
		}
	}
	return out
}

// labDatacenter reads the datacenter.cfg that a record's note quotes.
func labDatacenter(note string) Datacenter {
	var dc Datacenter
	_, cfg, ok := strings.Cut(note, "datacenter.cfg: ")
	if !ok {
		return dc
	}
	cfg, _, _ = strings.Cut(cfg, "; ")
	for opt := range strings.SplitSeq(strings.NewReplacer("tag-style: ", "", "user-tag-access: ", "").Replace(cfg), ",") {
		switch name, value, _ := strings.Cut(opt, "="); {
		case name == "case-sensitive":
			dc.CaseSensitive = value == "1"
		case name == "ordering":
			dc.OrderingConfig = value == "config"
		case name == "user-allow":
			dc.UserAllow = value
		case name == "user-allow-list":
			dc.UserAllowList = splitList(value)
		case strings.HasPrefix(opt, "registered-tags: "):
			dc.RegisteredTags = splitList(strings.TrimPrefix(opt, "registered-tags: "))
		}
	}
	return dc
}

func sha(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

// states finds the file a guest had before a write. The recordings show the
// config with its pending changes merged in, and the digest of the file: a
// guess is right exactly if it has that digest.
type states struct {
	files    map[string]string     // digest → file, of every file recorded
	baseline map[guest.VMID]*Guest // the config each guest is reset to
}

func newStates(lists ...[]recorded) *states {
	s := &states{files: map[string]string{}, baseline: map[guest.VMID]*Guest{}}
	for _, list := range lists {
		count := make(map[string]int)
		for _, r := range list {
			s.files[sha(r.FileText)] = r.FileText
			d := scalar(r.Before["digest"])
			count[d]++
			if b := s.baseline[r.vmid()]; b != nil && count[d] <= count[b.digest] {
				continue
			}
			if g := New(r.Kind, r.vmid(), plainValues(r.Before)); g.digest == d {
				s.baseline[r.vmid()] = g
			}
		}
	}
	return s
}

func plainValues(view map[string]any) map[string]string {
	m := asText(view)
	delete(m, "digest")
	delete(m, "lxc")
	return m
}

// before is the guest as it was. Where no guess has the recorded digest (files
// edited by hand, a password that only its hash shows) it is put together from
// the config before and the file afterwards; no such write sends a digest.
func (s *states) before(r *recorded) *Guest {
	digest := scalar(r.Before["digest"])
	g := New(r.Kind, r.vmid(), plainValues(r.Before))
	if g.digest != digest {
		g = nil
	}
	if text, ok := s.files[digest]; ok && g == nil {
		g = parse(r.Kind, r.vmid(), text)
	}
	if g == nil && r.State == "running" {
		g = s.guess(r, digest)
	}
	if g == nil {
		g = r.fromAfter()
	}
	return g.SetRunning(r.State == "running")
}

// guess tries which of the keys that differ from the baseline are pending.
func (s *states) guess(r *recorded, digest string) *Guest {
	base := s.baseline[r.vmid()]
	want := plainValues(r.Before)
	var changed []string
	for k := range union(base.Current.Values, want) {
		if base.Current.Values[k] != want[k] {
			changed = append(changed, k)
		}
	}
	if len(changed) > 8 {
		return nil
	}
	for mask := range 1 << len(changed) {
		g := base.Edit(func(d *Guest) {
			for i, k := range changed {
				v, ok := want[k]
				pending := mask>>i&1 == 1
				switch {
				case ok && pending:
					d.Pending.Set(k, v)
				case ok:
					d.Current.Set(k, v)
				case pending:
					d.deleteLater(k, false)
				default:
					delete(d.Current.Values, k)
				}
			}
		})
		if g.digest == digest {
			return g
		}
	}
	return nil
}

// fromAfter is the guest afterwards with the values it had before.
func (r *recorded) fromAfter() *Guest {
	g := parse(r.Kind, r.vmid(), r.FileText)
	values := plainValues(r.Before)
	return g.Edit(func(d *Guest) {
		if values["cipassword"] != "" {
			values["cipassword"] = g.Current.Values["cipassword"]
		}
		for k, v := range d.Pending.Values {
			if values[k] != v {
				delete(d.Pending.Values, k)
			}
			delete(values, k)
		}
		d.Current.Values, d.Delete = values, nil
	})
}

func union[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
