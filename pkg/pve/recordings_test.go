// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// exchange is one recorded exchange with a real node: testdata/recordings.jsonl.gz
// holds those of a PVE 8.4.21 and a PVE 9.2.11, one a line, without the
// requests' headers and bodies.
type exchange struct {
	Name   string
	Method string
	Path   string // below /api2/json, with the query
	Status string // "500 CT is locked (backup)"
	Header map[string]string
	Body   string
}

func (e exchange) code() int {
	code, _, _ := strings.Cut(e.Status, " ")
	n, _ := strconv.Atoi(code)
	return n
}

// response is the answer as the transport would deliver it.
func (e exchange) response() *http.Response {
	h := make(http.Header)
	for k, v := range e.Header {
		h.Set(k, v)
	}
	return &http.Response{StatusCode: e.code(), Status: e.Status, Header: h, Body: io.NopCloser(strings.NewReader(e.Body))}
}

// recordings reads all recorded exchanges.
func recordings(tb testing.TB) []exchange {
	tb.Helper()
	f, err := os.Open("testdata/recordings.jsonl.gz")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var out []exchange
	for dec := json.NewDecoder(bufio.NewReader(z)); ; {
		var e exchange
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			tb.Fatal(err)
		}
		out = append(out, e)
	}
	if len(out) < 1500 {
		tb.Fatalf("%d recorded exchanges, want all 1562", len(out))
	}
	return out
}

