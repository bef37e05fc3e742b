// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Merged is what all providers want together.
type Merged struct {
	Guests map[guest.VMID]*Guest
	// Conflicts are the guests that more than one provider claims, in VMID
	// order. They are not in Guests: until one provider lets go, nothing is
	// done about them.
	Conflicts []Conflict
}

// Conflict is a guest claimed by more than one provider.
type Conflict struct {
	VMID   guest.VMID `json:"vmid"`
	Claims []Claim    `json:"claims"` // by provider name
}

// Claim is where a provider claims a guest.
type Claim struct {
	Provider string `json:"provider"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

// String names all claims.
func (c Conflict) String() string {
	claims := make([]string, len(c.Claims))
	for i, cl := range c.Claims {
		claims[i] = fmt.Sprintf("provider %s (%s:%d)", cl.Provider, cl.File, cl.Line)
	}
	return fmt.Sprintf("guest %s is claimed by %s; it is left alone until only one provider claims it",
		c.VMID, strings.Join(claims, " and "))
}

// Merge joins the providers' sets, by provider name. A nil set counts as one
// without guests. The sets are not changed, their guests are shared.
func Merge(sets map[string]*Set) Merged {
	claims := map[guest.VMID][]Claim{}
	m := Merged{Guests: map[guest.VMID]*Guest{}}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		if sets[name] == nil {
			continue
		}
		for id, g := range sets[name].Guests {
			claims[id] = append(claims[id], Claim{Provider: name, File: g.File, Line: g.Line})
			m.Guests[id] = g
		}
	}
	for _, id := range slices.Sorted(maps.Keys(claims)) {
		if len(claims[id]) > 1 {
			delete(m.Guests, id)
			m.Conflicts = append(m.Conflicts, Conflict{VMID: id, Claims: claims[id]})
		}
	}
	return m
}

// Diff lists, in order, the guests that appeared, went, or changed meaning.
func Diff(old, new map[guest.VMID]*Guest) []guest.VMID {
	changed := map[guest.VMID]bool{}
	for id, g := range new {
		was := old[id]
		if was == nil || was.Revision != g.Revision {
			changed[id] = true
		}
	}
	for id := range old {
		if new[id] == nil {
			changed[id] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}
