// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"slices"
	"strings"
)

// uniqueTags is the form in which PVE stores a list of tags: joined by
// semicolons, each once, in lower case and sorted unless the datacenter's
// tag-style says otherwise.
func uniqueTags(dc Datacenter, tags string) string {
	list := splitList(tags)
	if !dc.OrderingConfig {
		slices.SortStableFunc(list, func(a, b string) int {
			if dc.CaseSensitive {
				return strings.Compare(a, b)
			}
			return strings.Compare(strings.ToLower(a), strings.ToLower(b))
		})
	}
	var out []string
	for _, t := range list {
		if !dc.CaseSensitive {
			t = strings.ToLower(t)
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return strings.Join(out, ";")
}

// mayTag refuses a caller who may not change the tags from old to new. With
// several refused tags PVE names a random one, this the first in order.
func (g *Guest) mayTag(c Caller, env *Env, old, new string) *Error {
	if err := c.need(g.path(), privOptions); err != nil {
		return err
	}
	if c.allowed("/", "Sys.Modify") {
		return nil
	}
	count := make(map[string]int)
	for _, t := range splitList(new) {
		count[t]++
	}
	for _, t := range splitList(old) {
		count[t]--
	}
	allowed := allowedTags(env)
	for _, t := range sortedKeys(count) {
		if count[t] != 0 && !allowed(t) {
			return denied("/, Sys.Modify for modifying tag '" + t + "'")
		}
	}
	return nil
}

// allowedTags tells which tags a caller without Sys.Modify may add or remove.
func allowedTags(env *Env) func(string) bool {
	dc := env.Datacenter
	var listed []string
	switch dc.UserAllow {
	case "", "free":
		return func(t string) bool { return !slices.Contains(dc.RegisteredTags, t) }
	case "existing":
		if env.GuestTags != nil {
			listed = env.GuestTags()
		}
		fallthrough
	case "list":
		listed = append(slices.Clone(dc.UserAllowList), listed...)
	}
	return func(t string) bool {
		return slices.Contains(listed, t) && !slices.Contains(dc.RegisteredTags, t)
	}
}