func testToken(tb testing.TB) Token {
	tb.Helper()
	tok, err := ParseToken("agent@pve!full=00000000-0000-0000-0000-000000000001")
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// TestRecordedAnswers feeds every recorded answer to the code that reads
// answers: a success is a success, an error keeps PVE's words.
func TestRecordedAnswers(t *testing.T) {
	c := &Client{opts: Options{Token: testToken(t)}}
	for _, e := range recordings(t) {
		if strings.HasPrefix(e.Path, "/api2/") || strings.Contains(e.Path, "download=1") {
			continue // not JSON, or not in JSON's usual frame
		}
		path, _, _ := strings.Cut(e.Path, "?")
		env, err := c.answer(e.Method, path, e.response(), []byte(e.Body), nil)
		if e.code() == http.StatusOK {
			if err != nil || len(env.Data) == 0 {
				t.Errorf("%s: %s: data %q, error %v", e.Name, e.Status, env.Data, err)
			}
			continue
		}
		checkRecordedError(t, e, err)
	}
}

func checkRecordedError(t *testing.T, e exchange, err error) {
	t.Helper()
	var pe *Error
	if !errors.As(err, &pe) {
		t.Errorf("%s: %s gave %v", e.Name, e.Status, err)
		return
	}
	_, reason, _ := strings.Cut(e.Status, " ")
	if pe.Status != e.code() || pe.Reason != strings.TrimSpace(reason) || !strings.Contains(pe.Error(), strings.TrimSpace(reason)) {
		t.Errorf("%s: %q became %d %q: %v", e.Name, e.Status, pe.Status, pe.Reason, pe)
	}
	var body struct {
		Message string
		Errors  map[string]string
	}
	if json.Unmarshal([]byte(e.Body), &body) == nil {
		if pe.Message != strings.TrimRight(body.Message, " \n") {
			t.Errorf("%s: message %q became %q", e.Name, body.Message, pe.Message)
		}
		if diff := cmp.Diff(body.Errors, pe.Params); diff != "" {
			t.Errorf("%s: parameter errors (-recorded +got):\n%s", e.Name, diff)
		}
	}
	if want := wantKind(e); pe.Kind != want {
		t.Errorf("%s: %s %s %q is %q, want %q", e.Name, e.Method, e.Path, e.Status, pe.Kind, want)
	}
	if (pe.Kind == ErrLocked) != (pe.Lock != "") {
		t.Errorf("%s: kind %q with lock %q", e.Name, pe.Kind, pe.Lock)
	}
}

// recordedKinds is what every recorded error must become, by its status line
// with its numbers replaced. It is written out, not computed: a new wording
// fails the test until somebody has decided.
var recordedKinds = map[string]Kind{
	"400 Parameter verification failed.":                                           ErrInvalid,
	"401 Authentication failed!":                                                   ErrDenied,
	"401 Permission denied - invalid csrf token":                                   ErrDenied,
	"401 authentication failure":                                                   ErrDenied,
	"500 CT N already exists on node 'pveN'":                                       ErrExists,
	"500 VM N already exists on node 'pveN'":                                       ErrExists,
	"500 unable to create VM N - VM N already exists on node 'pveN'":               ErrExists,
	"500 unable to create VM N - CT N already exists on node 'pveN'":               ErrExists,
	"500 unable to create VM N: config file already exists":                        ErrExists,
	"500 Configuration file 'nodes/pveN/lxc/N.conf' does not exist":                ErrNoGuest,
	"500 Configuration file 'nodes/pveN/qemu-server/N.conf' does not exist":        ErrNoGuest,
	"500 CT N already running":                                                     ErrRunning,
	"500 CT N not running":                                                         ErrNotRunning,
	"500 VM N not running":                                                         ErrNotRunning,
	"500 CT is locked (backup)":                                                    ErrLocked,
	"500 VM is locked (backup)":                                                    ErrLocked,
	"500 checksum mismatch (file change by other user?)":                           ErrChanged,
	"500 detected modified configuration - file changed by other user? Try again.": ErrChanged,
	"500 failed to read from command socket: Connection reset by peer":             ErrTransient,
	"500 hostname lookup 'nonode' failed - failed to get address info for: nonode: Name or service not known":            ErrUnreachable,
	"500 hostname lookup 'nonode' failed - failed to get address info for: nonode: Temporary failure in name resolution": ErrUnreachable,
	"500 only root can set 'args' config":                                               ErrDenied,
	"500 only root can set 'vmgenid' config":                                            ErrDenied,
	"500 bridge 'vmbrN' does not exist":                                                 ErrNotFound,
	"500 script 'local:snippets/missing.sh' does not exist":                             ErrNotFound,
	"500 snapshot 'nope' does not exist":                                                ErrNotFound,
	"500 storage 'nope' does not exist":                                                 ErrNotFound,
	"500 Linked clone feature for 'local:N/base-N-disk-N.raw' is not available":         ErrOther,
	"500 Linked clone feature is not supported for 'local:N/vm-N-disk-N.qcowN' (scsiN)": ErrOther,
	"500 No QEMU guest agent configured":                                                ErrOther,
	"500 Timeout while waiting for port 'N' to get ready!":                              ErrOther,
	"500 VM N is running - destroy failed":                                              ErrOther,
	"500 can't overwrite running container":                                             ErrOther,
	"500 can't remove CT N - protection mode enabled":                                   ErrOther,
	"500 can't remove VM N - protection mode enabled":                                   ErrOther,
	"500 delete pool failed: pool 'cpN' is not empty (contains VM N)":                   ErrOther,
	"500 format error": ErrOther,
	"500 mount points configured, but 'rootfs' not set - aborting":                                                 ErrOther,
	"500 unable to delete read-only option: 'unprivileged'":                                                        ErrOther,
	"500 unable to delete required option 'memory'":                                                                ErrOther,
	"500 unable to destroy CT N - container is running":                                                            ErrOther,
	"500 unable to modify read-only option: 'unprivileged'":                                                        ErrOther,
	"500 unable to use snapshot name 'current' (reserved name)":                                                    ErrOther,
	"500 update pools failed: VM N is already a pool member":                                                       ErrOther,
	"500 you can't convert a CT to template if the CT is running":                                                  ErrOther,
	"500 you can't convert a template to a template":                                                               ErrOther,
	`500 '"' expected, at character offset N (before "bad") at /usr/share/perlN/PVE/APIServer/AnyEvent.pm line N.`: ErrOther,
}

var numbers = regexp.MustCompile(`\d+`)

func wantKind(e exchange) Kind {
	switch {
	case strings.HasPrefix(e.Status, "403 "):
		return ErrDenied
	case strings.HasPrefix(e.Status, "501 "):
		return ErrUnsupported
	case strings.Contains(e.Body, `"upid":"no such task"`):
		return ErrNoTask
	case strings.HasPrefix(e.Path, "/cluster/nextid") && e.code() == 400:
		return ErrExists
	}
	code, reason, _ := strings.Cut(e.Status, " ")
	return recordedKinds[code+" "+numbers.ReplaceAllString(strings.TrimSpace(reason), "N")]
}

var upidInText = regexp.MustCompile(`UPID:[^\s"\\/?]*:`)

// TestRecordedUPIDs parses every UPID anywhere in the recordings, and compares
// its fields with what PVE says of the same task.
func TestRecordedUPIDs(t *testing.T) {
	seen := make(map[string]bool)
	for _, e := range recordings(t) {
		path, err := url.PathUnescape(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range upidInText.FindAllString(path+" "+e.Body, -1) {
			if s == "UPID:garbage" || seen[s] {
				continue
			}
			seen[s] = true
			if u, err := ParseUPID(s); err != nil || u.String() != s {
				t.Errorf("%s: %q parsed to %q, %v", e.Name, s, u, err)
			}
		}
	}
	if len(seen) < 271 {
		t.Errorf("only %d UPIDs seen", len(seen))
	}
	t.Logf("%d different UPIDs", len(seen))
}

// recordedTask is a task as PVE shows it in its status and in the list.
type recordedTask struct {
	UPID       string
	Node       string
	PID        uint32
	PStart     uint64
	StartTime  uint32
	EndTime    int64
	Type       string
	ID         string
	User       string
	TokenID    string
	Status     string
	ExitStatus string
}

// upid is the UPID made of the entry's other fields.
func (r recordedTask) upid() UPID {
	user := r.User
	if r.TokenID != "" {
		user += "!" + r.TokenID
	}
	return UPID{Node: r.Node, PID: r.PID, PStart: r.PStart, Start: r.StartTime, Type: r.Type, ID: r.ID, User: user}
}

func TestRecordedTaskStatus(t *testing.T) {
	n, p := make(map[Exit]int), newPlayer(t)
	for _, e := range recordings(t) {
		path, _ := url.PathUnescape(e.Path)
		if !strings.HasSuffix(path, ":/status") || e.code() != 200 {
			continue
		}
		var want struct{ Data recordedTask }
		if err := json.Unmarshal([]byte(e.Body), &want); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		got, err := p.play(e).TaskStatus(t.Context(), want.Data.upid())
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		n[got.Exit()]++
		w := TaskStatus{UPID: want.Data.upid(), Running: want.Data.Status == "running", Text: strings.TrimSpace(want.Data.ExitStatus)}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.Name, diff)
		}
		if got.UPID.String() != want.Data.UPID {
			t.Errorf("%s: the fields of %s make %s", e.Name, want.Data.UPID, got.UPID)
		}
		if ok := want.Data.ExitStatus == "OK" || strings.HasPrefix(want.Data.ExitStatus, "WARNINGS: "); !got.Running && ok != (got.Err() == nil) {
			t.Errorf("%s: %q gives error %v", e.Name, want.Data.ExitStatus, got.Err())
		}
	}
	t.Logf("task status by end: %v", n)
	for _, x := range []Exit{"", ExitOK, ExitWarnings, ExitError} {
		if n[x] == 0 {
			t.Errorf("no recorded task that ended %q", x)
		}
	}
}

