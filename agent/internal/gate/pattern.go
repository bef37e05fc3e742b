// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import "strings"

const maxPattern = 255

// patterns is OpenSSH's comma-separated list of patterns with * and ?, each
// negated by a leading "!". A negated match outweighs every other.
type patterns []string

// parsePatterns refuses what OpenSSH takes for a pattern that matches nothing.
func parsePatterns(s string) (patterns, string) {
	if strings.ContainsAny(s, "\t\"") {
		return nil, "a quote or a tab in a list of patterns"
	}
	list := strings.Split(s, ",")
	for _, p := range list {
		body := strings.TrimPrefix(p, "!")
		switch {
		case body == "":
			return nil, "an empty pattern in the list"
		case strings.HasPrefix(body, "!"):
			return nil, "a pattern that is negated twice"
		case len(body) > maxPattern:
			return nil, "a pattern that is too long"
		}
	}
	return list, ""
}

func (ps patterns) match(s string) bool {
	found := false
	for _, p := range ps {
		body, negated := strings.CutPrefix(p, "!")
		if !glob(body, s) {
			continue
		}
		if negated {
			return false
		}
		found = true
	}
	return found
}

// literal are the names that the list says in full and does not exclude.
func (ps patterns) literal() []string {
	var out []string
	for _, p := range ps {
		if !strings.HasPrefix(p, "!") && !strings.ContainsAny(p, "*?") && ps.match(p) {
			out = append(out, p)
		}
	}
	return out
}

// glob matches with * (any run of bytes) and ? (one byte), in time
// proportional to len(pattern) * len(s).
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
