// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// props is the schema of a property string: comma-separated key=value pairs,
// one of which may stand without its key.
type props struct {
	props []prop
	index map[string]*prop
	bare  string // the key that may be left out, "" = none
	// check, if set, is asked after everything else.
	check func(version int, v values) error
	// version is the PVE version this schema is of; 0: all that ever was
	// allowed, as it may stand in a file.
	version int
}

// prop is one property.
type prop struct {
	rule
	name     string
	required bool
	bare     bool   // may stand without its key
	size     bool   // printed as a size
	requires string // a property that must be there too
	// alias makes "NAME=x" mean ALIAS=x, and also KEYALIAS=NAME if that is
	// set: "virtio=MAC" is model=virtio and macaddr=MAC.
	alias, keyAlias string
	since, until    int // the PVE versions that have it; 0 = no bound
}

// values are the properties of one string.
type values map[string]string

func newProps(list ...prop) *props {
	p := &props{props: list, index: make(map[string]*prop, len(list))}
	for i := range p.props {
		q := &p.props[i]
		p.index[q.name] = q
		if q.bare {
			p.bare = q.name
		}
	}
	return p
}

// with is p with further properties.
func (p *props) with(more ...prop) *props {
	return newProps(append(slices.Clone(p.props), more...)...)
}

// checked is p with a check of the whole.
func (p *props) checked(f func(int, values) error) *props {
	q := *p
	q.check = f
	return &q
}

// in is the schema as one PVE version has it.
func (p *props) in(version int) *props {
	var list []prop
	for _, q := range p.props {
		if has(version, q.since, q.until) {
			list = append(list, q)
		}
	}
	q := newProps(list...)
	q.check, q.version = p.check, version
	return q
}

// has reports whether what came with since and went after until is there.
func has(version, since, until int) bool {
	return version >= since && (until == 0 || version <= until)
}

// formatError is what PVE finds wrong with single properties.
type formatError struct {
	errs map[string]string // path → text
}

// Error is PVE's text, one line a property. PVE's order is random, ours that
// of the paths.
func (e *formatError) Error() string {
	var b strings.Builder
	b.WriteString("format error")
	for _, k := range slices.Sorted(maps.Keys(e.errs)) {
		b.WriteString("\n" + k + ": " + e.errs[k])
	}
	return b.String()
}

// parse splits and checks a property string. path is the config key, named in
// messages; "" leaves it out.
func (p *props) parse(path, s string) (values, error) {
	v, err := p.split(s)
	if err != nil {
		return nil, err
	}
	if errs := p.verify(path, v); len(errs) > 0 {
		return nil, &formatError{errs}
	}
	if p.check != nil {
		if err := p.check(p.version, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (p *props) split(s string) (values, error) {
	v := make(values)
	bareSeen := false
	for part := range strings.SplitSeq(s, ",") {
		if trimBlank(part) == "" {
			continue
		}
		key, val, keyed := strings.Cut(part, "=")
		switch {
		case !keyed:
			if err := p.putBare(v, part, bareSeen); err != nil {
				return nil, err
			}
			bareSeen = true
		case key == "" || val == "":
			return nil, errors.New("missing key in comma-separated list property")
		default:
			if err := p.put(v, key, val); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func (p *props) putBare(v values, part string, again bool) error {
	switch {
	case again || truthy(v[p.bare]):
		return duplicate(p.bare)
	case p.bare == "":
		return errors.New("value without key, but schema does not define a default key")
	}
	if b, ok := parseBool(part); ok && p.version != 8 && p.index[p.bare].typ == tBoolean {
		part = b
	}
	v[p.bare] = part
	return nil
}

func duplicate(key string) error {
	return fmt.Errorf("duplicate key in comma-separated list property: %s", key)
}

func (p *props) put(v values, key, val string) error {
	if _, ok := v[key]; ok {
		return duplicate(key)
	}
	q := p.index[key]
	if q != nil && q.alias != "" {
		if q.keyAlias != "" {
			if _, ok := v[q.keyAlias]; ok {
				return fmt.Errorf("key alias '%s' is already defined", q.keyAlias)
			}
			v[q.keyAlias] = key
		}
		key = q.alias
		if _, ok := v[key]; ok && p.version >= 9 {
			return fmt.Errorf("key '%s' is already defined (via alias)", key)
		}
		q = p.index[key]
	}
	if q != nil && q.typ == tBoolean {
		if b, ok := parseBool(val); ok {
			val = b
		}
	}
	v[key] = val
	return nil
}

// parseBool reads the spellings PVE takes inside property strings and files.
func parseBool(s string) (string, bool) {
	switch strings.ToLower(s) {
	case "1", "on", "yes", "true":
		return "1", true
	case "0", "off", "no", "false":
		return "0", true
	}
	return "", false
}

const notInSchema = "property is not defined in schema and the schema does not allow additional properties"

func (p *props) verify(path string, v values) map[string]string {
	errs := make(map[string]string)
	at := func(name string) string {
		if path == "" {
			return name
		}
		return path + "." + name
	}
	for i := range p.props {
		q := &p.props[i]
		val, ok := v[q.name]
		if !ok {
			if q.required {
				errs[at(q.name)] = "property is missing and it is not optional"
			}
			continue
		}
		if text, ok := q.check(at(q.name), val); !ok {
			errs[at(q.name)] = text
		}
		if q.requires != "" && v[q.requires] == "" {
			errs[at(q.requires)] = missingProperty(p.version, at(q.name))
		}
	}
	for k := range v {
		if p.index[k] == nil {
			errs[at(k)] = notInSchema
		}
	}
	return errs
}

// print is the string PVE makes of values: the property without key first,
// then the required, then the rest, each in order of the names.
func (p *props) print(v values) string {
	var parts []string
	done := make(map[string]bool, len(v))
	add := func(name string) {
		val, ok := v[name]
		if !ok || done[name] {
			return
		}
		done[name] = true
		if q := p.index[name]; q != nil && q.size {
			val = formatSizeText(val)
		}
		if with := p.combined(name); with != "" && v[with] != "" {
			done[with] = true
			val += "=" + v[with]
		} else if name != p.bare {
			val = name + "=" + val
		}
		parts = append(parts, val)
	}
	add(p.bare)
	names := slices.Sorted(maps.Keys(v))
	for _, n := range names {
		if q := p.index[n]; q != nil && q.required {
			add(n)
		}
	}
	for _, n := range names {
		add(n)
	}
	return strings.Join(parts, ",")
}

// combined names the property that is printed together with name, as
// "virtio=MAC" for model and macaddr.
func (p *props) combined(name string) string {
	for i := range p.props {
		if p.props[i].keyAlias == name {
			return p.props[i].alias
		}
	}
	return ""
}

// on reports whether a boolean property is set to true.
func (v values) on(name string) bool { return v[name] == "1" }
