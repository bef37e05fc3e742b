// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// mustParse parses pairs of name and text.
func mustParse(t *testing.T, pairs ...string) *Set {
	t.Helper()
	set, err := Parse(testOptions, files(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const fullTOML = `# who says so
issuer = "ops"
host = "pve1"
serial = 7
not_after = 2027-01-01T00:00:00+01:00

[guest.101]
kind = "lxc"
run = "running"
stop = "force"
stop_timeout = "2m"
mode = "observe"
on_manual_change = { run = "revert", config = "hold", cores = "revert" }
ignore = ["run", "description"]
ha = "request"
cores = 2
memory = "2GiB"
swap = "0.5GiB"
description = "one\ntwo\n"
tags = ["web", "Prod", "a"]
onboot = true
startup = { down = "1m", order = 1, up = "30s" }
hostname = "web"
net0 = { bridge = "vmbr0", name = "eth0", firewall = true, tag = 5, ip = "dhcp" }
net1 = "bridge=vmbr1,name=eth1"
delete = ["mp3", "cpulimit"]
[guest.101.disk]
rootfs = "16GiB"
mp0 = "512MiB"
[guest.101.config]
protection = false
cpuunits = 100
nameserver = "10.0.0.1 10.0.0.2"
[guest.101.provision]
template = "local:vztmpl/debian-12.tar.zst"
storage = "local"
config = { searchdomain = "lan" }
`

const fullJSON = `{
  "not_after": "2026-12-31T23:00:00Z", "serial": 7, "host": "PVE1", "issuer": "ops",
  "guest": {"101": {
    "provision": {"config": {"searchdomain": "lan"}, "storage": "local", "template": "local:vztmpl/debian-12.tar.zst"},
    "config": {"nameserver": "10.0.0.1 10.0.0.2", "protection": "0", "cpuunits": "100"},
    "disk": {"mp0": "0.5GiB", "rootfs": "16384MiB"},
    "delete": ["cpulimit", "mp3"],
    "net1": {"name": "eth1", "bridge": "vmbr1"},
    "net0": "ip=dhcp,tag=5,firewall=1,bridge=vmbr0,name=eth0",
    "hostname": "web", "startup": "1,down=60,up=30", "onboot": true,
    "tags": ["a", "web", "Prod"], "description": "one\ntwo", "swap": "512MiB", "memory": "2048MiB", "cores": 2,
    "ha": "request", "ignore": ["description", "run"],
    "on_manual_change": {"cores": "revert", "config": "hold", "run": "revert"},
    "mode": "observe", "stop_timeout": "120s", "stop": "force", "run": "running", "kind": "lxc"
  }}
}`

func fullSet() *Set {
	return &Set{
		Provider: "dir", Issuer: "ops", Host: "pve1", Serial: 7,
		NotAfter: time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC),
		Guests: map[guest.VMID]*Guest{101: {
			VMID: 101, Kind: guest.LXC, Provider: "dir", File: "a.toml", Line: 7,
			Mode: Observe, Run: guest.Running, Stop: StopForce, StopTimeout: 2 * time.Minute,
			Config: guest.Config{
				"cores": "2", "memory": "2048", "swap": "512", "description": "one\ntwo", "tags": "a;Prod;web",
				"onboot": "1", "startup": "order=1,up=30,down=60", "hostname": "web",
				"net0":       "name=eth0,bridge=vmbr0,firewall=1,ip=dhcp,tag=5",
				"net1":       "name=eth1,bridge=vmbr1",
				"protection": "0", "cpuunits": "100", "nameserver": "10.0.0.1 10.0.0.2",
			},
			Delete:   []string{"cpulimit", "mp3"},
			Disks:    map[string]int64{"rootfs": 16 << 30, "mp0": 512 << 20},
			OnManual: map[string]OnManual{"run": Revert, "cores": Revert}, OnManualDefault: Hold,
			Ignore: []string{"description", "run"}, HA: "request",
			Provision: &Provision{
				Template: "local:vztmpl/debian-12.tar.zst", Storage: "local",
				Config: guest.Config{"searchdomain": "lan"},
			},
		}},
	}
}

var ignoreRevisions = cmp.Options{
	cmpopts.IgnoreFields(Set{}, "Revision"),
	cmpopts.IgnoreFields(Guest{}, "Revision"),
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := fullSet()
	got := mustParse(t, "a.toml", fullTOML)
	if d := cmp.Diff(got, want, ignoreRevisions); d != "" {
		t.Errorf("TOML (-got +want):\n%s", d)
	}
	fromJSON := mustParse(t, "a.json", fullJSON)
	want.Guests[101].File, want.Guests[101].Line = "a.json", 3
	if d := cmp.Diff(fromJSON, want, ignoreRevisions); d != "" {
		t.Errorf("JSON (-got +want):\n%s", d)
	}
	if a, b := got.Guests[101].Revision, fromJSON.Guests[101].Revision; a != b || a == "" {
		t.Errorf("the same guest has revision %q in TOML and %q in JSON", a, b)
	}
}

// TestParseAsWritten has documents with the same meaning as a plain one.
func TestParseAsWritten(t *testing.T) {
	t.Parallel()
	plain := mustParse(t, "a.toml", "[guest.101]\nkind = \"lxc\"\ncores = 2\n").Guests[101]
	tests := map[string]string{
		"byte order mark":   "\ufeff[guest.101]\nkind = \"lxc\"\ncores = 2\n",
		"CRLF":              "[guest.101]\r\nkind = \"lxc\"\r\ncores = 2\r\n",
		"dotted":            "guest.101.kind = \"lxc\"\nguest.101.cores = 2\n",
		"quoted":            "[\"guest\".'101']\n\"kind\" = 'lxc'\n\"c\\u006fres\" = 2\n",
		"inline":            "guest = { 101 = { kind = \"lxc\", cores = 2 } }\n",
		"inline over lines": "guest = {\n  101 = { # web\n    kind = \"lxc\",\n    cores = 2,\n  },\n}\n",
		"hexadecimal":       "[guest.101]\ncores = 0x2\nkind = \"lxc\"\n",
		"no final newline":  "[guest.101]\nkind = \"lxc\"\ncores = 2",
		"mode enforce":      "[guest.101]\nkind = \"lxc\"\ncores = 2\nmode = \"enforce\"\n",
		"defaults in words": "[guest.101]\nkind = \"lxc\"\ncores = 2\nstop = \"shutdown\"\non_manual_change = { run = \"hold\", config = \"revert\", cores = \"revert\" }\n",
		"empty tables":      "[guest.101]\nkind = \"lxc\"\ncores = 2\non_manual_change = {}\nignore = []\ndelete = []\n[guest.101.config]\n[guest.101.disk]\n",
	}
	for name, doc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustParse(t, "a.toml", doc).Guests[101]
			if got == nil || got.Revision != plain.Revision {
				t.Fatalf("not the same meaning: %+v", got)
			}
		})
	}
}

