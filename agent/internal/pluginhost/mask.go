// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// minRedacted is the length from which a secret's value is masked wherever it
// appears in a plugin's words. A shorter one would mask half of everything.
const minRedacted = 4

// minCore is that of a secret's middle in base64.
const minCore = 6

// revealed are the values of secrets.
func revealed(secrets map[string]plugin.Secret) []string {
	var all []string
	for _, s := range secrets {
		all = append(all, s.Reveal())
	}
	return all
}

// redactor masks secrets, in all their spellings. The longest comes first: one
// may be the beginning of another.
func redactor(secrets []string) *strings.Replacer {
	var parts []string
	for _, s := range secrets {
		parts = append(parts, spellings(strings.TrimSpace(s))...)
		lines := strings.Split(s, "\n") // output comes in lines
		for _, l := range lines {
			if l = strings.TrimSpace(l); len(lines) > 1 && !boundary(l) {
				parts = append(parts, spellings(l)...)
			}
		}
	}
	slices.Sort(parts)
	parts = slices.Compact(parts)
	slices.SortStableFunc(parts, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, part := range parts {
		pairs = append(pairs, part, plugin.Secret("").String())
	}
	return strings.NewReplacer(pairs...)
}

// boundary reports whether a line only says what is in a file: "-----BEGIN
// PRIVATE KEY-----" is no secret, and an error may well name it.
func boundary(line string) bool {
	return strings.HasPrefix(line, "-----") && strings.HasSuffix(line, "-----")
}

// spellings are the forms in which a secret comes into a text: as it is, quoted
// as Go and JSON do, escaped as in a URL, in hexadecimal and in base64.
func spellings(s string) []string {
	if len(s) < minRedacted {
		return nil
	}
	digits := hex.EncodeToString([]byte(s))
	user := url.UserPassword("", s).String()
	all := []string{
		s, inJSON(s, true), inJSON(s, false), unquoted(strconv.Quote(s)), unquoted(strconv.QuoteToASCII(s)),
		url.QueryEscape(s), url.PathEscape(s), user[len(":"):], digits, strings.ToUpper(digits),
	}
	return append(all, inBase64(s)...)
}

func unquoted(s string) string { return s[1 : len(s)-1] }

// inJSON is how s is written in a JSON string.
func inJSON(s string, html bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	_ = enc.Encode(s) // a string, into memory
	return unquoted(strings.TrimSuffix(b.String(), "\n"))
}

// inBase64 is s in base64, and what is the same of it wherever it stands in a
// longer text, as in the header of a basic authentication.
func inBase64(s string) []string {
	all := []string{base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s))}
	for before, mixed := range []int{0, 2, 3} { // bytes before it; characters that have bits of those
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), s...))
		if core := text[mixed : (before+len(s))*8/6]; len(core) >= minCore {
			all = append(all, core)
		}
	}
	inURL := strings.NewReplacer("+", "-", "/", "_")
	for _, t := range all[:len(all):len(all)] {
		all = append(all, inURL.Replace(t))
	}
	return all
}
