// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// replayed is how a recorded write compares with the model's.
type replayed struct {
	answer, config bool
	why            string // the differences, for a reader
}

// exceptions are the recorded writes that the model is not held to, and why.
var exceptions = map[string]string{
	"lxc-s-0626":  "refused by pct's own option parser, before any API",
	"lxc-r-0548":  "refused by pct's own option parser, before any API",
	"qemu-s-0599": "refused by qm's own option parser, before any API",
	"qemu-r-0556": "refused by qm's own option parser, before any API",
	"lxc-s-0631":  "pct unlock: no write of the config API",
	"qemu-s-0602": "qm unlock: no write of the config API",
}

// brokenRecords is how many records cannot be read: lxc-s-0150, whose lines
// the recorder broke at U+2028 and did not write to their end.
const brokenRecords = 1

// tally counts what was replayed.
type tally struct{ total, answers, configs, accepted, kept int }

func (c *tally) add(r replayed, accepted bool) {
	c.total++
	if r.answer {
		c.answers++
	}
	if r.config {
		c.configs++
	}
	if accepted {
		c.accepted++
	}
	if accepted && r.config {
		c.kept++
	}
}

func (c *tally) String() string {
	return fmt.Sprintf("conf: %d of %d recorded writes give the same answer, %d of %d the same config",
		c.answers, c.total, c.configs, c.total)
}

// floor is the share, in percent, below which the model is not believed.
const floor = 95

// summary is printed when all tests have run.
var summary string

func TestMain(m *testing.M) {
	code := m.Run()
	if summary != "" {
		fmt.Println(summary)
	}
	os.Exit(code)
}

// TestReplay makes every recorded write again and compares answer and config.
func TestReplay(t *testing.T) {
	t.Parallel()
	lxc, broken1 := recordedWrites(t, guest.LXC)
	qemu, broken2 := recordedWrites(t, guest.QEMU)
	if n := broken1 + broken2; n != brokenRecords {
		t.Errorf("%d records cannot be read, want %d", n, brokenRecords)
	}
	st := newStates(lxc, qemu)
	var c tally
	for _, r := range slices.Concat(lxc, qemu) {
		res := replay(&r, st)
		c.add(res, r.accepted())
		_, excepted := exceptions[r.ID]
		if same := res.answer && res.config; same == excepted {
			t.Errorf("%s (exception: %v) by %s: %s %s\n%s", r.ID, excepted, r.As, r.RawPut, r.Note, res.why)
		}
	}
	for _, w := range apiWrites(t) {
		res := replayAPI(t, &w)
		c.add(res, w.Status == 200)
		if !res.answer || !res.config {
			t.Errorf("%s by %s: %s %s\nrunning %v before:\n%s\n%s", w.id(), w.User, w.Body, w.Query, w.Running, w.Before, res.why)
		}
	}
	if 100*c.answers < floor*c.total || 100*c.kept < floor*c.accepted {
		t.Errorf("below %d %%: %d of %d answers, %d of %d accepted writes", floor, c.answers, c.total, c.kept, c.accepted)
	}
	t.Logf("accepted: %d of %d give the same config", c.kept, c.accepted)
	summary = c.String()
}

func (r *recorded) accepted() bool { return r.Status == 200 || r.Method == "CLI" && r.rc() == 0 }

func (r *recorded) rc() int {
	var b struct{ RC int }
	_ = json.Unmarshal(r.Body, &b)
	return b.RC
}

func replay(r *recorded, st *states) replayed {
	g := st.before(r)
	req := r.request()
	req.Env = r.env(g)
	var res Result
	switch r.Path {
	case "":
		res = g.Put(req)
	case "/resize":
		res = g.Resize(req)
	case "/cloudinit":
		res = g.RegenerateCloudInit(req.Caller)
	case "/status/reboot", "/status/stop":
		res, _ = g.ApplyPending(8, req.Env)
	default:
		return replayed{why: "path " + r.Path}
	}
	out := replayed{answer: true, config: true}
	if d := cmp.Diff(r.answer(), modelAnswer(r, res)); d != "" {
		out.answer = false
		out.why += "ANSWER -recorded +model\n" + d
	}
	if d := r.configDiff(res.Guest); d != "" {
		out.config = false
		out.why += "CONFIG -recorded +model\n" + d
	}
	return out
}

// request is the write as the model takes it.
func (r *recorded) request() Request {
	req := Request{Version: 8, Caller: r.caller(), Post: r.Method == "POST", Params: r.Put}
	if r.Method != "CLI" {
		return req
	}
	req.Params = make(map[string]string)
	for i := 3; i+1 < len(r.Argv); i += 2 {
		req.Params[strings.TrimPrefix(r.Argv[i], "--")] = r.Argv[i+1]
	}
	if req.Params["sshkeys"] == "/dev/null" {
		req.Params["sshkeys"] = "" // the command reads a file
	}
	return req
}

// reply is an answer as it is compared: errors with their lines in order, as
// PVE's order is random.
type reply struct {
	Status  int
	Message string
	Errors  map[string]string
	Task    string // how the task ended
	CLI     string // what the command printed to stderr
}