func TestParseTextKeepsLines(t *testing.T) {
	t.Parallel()
	doc := "[guest.101]\r\nkind = \"lxc\"\r\ndescription = \"\"\"\r\none\r\n  two\\ttab\r\n\"\"\"\r\n"
	got := mustParse(t, "a.toml", doc).Guests[101].Config["description"]
	if want := "one\n  two\ttab"; got != want {
		t.Errorf("description %q, want %q", got, want)
	}
}

func TestParseNothing(t *testing.T) {
	t.Parallel()
	for name, pairs := range map[string][]string{
		"no file":     {},
		"comment":     {"a.toml", "# nothing managed here\n"},
		"empty JSON":  {"a.json", "{}"},
		"empty guest": {"a.toml", "[guest]\n"},
	} {
		set := mustParse(t, pairs...)
		if len(set.Guests) != 0 || set.Guests == nil {
			t.Errorf("%s: guests %v, want none", name, set.Guests)
		}
	}
}

func TestParseOtherHost(t *testing.T) {
	t.Parallel()
	other := "host = \"pve2\"\nserial = 1\nnot_after = 2000-01-01T00:00:00Z\n[guest.101]\nkind = \"nonsense\"\n"
	set := mustParse(t, "b.toml", other, "a.toml", "[guest.101]\nkind = \"lxc\"\n")
	if d := cmp.Diff(set.Skipped, []string{"b.toml"}); d != "" {
		t.Errorf("skipped (-got +want):\n%s", d)
	}
	if set.Host != "" || set.Serial != 0 || set.Guests[101].File != "a.toml" {
		t.Errorf("the other host's file left a trace: %+v", set)
	}
	opt := testOptions
	opt.Host = ""
	set, err := Parse(opt, files("a.toml", fullTOML))
	if err != nil || len(set.Guests) != 0 {
		t.Errorf("a host that does not know its name took a bound file: %v, %v", set, err)
	}
}

