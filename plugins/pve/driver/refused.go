// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// refusedKeys are those keys of a write that PVE refused, as far as its answer
// tells, each with PVE's words; nil if it does not tell.
func (d *Driver) refusedKeys(a plugin.Action, err error) map[string]string {
	e, ok := errors.AsType[*pve.Error](err)
	if !ok || a.Kind != plugin.SetConfig && a.Kind != plugin.Provision || e.Kind == pve.ErrNoGuest || e.Status == http.StatusUnauthorized {
		return nil // it is no key that was refused
	}
	out := make(map[string]string)
	for _, key := range touched(a) {
		if w, ok := e.Params[key]; ok {
			out[key] = strings.TrimSpace(w)
		} else if w, ok := e.Params["delete"]; ok && quoted(w, key) {
			out[key] = strings.TrimSpace(w)
		}
	}
	text := e.Text()
	for _, find := range []func(plugin.Action, string) []string{d.byPrivilege, byTopic, byQuote, byWord} {
		// What making a guest takes beside its keys is named in the same words.
		if len(out) > 0 || a.Kind != plugin.SetConfig {
			break
		}
		for _, key := range find(a, text) {
			out[key] = text
		}
	}
	if keys := touched(a); len(out) == 0 && len(keys) == 1 && a.Kind == plugin.SetConfig {
		out[keys[0]] = text
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// permissionPattern takes apart "Permission check failed (PATH, PRIV|PRIV)".
var permissionPattern = regexp.MustCompile(`Permission check failed \(([^ ,]+), ([A-Za-z.|]+)\)`)

// byPrivilege are the keys that need a privilege the answer says is missing.
func (d *Driver) byPrivilege(a plugin.Action, text string) []string {
	m := permissionPattern.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	path, missing := m[1], strings.Split(m[2], "|")
	switch {
	case strings.HasPrefix(path, "/sdn/zones/"):
		_, bridge, _ := strings.Cut(strings.TrimPrefix(path, "/sdn/zones/"), "/")
		bridge, _, _ = strings.Cut(bridge, "/") // a VLAN may follow
		return valuesWith(a, "bridge="+bridge)
	case strings.HasPrefix(path, "/storage/"):
		return onStorage(a, strings.TrimPrefix(path, "/storage/"))
	}
	var out []string
	for _, key := range touched(a) {
		if slices.ContainsFunc(d.needs(a, key), func(p string) bool { return slices.Contains(missing, p) }) {
			out = append(out, key)
		}
	}
	return out
}

// onStorage are the keys that order a new volume on a storage, or else those
// that name the storage.
func onStorage(a plugin.Action, storage string) []string {
	order := regexp.MustCompile(`^` + regexp.QuoteMeta(storage) + `:[0-9.]+(,|$)`)
	var out []string
	for _, key := range touched(a) {
		if order.MatchString(a.Set[key]) {
			out = append(out, key)
		}
	}
	if len(out) > 0 {
		return out
	}
	return valuesWith(a, storage)
}

var privilegePattern = regexp.MustCompile(`[A-Z][A-Za-z]+\.[A-Za-z.]+`)

// needs are the privileges that writing a key may take: what its row says,
// and what this value takes.
func (d *Driver) needs(a plugin.Action, key string) []string {
	form, _ := d.forms.Form(a.Guest.Kind, key)
	text := form.Privilege
	if value, set := a.Set[key]; set {
		facts := guest.Facts{Kind: a.Guest.Kind}
		text += " " + d.forms.Set(facts, key, value, guest.Config{}).Privilege
	}
	return privilegePattern.FindAllString(text, -1)
}

// topics are phrases that stand for keys.
var topics = []struct {
	phrase string
	key    *regexp.Regexp
	value  string // prefix of the value, "" for any
}{
	{"changing the hookscript", regexp.MustCompile(`^hookscript$`), ""},
	{"feature flag", regexp.MustCompile(`^features$`), ""},
	{"device passthrough", regexp.MustCompile(`^dev\d+$`), ""},
	{"mount point type", regexp.MustCompile(`^(rootfs|mp\d+)$`), "/"},
	{"for modifying tag", regexp.MustCompile(`^tags$`), ""},
	{"SSH public key", regexp.MustCompile(`^sshkeys$`), ""},
	{"bootorder", regexp.MustCompile(`^boot$`), ""},
	{"(/, Sys.Modify)", regexp.MustCompile(`^startup$`), ""},
}

// byTopic are the keys that the answer speaks of without their names.
func byTopic(a plugin.Action, text string) []string {
	var out []string
	for _, t := range topics {
		if !strings.Contains(text, t.phrase) {
			continue
		}
		for _, key := range touched(a) {
			if t.key.MatchString(key) && strings.HasPrefix(a.Set[key], t.value) {
				out = append(out, key)
			}
		}
	}
	return out
}

var quotePattern = regexp.MustCompile(`'-?([^']+)'`)

// byQuote are the keys whose name, or a part of whose value, the answer
// quotes: "only root can set 'args' config", "bridge 'x' does not exist".
func byQuote(a plugin.Action, text string) []string {
	var names, values []string
	for _, m := range quotePattern.FindAllStringSubmatch(text, -1) {
		for _, key := range touched(a) {
			if key == m[1] {
				names = append(names, key)
			}
		}
		values = append(values, valuesWith(a, m[1])...)
	}
	if len(names) > 0 {
		return names
	}
	return values
}

// byWord are the keys that occur as a word of the answer.
func byWord(a plugin.Action, text string) []string {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-')
	})
	var out []string
	for _, key := range touched(a) {
		if slices.Contains(words, key) {
			out = append(out, key)
		}
	}
	return out
}

// valuesWith are the keys whose new value has part in it, not as a piece of a
// longer word.
func valuesWith(a plugin.Action, part string) []string {
	var out []string
	for _, key := range touched(a) {
		if containsPart(a.Set[key], part) {
			out = append(out, key)
		}
	}
	return out
}

func containsPart(value, part string) bool {
	for rest := value; part != ""; {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		end := i + len(part)
		before := i == 0 || !wordByte(rest[i-1])
		after := end == len(rest) || !wordByte(rest[end]) || !wordByte(part[len(part)-1])
		if before && after {
			return true
		}
		rest = rest[end:]
	}
	return false
}

func wordByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.'
}

// quoted reports whether text has key in quotes, with or without a dash.
func quoted(text, key string) bool {
	for _, m := range quotePattern.FindAllStringSubmatch(text, -1) {
		if strings.TrimPrefix(m[1], "-") == key {
			return true
		}
	}
	return strings.Contains(text, "-delete "+key+"'")
}
