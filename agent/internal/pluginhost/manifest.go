// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxManifests bounds the manifests in a directory.
const maxManifests = 64

// ReadManifests reads every NAME.toml of a directory, in the order of their
// names. It always says something about each: one that cannot be read, is
// wrong or describes what must not be executed becomes a spec that is refused,
// and why. A directory that does not exist has no manifests. trusted are the
// users who may own manifests and executables; empty means root alone.
func ReadManifests(dir string, trusted []uint32) []Spec {
	if len(trusted) == 0 {
		trusted = []uint32{0}
	}
	names, err := manifestNames(dir, trusted)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []Spec{{Name: "plugins-d", Source: dir, Refused: err.Error()}}
	}
	var all []Spec
	for _, name := range names {
		all = append(all, readManifest(filepath.Join(dir, name+".toml"), name, trusted))
	}
	return all
}

func manifestNames(dir string, trusted []uint32) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if err := checkParents(filepath.Join(dir, "x"), trusted); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries { // in order
		name, ok := strings.CutSuffix(e.Name(), ".toml")
		if ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	if len(names) > maxManifests {
		return nil, fmt.Errorf("%s holds %d manifests, more than %d", dir, len(names), maxManifests)
	}
	return names, nil
}

// readManifest reads one manifest.
func readManifest(path, name string, trusted []uint32) Spec {
	s, err := parseManifestFile(path, name, trusted)
	s.Name, s.Source = name, path
	if !namePattern.MatchString(name) {
		s.Name = "plugins-d"
		err = fmt.Errorf("%s: the name of a manifest is 1 to 32 of a-z, 0-9 and -, and .toml", path)
	}
	if err == nil {
		err = s.validate()
	}
	if err == nil {
		err = checkManifestPin(s, trusted)
	}
	if err != nil {
		s.Refused = strings.TrimPrefix(err.Error(), errRefused.Error()+": ")
	}
	return s
}

