// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"slices"
	"strings"
)

// Props is a property string, "local:8,mp=/data,ro=1": named parts whose order
// counts for nothing.
type Props struct {
	What    string // value kind, "" = property string
	Default string // the field that may stand without its name
	Filled  bool   // an empty text is not allowed
	Present bool   // the key says something even if every part is the default
	Fields  []Field
	// Valid checks how the parts go together, Fix adds a part that PVE adds.
	// Each may be nil.
	Valid func([]Prop) error
	Fix   func([]Prop) []Prop
}

// Field is one part of a property string.
type Field struct {
	Name  string
	Value Value
	// Default is what absent means, "" if absent is like no value.
	Default  string
	Required bool
	// Alias makes Name another name of that field. With Key set, Name is at
	// the same time the value of field Key: "virtio=MAC" is model=virtio and
	// macaddr=MAC.
	Alias, Key string
	// Generated: PVE makes a value of its own where none is sent, so the
	// actual one is carried over.
	Generated bool
	// Ignored: PVE looks after the value, it is no setting of a volume that
	// exists. It is carried over and not compared.
	Ignored bool
	// Since is the PVE major version that brought it, 0 if all have it.
	Since int
}

// Prop is one part as it was read, under its real name. Bare tells that it
// stood without a name, Written is the other name it stood under.
type Prop struct {
	Name, Value string
	Bare        bool
	Written     string
}

// label is the name to write.
func (p Prop) label() string {
	if p.Written != "" {
		return p.Written
	}
	return p.Name
}

// maxProps bounds the parts of a property string.
const maxProps = 256

// Name implements Value.
func (p Props) Name() string {
	if p.What == "" {
		return "property string"
	}
	return p.What
}

// Rule implements Value.
func (p Props) Rule() string {
	rule := "part by part, in any order"
	var made, ignored []string
	for _, f := range p.Fields {
		if f.Generated {
			made = append(made, f.Name)
		}
		if f.Ignored {
			ignored = append(ignored, f.Name)
		}
	}
	if made != nil {
		rule += "; " + strings.Join(made, ", ") + " carried over if not desired"
	}
	if ignored != nil {
		rule += "; " + strings.Join(ignored, ", ") + " not compared"
	}
	return rule
}

func (p Props) field(name string) (Field, bool) {
	i := slices.IndexFunc(p.Fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return p.Fields[i], true
}

// Parse reads a property string. Aliases are resolved; a part that no field
// names is kept, a part given twice is an error. Values are not checked.
func (p Props) Parse(s string) ([]Prop, error) {
	if len(s) > maxText {
		return nil, fmt.Errorf("longer than %d bytes", maxText)
	}
	var out []Prop
	for part := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		props, err := p.part(part)
		if err != nil {
			return nil, err
		}
		out = append(out, props...)
		if len(out) > maxProps {
			return nil, fmt.Errorf("more than %d parts", maxProps)
		}
	}
	return out, unique(out)
}

func (p Props) part(part string) ([]Prop, error) {
	name, value, named := strings.Cut(part, "=")
	switch {
	case !named && p.Default == "":
		return nil, fmt.Errorf("%q has no name", part)
	case !named:
		return []Prop{{Name: p.Default, Value: part, Bare: true}}, nil
	case name == "" || value == "":
		return nil, fmt.Errorf("%q is not of the form name=value", part)
	}
	f, _ := p.field(name)
	switch {
	case f.Key != "":
		return []Prop{{Name: f.Key, Value: name}, {Name: f.Alias, Value: value}}, nil
	case f.Alias != "":
		return []Prop{{Name: f.Alias, Value: value, Written: name}}, nil
	}
	return []Prop{{Name: name, Value: value}}, nil
}

func unique(props []Prop) error {
	seen := make(map[string]bool, len(props))
	for _, pr := range props {
		if seen[pr.Name] {
			return fmt.Errorf("%s is given twice", pr.Name)
		}
		seen[pr.Name] = true
	}
	return nil
}

func get(props []Prop, name string) (string, bool) {
	i := slices.IndexFunc(props, func(p Prop) bool { return p.Name == name })
	if i < 0 {
		return "", false
	}
	return props[i].Value, true
}

// Check implements Value.
func (p Props) Check(s string) error {
	props, err := p.Parse(s)
	if err != nil {
		return err
	}
	if p.Filled && len(props) == 0 {
		return fmt.Errorf("empty: want %s", strings.Join(p.names(), ", "))
	}
	for _, pr := range props {
		if err := p.checkPart(pr); err != nil {
			return err
		}
	}
	for _, f := range p.Fields {
		if _, ok := get(props, f.Name); f.Required && !ok {
			return fmt.Errorf("%s is missing", f.Name)
		}
	}
	if p.Valid != nil {
		return p.Valid(props)
	}
	return nil
}

