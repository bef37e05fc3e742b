// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"maps"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Verdict is whether a guest is the one that was known. The zero Verdict is
// none, and allows nothing.
type Verdict string

// The verdicts. Nothing but Same ever allows more than what is benign.
const (
	// Same: all that was known of it is still there or was changed by an op of
	// ours, and nothing has happened that could have put another in its place.
	Same Verdict = "same"
	// Changed: some evidence is gone and nothing explains it, or it cannot be
	// ruled out that another took its place; but something is in common.
	// Benign actions go on, the others wait for the operator's accept.
	Changed Verdict = "changed"
	// Unsure: there is no evidence to compare, now or from before, but nothing
	// has happened to the guest either. As Changed; but there is nothing to
	// accept, it ends by reading the config.
	Unsure Verdict = "unsure"
	// Stranger: another guest, or nothing vouches for its being the same. It is
	// left alone.
	Stranger Verdict = "stranger"
)

// Allows reports whether an action of that class may be done to a guest of
// which this is the verdict, so far as identity goes.
func (v Verdict) Allows(c guest.Class) bool {
	switch v {
	case Same:
		return true
	case Changed, Unsure:
		return c == guest.Benign
	}
	return false
}

// Judge compares what is seen of a guest with what was known of it. explained
// are the fields that ops of ours since then were to change, as [Changes] gave
// them. The reasons say what speaks against Same; there are none for Same.
//
// What a guest has besides what was known, a further disk or interface, makes
// no other guest of it. Where in the config a value stands does not count
// either: a detached disk is the same volume under unusedN.
func Judge(known, seen Evidence, c Continuity, explained []string) (Verdict, []string) {
	if strange := slices.Concat(c.Recreated, c.Underway); len(strange) > 0 {
		return Stranger, strange
	}
	doubts := c.doubts()
	switch {
	case known.IsZero() || seen.IsZero():
		return unread(known, doubts)
	case known.Kind != seen.Kind:
		return Stranger, []string{fmt.Sprintf("it was of kind %s and is of kind %s", known.Kind, seen.Kind)}
	}
	cmp := compare(known, seen, explained)
	why := slices.Concat(doubts, cmp.missing)
	switch {
	case len(why) == 0:
		return Same, nil
	case cmp.inCommon(c):
		return Changed, why
	}
	return Stranger, append(why, "nothing that is its own alone is in common")
}

// unread judges by continuity alone.
func unread(known Evidence, doubts []string) (Verdict, []string) {
	why := "its config is not known"
	if known.IsZero() {
		why = "no evidence of it was recorded before"
	}
	if len(doubts) > 0 {
		return Stranger, append(doubts, why)
	}
	return Unsure, []string{why}
}

// fact is one piece of evidence.
type fact struct {
	field, what, value string
	weight             weight
}

// weight is what a fact that was kept says; each that is gone speaks against.
type weight int

const (
	// against: nothing. All clones of one VM have its ctime.
	against weight = iota
	// loose: the same guest if nothing else can have taken the VMID. A new
	// guest gets the volume ids of the one that had its VMID.
	loose
	// hard: generated at random, and had by another guest only by hand or by a
	// restore, which is a task.
	hard
)

// facts are the pieces in a fixed order.
func (e Evidence) facts() []fact {
	var out []fact
	add := func(field, what, value string, w weight) {
		if value != "" {
			out = append(out, fact{field, what, value, w})
		}
	}
	add("smbios1", "uuid", e.UUID, hard)
	add("meta", "ctime", e.CTime, against)
	for _, key := range slices.Sorted(maps.Keys(e.Addresses)) {
		add(key, "hardware address", e.Addresses[key], hard)
	}
	for _, key := range slices.Sorted(maps.Keys(e.Volumes)) {
		add(key, "volume", e.Volumes[key], loose)
	}
	return out
}

// comparison is what became of the known facts.
type comparison struct {
	missing     []string // what is gone without an explanation, in words
	hardMissing bool
	kept        weight // the highest of those that are still there
}

func compare(known, seen Evidence, explained []string) comparison {
	there := make(map[fact]bool)
	for _, f := range seen.facts() {
		there[f.anywhere()] = true
	}
	var c comparison
	for _, f := range known.facts() {
		switch {
		case there[f.anywhere()]:
			c.kept = max(c.kept, f.weight)
		case !explains(explained, known.Kind, f.field):
			c.missing = append(c.missing, fmt.Sprintf("%s: the %s %s is gone", f.field, f.what, f.value))
			c.hardMissing = c.hardMissing || f.weight == hard
		}
	}
	return c
}

// anywhere is the fact without where it stands.
func (f fact) anywhere() fact {
	f.field = ""
	return f
}

// inCommon reports whether what was kept speaks for the same guest: a hard fact
// always, a loose one while nothing else can have taken the VMID. Where that is
// not known it does only if no hard fact is gone; once the guest was away, not
// at all.
func (c comparison) inCommon(cont Continuity) bool {
	switch {
	case c.kept == hard:
		return true
	case len(cont.Gone) > 0:
		return false
	case len(cont.doubts()) == 0:
		return c.kept == loose
	}
	return !c.hardMissing && (c.kept == loose || len(c.missing) == 0)
}
