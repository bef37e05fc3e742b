// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the error texts of testdata/errors.txtar")

func TestEmptyIsDefault(t *testing.T) {
	for _, data := range []string{"", "\n# nothing\n", "[agent]\n[pve]\npins = []\n"} {
		got, err := Parse("agent.toml", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(Default(), got); d != "" {
			t.Errorf("%q: %s", data, d)
		}
	}
}

// P1: what an installation does before anybody configured it.
func TestDefaultIsSilent(t *testing.T) {
	c := Default()
	if c.Agent.Mode != Observe || c.Agent.AllowAdditive || len(c.Providers) > 0 || c.PVE.URL != "" {
		t.Errorf("the default may act: %+v", c)
	}
}

func TestEverySetting(t *testing.T) {
	const data = `
[agent]
mode = "enforce"
node = "pve1"
state_dir = "/s"
run_dir = "/r"
log_dir = "/l"
log_level = "debug"
allow_additive = true
reserve_gib = 7
resync = "1h30m"
drain = "1s"
[hook]
socket = "/r/h"
spool = "/r/spool"
peer_uids = [0, 1000]
gated = [101, 102]
[control]
socket = "/r/c"
[limits]
calls = 3
reads = 5
start_stop = 6
backup = 7
other = 8
queue = 16
guest_failures = 9
guest_quiet = "1m"
node_guests = 10
node_percent = 100
[plugins]
dir = "/p"
firstparty = "/f"
trusted_uids = [1000]
[pve]
url = "https://[::1]:8006"
token_file = "/t"
ca_file = "/ca"
pins = ["sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55"]
server_name = "pve1.example.org"
vmlist = "/etc/pve/.vmlist"
poll = "100ms"
[gate]
allowed_signers = "/a"
revoked_keys = ""
signatures = 3
four_eyes = true
security_key = true
pin = true
window = "1h"
quarantine = "2s"
backup_age = "48h"
assume_clock = true
[[provider]]
name = "local"
plugin = "dir"
[[provider]]
name = "hub"
plugin = "hub"
require_signature = true
issuer = "hub@example.org"
threshold = 2
secrets = { token = { file = "/t" }, key = { credential = "hub-key" } }
max_age = "72h"
[provider.config]
url = "https://hub.example.org"
retries = 3
nested = { b = [1, 2.5, "x"], a = true }
`
	want := Config{
		Agent: Agent{
			Mode: Enforce, Node: "pve1", StateDir: "/s", RunDir: "/r", LogDir: "/l", LogLevel: slog.LevelDebug,
			AllowAdditive: true, ReserveGiB: 7, Resync: 90 * time.Minute, Drain: time.Second,
		},
		Hook:    Hook{Socket: "/r/h", Spool: "/r/spool", PeerUIDs: []int{0, 1000}, Gated: []int{101, 102}},
		Control: Control{Socket: "/r/c"},
		Limits: Limits{
			Calls: 3, Reads: 5, StartStop: 6, Backup: 7, Other: 8, Queue: 16,
			GuestFailures: 9, GuestQuiet: time.Minute, NodeGuests: 10, NodePercent: 100,
		},
		Plugins: Plugins{Dir: "/p", FirstParty: "/f", TrustedUIDs: []int{1000}},
		PVE: PVE{
			URL: "https://[::1]:8006", TokenFile: "/t", CAFile: "/ca",
			Pins: []string{
				"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
				"E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55",
			},
			ServerName: "pve1.example.org", VMList: "/etc/pve/.vmlist", Poll: 100 * time.Millisecond,
		},
		Gate: Gate{
			AllowedSigners: "/a", Signatures: 3, FourEyes: true, SecurityKey: true, PIN: true,
			Window: time.Hour, Quarantine: 2 * time.Second, BackupAge: 48 * time.Hour, AssumeClock: true,
		},
		Providers: []Provider{
			{Name: "local", Plugin: "dir", Threshold: 1, At: "agent.toml:54"},
			{
				Name: "hub", Plugin: "hub", RequireSignature: true, Issuer: "hub@example.org", Threshold: 2, MaxAge: 72 * time.Hour,
				Secrets: map[string]Secret{"token": {File: "/t"}, "key": {Credential: "hub-key"}},
				Config:  []byte(`{"nested":{"a":true,"b":[1,2.5,"x"]},"retries":3,"url":"https://hub.example.org"}`),
				At:      "agent.toml:57",
			},
		},
		Notes: []string{
			"agent.toml:34: plugins.trusted_uids lets users other than root replace plugins; this is for development only",
			"agent.toml:53: gate.assume_clock takes this host's clock for right: whoever can set it can use an approval out of its time",
		},
	}
	got, err := Parse("agent.toml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	missing := slices.DeleteFunc(Keys(), func(k string) bool {
		_, name, _ := strings.Cut(k, ".")
		return strings.Contains(data, "\n"+name+" = ") || strings.Contains(data, "\n["+k+"]")
	})
	if len(missing) > 0 {
		t.Errorf("not in this test: %v", missing)
	}
}

