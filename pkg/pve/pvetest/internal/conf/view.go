// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"maps"
	"slices"
	"strconv"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const passwordMask = "**********"

// View is what GET .../config answers: key to value with the JSON type PVE
// gives it, int64 or string ("lxc" is [][2]string). current leaves the pending
// changes out.
func (g *Guest) View(current bool) map[string]any {
	if current {
		return g.show(g.Current)
	}
	s := g.Current.clone()
	for k, v := range g.Pending.Values {
		s.Set(k, v)
	}
	for k := range g.Delete {
		// PVE asks whether the value is true, so a pending deletion of a
		// value that is zero is not shown.
		if v := s.Values[k]; v != "" && v != "0" {
			delete(s.Values, k)
		}
	}
	return g.show(s)
}

// SnapshotView is what GET .../config?snapshot=NAME answers.
func (g *Guest) SnapshotView(name string) (map[string]any, *Error) {
	s, ok := g.Snapshots[name]
	if !ok {
		return nil, died("snapshot '%s' does not exist", name)
	}
	return g.show(s), nil
}

func (g *Guest) show(s Section) map[string]any {
	out := make(map[string]any, len(s.Values)+2)
	for k, v := range s.Values {
		out[k] = typed(g.Kind, k, v)
	}
	if v := s.Values["cipassword"]; v != "" {
		out["cipassword"] = passwordMask
	}
	if len(s.Raw) > 0 {
		out["lxc"] = slices.Clone(s.Raw)
	}
	out["digest"] = g.digest
	return out
}

// typed gives a value the JSON type PVE answers with: a number for keys that
// are integers or booleans, if PVE could read it as one.
func typed(kind guest.Kind, key, value string) any {
	if k := lookupKey(kind, key); k != nil && (k.typ == tInteger || k.typ == tBoolean) {
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && isDigits(value) {
			return n
		}
	}
	return value
}

func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// PendingEntry is one element of what GET .../pending answers. Value and
// Pending are nil where PVE leaves them out; Delete is 0, 1 or 2 (forced).
type PendingEntry struct {
	Key     string
	Value   any
	Pending any
	Delete  int
}

// PendingList is what GET .../pending answers, in order of the keys (PVE's
// order is random).
func (g *Guest) PendingList() []PendingEntry {
	var out []PendingEntry
	for _, k := range slices.Sorted(maps.Keys(g.pendingKeys())) {
		out = append(out, g.pendingEntry(k))
	}
	return out
}

func (g *Guest) pendingKeys() map[string]bool {
	keys := map[string]bool{"digest": true}
	for k := range g.Current.Values {
		keys[k] = true
	}
	for k := range g.Pending.Values {
		keys[k] = true
	}
	for k := range g.Delete {
		keys[k] = true
	}
	return keys
}

func (g *Guest) pendingEntry(key string) PendingEntry {
	e := PendingEntry{Key: key}
	if key == "digest" {
		e.Value = g.digest
		return e
	}
	v, set := g.Current.Values[key]
	if set {
		e.Value = typed(g.Kind, key, v)
	}
	p, changed := g.Pending.Values[key]
	if changed {
		e.Pending = typed(g.Kind, key, p)
	}
	if key == "cipassword" && set {
		e.Value = passwordMask
	}
	if key == "cipassword" && changed {
		e.Pending = passwordMask + " " // the blank is PVE's
	}
	if forced, ok := g.Delete[key]; ok {
		e.Delete = 1
		if forced || !set {
			e.Delete = 2 // of a key that is not set PVE always says 2
		}
	}
	return e
}
