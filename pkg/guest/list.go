// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"slices"
	"strings"
)

// List is several values in one text. PVE takes commas, semicolons and blanks
// between them and writes Sep.
type List struct {
	Item  Value
	Split string // the characters that separate, "" = commas, semicolons, blanks
	Set   bool   // order and repetition count for nothing
	Lower bool   // letter case counts for nothing
	What  string // value kind, "" = list or set
}

// Name implements Value.
func (l List) Name() string {
	switch {
	case l.What != "":
		return l.What
	case l.Set:
		return "set"
	}
	return "list"
}

// Rule implements Value.
func (l List) Rule() string {
	rule := "item by item in order"
	if l.Set {
		rule = "as a set"
	}
	if l.Lower {
		rule += ", letter case ignored"
	}
	return rule
}

func (l List) items(s string) []string {
	split := l.Split
	if split == "" {
		split = ",; \t\r\n\x00"
	}
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(split, r) })
}

// Check implements Value.
func (l List) Check(s string) error {
	for _, item := range l.items(s) {
		if err := l.Item.Check(item); err != nil {
			return fmt.Errorf("item %w", err)
		}
	}
	return nil
}

// Normal implements Value.
func (l List) Normal(s string) string {
	items := l.items(s)
	for i, item := range items {
		items[i] = l.Item.Normal(item)
		if l.Lower {
			items[i] = strings.ToLower(items[i])
		}
	}
	if l.Set {
		slices.Sort(items)
		items = slices.Compact(items)
	}
	return strings.Join(items, ";")
}
