// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// The bounds of a file, besides maxFile. The TOML library has none of its own:
// nested tables would take it all memory there is, and a key of a thousand
// parts takes it ten seconds.
const (
	maxLine      = 4 << 10 // bytes
	maxDots      = 64      // in a line
	maxBraces    = 256
	maxProviders = 32
)

// Parse reads a configuration; name stands for the file in errors. What the
// file leaves out has its default. The error is a [Problems].
func Parse(name string, data []byte) (Config, error) {
	r := reader{file: name, config: Default(), lines: map[string]int{}}
	if top, ok := r.decode(data); ok {
		r.top(top, data)
		r.relations()
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		return Config{}, r.problems
	}
	r.notes()
	return r.config, nil
}

// reader walks over a parsed file and collects what is wrong with it.
type reader struct {
	file     string
	config   Config
	problems Problems
	lines    map[string]int // of the keys that are set
}

func (r *reader) problem(line int, key, wrong, allowed string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: line, Key: key, Wrong: wrong, Allowed: allowed})
}

// table is a table of the file, not decoded yet, so that each key can be asked
// for its line.
type table struct {
	meta *toml.MetaData
	keys map[string]toml.Primitive
}

func (r *reader) decode(data []byte) (table, bool) {
	if line, wrong := beyond(data); wrong != "" {
		r.problem(line, "", wrong, "")
		return table{}, false
	}
	t := table{}
	meta, err := toml.Decode(string(data), &t.keys)
	if err != nil {
		r.syntax(err)
		return table{}, false
	}
	t.meta = &meta
	return t, true
}

// beyond says what is beyond the bounds of a file, and on which line.
func beyond(data []byte) (line int, wrong string) {
	if len(data) > maxFile {
		return 0, fmt.Sprintf("the file has more than %d bytes", maxFile)
	}
	if n := bytes.Count(data, []byte("{")); n > maxBraces {
		return 0, fmt.Sprintf("the file has %d inline tables, more than %d", n, maxBraces)
	}
	line = 1
	for text := range bytes.Lines(data) {
		if len(text) > maxLine {
			return line, fmt.Sprintf("the line has %d bytes, more than %d", len(text), maxLine)
		}
		if n := bytes.Count(text, []byte(".")); n > maxDots {
			return line, fmt.Sprintf("the line has %d dots, more than %d", n, maxDots)
		}
		if !utf8.Valid(text) {
			return line, "not valid UTF-8"
		}
		line++
	}
	return 0, ""
}

// syntax words the library's error. Its message quotes pieces of the file;
// where they may be part of a secret it is left out.
func (r *reader) syntax(err error) {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		r.problem(0, "", "not valid TOML", "")
		return
	}
	wrong := "not valid TOML: " + pe.Message
	if mayBeSecret(pe.LastKey) || !printable(wrong) {
		wrong = "not valid TOML"
	}
	r.problem(pe.Position.Line, pe.LastKey, wrong, "")
}

func mayBeSecret(key string) bool {
	return strings.HasPrefix(key, "provider.") || strings.HasPrefix(key, "pve.") || !printable(key)
}

func (r *reader) top(top table, data []byte) {
	bySection := map[string][]setting[Config]{}
	for _, s := range settings() {
		section, _, _ := strings.Cut(s.key, ".")
		bySection[section] = append(bySection[section], s)
	}
	for _, name := range top.sorted() {
		known, ok := bySection[name]
		switch {
		case ok:
			r.section(top, name, known)
		case name == "provider":
			r.providers(top, data)
		default:
			r.problem(top.line(name), keyPath(name), "no such table",
				"[agent], [hook], [control], [limits], [plugins], [pve], [gate] or [[provider]]")
		}
	}
}

func (r *reader) section(top table, name string, known []setting[Config]) {
	t, ok := top.table(name)
	if !ok {
		r.problem(top.line(name), name, isKind(top.value(name)), "a table, once: ["+name+"]")
		return
	}
	read(r, t, name, known, &r.config)
}

// read takes the keys of a table into target.
func read[T any](r *reader, t table, name string, known []setting[T], target *T) {
	names := make([]string, len(known))
	for i, s := range known {
		names[i] = strings.TrimPrefix(s.key, name+".")
	}
	for _, key := range t.sorted() {
		path, line := keyPath(name, key), t.line(key)
		i := slices.Index(names, key)
		if i < 0 {
			r.problem(line, path, "no such key", strings.Join(names, ", "))
			continue
		}
		r.lines[path] = line
		if wrong := known[i].set(target, t.value(key)); wrong != "" {
			r.problem(line, path, wrong, known[i].want)
		}
	}
}

// keyPath is how a key is shown, quoted where TOML would need it.
func keyPath(parts ...string) string { return toml.Key(parts).String() }

func (r *reader) providers(top table, data []byte) {
	if top.meta.Type("provider") != "ArrayHash" {
		r.problem(top.line("provider"), "provider", "not in the form of a list of tables", "[[provider]], once for each")
		return
	}
	if list, _ := top.value("provider").([]map[string]any); len(list) > maxProviders {
		r.problem(top.line("provider"), "provider", fmt.Sprintf("there are %d", len(list)),
			fmt.Sprintf("at most %d", maxProviders))
		return
	}
	tables, starts := providerTables(top, data)
	seen := map[string]bool{}
	for i, t := range tables {
		r.provider(t, starts[i], seen)
	}
}

