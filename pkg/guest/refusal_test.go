// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// late are refusals that no one can foresee who does not know the node: what
// it says, and why the table cannot know.
var late = []struct {
	says *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`time zone 'Nope/Zone'`), "which zones there are, the node's files decide"},
	{regexp.MustCompile(`cputype`), "which CPU types there are, the node's QEMU and its custom models decide"},
	{regexp.MustCompile(`detected modified|checksum mismatch`), "the digest is the caller's"},
	{regexp.MustCompile(`is locked`), "the lock is the caller's to look at"},
	{regexp.MustCompile(`storage 'nope' does not exist|volume '.*' does not exist`), "which storages and volumes there are, the node knows"},
	{regexp.MustCompile(`bridge '.*' does not exist|interface .* does not exist|pve-bridge-hotplug|vlan aware`), "which bridges there are, the node knows"},
	{regexp.MustCompile(`bigger than bridge MTU`), "the bridge's MTU, the node knows"},
	{regexp.MustCompile(`no options specified`), "an empty request is the caller's"},
}

// requestOnly are complaints about parameters of the request.
var requestOnly = []string{"revert", "digest", "skiplock", "background_delay"}

func (w write) refused() bool {
	return w.Status >= 400 && w.Path == "" && w.Lab == ""
}

// schema reports whether PVE refused the write for what its schema says.
func (w write) schema() bool {
	if w.Status != 400 {
		return false
	}
	for key, text := range w.errors() {
		if slices.Contains(requestOnly, key) || strings.Contains(text, "hotplug") {
			return false
		}
	}
	return len(w.errors()) > 0
}

// foreseen reports whether the offending part of a refused write would never
// have been sent.
func foreseen(table *guest.Table, w write) bool {
	for key, value := range w.desired {
		if table.Check(w.Kind, key, value) != nil {
			return true
		}
	}
	changes := table.Diff(w.facts(), w.desired, w.del, w.before)
	if slices.ContainsFunc(changes, func(c guest.Change) bool { return c.Refuse != "" }) {
		return true
	}
	// What is as desired already is not sent; a deletion of nothing neither.
	return len(changes) == 0
}

func TestRecordedRefusals(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	type share struct{ foreseen, all int }
	shares := map[string]*share{"schema": {}, "late": {}}
	for _, w := range append(recorded(t), readWrites(t, "testdata/api-puts.jsonl.gz")...) {
		if !w.refused() || isPermission(w) || onlyRequest(w) {
			continue
		}
		kind := map[bool]string{true: "schema", false: "late"}[w.schema()]
		shares[kind].all++
		switch {
		case foreseen(table, w), unknownInDelete(table, w):
			shares[kind].foreseen++
		case whyLate(w) == "":
			t.Errorf("%s: PVE said %q %v to %v del %v; nothing was refused", w.ID, w.Reason, w.errors(), w.desired, w.del)
		}
	}
	for kind, s := range shares {
		t.Logf("refused by PVE (%s): %d of %d foreseen", kind, s.foreseen, s.all)
	}
	if s := shares["schema"]; s.foreseen*100 < s.all*97 {
		t.Errorf("of %d schema refusals only %d foreseen", s.all, s.foreseen)
	}
}

func onlyRequest(w write) bool {
	for key := range w.errors() {
		if slices.Contains(requestOnly, key) {
			return true
		}
	}
	return false
}

// unknownInDelete: PVE refuses a list with an unknown key; Diff has nothing to
// delete there.
func unknownInDelete(table *guest.Table, w write) bool {
	return strings.Contains(w.errors()["delete"], "unknown option") && !slices.ContainsFunc(
		table.Diff(w.facts(), w.desired, w.del, w.before), func(c guest.Change) bool { return c.AsText })
}

func whyLate(w write) string {
	text := w.Reason
	for _, e := range w.errors() {
		text += " " + e
	}
	for _, l := range late {
		if l.says.MatchString(text) {
			return l.why
		}
	}
	return ""
}

func isPermission(w write) bool {
	return w.Status == 403 || strings.HasPrefix(w.Reason, "only root can")
}

var (
	missing = regexp.MustCompile(`\((/[^,]*), ([A-Za-z.|]+)`)
	role    = regexp.MustCompile(`role of the token: (.*)$`)
)

