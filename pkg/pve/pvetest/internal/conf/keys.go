// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strconv"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// key is one row of a kind's table: a config key or a numbered family of them.
type key struct {
	rule
	name  string // of the whole family: "net"
	count int    // 0: one key; n: name0 to name(n-1)
	first int    // the family starts at this number
	since int    // the PVE version that brought it; 0 = all
	until int    // the last PVE version that has it; 0 = still there
	// internal keys stand in a config file but are no parameters.
	internal bool
	// priv is the privilege on the guest that a change needs.
	priv string
	// fast: a change of a running guest applies at once, without plugging.
	fast bool
}

// table maps every key, numbered ones too, to its row.
type table map[string]*key

// newTable makes the table of one PVE version; of version 0, all rows that
// ever were.
func newTable(version int, rows []key) table {
	t := make(table)
	for _, row := range rows {
		k := &row
		if version > 0 {
			if !has(version, k.since, k.until) {
				continue
			}
			if k.props != nil {
				k.props = k.props.in(version)
			}
		}
		if k.count == 0 {
			t[k.name] = k
		}
		for n := range k.count {
			t[k.name+strconv.Itoa(k.first+n)] = k
		}
	}
	return t
}

// The tables: what may stand in a file, and what each version takes.
var (
	lxcKeys  = newTable(0, lxcRows)
	lxcKeys8 = newTable(8, lxcRows)
	lxcKeys9 = newTable(9, lxcRows)

	qemuKeys  = newTable(0, qemuRows)
	qemuKeys8 = newTable(8, qemuRows)
	qemuKeys9 = newTable(9, qemuRows)
)

// keysOf is the table of a kind in a PVE version.
func keysOf(version int, kind guest.Kind) table {
	switch {
	case kind == guest.QEMU && version >= 9:
		return qemuKeys9
	case kind == guest.QEMU:
		return qemuKeys8
	case version >= 9:
		return lxcKeys9
	}
	return lxcKeys8
}

// lookupKey is the row of a key, nil if PVE does not know the key.
func lookupKey(kind guest.Kind, name string) *key {
	if kind == guest.QEMU {
		return qemuKeys[name]
	}
	return lxcKeys[name]
}

// knownIn is lookupKey for one PVE version.
func knownIn(version int, kind guest.Kind, name string) *key {
	return keysOf(version, kind)[name]
}

// indexOf takes a numbered key apart: "net12" is net and 12.
func indexOf(name string) (family string, n int, ok bool) {
	i := len(name)
	for i > 0 && isDigit(name[i-1]) {
		i--
	}
	n, err := strconv.Atoi(name[i:])
	return name[:i], n, err == nil
}

// inFamily reports whether name is family followed by a number.
func inFamily(name, family string) bool {
	f, _, ok := indexOf(name)
	return ok && f == family
}

// readValue normalises a value of a config file by its type: a boolean to 0 or
// 1, an integer without leading zeros. ok is false if PVE would not take it.
func (k *key) readValue(v string) (string, bool) {
	switch k.typ {
	case tBoolean:
		return parseBool(v)
	case tInteger:
		if !isDigits(v) {
			return "", false
		}
		for len(v) > 1 && v[0] == '0' {
			v = v[1:]
		}
		return v, true
	case tNumber:
		return v, plainNumber(v)
	}
	return v, true
}

// plainNumber: digits, and perhaps a point and more digits.
func plainNumber(s string) bool {
	for i := range len(s) {
		if s[i] == '.' {
			return isDigits(s[:i]) && isDigits(s[i+1:])
		}
	}
	return isDigits(s)
}
