// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// comparer compares answers and remembers which generated values of the
// recording stand for which of the Sim.
type comparer struct {
	// sim maps a recorded UPID, hardware address, uuid or digest to the
	// Sim's.
	sim    map[string]string
	masked int            // bytes
	total  int            // bytes of recorded bodies
	why    map[string]int // bytes by reason
	// anyDigest believes every digest, once: the recorded ones are of configs
	// that were renamed.
	anyDigest bool
}

func newComparer() *comparer {
	return &comparer{sim: map[string]string{}, why: map[string]int{}}
}

// answer is what the Sim said.
type answer struct {
	status int
	reason string
	header map[string]string
	body   string
}

// diff returns what differs, empty if nothing does.
func (c *comparer) diff(e *exchange, got answer) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if e.Status != got.status || c.rename(e.Reason) != got.reason {
		add("status: want %d %s, got %d %s", e.Status, e.Reason, got.status, got.reason)
	}
	for _, k := range slices.Sorted(maps.Keys(e.RHeader)) {
		if want := c.rename(e.RHeader[k]); want != got.header[k] {
			add("header %s: want %q, got %q", k, want, got.header[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got.header)) {
		if _, ok := e.RHeader[k]; !ok {
			add("header %s: not recorded, got %q", k, got.header[k])
		}
	}
	return append(out, c.bodyDiff(e, got.body)...)
}

func (c *comparer) bodyDiff(e *exchange, got string) []string {
	c.total += len(e.RBody)
	if e.RBody == got {
		return nil
	}
	var want, have any
	if json.Unmarshal([]byte(e.RBody), &want) != nil || json.Unmarshal([]byte(got), &have) != nil {
		return []string{fmt.Sprintf("body: want %.200q, got %.200q", e.RBody, got)}
	}
	// The first walk learns which generated values stand for which; a digest
	// may differ only where such a value is in what it covers.
	first := walk{c: c, uri: apiPath(e.URI), learning: true}
	first.value("", want, have)
	w := walk{c: c, uri: apiPath(e.URI), renamed: c.rename(e.RBody) != e.RBody}
	w.value("", want, have)
	return w.out
}

// walk compares two JSON values.
type walk struct {
	c   *comparer
	uri string
	out []string
	// learning walks count no masked bytes and believe no digest.
	learning bool
	// renamed says that the body holds a generated value.
	renamed bool
}

func (w *walk) value(at string, want, have any) {
	switch want := want.(type) {
	case map[string]any:
		if have, ok := have.(map[string]any); ok {
			w.object(at, want, have)
			return
		}
	case []any:
		if have, ok := have.([]any); ok {
			w.list(at, want, have)
			return
		}
	default:
		w.scalar(at, want, have)
		return
	}
	w.differ(at, want, have)
}

func (w *walk) object(at string, want, have map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(want)) {
		sub := join(at, k)
		hv, ok := have[k]
		switch {
		case ok:
			w.value(sub, want[k], hv)
		case w.whole(sub):
			w.mask(sub, want[k])
		default:
			w.out = append(w.out, fmt.Sprintf("%s: missing, want %s", sub, show(want[k])))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[k]; !ok && !w.whole(join(at, k)) {
			w.out = append(w.out, fmt.Sprintf("%s: not recorded, got %s", join(at, k), show(have[k])))
		}
	}
}

// whole reports whether a field may be there on one side only: what a real
// process reports and a simulated one does not have.
func (w *walk) whole(at string) bool {
	mk := maskFor(w.uri, at)
	return mk != nil && mk.reason == "what a real QEMU process reports"
}

func (w *walk) list(at string, want, have []any) {
	if key := listKey(w.uri); key != "" && strings.Count(at, ".") <= 1 {
		want, have = sortedBy(want, key), sortedBy(have, key)
	}
	if strings.HasSuffix(w.uri, "/log") {
		want, have = complaintsSorted(want), complaintsSorted(have)
	}
	if len(want) != len(have) {
		w.out = append(w.out, fmt.Sprintf("%s: want %d elements, got %d", at, len(want), len(have)))
	}
	for i := range min(len(want), len(have)) {
		w.value(join(at, fmt.Sprint(i)), want[i], have[i])
	}
}

func listKey(uri string) string {
	for _, u := range unordered {
		if u.uri.MatchString(uri) {
			return u.key
		}
	}
	return ""
}

// complaint is a line of a log about a property of a value; PVE prints those
// of one value in the order of a Perl hash.
var complaint = regexp.MustCompile(`^\w+: property is `)

// complaintsSorted orders each run of complaints in the lines of a log.
func complaintsSorted(lines []any) []any {
	out := slices.Clone(lines)
	text := func(i int) string {
		m, _ := out[i].(map[string]any)
		s, _ := m["t"].(string)
		return s
	}
	for i := 0; i < len(out); i++ {
		end := i
		for end < len(out) && complaint.MatchString(text(end)) {
			end++
		}
		var run []string
		for k := i; k < end; k++ {
			run = append(run, text(k))
		}
		slices.Sort(run)
		for k, s := range run {
			m := maps.Clone(out[i+k].(map[string]any))
			m["t"] = s
			out[i+k] = m
		}
		i = max(i, end-1)
	}
	return out
}

func sortedBy(list []any, key string) []any {
	name := func(v any) string {
		obj, _ := v.(map[string]any)
		var parts []string
		for k := range strings.SplitSeq(key, "+") {
			parts = append(parts, fmt.Sprint(obj[k]))
		}
		return strings.Join(parts, "\x00")
	}
	out := slices.Clone(list)
	slices.SortStableFunc(out, func(a, b any) int { return strings.Compare(name(a), name(b)) })
	return out
}

func (w *walk) scalar(at string, want, have any) {
	if mk := maskFor(w.uri, at); mk != nil && sameType(want, have) {
		if want != have {
			w.mask(at, want)
		}
		return
	}
	ws, ok1 := want.(string)
	hs, ok2 := have.(string)
	if ok1 && ok2 {
		w.text(at, ws, hs)
		return
	}
	if want != have {
		w.differ(at, want, have)
	}
}

func (w *walk) mask(at string, want any) {
	if w.learning {
		return
	}
	n := len(show(want))
	w.c.masked += n
	if mk := maskFor(w.uri, at); mk != nil {
		w.c.why[mk.reason] += n
	}
}

func sameType(a, b any) bool { return fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b) }

