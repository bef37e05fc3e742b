// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// variants are values of that kind that mean something else than desired, made
// from what PVE gave back for it. They are built from the text alone, not from
// normal forms, so that a form that is too generous is found.
func variants(v guest.Value, desired, actual string) []string {
	switch v := v.(type) {
	case guest.Bool:
		return []string{map[bool]string{true: "0", false: "1"}[isTrue(actual)]}
	case guest.Int, guest.Shares:
		return otherInts(actual)
	case guest.Number:
		f, err := strconv.ParseFloat(actual, 64)
		if err != nil {
			return nil
		}
		return []string{strconv.FormatFloat(f+1, 'f', -1, 64), strconv.FormatFloat(f+0.25, 'f', -1, 64)}
	case guest.Enum:
		return slices.DeleteFunc(slices.Clone([]string(v)), func(s string) bool { return s == actual })
	case guest.List:
		return otherLists(v, actual)
	case guest.Props:
		return otherProps(v, desired, actual)
	case guest.Addr:
		return []string{"192.0.2.77/31", "2001:db8::77"}
	case guest.Volume:
		return []string{"other:999/vm-999-disk-7.raw"}
	case guest.SSHKeys:
		return []string{actual + "%0Assh-ed25519%20AAAA"}
	case guest.Description:
		return []string{"x" + actual, strings.TrimSpace(actual) + "\n\nx"}
	}
	return []string{actual + "9", "x9" + actual}
}

func isTrue(s string) bool { return s == "1" || s == "on" || s == "yes" || s == "true" }

func otherInts(s string) []string {
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil
	}
	return []string{strconv.Itoa(n + 1), strconv.Itoa(n * 10), strconv.Itoa(n + 7)}[map[bool]int{true: 2, false: 0}[n == 0]:]
}

// otherLists are a list with one item more, one less, and, where order counts,
// in another order.
func otherLists(v guest.List, s string) []string {
	items := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(",; ", r) })
	sep := " "
	if v.Split != "" {
		sep = v.Split[:1]
	}
	out := []string{strings.Join(append(slices.Clone(items), "zz9"), sep)}
	if n := len(items) - 1; n > 0 && !slices.ContainsFunc(items[:n], func(s string) bool { return strings.EqualFold(s, items[n]) }) {
		out = append(out, strings.Join(items[:len(items)-1], sep))
	}
	if reversed := slices.Clone(items); !v.Set && len(slices.Compact(slices.Sorted(slices.Values(items)))) > 1 {
		slices.Reverse(reversed)
		out = append(out, strings.Join(reversed, sep))
	}
	return out
}

// otherProps are property strings with one part changed, left out or added.
func otherProps(p guest.Props, desired, actual string) []string {
	want, err := p.Parse(desired)
	have, err2 := p.Parse(actual)
	if err != nil || err2 != nil {
		return []string{actual + "x"}
	}
	var out []string
	for i, pr := range have {
		f := fieldOf(p, pr.Name)
		w, named := valueOf(want, pr.Name)
		if f.Ignored || f.Generated && !named || f.Value == nil || impliedMedia(pr, have) {
			continue
		}
		for _, other := range variants(f.Value, w, pr.Value) {
			changed := slices.Clone(have)
			changed[i].Value = other
			out = append(out, p.Print(changed))
		}
		if !f.Required && !f.Generated && !sayDefault(f, pr.Value) {
			out = append(out, p.Print(slices.Delete(slices.Clone(have), i, i+1)))
		}
	}
	return append(out, withMore(p, have)...)
}

// withMore adds each boolean part that is not there.
func withMore(p guest.Props, have []guest.Prop) []string {
	var out []string
	for _, f := range p.Fields {
		_, isBool := f.Value.(guest.Bool)
		if _, has := valueOf(have, f.Name); has || !isBool {
			continue
		}
		for _, v := range []string{"0", "1"} {
			if !sayDefault(f, v) {
				out = append(out, p.Print(append(slices.Clone(have), guest.Prop{Name: f.Name, Value: v})))
			}
		}
	}
	return out
}

func sayDefault(f guest.Field, v string) bool {
	return f.Default != "" && (v == f.Default || isTrue(v) == isTrue(f.Default) && isBool(f))
}

func isBool(f guest.Field) bool {
	_, ok := f.Value.(guest.Bool)
	return ok
}

// impliedMedia: PVE adds media=cdrom to a drive that can be nothing else.
func impliedMedia(pr guest.Prop, have []guest.Prop) bool {
	file, _ := valueOf(have, "file")
	return pr.Name == "media" && (file == "none" || strings.Contains(file, "cloudinit"))
}

func fieldOf(p guest.Props, name string) guest.Field {
	for _, f := range p.Fields {
		if f.Name == name {
			return f
		}
	}
	return guest.Field{}
}

func valueOf(props []guest.Prop, name string) (string, bool) {
	for _, p := range props {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}
