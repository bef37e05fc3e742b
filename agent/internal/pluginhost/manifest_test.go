// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

const goodManifest = `# A vendor's plugin.
name = "acme"
kind = ["executor", "provider"]
executable = "acme-plugin"
args = ["--verbose"]
sha256 = "PIN"
actions = ["acme.notify", "acme.page"]
benign = ["acme.notify"]
user = "acme"

[env]
ACME_REGION = "eu"

[config]
url = "https://example.org"
n = 3
nested = { x = [1, 2] }

[secrets]
token = { file = "/etc/acme/token" }
cert = { credential = "acme-cert" }

[restart]
restarts = 5
window = "30m"

[limits]
memory = "200M"
cpu = "50%"
tasks = 64
`

// manifestDir makes a directory with an executable and manifests.
func manifestDir(t *testing.T, manifests map[string]string) (dir, pin string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "plugins.d")
	mkdir(t, dir)
	exe := filepath.Join(dir, "acme-plugin")
	copyTo(t, exe, "/bin/true")
	pin = sumOf(t, exe)
	for name, text := range manifests {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "PIN", pin)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, pin
}

func TestManifest(t *testing.T) {
	t.Parallel()
	dir, pin := manifestDir(t, map[string]string{"acme.toml": goodManifest, ".hidden.toml": "x", "notes.txt": "x"})
	want := []Spec{{
		Name: "acme", Kinds: []plugin.Kind{plugin.KindExecutor, plugin.KindProvider},
		Path: filepath.Join(dir, "acme-plugin"), Args: []string{"--verbose"}, SHA256: []string{pin},
		Actions: []plugin.ActionKind{"acme.notify", "acme.page"}, Benign: []plugin.ActionKind{"acme.notify"},
		User: "acme", Env: map[string]string{"ACME_REGION": "eu"},
		Config:  map[string]any{"url": "https://example.org", "n": int64(3), "nested": map[string]any{"x": []any{int64(1), int64(2)}}},
		Secrets: map[string]SecretSource{"token": {File: "/etc/acme/token"}, "cert": {Credential: "acme-cert"}},
		Restart: Budget{Restarts: 5, Window: 30 * time.Minute},
		Limits:  map[string]string{"memory": "200M", "cpu": "50%", "tasks": "64"},
		Source:  filepath.Join(dir, "acme.toml"),
	}}
	if diff := cmp.Diff(want, ReadManifests(dir, me())); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if _, err := want[0].fingerprint(); err != nil {
		t.Error(err)
	}
}

func TestNoManifests(t *testing.T) {
	t.Parallel()
	if got := ReadManifests(filepath.Join(t.TempDir(), "none"), me()); got != nil {
		t.Errorf("a directory that is not there: %v", got)
	}
}

