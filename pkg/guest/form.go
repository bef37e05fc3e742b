// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import "slices"

// Form is what one config key of one kind means: what a value of it may be,
// when two of them are the same, and what a change of it does. The zero Class
// counts as Unclassed, the zero Effect as Live.
type Form struct {
	Kind Kind
	// Key is the plain name, or "net[n]" for a key that carries an index from
	// 0 to Last.
	Key  string
	Last int
	// Value says what may be written and when two values are the same.
	Value Value
	Unit  string // of a number, for people
	// Default is the value PVE acts on when the key is absent, written as a
	// value of the key. Empty: absent is the same as nothing but an empty text.
	Default string
	// Class, Effect and Privilege hold for every change that the functions
	// below do not decide. Effect is that on a running guest; a stopped one
	// takes every change at once, except what NeedsRoot.
	Class     Class
	Effect    Effect
	Privilege string // "A, B" needs both, "A|B" one of them
	// ByDelete: a running guest cannot be given the default as a value, so the
	// key is deleted instead.
	ByDelete bool
	// Secret values are shown to nobody, and one that PVE masks is taken to be
	// the desired one.
	Secret bool
	// AsText marks a key whose meaning is not known: compared as text.
	AsText bool
	// Since is the PVE major version that brought the key, 0 if all have it.
	Since int
	Note  string // for people, one sentence: why it is so

	// ClassOf, EffectOf and PrivilegeOf replace the column of that name, and
	// RefuseOf says why an edit must not be sent ("" if it may). CompleteOf
	// replaces completion by Value. Each may be nil.
	ClassOf     func(Edit) Class
	EffectOf    func(Edit) Effect
	PrivilegeOf func(Edit) string
	RefuseOf    func(Edit) string
	CompleteOf  func(Edit) string
}

// Edit is one change of one key as the functions of a Form see it.
type Edit struct {
	Facts   Facts
	Key     string
	Desired Config   // everything desired, for what depends on other keys
	Del     []string // every key to be deleted
	Actual  Config   // the whole actual config
	From    string   // actual value, "" if absent
	HasFrom bool
	To      string // desired value, completed from actual once that is done
	Delete  bool
}

// will is the value that key has once everything desired is written.
func (e Edit) will(key string) string {
	if v, ok := e.Desired[key]; ok {
		return v
	}
	return e.Actual[key]
}

// deletes reports whether key goes with the same write.
func (e Edit) deletes(key string) bool { return slices.Contains(e.Del, key) }

// is reports whether the boolean key is set in actual.
func (e Edit) is(key string) bool { return Bool{}.Normal(e.Actual[key]) == "1" }

// Value is a kind of config value. All methods are pure, and Normal is total:
// what PVE gives back may be anything a human wrote into the file.
type Value interface {
	// Name is the value kind in a word or two.
	Name() string
	// Rule says when two values are the same.
	Rule() string
	// Check says what is wrong with a desired value and what is allowed.
	Check(s string) error
	// Normal is the normal form of s: two values are the same if and only if
	// their normal forms are equal.
	Normal(s string) string
}

// Completer is a Value whose text PVE completes: what it generates or adds.
type Completer interface {
	Value
	// Complete is desired together with those parts of actual that PVE
	// generated and desired does not name.
	Complete(desired, actual string) string
}

// class is the class of one edit.
func (f Form) class(e Edit) Class {
	c := f.Class
	if f.ClassOf != nil {
		c = f.ClassOf(e)
	}
	if c == "" {
		return Unclassed
	}
	return c
}

// effect is when one edit takes hold.
func (f Form) effect(e Edit) Effect {
	eff := f.Effect
	if f.EffectOf != nil {
		eff = f.EffectOf(e)
	}
	if eff == "" || eff != NeedsRoot && !e.Facts.Running {
		return Live
	}
	return eff
}

// privilege is what one edit needs.
func (f Form) privilege(e Edit) string {
	if f.PrivilegeOf != nil {
		return f.PrivilegeOf(e)
	}
	return f.Privilege
}

// same reports whether want, already completed, says what the actual value
// says. An absent value says what the default says.
func (f Form) same(want string, actual string, has bool) bool {
	if !has {
		actual = f.Default
	}
	return f.Value.Normal(want) == f.Value.Normal(actual)
}

// complete is the desired value with what PVE generated in the actual one.
func (f Form) complete(e Edit) string {
	if !e.HasFrom {
		return e.To
	}
	if f.CompleteOf != nil {
		return f.CompleteOf(e)
	}
	if c, ok := f.Value.(Completer); ok {
		return c.Complete(e.To, e.From)
	}
	return e.To
}

// byDelete reports whether an edit is better made by deleting the key: what
// empties a list, because PVE keeps that as a blank, and what ByDelete says.
func (f Form) byDelete(e Edit, value string) bool {
	if f.Value.Check(value) != nil || f.Value.Normal(value) != f.Value.Normal(e.To) {
		return false // something that PVE made has been added to it, and would go too
	}
	zero := f.Value.Normal(value) == f.Value.Normal(f.Default)
	return zero && (f.Default == "" || f.ByDelete && e.Facts.Running)
}