// checkPart checks one part. PVE reads a word as a boolean only behind a name.
func (p Props) checkPart(pr Prop) error {
	f, ok := p.field(pr.Name)
	if !ok {
		return fmt.Errorf("%q is not a part of it: want %s", pr.Name, strings.Join(p.names(), ", "))
	}
	v := f.Value
	if _, isBool := v.(Bool); isBool && pr.Bare {
		v = Bool{}
	}
	if err := v.Check(pr.Value); err != nil {
		return fmt.Errorf("%s: %w", pr.Name, err)
	}
	return nil
}

// tooNew says which part of s a node of that PVE major version does not know.
func (p Props) tooNew(s string, pve int) string {
	props, _ := p.Parse(s)
	for _, pr := range props {
		if f, _ := p.field(pr.label()); f.Since > 0 && pve > 0 && pve < f.Since {
			return fmt.Sprintf("%s exists from PVE %d on, this node runs %d", pr.label(), f.Since, pve)
		}
	}
	return ""
}

// names lists the real fields.
func (p Props) names() []string {
	var out []string
	for _, f := range p.Fields {
		if f.Alias == "" {
			out = append(out, f.Name)
		}
	}
	return out
}

// Normal implements Value: the parts that say something, sorted. A text that
// is no property string is its own normal form.
func (p Props) Normal(s string) string {
	props, err := p.Parse(s)
	if err != nil {
		return s
	}
	if p.Fix != nil {
		props = p.Fix(props)
	}
	out := make([]string, 0, len(props))
	for _, pr := range props {
		f, known := p.field(pr.Name)
		if !known {
			out = append(out, pr.Name+"="+pr.Value)
			continue
		}
		n := f.Value.Normal(pr.Value)
		if !f.Ignored && (f.Default == "" || n != f.Value.Normal(f.Default)) {
			out = append(out, pr.Name+"="+n)
		}
	}
	if p.Present && len(out) == 0 && len(props) > 0 {
		return "present"
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// Complete implements Completer. Parts that say the same keep the spelling PVE
// has, because it takes another spelling for a change: a MAC in other letter
// case makes it unplug a running interface.
func (p Props) Complete(desired, actual string) string {
	want, err := p.Parse(desired)
	if err != nil {
		return desired
	}
	have, err := p.Parse(actual)
	if err != nil {
		return desired
	}
	return p.Print(p.merge(want, have))
}

// merge is want with the spelling and the generated parts of have, and as near
// to have as its meaning allows: parts that say the default are left as they
// are. Parts that belong to the volume are carried over only while it is the
// same volume.
func (p Props) merge(want, have []Prop) []Prop {
	same := p.sameVolume(want, have)
	var out []Prop
	for _, pr := range want {
		f, _ := p.field(pr.Name)
		a, had := get(have, pr.Name)
		switch {
		case !had && (f.Ignored && same || f.isDefault(pr.Value)):
			continue
		case had && (same || !f.Ignored):
			pr.Value = f.complete(pr.Value, a)
		}
		out = append(out, pr)
	}
	for _, pr := range have {
		f, _ := p.field(pr.Name)
		if _, ok := get(want, pr.Name); !ok && (f.Generated || f.Ignored && same || f.isDefault(pr.Value)) {
			out = append(out, pr)
		}
	}
	return out
}

// sameVolume reports whether both lie on one volume, or on none.
func (p Props) sameVolume(want, have []Prop) bool {
	f, _ := p.field(p.Default)
	v, ok := f.Value.(Volume)
	if !ok {
		return true
	}
	w, _ := get(want, p.Default)
	h, _ := get(have, p.Default)
	return v.Complete(w, h) == h
}

// complete is the value of one part to send where PVE has the actual one.
func (f Field) complete(want, actual string) string {
	if f.Value == nil {
		return want
	}
	if c, ok := f.Value.(Completer); ok {
		want = c.Complete(want, actual)
	}
	if f.Ignored || f.Value.Normal(want) == f.Value.Normal(actual) {
		return actual
	}
	return want
}

// isDefault reports whether v says what absent says.
func (f Field) isDefault(v string) bool {
	return f.Default != "" && f.Value.Normal(v) == f.Value.Normal(f.Default)
}

// Print writes parts as PVE does: the default field first and without its
// name, joined with the value it is the key of, the others in the order given.
func (p Props) Print(props []Prop) string {
	lead, joined := p.lead(props)
	var out []string
	if lead != "" {
		out = append(out, lead)
	}
	for _, pr := range props {
		if pr.Name == joined || lead != "" && pr.Name == p.Default {
			continue
		}
		out = append(out, pr.label()+"="+pr.Value)
	}
	return strings.Join(out, ",")
}

// lead is the default field without its name, "" if it is not there or cannot
// stand without, and the name of the field that is joined to it.
func (p Props) lead(props []Prop) (text, joined string) {
	text, _ = get(props, p.Default)
	if strings.TrimSpace(text) == "" || strings.Contains(text, "=") {
		return "", ""
	}
	f, _ := p.field(text)
	if v, ok := get(props, f.Alias); ok && f.Key == p.Default {
		return text + "=" + v, f.Alias
	}
	return text, ""
}
