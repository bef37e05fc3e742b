// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Spec says what one plugin is and how it is run.
type Spec struct {
	// Name is unique in the host; it is the plugin's name everywhere.
	Name string
	// Kinds are the kinds it must serve.
	Kinds []plugin.Kind
	// Path is the executable, absolute and free of symbolic links.
	Path string
	Args []string
	// Env is added to the small environment every plugin gets.
	Env map[string]string
	// Config is handed over after the handshake, as JSON.
	Config map[string]any
	// Secrets are read at each start and handed over with Config.
	Secrets map[string]SecretSource
	// SHA256 are the pins, in hexadecimal; the executable must have one of
	// them. None means that ownership and mode are all that is checked.
	SHA256 []string
	// Files pins the other files of a plugin that has several, by their paths
	// from the executable's directory. Such a plugin, and a script, runs from a
	// copy of what is pinned.
	Files map[string]string
	// Actions are the action kinds that an executor may serve.
	Actions []plugin.ActionKind
	// Benign are those of Actions that the operator declared benign. The host
	// only keeps them, for the core's classification.
	Benign []plugin.ActionKind
	// Restart overrides the host's restart budget.
	Restart Budget
	// User and Limits are for the launcher that runs a plugin as a unit of its
	// own. The host only keeps them.
	User   string
	Limits map[string]string
	// Source is the file that a remedy should name, "" if there is none.
	Source string
	// At is where the configuration asks for this plugin, as FILE:LINE, "" if it
	// does not.
	At string `json:"-"` // a line that moves changes nothing
	// Refused, if not empty, says why this plugin must not be started: what
	// describes it could not be read.
	Refused string
}

// Budget bounds the restarts of a plugin: more than Restarts failures within
// Window and it is left alone. Zero fields mean the host's default.
type Budget struct {
	Restarts int
	Window   time.Duration
}

// SecretSource is where a secret is read from: exactly one of the fields.
type SecretSource struct {
	// File is an absolute path; only its owner and group may read it.
	File string
	// Credential is the name of a systemd credential of the agent's unit.
	Credential string
}

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	pinPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// validate says what is wrong with s, naming the field.
func (s Spec) validate() error {
	if !namePattern.MatchString(s.Name) {
		return fmt.Errorf("name %q: want 1 to 32 of a-z, 0-9 and -", s.Name)
	}
	if s.Refused != "" {
		return nil
	}
	if len(s.Kinds) == 0 {
		return errors.New("kind: missing")
	}
	for _, k := range s.Kinds {
		if !k.Valid() {
			return fmt.Errorf("kind: %q is none of executor, observer, provider", k)
		}
	}
	return errors.Join(s.validateFile(), s.validateActions())
}

// validateFile says what is wrong with what is executed and handed over.
func (s Spec) validateFile() error {
	if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path {
		return fmt.Errorf("executable: %q is not a clean absolute path", s.Path)
	}
	return errors.Join(s.validateEnv(), s.validatePins(), s.validateSecrets())
}

func (s Spec) validateActions() error {
	if slices.Contains(s.Kinds, plugin.KindExecutor) != (len(s.Actions) > 0) {
		return errors.New("actions: an executor has some, others have none")
	}
	for _, b := range s.Benign {
		if !slices.Contains(s.Actions, b) {
			return fmt.Errorf("benign: %q is not among the actions", b)
		}
	}
	return nil
}

func (s Spec) validateEnv() error {
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		if !envPattern.MatchString(k) || strings.HasPrefix(k, "PLUGIN_") || k == plugin.CookieKey {
			return fmt.Errorf("env: %q is not a name that a plugin may be given", k)
		}
	}
	for _, a := range append(slices.Sorted(maps.Values(s.Env)), s.Args...) {
		if strings.ContainsRune(a, 0) {
			return errors.New("env, args: a value with a zero byte")
		}
	}
	return nil
}

func (s Spec) validatePins() error {
	for _, p := range append(slices.Sorted(maps.Values(s.Files)), s.SHA256...) {
		if !pinPattern.MatchString(p) {
			return fmt.Errorf("sha256: %q is not 64 hexadecimal digits", p)
		}
	}
	for _, f := range slices.Sorted(maps.Keys(s.Files)) {
		if !filepath.IsLocal(f) || filepath.Clean(f) != f {
			return fmt.Errorf("files: %q is not a path below the executable's directory", f)
		}
	}
	return nil
}

func (s Spec) validateSecrets() error {
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		src := s.Secrets[name]
		if (src.File == "") == (src.Credential == "") {
			return fmt.Errorf("secrets: %q wants either a file or a credential", name)
		}
	}
	return nil
}

// fingerprint is equal for equal specs only.
func (s Spec) fingerprint() (string, error) {
	b, err := json.Marshal(s) // maps are written in the order of their keys
	return string(b), err
}

// settle refuses what excludes what came before it: a second plugin of one
// name, for one action, as the observer, or in one unit. The first one stands.
func (o Options) settle(specs []Spec) []Spec {
	out := slices.Clone(specs)
	names, observer := map[string]bool{}, ""
	actions, units := map[plugin.ActionKind]string{}, map[string]Spec{}
	for i := range out {
		s := &out[i]
		if names[s.Name] {
			s.Refused = fmt.Sprintf("another plugin is named %q", s.Name)
			s.Name = unused(s.Name, names)
		}
		names[s.Name] = true
		if s.Refused == "" {
			s.Refused = cmp.Or(taken(*s, observer, actions), inUse(*s, units[o.unitSocket(*s)]))
		}
		if s.Refused != "" {
			continue
		}
		if sock := o.unitSocket(*s); sock != "" {
			units[sock] = *s
		}
		if slices.Contains(s.Kinds, plugin.KindObserver) {
			observer = s.Name
		}
		for _, a := range s.Actions {
			actions[a] = s.Name
		}
	}
	return out
}

// taken says which part of s another plugin has already; "" if none.
func taken(s Spec, observer string, actions map[plugin.ActionKind]string) string {
	if observer != "" && slices.Contains(s.Kinds, plugin.KindObserver) {
		return fmt.Sprintf("plugin %s is the observer already", observer)
	}
	for _, a := range s.Actions {
		if other, ok := actions[a]; ok {
			return fmt.Sprintf("plugin %s serves action %q already", other, a)
		}
	}
	return ""
}

// inUse says that the unit of s runs another plugin, which has a name, already.
func inUse(s, other Spec) string {
	if other.Name == "" {
		return ""
	}
	return fmt.Sprintf("%s wants the unit %s, which runs one process: that of %s; remedy: "+
		"copy %s under another name, with no kind but provider, enable the socket of that name and make it the plugin of %s",
		place(s), unitName(s), place(other), s.Source, s.Name)
}

// place is a plugin's name, and where it is asked for.
func place(s Spec) string {
	if s.At == "" {
		return s.Name
	}
	return s.Name + " (" + s.At + ")"
}

// unused makes a name out of one that is taken.
func unused(name string, names map[string]bool) string {
	for n := 2; ; n++ {
		if next := fmt.Sprintf("%s-%d", name, n); !names[next] {
			return next
		}
	}
}