// TestRecordedPrivileges compares the privilege column with what PVE said to
// tokens that had one privilege each.
func TestRecordedPrivileges(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	var refused, granted int
	for _, w := range recorded(t) {
		if w.Path != "" || strings.Contains(w.Note, "datacenter.cfg") || w.Lab != "" {
			continue
		}
		changes := everyChange(table, w)
		switch {
		case len(changes) == 0, pendingFeatures(w):
		case isPermission(w) && !generalCheck(w):
			refused++
			if !slices.ContainsFunc(changes, func(c guest.Change) bool { return explains(c, w.Reason) }) {
				t.Errorf("%s: PVE said %q to %v del %v; the table has %v", w.ID, w.Reason, w.desired, w.del, changes)
			}
		case w.Status == 200 && strings.HasPrefix(w.As, "token narrow"):
			granted++
			for _, c := range changes {
				if m := role.FindStringSubmatch(w.Note); m != nil && !holds(strings.Fields(m[1]), c.Privilege) {
					t.Errorf("%s: PVE took %v with %s; the table wants %q", w.ID, w.desired, m[1], c.Privilege)
				}
			}
		}
	}
	t.Logf("privileges: %d refusals explained, %d grants agreed with", refused, granted)
	if refused < 150 || granted < 30 {
		t.Errorf("only %d refusals and %d grants found", refused, granted)
	}
}

// pendingFeatures: PVE judges a change of features by what the container runs
// with, which the merged config does not show.
func pendingFeatures(w write) bool {
	_, current := w.Current["features"]
	_, desired := w.desired["features"]
	_, before := w.before["features"]
	return desired && before && !current
}

// everyChange are the changes that the write asks for, as PVE judges them: also
// of what is as desired already.
func everyChange(table *guest.Table, w write) []guest.Change {
	var out []guest.Change
	for key, value := range w.desired {
		out = append(out, table.Set(w.facts(), key, value, w.before))
	}
	actual := guest.Config{}
	for key, value := range w.before {
		actual[key] = value
	}
	for _, key := range w.del {
		if _, ok := actual[key]; !ok {
			actual[key] = "1"
		}
	}
	return append(out, table.Diff(w.facts(), nil, w.del, actual)...)
}

// generalCheck: before it looks at keys, PVE wants any one of the privileges.
func generalCheck(w write) bool { return strings.Count(w.Reason, "|") > 1 }

func explains(c guest.Change, reason string) bool {
	if strings.Contains(reason, "only root can") || strings.Contains(reason, "root@pam") {
		return c.Privilege == "root@pam"
	}
	m := missing.FindStringSubmatch(reason)
	return m != nil && strings.Contains(c.Privilege, m[2])
}

// holds reports whether a role has what "A, B|C" wants.
func holds(role []string, privilege string) bool {
	for all := range strings.SplitSeq(privilege, ", ") {
		if all != "" && !slices.ContainsFunc(strings.Split(all, "|"), func(p string) bool { return slices.Contains(role, p) }) {
			return false
		}
	}
	return true
}

// TestRecordedEffects compares the effect column with what a running guest
// took at once and what was pending afterwards.
func TestRecordedEffects(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	var right, all int
	for _, w := range recorded(t) {
		if !w.accepted() || w.State != "running" || strings.HasPrefix(w.Note, "seq ") {
			continue
		}
		current := toConfig(w.Current)
		for _, c := range table.Diff(w.facts(), w.desired, w.del, w.before) {
			was, had := current[c.Key]
			onlyPending := slices.Contains(w.del, c.Key) && !had
			if c.AsText || c.Effect == guest.NeedsRoot || onlyPending || notSent[w.ID] != "" {
				continue
			}
			all++
			is, has := w.after[c.Key]
			pending := was != is || had != has
			if pending == (c.Effect != guest.Live) {
				right++
				continue
			}
			t.Errorf("%s: %s %q -> %q del %v: pending %v, the table says %s", w.ID, c.Key, c.From, c.Send, c.Delete, pending, c.Effect)
		}
	}
	t.Logf("effects: %d of %d as recorded", right, all)
	if all < 400 {
		t.Errorf("only %d effects found", all)
	}
}
