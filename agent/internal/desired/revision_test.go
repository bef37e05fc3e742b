// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// TestRevisionStays pins a revision. If it fails, an upgrade of the agent would
// end every hold on every host: change the hash only if that is meant.
func TestRevisionStays(t *testing.T) {
	t.Parallel()
	const want = "f1287c66a2ee5f50fc6c54f9586868d865d0021840dfeb48c10f3c090a576079"
	if got := mustParse(t, "a.toml", fullTOML).Guests[101].Revision; got != want {
		t.Errorf("revision %s, want %s", got, want)
	}
}

// TestRevisionChanges changes one thing of a document at a time.
func TestRevisionChanges(t *testing.T) {
	t.Parallel()
	seen := map[string]string{mustParse(t, "a.toml", fullTOML).Guests[101].Revision: "the document as it is"}
	for _, change := range [][2]string{
		{`run = "running"`, `run = "stopped"`},
		{`run = "running"`, ``},
		{`stop = "force"`, ``},
		{`stop_timeout = "2m"`, `stop_timeout = "3m"`},
		{`mode = "observe"`, `mode = "paused"`},
		{`mode = "observe"`, ``},
		{`run = "revert", config = "hold"`, `run = "hold", config = "hold"`},
		{`config = "hold", cores = "revert"`, `config = "hold"`},
		{`config = "hold", cores = "revert"`, `config = "revert"`},
		{`ignore = ["run", "description"]`, `ignore = ["run"]`},
		{`ha = "request"`, ``},
		{`cores = 2`, `cores = 3`},
		{`cores = 2`, ``},
		{`"one\ntwo\n"`, `"one\n two\n"`},
		{`"web", "Prod"`, `"web"`},
		{`onboot = true`, `onboot = false`},
		{`name = "eth0", firewall = true`, `name = "eth0", firewall = false`},
		{`delete = ["mp3", "cpulimit"]`, `delete = ["mp3"]`},
		{`mp0 = "512MiB"`, `mp0 = "513MiB"`},
		{`protection = false`, ``},
		{`storage = "local"`, `storage = "zfs"`},
		{`{ searchdomain = "lan" }`, `{ searchdomain = "wan" }`},
		{`debian-12`, `debian-13`},
	} {
		if !strings.Contains(fullTOML, change[0]) {
			t.Fatalf("the document does not say %s", change[0])
		}
		rev := mustParse(t, "a.toml", strings.Replace(fullTOML, change[0], change[1], 1)).Guests[101].Revision
		if other, ok := seen[rev]; ok {
			t.Errorf("%s -> %s: same revision as %s", change[0], change[1], other)
		}
		seen[rev] = change[1]
	}
}

// TestRevisionHidesSecrets: a revision goes into logs and reports, so it must
// not be the plain hash of a document with a secret in it, but must change with
// the secret.
func TestRevisionHidesSecrets(t *testing.T) {
	t.Parallel()
	g := &Guest{VMID: 101, Kind: guest.QEMU, Config: guest.Config{"cipassword": "a"}}
	all := func(string) bool { return true }
	none := func(string) bool { return false }
	if g.revision(all) == g.revision(none) {
		t.Error("a secret is hashed as it stands")
	}
	was := g.revision(all)
	g.Config["cipassword"] = "b"
	if g.revision(all) == was {
		t.Error("the secret changed, the revision did not")
	}
}

func TestSetRoundTrip(t *testing.T) {
	t.Parallel()
	want := mustParse(t, "a.toml", fullTOML, "z.toml", "host = \"pve2\"\n")
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got *Set
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("through JSON (-got +want):\n%s", d)
	}
}

// TestRender writes sets as documents, which must mean the same.
func TestRender(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		fullTOML,
		"# nothing\n",
		"[guest.101]\nkind = \"lxc\"\n[guest.102]\nkind = \"qemu\"\nprovision.clone = 101\non_manual_change = \"hold\"\n",
		"[guest.101]\nkind = \"lxc\"\non_manual_change = { config = \"hold\" }\ndescription = \"a\\\"b\\\\c\\r\\nd\"\n",
	} {
		checkRender(t, mustParse(t, "a.toml", doc))
	}
}

// TestRenderManual has a guest that no document says like this: made in code,
// with a default that speaks for the run state too.
func TestRenderManual(t *testing.T) {
	t.Parallel()
	g := &Guest{VMID: 101, Kind: guest.LXC, OnManualDefault: Revert, OnManual: map[string]OnManual{"cores": Hold}}
	data, err := (&Set{Guests: map[guest.VMID]*Guest{101: g}}).TOML()
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, "a.toml", string(data)).Guests[101]
	for _, field := range []string{RunField, "cores", "memory"} {
		if again.Manual(field) != g.Manual(field) {
			t.Errorf("%s: %s, want %s", field, again.Manual(field), g.Manual(field))
		}
	}
}

// checkRender writes set in both formats and parses it again.
func checkRender(t *testing.T, set *Set) {
	t.Helper()
	opt := testOptions
	opt.Now = opt.Now.AddDate(-1000, 0, 0) // whatever it says of not_after, it was accepted
	asTOML, err := set.TOML()
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := set.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"r.toml": asTOML, "r.json": asJSON} {
		again, err := Parse(opt, files(name, string(data)))
		if err != nil {
			t.Fatalf("%s does not parse: %v\n%s", name, err, data)
		}
		if d := Diff(set.Guests, again.Guests); len(d) > 0 {
			t.Fatalf("%s means something else of %v:\n%s", name, d, data)
		}
		if again.Serial != set.Serial || again.Issuer != set.Issuer || !again.NotAfter.Equal(set.NotAfter) || again.Host != set.Host {
			t.Fatalf("%s has another head: %+v, want %+v\n%s", name, again, set, data)
		}
	}
}