// DraftManifest reads one manifest for a trial of its plugin: it may be
// anybody's, and what it names need not be pinned. It must not be run by a
// Host.
func DraftManifest(path string) (Spec, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Spec{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return Spec{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Spec{}, err
	}
	name := strings.TrimSuffix(filepath.Base(path), ".toml")
	s, err := parseManifest(path, name, data)
	s.Name, s.Source = name, path
	return s, err
}

func parseManifestFile(path, name string, trusted []uint32) (Spec, error) {
	f, err := openTrusted(path, trusted)
	if err != nil {
		return Spec{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Spec{}, err
	}
	return parseManifest(path, name, data)
}

// A manifest:
//
//	name = "acme"                    # optional: as the file is called
//	kind = ["executor", "provider"]  # or one of them: executor, observer, provider
//	executable = "acme-plugin"       # beside the manifest, or an absolute path
//	args = ["--verbose"]
//	sha256 = ["..."]                 # any of them; without it the plugin is refused
//	actions = ["acme.notify"]        # what an executor may serve
//	benign = ["acme.notify"]         # those that the operator calls benign
//	user = "acme"                    # for the launcher of units
//	[env]                            # all that it sees beside the fixed environment
//	[config]                         # any table; handed over as JSON
//	[secrets]                        # NAME = { file = "/..." } or { credential = "..." }
//	[files]                          # "lib/x.py" = "sha256", for plugins of several files
//	[restart]                        # restarts = 3, window = "10m"
//	[limits]                         # memory = "200M", cpu = "50%", tasks = 64

// parseManifest reads the text of a manifest; path stands for it in errors and
// is where a relative executable is looked for.
func parseManifest(path, name string, data []byte) (Spec, error) {
	d, err := parseTOML(path, data)
	if err != nil {
		return Spec{}, err
	}
	root := d.root()
	root.only("name", "kind", "executable", "args", "sha256", "actions", "benign", "user",
		"env", "config", "secrets", "files", "restart", "limits")
	s := Spec{
		Args: root.texts("args"), SHA256: pins(root), User: root.text("user"),
		Env: root.textTable("env"), Files: root.textTable("files"), Limits: limits(root.table("limits")),
		Secrets: secretSources(root.table("secrets")), Restart: restart(root.table("restart")),
		Path: executablePath(root, filepath.Dir(path)), Kinds: kinds(root),
		Actions: actionKinds(root, "actions"), Benign: actionKinds(root, "benign"),
	}
	if given := root.text("name"); given != "" && given != name {
		root.wrong("name", "want %q, as the file is called", name)
	}
	if cfg := root.table("config"); len(cfg.keys) > 0 {
		s.Config, _ = root.value("config").(map[string]any)
	}
	return s, d.err()
}

func executablePath(root section, dir string) string {
	exe := root.text("executable")
	switch {
	case exe == "":
		root.wrong("executable", "missing: the file beside the manifest, or an absolute path")
	case filepath.IsAbs(exe):
		if filepath.Clean(exe) != exe {
			root.wrong("executable", "want a path without . and ..")
		}
		return exe
	case !filepath.IsLocal(exe) || filepath.Clean(exe) != exe:
		root.wrong("executable", "want a file beside the manifest, or an absolute path")
	}
	return filepath.Join(dir, exe)
}

func kinds(root section) []plugin.Kind {
	var out []plugin.Kind
	for _, k := range root.texts("kind") {
		if !plugin.Kind(k).Valid() {
			root.wrong("kind", "%q is none of executor, observer, provider", k)
		}
		out = append(out, plugin.Kind(k))
	}
	if len(root.keys) > 0 && root.value("kind") == nil {
		root.wrong("kind", "missing: executor, observer, provider, or a list of them")
	}
	return out
}

var actionPattern = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_-]+)*$`)

func actionKinds(root section, key string) []plugin.ActionKind {
	var out []plugin.ActionKind
	for _, a := range root.texts(key) {
		if !actionPattern.MatchString(a) {
			root.wrong(key, "%q is not the name of an action kind", a)
		}
		out = append(out, plugin.ActionKind(a))
	}
	return out
}

func pins(root section) []string {
	var out []string
	for _, p := range root.texts("sha256") {
		p = strings.ToLower(strings.TrimPrefix(p, "sha256:"))
		if !pinPattern.MatchString(p) {
			root.wrong("sha256", "want 64 hexadecimal digits")
		}
		out = append(out, p)
	}
	return out
}

func secretSources(t section) map[string]SecretSource {
	if len(t.keys) == 0 {
		return nil
	}
	out := map[string]SecretSource{}
	for _, name := range slices.Sorted(maps.Keys(t.keys)) {
		sub := t.table(name)
		sub.only("file", "credential")
		src := SecretSource{File: sub.text("file"), Credential: sub.text("credential")}
		if (src.File == "") == (src.Credential == "") || (src.File != "" && !filepath.IsAbs(src.File)) {
			t.wrong(name, "want { file = \"/absolute/path\" } or { credential = \"NAME\" }")
		}
		out[name] = src
	}
	return out
}

func restart(t section) Budget {
	t.only("restarts", "window")
	b := Budget{Restarts: t.number("restarts", 1, 1000)}
	if w := t.text("window"); w != "" {
		d, err := time.ParseDuration(w)
		if err != nil || d < time.Second || d > 24*time.Hour {
			t.wrong("window", "want a duration from 1s to 24h")
		}
		b.Window = d
	}
	return b
}

var (
	memoryPattern = regexp.MustCompile(`^[1-9][0-9]{0,8}[KMG]$`)
	cpuPattern    = regexp.MustCompile(`^[1-9][0-9]{0,4}%$`)
)

// limits are kept in systemd's own words, for the unit that a plugin may run
// in.
func limits(t section) map[string]string {
	if len(t.keys) == 0 {
		return nil
	}
	t.only("memory", "cpu", "tasks")
	out := map[string]string{}
	if m := t.text("memory"); m != "" {
		if !memoryPattern.MatchString(m) {
			t.wrong("memory", "want a size such as \"200M\"")
		}
		out["memory"] = m
	}
	if c := t.text("cpu"); c != "" {
		if !cpuPattern.MatchString(c) {
			t.wrong("cpu", "want a share of one core such as \"50%%\"")
		}
		out["cpu"] = c
	}
	if n := t.number("tasks", 1, 100_000); n != 0 {
		out["tasks"] = fmt.Sprint(n)
	}
	return out
}

// checkManifestPin checks now what the launch will check again, so that the
// operator hears of it when the manifest is read. A vendor's executable must
// be pinned.
func checkManifestPin(s Spec, trusted []uint32) error {
	exe, err := openExecutable(s, trusted)
	if err != nil {
		return err
	}
	defer exe.file.Close()
	if len(s.SHA256) == 0 {
		return refuse(fmt.Sprintf("check that it is what the vendor published, and put this line into %s: %s", s.Source, pinLine(exe.sum)),
			"%s is not pinned", s.Path)
	}
	return nil
}
