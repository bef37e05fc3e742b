// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// masked stands for a secret value wherever a person may see it.
const masked = "********"

// Diff lists, sorted by key, what of actual is not as desired: the keys that
// desired sets and the keys that del names. A key that neither mentions is
// never in it. A secret that PVE masks is taken to be the desired one; Set
// makes the change that writes it anew. A key that is both set and deleted is
// refused.
func (t *Table) Diff(f Facts, desired Config, del []string, actual Config) []Change {
	var out []Change
	for _, key := range slices.Sorted(maps.Keys(desired)) {
		e := Edit{Facts: f, Key: key, Desired: desired, Del: del, Actual: actual, To: desired[key]}
		if c, ok := t.diffSet(e); ok {
			out = append(out, c)
		}
	}
	for _, key := range slices.Compact(slices.Sorted(slices.Values(del))) {
		if _, both := desired[key]; both {
			continue
		}
		if c, ok := t.diffDelete(Edit{Facts: f, Key: key, Desired: desired, Del: del, Actual: actual, Delete: true}); ok {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Set is the change that writes value to key, whether or not actual has it
// already. It is how a secret is written anew after its document changed.
func (t *Table) Set(f Facts, key, value string, actual Config) Change {
	e := Edit{Facts: f, Key: key, Desired: Config{key: value}, Actual: actual, To: value}
	e.From, e.HasFrom = actual[key]
	form := t.row(f.Kind, key)
	e.To = form.complete(e)
	return form.set(e, value)
}

func (t *Table) diffSet(e Edit) (Change, bool) {
	form := t.row(e.Facts.Kind, e.Key)
	value := e.To
	e.From, e.HasFrom = e.Actual[e.Key]
	e.To = form.complete(e)
	hidden := form.Secret && e.HasFrom && isMask(e.From)
	if hidden || form.same(e.To, e.From, e.HasFrom) {
		return Change{}, false
	}
	return form.set(e, value), true
}

// isMask reports whether PVE shows stars in place of the value.
func isMask(s string) bool { return s != "" && strings.Trim(s, "*") == "" }

func (t *Table) diffDelete(e Edit) (Change, bool) {
	form := t.row(e.Facts.Kind, e.Key)
	e.From, e.HasFrom = e.Actual[e.Key]
	if !e.HasFrom || form.Default != "" && form.same(form.Default, e.From, true) {
		return Change{}, false
	}
	if c, ok := form.deleteZero(e); ok {
		return form.mask(c), true
	}
	return form.mask(form.change(e)), true
}

// deleteZero is the deletion of a 0 that waits for the guest's next start. PVE
// goes on showing the 0 until then, so the default is written in its place.
func (f Form) deleteZero(e Edit) (Change, bool) {
	if e.From != "0" || f.effect(e) != Restart {
		return Change{}, false
	}
	if f.Default == "" {
		c := f.change(e)
		c.Effect = NeedsStop
		if c.Refuse == "" {
			c.Refuse = "PVE shows a deleted 0 until the next start: stop the guest first, or desire a value"
		}
		return c, true
	}
	e.To, e.Delete = f.Default, false
	c := f.change(e)
	c.To = e.To
	return c, true
}

// row is the form of a key, or one that compares as text and is not written.
func (t *Table) row(kind Kind, key string) Form {
	if f, ok := t.Form(kind, key); ok {
		return f
	}
	return Form{Kind: kind, Key: key, Value: Text{}, Class: Unclassed, AsText: true}
}

// set is the change for a completed edit of the value that the document has.
func (f Form) set(e Edit, value string) Change {
	if e.HasFrom && f.byDelete(e, value) {
		e.To, e.Delete = "", true
	}
	c := f.change(e)
	c.To = value
	if err := f.check(value); err != nil {
		c.Refuse = err.Error()
	}
	if e.deletes(e.Key) {
		c.Refuse = e.Key + " is both desired and to be deleted"
	}
	return f.mask(c)
}

// change fills in what the row says about one edit.
func (f Form) change(e Edit) Change {
	c := Change{
		Key: e.Key, Delete: e.Delete, From: e.From, HasFrom: e.HasFrom, Send: e.To,
		Class: f.class(e), Effect: f.effect(e), Privilege: f.privilege(e),
		Secret: f.Secret, AsText: f.AsText,
	}
	c.Refuse = f.refuse(e, c.Class)
	return c
}

// refuse is the reason not to send an edit, "" if there is none.
func (f Form) refuse(e Edit, class Class) string {
	if f.RefuseOf != nil {
		if why := f.RefuseOf(e); why != "" {
			return why
		}
	}
	switch {
	case class == Never:
		return e.Key + " is never written: " + f.Note
	case class == Unclassed:
		return e.Key + " has no class: it is reported, not written"
	case f.Since > 0 && e.Facts.PVE > 0 && e.Facts.PVE < f.Since:
		return fmt.Sprintf("%s exists from PVE %d on, this node runs %d", e.Key, f.Since, e.Facts.PVE)
	}
	if p, ok := f.Value.(Props); ok && !e.Delete {
		return p.tooNew(e.To, e.Facts.PVE)
	}
	return ""
}

// mask hides a secret's values in what is shown.
func (f Form) mask(c Change) Change {
	if !f.Secret {
		return c
	}
	if c.HasFrom {
		c.From = masked
	}
	if c.To != "" {
		c.To = masked
	}
	return c
}