func TestParseHeadOfFiles(t *testing.T) {
	t.Parallel()
	set := mustParse(t,
		"a.toml", "issuer = \"ops\"\nserial = 3\nnot_after = 2028-01-01T00:00:00Z\n",
		"b.toml", "serial = 3\nnot_after = 2027-01-01T00:00:00Z\n",
		"c.toml", "# says nothing\n",
	)
	want := &Set{
		Provider: "dir", Issuer: "ops", Serial: 3, NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Guests: map[guest.VMID]*Guest{},
	}
	if d := cmp.Diff(set, want, ignoreRevisions); d != "" {
		t.Errorf("set (-got +want):\n%s", d)
	}
}

func TestParseExpiry(t *testing.T) {
	t.Parallel()
	doc := files("a.toml", "not_after = 2026-06-01T12:00:00Z\n")
	for _, tt := range []struct {
		name string
		now  time.Time
		ok   bool
	}{
		{"a second before", testNow.Add(-time.Second), true},
		{"at the moment", testNow, false},
		{"a second after", testNow.Add(time.Second), false},
		{"not asked", time.Time{}, true},
	} {
		_, err := Parse(Options{Now: tt.now}, doc)
		if (err == nil) != tt.ok {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}

// TestParseRejectsWhole is P1: one bad file, and nothing of the snapshot holds.
func TestParseRejectsWhole(t *testing.T) {
	t.Parallel()
	good := "[guest.101]\nkind = \"lxc\"\n"
	set, err := Parse(testOptions, files("a.toml", good, "b.toml", "[guest.102]\nkind = \"vm\"\n"))
	if set != nil || err == nil {
		t.Fatalf("got %v, %v", set, err)
	}
	if n := strings.Count(err.Error(), "\n"); n != 0 {
		t.Errorf("%d problems, want one", n+1)
	}
}

func TestSetRevision(t *testing.T) {
	t.Parallel()
	a := mustParse(t, "a.toml", "# 1\n", "b.toml", "# 2\n").Revision
	if b := mustParse(t, "b.toml", "# 2\n", "a.toml", "# 1\n").Revision; a != b {
		t.Error("the order of files counts")
	}
	for name, other := range map[string][]string{
		"bytes":  {"a.toml", "# 1\n", "b.toml", "# 3\n"},
		"name":   {"a.toml", "# 1\n", "c.toml", "# 2\n"},
		"fewer":  {"a.toml", "# 1\n"},
		"joined": {"a.toml", "# 1\n# 2\n"},
	} {
		if mustParse(t, other...).Revision == a {
			t.Errorf("%s: same revision", name)
		}
	}
}

// TestGuestKeys makes sure that the list of keys and what is read agree: each
// key is known, and its misspelling is told with the right name.
func TestGuestKeys(t *testing.T) {
	t.Parallel()
	for _, key := range guestKeys {
		_, err := Parse(testOptions, files("a.toml", "[guest.101]\nkind = \"lxc\"\n"+strings.Replace(key, "kind", "run", 1)+" = 1979-05-27\n"))
		if err == nil || strings.Contains(err.Error(), "unknown key") {
			t.Errorf("%s: %v", key, err)
		}
		typo := key[:1] + "x" + key[1:]
		_, err = Parse(testOptions, files("a.toml", "[guest.101]\nkind = \"lxc\"\n"+typo+" = 1\n"))
		if err == nil || !strings.Contains(err.Error(), "did you mean "+key+"?") {
			t.Errorf("%s: %v", typo, err)
		}
	}
}

func TestQEMU(t *testing.T) {
	t.Parallel()
	set := mustParse(t, "a.toml", `
[guest.200]
kind = "qemu"
name = "db"
net0 = "bridge=vmbr0,virtio=BC:24:11:00:00:01,firewall=1"
net1 = { model = "virtio", bridge = "vmbr0" }
net2 = "e1000e,tag=5,bridge=vmbr1"
memory = "4GiB"
provision = { clone = 9000 }
on_manual_change = "hold"
`)
	want := guest.Config{
		"name": "db", "memory": "4096",
		"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1",
		"net1": "model=virtio,bridge=vmbr0",
		"net2": "e1000e,bridge=vmbr1,tag=5",
	}
	g := set.Guests[200]
	if d := cmp.Diff(g.Config, want); d != "" {
		t.Errorf("config (-got +want):\n%s", d)
	}
	if g.Provision.Clone != 9000 || g.Manual(RunField) != Hold || g.Manual("cores") != Hold {
		t.Errorf("got %+v", g)
	}
}

// TestEnv has the one value that is not text: items with NUL between.
func TestEnv(t *testing.T) {
	t.Parallel()
	set := mustParse(t, "a.toml", "[guest.101]\nkind = \"lxc\"\n[guest.101.config]\nenv = \"A=1\\u0000B=2\"\n")
	if got := set.Guests[101].Config["env"]; got != "A=1\x00B=2" {
		t.Errorf("env %q", got)
	}
	checkRender(t, set)
}

func TestManual(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string][3]OnManual{ // run, cores, memory
		``:                                       {Hold, Revert, Revert},
		`on_manual_change = "revert"`:            {Revert, Revert, Revert},
		`on_manual_change = "hold"`:              {Hold, Hold, Hold},
		`on_manual_change = { config = "hold" }`: {Hold, Hold, Hold},
		`on_manual_change = { config = "revert" }`:                                      {Hold, Revert, Revert},
		`on_manual_change = { run = "revert" }`:                                         {Revert, Revert, Revert},
		`on_manual_change = { cores = "hold" }`:                                         {Hold, Hold, Revert},
		`on_manual_change.cores = "revert"` + "\n" + `on_manual_change.config = "hold"`: {Hold, Revert, Hold},
	} {
		g := mustParse(t, "a.toml", "[guest.101]\nkind = \"lxc\"\n"+doc+"\n").Guests[101]
		got := [3]OnManual{g.Manual(RunField), g.Manual("cores"), g.Manual("memory")}
		if got != want {
			t.Errorf("%s: run, cores, memory = %v, want %v", doc, got, want)
		}
	}
}

// TestSecretsAreNotShown uses a key of a table of its own, so that it holds
// whatever the built-in table calls a secret.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	opt := testOptions
	opt.Forms = guest.Standard().With(guest.Form{
		Kind: guest.QEMU, Key: "cipassword", Value: guest.Enum{"x"}, Class: guest.Benign, Secret: true,
	})
	for _, value := range []string{
		`"hunter2"`, `" hunter2"`, `"hunter2\n"`, `"hunter2,hunter2"`, `hunter2`, `"hunter2`, `'hunter2"`, `4711.5`, `["hunter2"]`, `{ a = "hunter2" }`, `"""hunter2`,
		`hunter2 hunter2`, `"hunter2" hunter2`, "\"\\q hunter2\"", "\"hunter2\u0001\"",
	} {
		for _, doc := range []string{
			"[guest.101]\nkind = \"qemu\"\n[guest.101.config]\ncipassword = " + value + "\n",
			"guest.101.config.cipassword = " + value + "\n",
			"[guest.101]\nconfig = { cipassword = " + value + " }\n",
			"[guest.101]\nkind = \"qemu\"\nprovision = { clone = 102, config = { cipassword = " + value + " } }\n",
		} {
			_, err := Parse(opt, files("a.toml", doc))
			if err == nil {
				t.Fatalf("%s: accepted", doc)
			}
			if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "4711") {
				t.Errorf("%s: shown: %v", doc, err)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"memroy": "memory", "Memory": "memory", "memory": "memory", "stop-timeout": "stop_timeout", "tag": "tags", "descriptoin": "description",
		"hostnme": "hostname", "rnu": "run", "x": "", "": "", "frobnicate": "", strings.Repeat("a", 1000): "",
	} {
		if got := nearest(in, guestKeys); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestProblemString(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]Problem{
		"a.toml:3: guest 101: cores: bad; want good; do it": {"a.toml", 3, 101, "cores", "bad", "want good", "do it"},
		"a.toml: bad; do it": {File: "a.toml", Wrong: "bad", Do: "do it"},
		"bad":                {Wrong: "bad"},
		"guest 101: bad":     {Guest: 101, Wrong: "bad"},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// sortedIDs lists the guests of a set.
func sortedIDs(guests map[guest.VMID]*Guest) []guest.VMID {
	return slices.Sorted(maps.Keys(guests))
}
