// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestRenamed replays the recordings with guests, node, storages, users,
// tokens, pools, snapshots and plain values under other names, the same ones
// in requests, answers and fixture, and reaches the same figure: nothing the
// simulator does hangs on a name that it was recorded with.
func TestRenamed(t *testing.T) {
	if raceEnabled {
		t.Skip("the plain run covers it; with the race detector it takes too long")
	}
	for _, name := range recordings {
		text, err := os.ReadFile("testdata/" + name + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		ex := readRecording(t, name)
		ren := newRenaming(ex)
		cmp := newComparer()
		cmp.anyDigest = true // they cover the old names
		other := replayed(t, name, mustFixture(t, name, ren.fixture(string(text))), ren.exchanges(ex), cmp)
		fmt.Printf("replay %s, renamed: %d of %d exchanges match\n", name, other.matched(), len(other.outcomes))
		for _, p := range other.problems {
			t.Errorf("%s, renamed: %s", name, p)
		}
		if changed := ren.changed; changed < len(ex)/2 {
			t.Errorf("%s: only %d of %d exchanges have another text, the renaming does not work", name, changed, len(ex))
		}
		for _, o := range other.outcomes {
			if len(o.diff) > 0 && o.except == "" {
				t.Errorf("%s %s, renamed: %s", name, o.id, strings.Join(o.diff, "; "))
			}
		}
	}
}

func mustFixture(t *testing.T, name, text string) *fixture {
	t.Helper()
	f, err := parseFixture(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// renaming gives names other names of the same length: an answer is
// compressed or not by its length.
type renaming struct {
	vmids   map[string]string
	rules   []rule
	changed int
}

type rule struct {
	re *regexp.Regexp
	to string
}

// plainOrEscaped are characters in a pattern that a text may hold escaped;
// what text escapes is one rune of the private use area to the rules, so that
// words end before it.
var plainOrEscaped = strings.NewReplacer("<@>", `[@\x{E040}]`, "<!>", `[!\x{E021}]`, "<:>", `[:\x{E03A}]`, "</>", `[/\x{E02F}]`, "<=>", `[=\x{E03D}]`)

var escape = regexp.MustCompile(`%[0-9A-F]{2}`)

func packed(s string) string {
	return escape.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[1:], 16, 8) // the pattern is hex
		return string(rune(0xE000 + n))
	})
}

func unpacked(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c >= 0xE000 && c <= 0xE0FF {
			fmt.Fprintf(&b, "%%%02X", c-0xE000)
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// loneNumber is a number that stands alone, not a part of an address: "7.101".
var loneNumber = regexp.MustCompile(`(^|[^\w.]|_|CT)(\d{3})\b`)

// named are the places where the text says that a number is a VMID.
var named = regexp.MustCompile(`/(?:lxc|qemu)/(\d{3})\b|\b(?:vmid|newid|target-vmid)=(\d{3})\b|\bvmid = (\d{3})\b`)

func newRenaming(ex []exchange) *renaming {
	r := &renaming{vmids: map[string]string{}}
	for _, e := range ex {
		for _, text := range []string{e.URI, e.Body} {
			r.learn(text)
		}
	}
	for _, c := range [][2]string{
		{`\bpve1\b`, "nodX"},
		{`\bpve9\b`, "nodY"},
		{`\bagent(<@>)pve\b`, "robot${1}pve"},
		{`(<!>|"tokenid":"|(?m:^))full\b`, "${1}much"},
		{`(<!>|"tokenid":"|(?m:^))ro\b`, "${1}rd"},
		{`(<!>|"tokenid":"|(?m:^))none\b`, "${1}zero"},
		{`(<!>|"tokenid":"|(?m:^))narrow\b`, "${1}strait"},
		{`\blocal(<:>)`, "store${1}"},
		{`(storage(?:<=>|</>| )|nod[XY]</>|<@>|'|")local\b`, "${1}store"},
		{`(userfilter<=>)agent\b`, "${1}robot"},
		{`(userfilter<=>)AGENT\b`, "${1}ROBOT"},
		{`\bcquota\b`, "aquota"},
		{`\bcsmall\b`, "asmall"},
		{`\bcp1\b`, "pq1"},
		{`\bs1\b`, "k1"},
		{`\bs2\b`, "k2"},
		{`\bops830\b`, "web830"},
		{`\bOps850\b`, "Web850"},
		{`\bclone1\b`, "twin-1"},
		{`\bExample\.com\b`, "Samples.org"},
		{`\bmade\b`, "done"},
		{`(^|[^.])\bGuestAgent\b`, "${1}Reconciler"},
		{`\bReadOnly\b`, "JustLook"},
		{`\b10\.99\.99\.`, "10.77.77."},
		{`\bbc(<:>)24(<:>)11(<:>)aa(<:>)bb`, "bc${1}24${2}11${3}a1${4}b2"},
	} {
		r.rules = append(r.rules, rule{regexp.MustCompile(plainOrEscaped.Replace(c[0])), c[1]})
	}
	return r
}

// learn finds VMIDs. They keep their order: 1xx become 3xx, 2xx 4xx, 8xx 6xx.
func (r *renaming) learn(text string) {
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		id := m[1] + m[2] + m[3]
		n, err := strconv.Atoi(id)
		shift, ok := map[int]int{1: 200, 2: 200, 8: -200}[n/100]
		if err == nil && ok && n != 100 {
			r.vmids[id] = strconv.Itoa(n + shift)
		}
	}
}

func (r *renaming) text(s string) string {
	if !utf8.ValidString(s) {
		return s
	}
	s = loneNumber.ReplaceAllStringFunc(packed(s), r.number)
	for _, rule := range r.rules {
		s = rule.re.ReplaceAllString(s, rule.to)
	}
	return unpacked(s)
}

func (r *renaming) number(match string) string {
	at := len(match) - 3
	if to, ok := r.vmids[match[at:]]; ok {
		return match[:at] + to
	}
	return match
}

func (r *renaming) exchanges(ex []exchange) []exchange {
	out := slices.Clone(ex)
	for i := range out {
		e := &out[i]
		before := e.URI + e.Body + e.RBody
		e.URI, e.Body, e.RBody, e.Reason, e.Conf = r.text(e.URI), r.text(e.Body), r.text(e.RBody), r.text(e.Reason), r.text(e.Conf)
		if e.Method == "POST" && strings.HasSuffix(e.URI, "/lxc") && !strings.Contains(e.Body, "rootfs") && !strings.Contains(e.Body, "storage=") {
			e.Body += "&storage=store" // the name of PVE's default is "local"
		}
		e.Header, e.RHeader = r.header(e.Header), r.header(e.RHeader)
		if e.URI+e.Body+e.RBody != before {
			r.changed++
		}
	}
	return out
}

func (r *renaming) header(h map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		out[k] = r.text(v)
	}
	return out
}

// fixture renames a fixture but for the ids of exchanges.
func (r *renaming) fixture(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "before = ") || strings.HasPrefix(line, `id = "api/`) || strings.HasPrefix(line, `id = "ops/`) {
			continue
		}
		lines[i] = r.text(line)
	}
	return strings.Join(lines, "\n")
}