func TestRecordedTaskLists(t *testing.T) {
	total, p := 0, newPlayer(t)
	list := regexp.MustCompile(`^/nodes/pve\d/tasks(\?|$)`)
	for _, e := range recordings(t) {
		if !list.MatchString(e.Path) || e.code() != 200 {
			continue
		}
		var want struct{ Data []recordedTask }
		if err := json.Unmarshal([]byte(e.Body), &want); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		got, err := p.play(e).Tasks(t.Context(), "pve1", TaskQuery{})
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		byID := make(map[UPID]Task)
		for _, k := range got {
			byID[k.UPID] = k
		}
		for _, w := range want.Data {
			total++
			k, ok := byID[w.upid()]
			if !ok || k.UPID.String() != w.UPID {
				t.Errorf("%s: %s is not in the list", e.Name, w.UPID)
				continue
			}
			if running := w.Status == "RUNNING"; k.Status().Running != running || !running && (k.End.Unix() != w.EndTime || k.Text != strings.TrimSpace(w.Status)) {
				t.Errorf("%s: %+v became %+v", e.Name, w, k)
			}
		}
		if len(byID) != len(want.Data) {
			t.Errorf("%s: %d tasks of %d", e.Name, len(byID), len(want.Data))
		}
	}
	t.Logf("%d entries", total)
}

