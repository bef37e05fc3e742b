// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import "github.com/felhom/felhom-agent/pkg/guest"

// deleteLater marks a key's deletion as pending.
func (g *Guest) deleteLater(name string, forced bool) {
	if g.Delete == nil {
		g.Delete = make(map[string]bool)
	}
	g.Delete[name] = forced
}

// dropUnchanged forgets pending changes that change nothing and reports
// whether there were any.
func (g *Guest) dropUnchanged() bool {
	changed := false
	for k, v := range g.Pending.Values {
		if cur, ok := g.Current.Values[k]; ok && cur == v {
			delete(g.Pending.Values, k)
			changed = true
		}
	}
	for k := range g.Delete {
		if _, ok := g.Current.Values[k]; !ok {
			delete(g.Delete, k)
			changed = true
		}
	}
	return changed
}

// protected refuses to touch the disks of a protected guest.
func (g *Guest) protected(what string) *Error {
	if p := g.Current.Values["protection"]; p != "" && p != "0" {
		return died("%s - protection mode enabled", what)
	}
	return nil
}

// checkLists refuses keys in delete and revert that PVE does not know or that
// stand on both sides.
func checkLists(version int, kind guest.Kind, params map[string]string, deletes, reverts []string) *Error {
	for _, k := range reverts {
		if knownIn(version, kind, k) == nil {
			return oneParam("revert", "unknown option '"+k+"'")
		}
		if hasParam(params, k) {
			return oneParam("revert", "you can't use '-"+k+"' and '-revert "+k+"' at the same time")
		}
	}
	for _, k := range deletes {
		if knownIn(version, kind, k) == nil {
			return oneParam("delete", "unknown option '"+k+"'")
		}
		if hasParam(params, k) {
			return oneParam("delete", "you can't use '-"+k+"' and -delete "+k+"' at the same time")
		}
		for _, r := range reverts {
			if r == k {
				return oneParam("delete", "you can't use '-delete "+k+"' and '-revert "+k+"' at the same time")
			}
		}
	}
	return nil
}

// isUsed reports whether a volume is attached anywhere in the config, its
// pending changes or its snapshots.
func (g *Guest) isUsed(volid string) bool {
	if g.attached(g.Current, volid) || g.attached(g.Pending, volid) {
		return true
	}
	for _, s := range g.Snapshots {
		if g.attached(s, volid) {
			return true
		}
	}
	return false
}

func (g *Guest) attached(s Section, volid string) bool {
	for k, v := range s.Values {
		if id, ok := g.volumeOf(k, v); ok && id == volid {
			return true
		}
	}
	return false
}

// volumeOf is the volume that a key attaches, if it is one that does.
func (g *Guest) volumeOf(name, value string) (string, bool) {
	if g.Kind == guest.QEMU {
		if !isDrive(name) {
			return "", false
		}
		d, err := parseDrive(name, value)
		return d["file"], err == nil && d["file"] != ""
	}
	if name != "rootfs" && !inFamily(name, "mp") {
		return "", false
	}
	mp, err := parseMount(name, value)
	return mp["volume"], err == nil && mountType(mp["volume"]) == "volume"
}

// usedVolumes are those of the current config (a virtual machine's pending
// changes count too): an unusedN that names one is dropped.
func (g *Guest) usedVolumes() map[string]bool {
	used := make(map[string]bool)
	sections := []Section{g.Current}
	if g.Kind == guest.QEMU {
		sections = append(sections, g.Pending)
	}
	for _, s := range sections {
		for k, v := range s.Values {
			if id, ok := g.volumeOf(k, v); ok {
				used[id] = true
			}
		}
	}
	return used
}

// addUnused keeps a volume that was detached under the lowest free unusedN.
func (g *Guest) addUnused(volid string) {
	free := ""
	for n := lxcMountPoints - 1; n >= 0; n-- {
		name := "unused" + itoa(n)
		switch g.Current.Values[name] {
		case volid:
			return
		case "":
			free = name
		}
	}
	if free != "" {
		g.Current.Set(free, volid)
	}
}