func TestErrorTexts(t *testing.T) {
	const file = "testdata/errors.txtar"
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	var out []txtar.File
	for _, f := range archive.Files {
		if name, ok := strings.CutSuffix(f.Name, ".err"); ok {
			texts[name] = string(f.Data)
		}
	}
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, ".toml")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			got := refused(t, f.Data)
			out = append(out, f, txtar.File{Name: name + ".err", Data: []byte(got)})
			if d := cmp.Diff(texts[name], got); d != "" && !*update {
				t.Error(d)
			}
			if strings.Contains(got, "geheim") {
				t.Errorf("a secret is in the error: %s", got)
			}
		})
	}
	if *update {
		archive.Files = out
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// refused is the text with which data is refused.
func refused(t *testing.T, data []byte) string {
	t.Helper()
	data = bytes.ReplaceAll(data, []byte("XX"), []byte("\xff"))
	got, err := Parse("agent.toml", data)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("got %v, want Problems", err)
	}
	if d := cmp.Diff(Config{}, got); d != "" {
		t.Errorf("a configuration beside an error: %s", d)
	}
	return err.Error() + "\n"
}

func TestBounds(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"size":      {strings.Repeat("#\n", maxFile), "agent.toml: the file has more than 65536 bytes"},
		"line":      {"[agent]\n#" + strings.Repeat(" ", maxLine), "agent.toml:2: the line has 4097 bytes, more than 4096"},
		"dots":      {"[agent]\n" + strings.Repeat("a.", 1000) + "a = 1", "agent.toml:2: the line has 1000 dots, more than 64"},
		"nesting":   {"a = " + strings.Repeat("{a=", 1000), "agent.toml: the file has 1000 inline tables, more than 256"},
		"providers": {strings.Repeat("[[provider]]\n", maxProviders+1), "agent.toml:33: provider: there are 33; want at most 32"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refused(t, []byte(tt.data)); got != tt.want+"\n" {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.toml")
	got, err := Load(path)
	if err != nil || len(got.Notes) != 1 || !strings.HasPrefix(got.Notes[0], path+" does not exist") {
		t.Errorf("absent: %+v, %v", got.Notes, err)
	}
	got.Notes = nil
	if d := cmp.Diff(Default(), got); d != "" {
		t.Errorf("absent: %s", d)
	}
	if err := os.WriteFile(path, []byte("[agent]\nmode = \"enforce\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(path); err != nil || got.Agent.Mode != Enforce {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":1: ") {
		t.Errorf("got %v, want file and line", err)
	}
	if _, err := Load(dir); err == nil || errors.As(err, new(Problems)) {
		t.Errorf("a directory: %v", err)
	}
}

func TestChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing": {func(c *Config) {}, nil},
		"live": {func(c *Config) {
			c.Agent.Mode, c.Agent.AllowAdditive, c.Agent.LogLevel = Enforce, true, slog.LevelError
			c.Agent.Resync = time.Hour
		}, nil},
		"several": {func(c *Config) {
			c.PVE.Pins, c.Hook.PeerUIDs, c.Agent.Node = []string{"x"}, []int{1}, "b"
			c.Agent.Drain = time.Hour
			c.Limits.Queue, c.Limits.Calls = 16, 16
		}, []string{"agent.node", "agent.drain", "hook.peer_uids", "limits.queue"}},
		"providers": {func(c *Config) { c.Providers = []Provider{{Name: "a"}} }, nil},
		"the notes": {func(c *Config) { c.Notes = []string{"x"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := Default()
			tt.change(&b)
			if d := cmp.Diff(tt.want, Changed(Default(), b)); d != "" {
				t.Error(d)
			}
		})
	}
}

// The file that is installed says what the defaults are: as it is, and with
// each of its settings uncommented.
func TestPackagedFileIsDefault(t *testing.T) {
	shipped, err := os.ReadFile("../../../packaging/config/agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	var uncommented []byte
	for line := range bytes.Lines(shipped) {
		if len(line) > 2 && line[0] == '#' && line[1] != ' ' && line[1] != '#' {
			line = line[1:]
		}
		uncommented = append(uncommented, line...)
	}
	if bytes.Equal(shipped, uncommented) {
		t.Error("nothing to uncomment")
	}
	for name, data := range map[string][]byte{"as shipped": shipped, "uncommented": uncommented} {
		got, err := Parse("agent.toml", data)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(Default(), got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	for _, key := range Keys() {
		section, name, _ := strings.Cut(key, ".")
		if section != "provider" && !inSection(string(uncommented), section, name) {
			t.Errorf("%s is not in the packaged file", key)
		}
		if section == "provider" && !strings.Contains(string(shipped), name) {
			t.Errorf("%s is not mentioned in the packaged file", key)
		}
	}
}

func inSection(file, section, name string) bool {
	_, rest, ok := strings.Cut(file, "\n["+section+"]\n")
	body, _, _ := strings.Cut(rest, "\n[")
	return ok && strings.Contains("\n"+body, "\n"+name+" = ")
}

func FuzzParse(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/errors.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		f.Add(file.Data)
	}
	shipped, err := os.ReadFile("../../../packaging/config/agent.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Parse("f", data)
		if err == nil {
			return
		}
		var problems Problems
		if !errors.As(err, &problems) {
			t.Fatalf("%T", err)
		}
		lines := bytes.Count(data, []byte("\n")) + 1
		for _, p := range problems {
			if p.Wrong == "" || p.Line < 0 || p.Line > lines || strings.ContainsAny(p.Error(), "\n\x00") {
				t.Errorf("%+q of a file of %d lines", p, lines)
			}
		}
	})
}