// TestRecordedReads decodes every recorded answer that has a Go type.
func TestRecordedReads(t *testing.T) {
	n, p := make(map[string]int), newPlayer(t)
	for _, e := range recordings(t) {
		if e.Method != http.MethodGet || e.code() != 200 || strings.Contains(e.Path, "snapshot=") {
			continue
		}
		what, err := readRecorded(t, p.play(e), e)
		if err != nil {
			t.Errorf("%s: %s: %v", e.Name, e.Path, err)
		}
		n[what]++
	}
	t.Logf("decoded: %v", n)
	for _, want := range []string{"guests", "status", "config", "pending", "log", "resources", "version", "nextid", "permissions"} {
		if n[want] == 0 {
			t.Errorf("no recorded %s", want)
		}
	}
}

var guestPath = regexp.MustCompile(`^/nodes/(pve\d)/(lxc|qemu)(?:/(\d+)/(config|pending|status/current))?(?:\?.*)?$`)

func readRecorded(t *testing.T, c *Client, e exchange) (what string, err error) {
	ctx := t.Context()
	if m := guestPath.FindStringSubmatch(e.Path); m != nil {
		return readGuest(t, c, e, m)
	}
	path, _, _ := strings.Cut(e.Path, "?")
	switch {
	case path == "/version":
		v, err := c.Version(ctx)
		if err == nil && v.Major() != 8 && v.Major() != 9 {
			err = fmt.Errorf("version %+v", v)
		}
		return "version", err
	case path == "/cluster/resources":
		_, err = c.Resources(ctx)
		return "resources", err
	case path == "/cluster/nextid":
		_, err = c.NextID(ctx)
		return "nextid", err
	case path == "/access/permissions":
		p, err := c.Permissions(ctx, "")
		if err == nil && len(p) == 0 && !strings.Contains(e.Body, `"data":{}`) {
			err = fmt.Errorf("no permissions in %s", e.Body)
		}
		return "permissions", err
	case strings.HasSuffix(path, "/log") && !strings.Contains(e.Path, "download="):
		_, _, err = c.TaskLog(ctx, UPID{Node: "pve1"}, 0, 50)
		return "log", err
	}
	return "other", nil
}

// readGuest decodes what is about one guest or one list of guests, and
// compares a config value by value.
func readGuest(t *testing.T, c *Client, e exchange, m []string) (string, error) {
	id, _ := strconv.Atoi(m[3])
	r := Ref{Node: m[1], ID: guest.ID{Kind: guest.Kind(m[2]), VMID: guest.VMID(max(id, 100))}}
	switch m[4] {
	case "":
		raw, _, err := getList[rawGuest](t.Context(), c, "/x", nil)
		if err == nil && slices.ContainsFunc(raw, func(g rawGuest) bool { return g.guest(r.ID.Kind).Run == "" || g.VMID < 100 }) {
			err = fmt.Errorf("a guest without run state or VMID: %s", e.Body)
		}
		return "guests", err
	case "status/current":
		g, err := c.Status(t.Context(), r)
		if err == nil && (g.Run == "" || g.ID != r.ID) {
			err = fmt.Errorf("status %+v", g)
		}
		return "status", err
	case "pending":
		_, digest, err := c.Pending(t.Context(), r)
		if err == nil && digest == "" {
			err = fmt.Errorf("no digest")
		}
		return "pending", err
	}
	conf, err := c.Config(t.Context(), r)
	if err != nil {
		return "config", err
	}
	return "config", sameConfig(conf, e.Body)
}

// sameConfig checks that every value of a recorded config is there as text.
func sameConfig(conf Config, body string) error {
	var raw struct{ Data map[string]any }
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	got := make(map[string]any, len(conf.Values)+3)
	for k, v := range conf.Values {
		got[k] = v
	}
	maps.Copy(got, map[string]any{"digest": conf.Digest, "lock": conf.Lock, "parent": conf.Parent})
	for k, v := range raw.Data {
		if k != "lxc" && got[k] != fmt.Sprint(v) {
			return fmt.Errorf("%s: %v became %v", k, v, got[k])
		}
	}
	return nil
}
