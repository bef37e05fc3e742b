// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"strings"
	"time"
)

// cutOptions takes the field of options: up to the first blank that is not in
// quotes, where \" is a quote that ends nothing.
func cutOptions(s string) (opts, rest, why string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return s[:i], strings.TrimLeft(s[i:], " \t"), ""
		}
	}
	if quoted {
		return "", "", "a quote in the options has no end"
	}
	return "", "", "the key is missing"
}

// parseOptions reads name or name="value", separated by commas. Names are in
// any case; an unknown or repeated one is refused.
func (e *entry) parseOptions(opts string, loc *time.Location) string {
	seen := map[string]bool{}
	for {
		name, value, hasValue, rest, why := cutOption(opts)
		if why != "" {
			return why
		}
		if seen[name] {
			return "the option " + name + " is there twice"
		}
		seen[name] = true
		if why = e.setOption(name, value, hasValue, loc); why != "" {
			return why
		}
		if rest == "" {
			break
		}
		if opts = rest[1:]; rest[0] != ',' || opts == "" {
			return "the options are not separated by single commas"
		}
	}
	if !e.earliest.IsZero() && !e.latest.IsZero() && !e.earliest.Before(e.latest) {
		return "valid-before is not after valid-after"
	}
	return ""
}

func cutOption(s string) (name, value string, hasValue bool, rest, why string) {
	end := strings.IndexAny(s, ",=")
	if end < 0 {
		end = len(s)
	}
	name, rest = strings.ToLower(s[:end]), s[end:]
	if !strings.HasPrefix(rest, "=") {
		return name, "", false, rest, ""
	}
	value, rest, why = dequote(rest[1:])
	return name, value, true, rest, why
}

// dequote takes a value in quotes from the front of s.
func dequote(s string) (value, rest, why string) {
	if !strings.HasPrefix(s, "\"") {
		return "", "", "the value of an option is not in quotes"
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), s[i+1:], ""
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", "the value of an option has no closing quote"
}

func (e *entry) setOption(name, value string, hasValue bool, loc *time.Location) string {
	if hasValue != (name != "cert-authority") {
		return "the option " + quoteOption(name) + " is unknown, or has a value where it must have none, or none where it must have one"
	}
	var why string
	switch name {
	case "cert-authority":
		e.authority = true
	case "namespaces":
		e.limited = true
		e.namespaces, why = parsePatterns(value)
	case "valid-after":
		_, e.earliest, why = boundTimes(name, value, loc)
	case "valid-before":
		e.latest, _, why = boundTimes(name, value, loc)
	default:
		why = "the option " + quoteOption(name) + " is unknown"
	}
	return why
}

func boundTimes(name, value string, loc *time.Location) (early, late time.Time, why string) {
	early, late, ok := parseSignerTime(value, loc)
	if !ok {
		return early, late, name + " is not a time like 20260102, 202601021504 or 20260102150405, with Z for UTC"
	}
	return early, late, ""
}

// quoteOption keeps a message short and plain, whatever the file holds.
func quoteOption(name string) string { return "\"" + Plain(name[:min(len(name), 40)]) + "\"" }