func (r *recorded) answer() reply {
	if r.Method == "CLI" {
		var b struct{ Stderr string }
		_ = json.Unmarshal(r.Body, &b)
		return reply{CLI: parserWarning.ReplaceAllString(b.Stderr, "")}
	}
	var b struct {
		Message string
		Errors  map[string]string
	}
	_ = json.Unmarshal(r.Body, &b)
	a := reply{Status: r.Status, Message: r.maskTag(strings.TrimSuffix(b.Message, "\n")), Errors: sortedErrors(b.Errors)}
	var task struct{ Exitstatus string }
	if json.Unmarshal(r.Task, &task) == nil && task.Exitstatus != "OK" {
		a.Task = strings.TrimSpace(task.Exitstatus)
	}
	return a
}

// parserWarning is what a command prints while it reads a config.
var parserWarning = regexp.MustCompile(`(?m)^vm [0-9]+ - unable to parse value of .*\n`)

func modelAnswer(r *recorded, res Result) reply {
	if r.Method == "CLI" {
		return reply{CLI: cliText(r, res.Err)}
	}
	if res.Err == nil {
		return reply{Status: 200, Task: strings.TrimSpace(strings.ReplaceAll(res.TaskErr, "\n", " "))}
	}
	return reply{Status: res.Err.Status, Message: r.maskTag(res.Err.Message), Errors: sortedErrors(res.Err.Errors)}
}

// cliText is what pct and qm print of an error.
func cliText(r *recorded, err *Error) string {
	if err == nil {
		return ""
	}
	if err.Errors == nil {
		return err.Message + "\n"
	}
	out := "400 " + err.Message + "\n"
	for _, k := range slices.Sorted(maps.Keys(err.Errors)) {
		out += k + ": " + err.Errors[k] + "\n"
	}
	return out + r.Argv[0] + " set <vmid> [OPTIONS]\n"
}

var tagRE = regexp.MustCompile(`modifying tag '[^']*'`)

// maskTag hides which of several refused tags PVE names: it takes one at random.
func (r *recorded) maskTag(s string) string {
	if len(splitList(r.Put["tags"])) > 1 {
		return tagRE.ReplaceAllString(s, "modifying tag '*'")
	}
	return s
}

func sortedErrors(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		lines := strings.Split(v, "\n")
		if len(lines) > 1 && strings.HasSuffix(lines[0], "format error") {
			slices.Sort(lines[1:])
		}
		out[k] = strings.Join(lines, "\n")
	}
	return out
}

var (
	generatedMAC  = regexp.MustCompile(`BC:24:11:CD:AB:EF`)
	anyMAC        = regexp.MustCompile(`BC:24:11(:[0-9A-F]{2}){3}`)
	generatedUUID = regexp.MustCompile(`cdefabcd-efab-4bcd-abcd-abcdefabcdef`)
	anyUUID       = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	cryptLine     = regexp.MustCompile(`(?m)^(cipassword: )\$5\$.*$`)
)

// configDiff compares the file and the three views of it.
func (r *recorded) configDiff(g *Guest) string {
	got, want := g.Text(), r.FileText
	got, want = cryptLine.ReplaceAllString(got, "$1*"), cryptLine.ReplaceAllString(want, "$1*")
	got, want = maskGenerated(got, want)
	d := cmp.Diff(want, got)
	// The views are made of what PVE's file says, so that a wrong file is not
	// counted four times over.
	p := parse(g.Kind, g.VMID, r.FileText)
	d += cmp.Diff(asText(r.After), asText(p.View(false)))
	d += cmp.Diff(asText(r.Current), asText(p.View(true)))
	d += cmp.Diff(pendingText(r.Pending), p.pendingMap())
	d += typeDiff(r.After, p.View(false))
	return d
}

// maskGenerated hides in both files what was generated: where the model's has
// a value made of labRandom, the recorded one may have any of that form.
func maskGenerated(got, want string) (string, string) {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		for _, p := range [][2]*regexp.Regexp{{generatedMAC, anyMAC}, {generatedUUID, anyUUID}} {
			if p[0].MatchString(g[i]) {
				g[i], w[i] = p[0].ReplaceAllString(g[i], "*"), p[1].ReplaceAllString(w[i], "*")
			}
		}
	}
	return strings.Join(g, "\n"), strings.Join(w, "\n")
}

func pendingText(list []map[string]any) map[string]string {
	out := make(map[string]string)
	for _, e := range list {
		m := asText(e)
		key := m["key"]
		delete(m, "key")
		out[key] = fmt.Sprint(m)
	}
	return out
}

func (g *Guest) pendingMap() map[string]string {
	out := make(map[string]string)
	for _, e := range g.PendingList() {
		m := map[string]string{}
		if e.Value != nil {
			m["value"] = fmt.Sprint(e.Value)
		}
		if e.Pending != nil {
			m["pending"] = fmt.Sprint(e.Pending)
		}
		if e.Delete > 0 {
			m["delete"] = fmt.Sprint(e.Delete)
		}
		out[e.Key] = fmt.Sprint(m)
	}
	return out
}

// typeDiff compares which values are numbers.
func typeDiff(recorded, model map[string]any) string {
	want, got := make(map[string]bool), make(map[string]bool)
	for k, v := range recorded {
		_, want[k] = v.(json.Number)
	}
	for k, v := range model {
		_, got[k] = v.(int64)
	}
	return cmp.Diff(want, got)
}
