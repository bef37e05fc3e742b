// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package schema checks the parameters of an API call the way PVE does:
// types first, then enumeration, pattern, length and format, every finding
// with PVE's own wording, one per parameter.
package schema

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Type of a parameter's value.
type Type string

// The types PVE's API parameters have.
const (
	String  Type = "string"
	Integer Type = "integer"
	Boolean Type = "boolean"
	Number  Type = "number"
)

// Param describes one parameter of a call.
type Param struct {
	Name     string
	Type     Type // empty means String
	Required bool
	Min, Max *float64
	MinLen   int
	MaxLen   int
	Enum     []string
	// Pattern must match the whole value.
	Pattern *regexp.Regexp
	// Format returns PVE's complaint about the value, or "".
	Format func(string) string
	// Requires names a parameter that must be present too.
	Requires string
	// List joins a repeated form key with commas instead of refusing it.
	List bool
}

// Value is one parameter as it arrived. Kind is empty for text and "HASH" or
// "ARRAY" for a value that is not a scalar.
type Value struct {
	S    string
	Kind string
}

// Values are the parameters of one call by name.
type Values map[string]Value

// Get returns the text of a parameter, or "" when it is absent.
func (v Values) Get(name string) string { return v[name].S }

// Has reports whether a parameter was sent.
func (v Values) Has(name string) bool { _, ok := v[name]; return ok }

// Int returns an integer parameter, or def when it is absent.
func (v Values) Int(name string, def int) int {
	if n, err := strconv.Atoi(strings.TrimPrefix(v[name].S, "+")); err == nil && v.Has(name) {
		return n
	}
	return def
}

// Bool returns a boolean parameter, false when it is absent.
func (v Values) Bool(name string) bool { return v[name].S == "1" }

// F is a bound for Min or Max.
func F(v float64) *float64 { return &v }

// Check returns PVE's complaint by parameter name; an empty map means that
// the call may go on. What extra accepts is left to the caller.
func Check(params []Param, in Values, extra func(string) bool) map[string]string {
	errs := map[string]string{}
	known := map[string]bool{}
	for i := range params {
		p := &params[i]
		known[p.Name] = true
		v, ok := in[p.Name]
		switch {
		case !ok && p.Required:
			errs[p.Name] = "property is missing and it is not optional"
		case ok:
			if msg := p.check(v); msg != "" {
				errs[p.Name] = msg
			} else if p.Requires != "" && !in.Has(p.Requires) {
				errs[p.Name] = fmt.Sprintf("missing property - '%s' requires this property", p.Name)
			}
		}
	}
	for name := range in {
		if !known[name] && (extra == nil || !extra(name)) {
			errs[name] = "property is not defined in schema and the schema does not allow additional properties"
		}
	}
	return errs
}

var (
	integerRE = regexp.MustCompile(`^[+-]?\d+$`)
	numberRE  = regexp.MustCompile(`^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$`)
)

func (p *Param) check(v Value) string {
	typ := p.Type
	if typ == "" {
		typ = String
	}
	if v.Kind != "" {
		return fmt.Sprintf("type check ('%s') failed - got %s", typ, v.Kind)
	}
	bad := fmt.Sprintf("type check ('%s') failed - got '%s'", typ, v.S)
	switch typ {
	case Integer:
		if !integerRE.MatchString(v.S) {
			return bad
		}
		return p.checkRange(v.S)
	case Number:
		if !numberRE.MatchString(v.S) {
			return bad
		}
		return p.checkRange(v.S)
	case Boolean:
		if v.S != "0" && v.S != "1" {
			return bad
		}
		return ""
	}
	return p.checkText(v.S)
}

func (p *Param) checkRange(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Sprintf("type check ('%s') failed - got '%s'", p.Type, s)
	}
	if p.Min != nil && f < *p.Min {
		return "value must have a minimum value of " + strconv.FormatFloat(*p.Min, 'f', -1, 64)
	}
	if p.Max != nil && f > *p.Max {
		return "value must have a maximum value of " + strconv.FormatFloat(*p.Max, 'f', -1, 64)
	}
	return ""
}

func (p *Param) checkText(s string) string {
	if p.Format != nil {
		if msg := p.Format(s); msg != "" {
			return "invalid format - " + msg + "\n"
		}
	}
	if p.Pattern != nil && !p.Pattern.MatchString(s) {
		return "value does not match the regex pattern"
	}
	if n := utf8.RuneCountInString(s); p.MaxLen > 0 && n > p.MaxLen {
		return fmt.Sprintf("value may only be %d characters long", p.MaxLen)
	} else if n < p.MinLen {
		return fmt.Sprintf("value must be at least %d characters long", p.MinLen)
	}
	if len(p.Enum) > 0 && !contains(p.Enum, s) {
		return fmt.Sprintf("value '%s' does not have a value in the enumeration '%s'", s, strings.Join(p.Enum, ", "))
	}
	return ""
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