func (w *walk) text(at, want, have string) {
	for _, s := range commaSets {
		if s.uri.MatchString(w.uri) && s.field.MatchString(at) {
			want, have = commaSorted(want), commaSorted(have)
		}
	}
	want, have = w.quiet(optionsSorted(want)), w.quiet(optionsSorted(have))
	if want == have || w.c.rename(want) == have {
		return
	}
	if w.learn(want, have) {
		return
	}
	w.differ(at, want, have)
}

// optionsSorted orders the options of the command line that heads a backup
// job's log; PVE's order is that of a Perl hash.
func optionsSorted(s string) string {
	head, opts, ok := strings.Cut(s, " --")
	if !ok || !strings.HasPrefix(s, "INFO: starting new backup job") {
		return s
	}
	parts := strings.Split(opts, " --")
	slices.Sort(parts)
	return head + " --" + strings.Join(parts, " --")
}

// quiet takes measured values out of a text.
func (w *walk) quiet(s string) string {
	for _, n := range noise {
		s = n.re.ReplaceAllStringFunc(s, func(v string) string {
			if !w.learning {
				w.c.masked += len(v) / 2 // called for both sides
				w.c.why[n.why] += len(v) / 2
			}
			return kept(n.re, v) + "~"
		})
	}
	return s
}

// kept is what of a noisy text is compared.
func kept(re *regexp.Regexp, v string) string {
	i := re.SubexpIndex("keep")
	if i < 0 {
		return ""
	}
	return re.FindStringSubmatch(v)[i]
}

func commaSorted(s string) string {
	parts := strings.Split(s, ",")
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func (w *walk) differ(at string, want, have any) {
	w.out = append(w.out, fmt.Sprintf("%s: want %s, got %s", at, show(want), show(have)))
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 300 {
		return string(b[:300]) + "..."
	}
	return string(b)
}

func join(at, k string) string {
	if at == "" {
		return k
	}
	return at + "." + k
}

// generated are the shapes of values that PVE draws or derives; a recorded
// one stands for one of the Sim's, always the same.
var generated = []struct {
	hint   string // must be in a text for re to match
	re     *regexp.Regexp
	why    string
	digest bool
}{
	{"UPID:", regexp.MustCompile(`UPID:[^:]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:]+:[^:]*:[^:]+:`), "task id: process, tick and second of its start", false},
	{"BC:24:11", regexp.MustCompile(`BC:24:11(?::[0-9A-Fa-f]{2}){3}`), "generated hardware address", false},
	{"-", regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "generated uuid", false},
	{"_", regexp.MustCompile(`\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d`), "second of a backup, in its name", false},
	{"ctime=", regexp.MustCompile(`ctime=\d{10}`), "second of the creation", false},
	{"", regexp.MustCompile(`\b[0-9a-f]{40}\b`), "digest of a config that holds a generated value", true},
}

// learn accepts two texts that differ in generated values only, if these
// stand for each other everywhere.
func (w *walk) learn(want, have string) bool {
	for _, g := range generated {
		ws, hs := g.re.FindAllString(want, -1), g.re.FindAllString(have, -1)
		if len(ws) == 0 || len(ws) != len(hs) || g.digest && !w.renamed && !w.c.anyDigest {
			continue
		}
		if !w.c.standFor(ws, hs) {
			continue
		}
		for i := range ws {
			w.c.sim[ws[i]] = hs[i]
		}
		if w.c.rename(want) != have {
			continue // they differ in more than that
		}
		for i := range ws {
			if !w.learning {
				w.c.masked += len(ws[i])
				w.c.why[g.why] += len(ws[i])
			}
		}
		return true
	}
	return false
}

// standFor reports whether the recorded values may stand for the Sim's.
func (c *comparer) standFor(ws, hs []string) bool {
	for i := range ws {
		if known, ok := c.sim[ws[i]]; ok && known != hs[i] || !plausible(ws[i], hs[i]) {
			return false
		}
	}
	return true
}

// plausible refuses a task id that is not of the same kind, guest and user.
func plausible(want, have string) bool {
	if !strings.HasPrefix(want, "UPID:") {
		return true
	}
	a, b := strings.Split(want, ":"), strings.Split(have, ":")
	return a[1] == b[1] && slices.Equal(a[5:], b[5:])
}

// rename puts the Sim's generated values in place of the recorded ones.
func (c *comparer) rename(s string) string {
	if len(c.sim) == 0 || len(s) < minGenerated {
		return s
	}
	for _, g := range generated {
		if !strings.Contains(s, g.hint) {
			continue
		}
		s = g.re.ReplaceAllStringFunc(s, func(v string) string {
			if to, ok := c.sim[v]; ok {
				return to
			}
			return v
		})
	}
	return s
}

// minGenerated is the length of the shortest generated value.
const minGenerated = len("ctime=1234567890")

// apiPath is a request's path without the format and the query.
func apiPath(uri string) string {
	p, _, _ := strings.Cut(uri, "?")
	p = strings.TrimPrefix(p, "/api2/json")
	return strings.TrimPrefix(p, "/api2/extjs")
}