// providerTables returns each [[provider]] with the line it starts on. The
// library remembers positions by name, so of several tables of one name those
// of the last: what stands before the last is read again without it, and so on.
func providerTables(top table, data []byte) (tables []table, starts []int) {
	for prim, ok := top.keys["provider"]; ok; prim, ok = top.keys["provider"] {
		var list []map[string]toml.Primitive
		if top.meta.PrimitiveDecode(prim, &list) != nil || len(list) == 0 {
			break
		}
		start := top.line("provider")
		tables = append(tables, table{meta: top.meta, keys: list[len(list)-1]})
		starts = append(starts, start)
		data = firstLines(data, start-1)
		top = table{}
		meta, err := toml.Decode(string(data), &top.keys)
		if err != nil {
			break
		}
		top.meta = &meta
	}
	slices.Reverse(tables)
	slices.Reverse(starts)
	return tables, starts
}

func firstLines(data []byte, n int) []byte {
	end := 0
	for range n {
		next := bytes.IndexByte(data[end:], '\n')
		if next < 0 {
			return data
		}
		end += next + 1
	}
	return data[:end]
}

func (r *reader) provider(t table, start int, seen map[string]bool) {
	p := Provider{Threshold: 1, At: fmt.Sprintf("%s:%d", r.file, start)}
	read(r, t, "provider", providerSettings(), &p)
	for _, s := range providerSettings()[:2] {
		if _, ok := t.keys[s.key]; !ok {
			r.problem(start, keyPath("provider", s.key), "not set", s.want)
		}
	}
	if p.Name != "" && seen[p.Name] {
		r.problem(t.line("name"), "provider.name", quote(p.Name)+" is given twice", "a name of its own")
	}
	seen[p.Name] = true
	if p.RequireSignature && p.Issuer == "" {
		r.problem(t.line("require_signature"), "provider.issuer", "not set, but require_signature is",
			"the principal of allowed_signers whose sets are taken")
	}
	r.config.Providers = append(r.config.Providers, p)
}

// relations checks what two keys must be to each other.
func (r *reader) relations() {
	c := &r.config
	if c.Hook.Socket == c.Control.Socket {
		line := max(r.lines["hook.socket"], r.lines["control.socket"])
		r.problem(line, "control.socket", "the same as hook.socket", "a path of its own")
	}
	dirs := []string{c.Agent.StateDir, c.Agent.RunDir, c.Agent.LogDir}
	if slices.Sort(dirs); len(slices.Compact(dirs)) < 3 {
		line := max(r.lines["agent.state_dir"], r.lines["agent.run_dir"], r.lines["agent.log_dir"])
		r.problem(line, "agent", "state_dir, run_dir and log_dir are not three directories", "one for each")
	}
	if c.PVE.URL != "" && c.PVE.TokenFile == "" {
		r.problem(r.lines["pve.url"], "pve.token_file", "not set, but pve.url is", "the file with the API token")
	}
}

func (r *reader) notes() {
	if !slices.Equal(r.config.Plugins.TrustedUIDs, []int{0}) {
		r.config.Notes = append(r.config.Notes, fmt.Sprintf(
			"%s:%d: plugins.trusted_uids lets users other than root replace plugins; this is for development only",
			r.file, r.lines["plugins.trusted_uids"]))
	}
	if r.config.Gate.AssumeClock {
		r.config.Notes = append(r.config.Notes, fmt.Sprintf(
			"%s:%d: gate.assume_clock takes this host's clock for right: whoever can set it can use an approval out of its time",
			r.file, r.lines["gate.assume_clock"]))
	}
}

func (t table) sorted() []string { return slices.Sorted(maps.Keys(t.keys)) }

func (t table) table(key string) (table, bool) {
	sub := table{meta: t.meta}
	if _, ok := t.value(key).(map[string]any); !ok {
		return sub, false // the library leaves the map empty without an error
	}
	err := t.meta.PrimitiveDecode(t.keys[key], &sub.keys)
	return sub, err == nil
}

// value is the TOML value of a key: string, int64, float64, bool, time.Time,
// []any, []map[string]any or map[string]any.
func (t table) value(key string) any {
	var v any
	if err := t.meta.PrimitiveDecode(t.keys[key], &v); err != nil {
		return nil // not reached: any value decodes into any
	}
	return v
}

// line is where a key stands. The library tells only by failing; of a table
// that exists by what is in it alone (agent.mode = "observe") it does not, and
// the first line inside is taken.
func (t table) line(key string) int {
	var pe toml.ParseError
	if errors.As(t.meta.PrimitiveDecode(t.keys[key], &refuse{}), &pe) && pe.Position.Line > 0 {
		return pe.Position.Line
	}
	first := 0
	if sub, ok := t.table(key); ok {
		for k := range sub.keys {
			if line := sub.line(k); first == 0 || line < first {
				first = line
			}
		}
	}
	return first
}

// refuse is a value that nothing decodes into.
type refuse struct{}

func (*refuse) UnmarshalTOML(any) error { return errors.New("refused") }