func TestManifestErrorsNameLineAndKey(t *testing.T) {
	t.Parallel()
	line := func(from, to string) string { return strings.Replace(goodManifest, from, to, 1) }
	tests := map[string]struct{ text, want string }{
		"unknown key":          {line("user =", "usr ="), "acme.toml:9: usr: no such key"},
		"unknown key in table": {line("restarts =", "retarts ="), "acme.toml:24: restart.retarts: no such key"},
		"unknown table":        {goodManifest + "\n[limit]\nx = 1\n", "acme.toml:32: limit: no such key"},
		"wrong type":           {line(`user = "acme"`, "user = 7"), "acme.toml:9: user: want a string"},
		"wrong type in list":   {line(`["--verbose"]`, "[1]"), "acme.toml:5: args: want a list of strings"},
		"table as value":       {line("[env]", "[[env]]"), "env: want a table"},
		"syntax":               {line("[env]", "[env"), ": not valid TOML: expected"},
		"bad kind":             {line(`"provider"]`, `"driver"]`), `acme.toml:3: kind: "driver" is none of`},
		"no kind":              {line(`kind = ["executor", "provider"]`, ""), "kind: missing"},
		"no executable":        {line(`executable = "acme-plugin"`, ""), "executable: missing"},
		"executable outside":   {line(`"acme-plugin"`, `"../acme-plugin"`), "acme.toml:4: executable: want a file beside"},
		"another name":         {line(`name = "acme"`, `name = "emca"`), `acme.toml:2: name: want "acme"`},
		"bad pin":              {line(`"PIN"`, `"abc"`), "acme.toml:6: sha256: want 64"},
		"bad action":           {line(`"acme.page"`, `"Acme page"`), `acme.toml:7: actions: "Acme page"`},
		"benign not served":    {line(`benign = ["acme.notify"]`, `benign = ["acme.other"]`), `benign: "acme.other" is not among`},
		"bad secret":           {line(`{ credential = "acme-cert" }`, `{}`), "acme.toml:21: secrets.cert: want"},
		"bad window":           {line(`"30m"`, `"soon"`), "acme.toml:25: restart.window: want a duration"},
		"bad number":           {line(`restarts = 5`, `restarts = -1`), "acme.toml:24: restart.restarts: want a whole number"},
		"bad memory":           {line(`"200M"`, `"lots"`), "acme.toml:28: limits.memory: want a size"},
		"bad env":              {line(`ACME_REGION`, `PLUGIN_CLIENT_CERT`), `env: "PLUGIN_CLIENT_CERT" is not a name`},
		"provider with action": {line(`["executor", "provider"]`, `"provider"`), "actions: an executor has some"},
		"many dots":            {goodManifest + strings.Repeat("a.", 40) + "a = 1\n", "acme.toml:31: the line has more than"},
		"not pinned":           {line(`sha256 = "PIN"`, ""), "is not pinned; remedy: check that it is what the vendor published, and put this line into"},
		"other pin":            {line(`"PIN"`, `"`+strings.Repeat("0", 64)+`"`), "if you replaced it on purpose, put this line into"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir, pin := manifestDir(t, map[string]string{"acme.toml": tt.text})
			got := ReadManifests(dir, me())
			if len(got) != 1 || !strings.Contains(got[0].Refused, tt.want) || got[0].Name != "acme" {
				t.Errorf("got %q, want %q", got[0].Refused, tt.want)
			}
			if strings.Contains(tt.want, "put this line") && !strings.HasSuffix(got[0].Refused, fmt.Sprintf("sha256 = [%q]", pin)) {
				t.Errorf("no line to paste: %s", got[0].Refused)
			}
		})
	}
}

// Several things wrong are told at once, and other manifests are not hurt.
func TestManifestsAreRefusedAlone(t *testing.T) {
	t.Parallel()
	bad := strings.ReplaceAll(goodManifest, `name = "acme"`, "nam = 1\nusr = 2\n")
	dir, _ := manifestDir(t, map[string]string{
		"acme.toml": goodManifest, "bad.toml": bad, "UPPER.toml": goodManifest, "open.toml": goodManifest,
	})
	chmod(t, filepath.Join(dir, "open.toml"), 0o666)
	link(t, filepath.Join(dir, "acme.toml"), filepath.Join(dir, "link.toml"))
	got := map[string]string{}
	for _, s := range ReadManifests(dir, me()) {
		got[s.Name] = s.Refused
	}
	for name, want := range map[string]string{
		"acme": "", "bad": "nam: no such key", "plugins-d": "the name of a manifest", "open": "remedy: chmod go-w", "link": "is a symbolic link",
	} {
		if refused, ok := got[name]; !ok || !strings.Contains(refused, want) || (want == "") != (refused == "") {
			t.Errorf("%s: %q, want %q", name, refused, want)
		}
	}
	if !strings.Contains(got["bad"], "usr: no such key") {
		t.Errorf("only the first thing is told: %s", got["bad"])
	}
}

func TestManifestDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	dir, _ := manifestDir(t, map[string]string{"acme.toml": goodManifest})
	chmod(t, dir, 0o777)
	got := ReadManifests(dir, me())
	if len(got) != 1 || !strings.Contains(got[0].Refused, "remedy: chmod go-w "+dir) {
		t.Errorf("%+v", got)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(goodManifest))
	f.Add([]byte("[env]\n[[env]]\n"))
	f.Add([]byte("kind = {}\nsecrets = 1\nrestart = [1]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseManifest("/d/acme.toml", "acme", data)
		if err == nil && s.validate() == nil && (s.Path == "" || len(s.Kinds) == 0) {
			t.Errorf("taken without path or kind: %+v", s)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "/d/acme.toml") {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}
