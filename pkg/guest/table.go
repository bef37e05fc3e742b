// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// ErrUnknownKey is wrapped by Check for a key that has no row in the table.
var ErrUnknownKey = errors.New("not a config key known here")

// Table holds the normal forms. It is not changed after it was made, so it
// may be used by many at once.
type Table struct {
	forms map[tableKey]Form
}

type tableKey struct {
	kind Kind
	key  string // as in Form.Key
}

// Standard is the built-in table: every config key of PVE 8 and 9.
func Standard() *Table {
	return (&Table{}).With(lxcForms()...).With(qemuForms()...)
}

// With is a copy of t with forms added, or replaced where t has the kind and
// key already.
func (t *Table) With(forms ...Form) *Table {
	c := &Table{forms: maps.Clone(t.forms)}
	if c.forms == nil {
		c.forms = make(map[tableKey]Form, len(forms))
	}
	for _, f := range forms {
		c.forms[tableKey{f.Kind, f.Key}] = f
	}
	return c
}

// Form finds the row of a key; "net0" finds "net[n]".
func (t *Table) Form(kind Kind, key string) (Form, bool) {
	if f, ok := t.forms[tableKey{kind, key}]; ok {
		return f, true
	}
	base, n, ok := splitIndex(key)
	if !ok {
		return Form{}, false
	}
	f, ok := t.forms[tableKey{kind, base + "[n]"}]
	return f, ok && n <= f.Last
}

// splitIndex cuts "net12" into "net" and 12. An index has no leading zero.
func splitIndex(key string) (base string, n int, ok bool) {
	base = strings.TrimRight(key, "0123456789")
	digits := key[len(base):]
	n, err := strconv.Atoi(digits)
	return base, n, err == nil && base != "" && strconv.Itoa(n) == digits
}

// Forms lists the rows of one kind in key order.
func (t *Table) Forms(kind Kind) []Form {
	var out []Form
	for k, f := range t.forms {
		if k.kind == kind {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Form) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Check says whether value may be desired for key at all, and if not, what is
// wrong with it and what is allowed. A key without a row is ErrUnknownKey.
func (t *Table) Check(kind Kind, key, value string) error {
	f, ok := t.Form(kind, key)
	if !ok {
		return fmt.Errorf("guest: %s %s: %w", kind, key, ErrUnknownKey)
	}
	if err := f.check(value); err != nil {
		return fmt.Errorf("guest: %s %s: %w", kind, key, err)
	}
	return nil
}

// check is the check of the value, in words that do not show a secret.
func (f Form) check(value string) error {
	err := f.Value.Check(value)
	if err != nil && f.Secret {
		return fmt.Errorf("the value, which is secret and not shown, is not allowed: want %s", f.Value.Name())
	}
	return err
}
