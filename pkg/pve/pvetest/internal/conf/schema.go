// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// vtype is the type a schema gives a value.
type vtype uint8

const (
	tString vtype = iota
	tInteger
	tNumber
	tBoolean
)

func (t vtype) String() string {
	return [...]string{"string", "integer", "number", "boolean"}[t]
}

// rule is what PVE's schema demands of one value.
type rule struct {
	typ     vtype
	min     *float64
	max     *float64
	maxLen  int // characters; 0 = no limit
	minLen  int
	enum    []string       // in PVE's order, which its error text shows
	pattern *regexp.Regexp // anchored
	format  format         // nil = none
	props   *props         // the value is a property string
}

// format checks a value's form; its error is PVE's text, which may end in a
// newline or not.
type format func(value string) error

var (
	integerRE = regexp.MustCompile(`^[+-]?[0-9]+\n?$`)
	numberRE  = regexp.MustCompile(`^[+-]?([0-9]+\.[0-9]+|[0-9]+\.|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?\n?$`)
)

// check is PVE's check of one value, in its order. path names the value in
// messages about its parts.
func (r *rule) check(path, v string) (text string, ok bool) {
	if !r.typeOK(v) {
		return fmt.Sprintf("type check ('%s') failed - got '%s'", r.typ, v), false
	}
	if err := r.formatErr(path, v); err != nil {
		return "invalid format - " + err.Error() + "\n", false
	}
	if r.pattern != nil && !r.pattern.MatchString(strings.TrimSuffix(v, "\n")) {
		return "value does not match the regex pattern", false
	}
	if r.maxLen > 0 && utf8.RuneCountInString(v) > r.maxLen {
		return fmt.Sprintf("value may only be %d characters long", r.maxLen), false
	}
	if utf8.RuneCountInString(v) < r.minLen {
		return fmt.Sprintf("value must be at least %d characters long", r.minLen), false
	}
	if text, ok := r.rangeOK(v); !ok {
		return text, false
	}
	if len(r.enum) > 0 && !slices.Contains(r.enum, v) {
		return fmt.Sprintf("value '%s' does not have a value in the enumeration '%s'", v, strings.Join(r.enum, ", ")), false
	}
	return "", true
}

func (r *rule) typeOK(v string) bool {
	switch r.typ {
	case tBoolean:
		return v == "0" || v == "1"
	case tInteger:
		return integerRE.MatchString(v)
	case tNumber:
		return numberRE.MatchString(v)
	}
	return true
}

func (r *rule) formatErr(path, v string) error {
	if r.props != nil {
		_, err := r.props.parse(path, v)
		return err
	}
	if r.format != nil {
		return r.format(v)
	}
	return nil
}

func (r *rule) rangeOK(v string) (string, bool) {
	if r.min == nil && r.max == nil || !numberRE.MatchString(v) {
		return "", true
	}
	n, _ := strconv.ParseFloat(strings.TrimSuffix(v, "\n"), 64)
	if r.max != nil && n > *r.max {
		return fmt.Sprintf("value must have a maximum value of %s", number(*r.max)), false
	}
	if r.min != nil && n < *r.min {
		return fmt.Sprintf("value must have a minimum value of %s", number(*r.min)), false
	}
	return "", true
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// The constructors of rules; they read like the table they are used in.

func boolean() rule { return rule{typ: tBoolean} }

func text() rule { return rule{} }

func integer(bounds ...float64) rule { return rule{typ: tInteger}.bounds(bounds) }

func decimal(bounds ...float64) rule { return rule{typ: tNumber}.bounds(bounds) }

func oneOf(values ...string) rule { return rule{enum: values} }

func matching(re string) rule { return rule{pattern: regexp.MustCompile(`^(?:` + re + `)$`)} }

func formatted(f format) rule { return rule{format: f} }

func propString(p *props) rule { return rule{props: p} }

// bounds takes a minimum and, if there is a second number, a maximum.
func (r rule) bounds(b []float64) rule {
	if len(b) > 0 {
		r.min = &b[0]
	}
	if len(b) > 1 {
		r.max = &b[1]
	}
	return r
}

// atLeast is a text of so many characters or more.
func atLeast(chars int) rule { return rule{minLen: chars} }

func (r rule) upTo(chars int) rule {
	r.maxLen = chars
	return r
}
