// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// notSent are recorded writes that PVE took and that the table refuses, or
// makes in another way, so that what they left behind is seen for good reason.
var notSent = map[string]string{
	"lxc-s-0669":   "PVE keeps the list of unused volumes itself and dropped the entry",
	"lxc-s-0676":   "detaching mp0 made a new unused0 in the same write: deleting both at once is refused",
	"qemu-s-0440":  "cdrom is stored as ide2: refused",
	"qemu-r-0433":  "cdrom is stored as ide2: refused",
	"qemu-us-0018": "vmgenid=1 makes a new id each time: refused",
	"qemu-p-0059":  "smp is not stored: refused",
	"qemu-r-0273":  "a deleted 0 shows as 0 until the next start: the default is written in its place",
}

// notDone reports whether PVE said yes to a deletion and did nothing: a key
// that is only pending is not deleted, and comes with the next start. Seeing it
// is right.
func notDone(w write, c guest.Change) bool {
	_, current := w.Current[c.Key]
	return slices.Contains(w.del, c.Key) && w.Kind == guest.LXC && !current && w.after[c.Key] == w.before[c.Key]
}

// TestRoundtrip proves promise P6 on what real nodes answered: what they gave
// back for what was written never reads as a change, and what is another value
// always does. `make roundtrip` runs it and shows its closing line.
func TestRoundtrip(t *testing.T) {
	table := guest.Standard()
	same := readSame(t)
	var writes, quiet, real, seen int
	for _, w := range recorded(t) {
		if !w.accepted() {
			continue
		}
		writes++
		if withoutFalseDrift(t, table, w) {
			quiet++
		}
		r, s := realChanges(t, table, w, same)
		real, seen = real+r, seen+s
	}
	for line, used := range same {
		if !used {
			t.Errorf("testdata/same.tsv: nothing recorded is like %q", line)
		}
	}
	fmt.Printf("roundtrip: %d of %d without false drift, %d of %d real changes seen\n", quiet, writes, seen, real)
	if quiet != writes || seen != real || writes < 1300 {
		t.Fail()
	}
}

func withoutFalseDrift(t *testing.T, table *guest.Table, w write) bool {
	t.Helper()
	ok := true
	for _, c := range table.Diff(w.facts(), w.desired, w.del, w.after) {
		_, named := notSent[w.ID]
		if named || notDone(w, c) {
			t.Logf("%s: %s %q: %s%s", w.ID, c.Key, c.From, notSent[w.ID], map[bool]string{true: "PVE did not delete what was only pending"}[!named])
			continue
		}
		ok = false
		t.Errorf("%s (%s): %s reads as a change: %q -> %q, send %q, refuse %q", w.ID, w.Note, c.Key, c.From, c.To, c.Send, c.Refuse)
	}
	return ok
}

// realChanges counts what really differs, and what of it Diff sees: the config
// before the write, and values made unlike what the write left.
func realChanges(t *testing.T, table *guest.Table, w write, same map[string]bool) (real, seen int) {
	t.Helper()
	count := func(saw bool, format string, args ...any) {
		real++
		if saw {
			seen++
			return
		}
		t.Errorf(w.ID+": not seen: "+format, args...)
	}
	before := table.Diff(w.facts(), w.desired, w.del, w.before)
	for _, d := range w.differences() {
		line := d.line(w)
		if _, listed := same[line]; listed {
			same[line] = true
			if mentions(before, d.key) {
				t.Errorf("%s: reads as a change, though it changes nothing: %s", w.ID, line)
			}
			continue
		}
		count(mentions(before, d.key), "%s", line)
	}
	for key, value := range w.desired {
		form, known := table.Form(w.Kind, key)
		actual, kept := w.after[key]
		if !known || !kept || form.Secret && strings.Trim(actual, "*") == "" {
			continue
		}
		for _, other := range variants(form.Value, value, actual) {
			changed := guest.Config{key: other}
			count(mentions(table.Diff(w.facts(), guest.Config{key: value}, nil, changed), key), "%s desired %q, actual %q", key, value, other)
		}
	}
	return real, seen
}

func mentions(changes []guest.Change, key string) bool {
	return slices.ContainsFunc(changes, func(c guest.Change) bool { return c.Key == key })
}

// difference is a key whose text the write changed.
type difference struct {
	key                 string
	before, desired     string
	hadBefore, toDelete bool
}

func (w write) differences() []difference {
	var out []difference
	for key, value := range w.desired {
		before, had := w.before[key]
		after, has := w.after[key]
		if before != after || had != has {
			out = append(out, difference{key: key, before: before, hadBefore: had, desired: value})
		}
	}
	for _, key := range w.del {
		before, had := w.before[key]
		if _, has := w.after[key]; had && !has {
			out = append(out, difference{key: key, before: before, hadBefore: true, toDelete: true})
		}
	}
	return out
}

// line is the difference as testdata/same.tsv names it, without the reason.
func (d difference) line(w write) string {
	return strings.Join([]string{string(w.Kind), d.key, quoted(d.before, d.hadBefore), quoted(d.desired, !d.toDelete)}, "\t")
}

func quoted(s string, present bool) string {
	if !present {
		return "absent"
	}
	b, _ := json.Marshal(s)
	return string(b)
}

// readSame reads the recorded changes that change nothing in meaning.
func readSame(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("testdata/same.tsv")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if len(fields) != 5 || fields[4] == "" {
			t.Fatalf("testdata/same.tsv: not kind, key, before, desired, reason: %q", line)
		}
		out[strings.Join(fields[:4], "\t")] = false
	}
	return out
}

// TestPuts9 is the same proof for the writes recorded one by one through the
// API of PVE 8 and 9.
func TestPuts9(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	n := 0
	for _, w := range readWrites(t, "testdata/api-puts.jsonl.gz") {
		if !w.accepted() {
			continue
		}
		n++
		for _, c := range table.Diff(w.facts(), w.desired, w.del, w.after) {
			t.Errorf("%s: %s reads as a change: %q -> %q, send %q", w.ID, c.Key, c.From, c.To, c.Send)
		}
	}
	t.Logf("%d accepted writes of single exchanges without false drift", n)
	if n < 80 {
		t.Errorf("only %d writes found", n)
	}
}
