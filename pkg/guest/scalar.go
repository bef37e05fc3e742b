// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bool is a boolean of PVE. As a key of its own it is 0 or 1 and nothing else;
// inside a property string (Words) also on, yes, true, off, no and false.
type Bool struct{ Words bool }

// Name implements Value.
func (Bool) Name() string { return "boolean" }

// Rule implements Value.
func (b Bool) Rule() string { return "as boolean" }

// Check implements Value.
func (b Bool) Check(s string) error {
	if n, ok := boolWord(s); ok && (b.Words || n == s) {
		return nil
	}
	return fmt.Errorf("%q is not a boolean: PVE takes 0 and 1 here", s)
}

// Normal implements Value.
func (Bool) Normal(s string) string {
	if n, ok := boolWord(s); ok {
		return n
	}
	return s
}

func boolWord(s string) (string, bool) {
	switch strings.ToLower(s) {
	case "1", "on", "yes", "true":
		return "1", true
	case "0", "off", "no", "false":
		return "0", true
	}
	return "", false
}

// Int is a whole number from Min to Max.
type Int struct{ Min, Max int64 }

// noMax is for a number that PVE sets no upper bound to.
const noMax = 1<<53 - 1

var intPattern = regexp.MustCompile(`^-?[0-9]{1,18}$`)

// Name implements Value.
func (Int) Name() string { return "integer" }

// Rule implements Value.
func (Int) Rule() string { return "by number" }

// Check implements Value. A leading + is refused although PVE takes it: it
// stores "+2" as a text, which is then no number to anyone.
func (i Int) Check(s string) error {
	if !intPattern.MatchString(s) {
		return fmt.Errorf("%q is not a whole number: want digits only, %s", s, i.bounds())
	}
	n, _ := new(big.Int).SetString(s, 10)
	if n.Cmp(big.NewInt(i.Min)) < 0 || n.Cmp(big.NewInt(i.Max)) > 0 {
		return fmt.Errorf("%s is out of range: want %s", s, i.bounds())
	}
	return nil
}

func (i Int) bounds() string {
	if i.Max >= noMax {
		return fmt.Sprintf("at least %d", i.Min)
	}
	return fmt.Sprintf("%d to %d", i.Min, i.Max)
}

// Normal implements Value.
func (Int) Normal(s string) string {
	if !intPattern.MatchString(s) {
		return s
	}
	n, _ := new(big.Int).SetString(s, 10)
	return n.String()
}

// Shares is a CPU weight, which PVE clamps to what the node's cgroup version
// allows before it stores it: 2 and more (version 1), 1 to 10000 (version 2).
type Shares struct{ Int }

// Rule implements Value.
func (Shares) Rule() string { return "by number; the bound PVE clamped it to is the same" }

// Complete implements Completer: a bound stands for what lies beyond it.
func (s Shares) Complete(desired, actual string) string {
	if s.Check(desired) != nil || s.Check(actual) != nil {
		return desired
	}
	d, _ := new(big.Int).SetString(desired, 10)
	switch n := s.Normal(actual); {
	case n == "10000" && d.Int64() > 10000, (n == "1" || n == "2") && d.Int64() < 2:
		return actual
	}
	return desired
}

// Number is a decimal number from Min to Max, which PVE keeps as the text it
// was given: "1.50" comes back as "1.50".
type Number struct{ Min, Max float64 }

var numberPattern = regexp.MustCompile(`^-?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?$`)

// Name implements Value.
func (Number) Name() string { return "number" }

// Rule implements Value.
func (Number) Rule() string { return "by number: 1.50 is 1.5" }

// Check implements Value.
func (n Number) Check(s string) error {
	r, ok := parseNumber(s)
	if !ok {
		return fmt.Errorf("%q is not a number: want %s", s, n.bounds())
	}
	if f, _ := r.Float64(); f < n.Min || f > n.Max {
		return fmt.Errorf("%s is out of range: want %s", s, n.bounds())
	}
	return nil
}

func parseNumber(s string) (*big.Rat, bool) {
	if !numberPattern.MatchString(s) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func (n Number) bounds() string {
	if n.Max >= noMax {
		return fmt.Sprintf("at least %g", n.Min)
	}
	return fmt.Sprintf("%g to %g", n.Min, n.Max)
}

// Normal implements Value.
func (Number) Normal(s string) string {
	if r, ok := parseNumber(s); ok {
		return r.RatString()
	}
	return s
}

// Enum is one word of a list, in exactly that spelling.
type Enum []string

// Name implements Value.
func (Enum) Name() string { return "one of a list" }

// Rule implements Value.
func (Enum) Rule() string { return "as text" }

// Check implements Value.
func (e Enum) Check(s string) error {
	if slices.Contains(e, s) {
		return nil
	}
	return fmt.Errorf("%q is not allowed: want one of %s", s, strings.Join(e, ", "))
}

// Normal implements Value.
func (Enum) Normal(s string) string { return s }

// Text is a line of text, compared as it stands.
type Text struct {
	What    string             // value kind, "" = text
	Max     int                // most characters, 0 = 8192
	Pattern *regexp.Regexp     // what it must match, nil = anything
	Want    string             // what Pattern allows, for the message
	Valid   func(string) error // a further check, nil = none
	Fold    bool               // letter case does not matter
	Trim    bool               // PVE drops blanks at both ends
}

// Name implements Value.
func (t Text) Name() string {
	if t.What == "" {
		return "text"
	}
	return t.What
}

// Rule implements Value.
func (t Text) Rule() string {
	switch {
	case t.Fold:
		return "as text, letter case ignored"
	case t.Trim:
		return "as text without blanks at its ends"
	}
	return "as text"
}

// maxText bounds a value that PVE sets no bound to.
const maxText = 8192

// Check implements Value.
func (t Text) Check(s string) error {
	limit := t.Max
	if limit == 0 {
		limit = maxText
	}
	switch {
	case utf8.RuneCountInString(s) > limit:
		return fmt.Errorf("longer than %d characters", limit)
	case strings.ContainsAny(s, "\n\r\x00"):
		return fmt.Errorf("holds a line break or a NUL, which PVE cannot keep in this key")
	case t.Pattern != nil && !t.Pattern.MatchString(s):
		return fmt.Errorf("%q is not allowed: want %s", s, t.Want)
	case t.Valid != nil:
		return t.Valid(s)
	}
	return nil
}

// Normal implements Value.
func (t Text) Normal(s string) string {
	if t.Trim {
		s = strings.TrimSpace(s)
	}
	if t.Fold {
		s = strings.ToUpper(s)
	}
	return s
}

// Description is free text of several lines. PVE gives it back with a newline
// at its end (containers) or without blanks there (virtual machines), so what
// is blank at the end counts for nothing.
type Description struct{}

// Name implements Value.
func (Description) Name() string { return "free text" }

// Rule implements Value.
func (Description) Rule() string { return "as text without blanks and line ends at its end" }

// Check implements Value.
func (Description) Check(s string) error {
	if n := utf8.RuneCountInString(s); n > maxText {
		return fmt.Errorf("%d characters long: PVE takes %d", n, maxText)
	}
	return nil
}

// Normal implements Value.
func (Description) Normal(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }
