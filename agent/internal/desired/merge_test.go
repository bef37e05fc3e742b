// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestMerge(t *testing.T) {
	t.Parallel()
	parse := func(provider, name, doc string) *Set {
		opt := testOptions
		opt.Provider = provider
		set, err := Parse(opt, files(name, doc))
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	dir := parse("dir", "a.toml", "[guest.101]\nkind = \"lxc\"\n\n[guest.102]\nkind = \"lxc\"\n\n[guest.300]\nkind = \"lxc\"\n")
	hub := parse("hub", "h.toml", "# hub\n[guest.102]\nkind = \"lxc\"\n[guest.103]\nkind = \"qemu\"\n[guest.300]\nkind = \"qemu\"\n")
	nats := parse("nats", "n.json", `{"guest": {"300": {"kind": "lxc"}}}`)

	m := Merge(map[string]*Set{"dir": dir, "hub": hub, "nats": nats, "none": nil})
	if d := cmp.Diff(sortedIDs(m.Guests), []guest.VMID{101, 103}); d != "" {
		t.Errorf("guests (-got +want):\n%s", d)
	}
	want := []Conflict{
		{102, []Claim{{"dir", "a.toml", 4}, {"hub", "h.toml", 2}}},
		{300, []Claim{{"dir", "a.toml", 7}, {"hub", "h.toml", 6}, {"nats", "n.json", 1}}},
	}
	if d := cmp.Diff(m.Conflicts, want); d != "" {
		t.Errorf("conflicts (-got +want):\n%s", d)
	}
	const text = "guest 102 is claimed by provider dir (a.toml:4) and provider hub (h.toml:2); it is left alone until only one provider claims it"
	if got := m.Conflicts[0].String(); got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
	if len(dir.Guests) != 3 {
		t.Error("merging changed a set")
	}
	if none := Merge(nil); len(none.Guests) != 0 || none.Guests == nil || none.Conflicts != nil {
		t.Errorf("nothing merged is %+v", none)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	g := func(rev string) *Guest { return &Guest{Revision: rev} }
	old := map[guest.VMID]*Guest{101: g("a"), 102: g("b"), 103: g("c")}
	new := map[guest.VMID]*Guest{101: {Revision: "a", File: "moved.toml", Provider: "other"}, 102: g("B"), 100: g("n")}
	if d := cmp.Diff(Diff(old, new), []guest.VMID{100, 102, 103}); d != "" {
		t.Errorf("changed (-got +want):\n%s", d)
	}
	if d := Diff(old, old); len(d) != 0 {
		t.Errorf("nothing changed, got %v", d)
	}
	if d := Diff(nil, nil); len(d) != 0 {
		t.Errorf("nothing at all, got %v", d)
	}
}
