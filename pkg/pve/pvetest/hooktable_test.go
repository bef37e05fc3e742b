// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// hookRow is one recorded scenario: what was done to a guest with a
// hookscript, and which phases fired.
type hookRow struct {
	PVE   int               `json:"pve"`
	Kind  guest.Kind        `json:"kind"`
	Name  string            `json:"name"`
	Pre   string            `json:"pre"` // run state before
	Beh   map[string]string `json:"beh"` // what the hook does, by phase
	Acts  []hookAct         `json:"acts"`
	Hooks []hookSeen        `json:"hooks"`
	After string            `json:"after"`
	Note  string            `json:"note"`
}

// hookAct is one thing that was done; Lost is one whose record was lost.
type hookAct struct {
	At   float64 `json:"at"` // seconds after the beginning
	API  string  `json:"api"`
	Cmd  string  `json:"cmd"`
	Want string  `json:"want"` // refusal
	Exit string  `json:"exit"` // status of its task
	Lost string  `json:"lost"`
}

// hookSeen is one phase: whether the guest's lock was held, and in which task
// it ran ("" for none).
type hookSeen struct {
	Phase string `json:"phase"`
	Lock  string `json:"lock"`
	Task  string `json:"task"`
}

func (r *hookRow) id() string { return fmt.Sprintf("pve%d %s %s", r.PVE, r.Kind, r.Name) }

func (r *hookRow) vmid() int {
	switch {
	case strings.HasPrefix(r.Name, "DELETE"):
		return 120
	case r.Kind == guest.QEMU:
		return 200
	}
	return 101
}

func readHookRows(t *testing.T) []hookRow {
	t.Helper()
	f, err := os.Open("testdata/hooks/hooks.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var rows []hookRow
	sc := bufio.NewScanner(zr)
	for sc.Scan() {
		var r hookRow
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	if sc.Err() != nil {
		t.Fatal(sc.Err())
	}
	return rows
}

// TestHookTables replays every recorded row of the hookscript tables.
func TestHookTables(t *testing.T) {
	matched, all := hookTables(t, "", func(r *hookRow, diff string) { t.Errorf("%s:\n%s", r.id(), diff) })
	if all != 194 {
		t.Errorf("%d rows, want 194", all)
	}
	fmt.Printf("hooks: %d of %d rows match\n", matched, all)
}

// hookTables replays the rows on Sims with one behaviour changed ("" for
// none) and reports those that differ and are not excepted.
func hookTables(t *testing.T, mutated mutant.Name, differs func(*hookRow, string)) (matched, all int) {
	t.Helper()
	for _, r := range readHookRows(t) {
		all++
		diff := r.replay(t, mutated)
		why := hookExcepted[r.Name]
		switch {
		case diff == "":
			matched++
		case why == "":
			differs(&r, diff)
		case mutated == "":
			t.Logf("excepted: %s: %s", r.id(), why)
		}
	}
	return matched, all
}

// hookRun is one row on one Sim.
type hookRun struct {
	row   *hookRow
	set   hookSetup
	sim   *Sim
	pipe  *Pipe
	wg    sync.WaitGroup
	mu    sync.Mutex
	seen  []hookSeen
	begun []time.Time // of seen
	diffs []string
	upid  string // of the first task
}

// replay returns what differs.
func (r *hookRow) replay(t *testing.T, mutated mutant.Name) string {
	t.Helper()
	var out string
	synctest.Test(t, func(t *testing.T) {
		run := &hookRun{row: r, set: r.setup()}
		run.begin(t, mutated)
		acts := run.acts()
		slices.SortStableFunc(acts, func(a, b hookAct) int { return int((a.At - b.At) * 1e6) })
		start := time.Now()
		for i, a := range acts {
			time.Sleep(time.Until(start.Add(time.Duration(a.At*1e9) + time.Duration(i)*time.Microsecond)))
			run.wg.Go(func() { run.do(t, a) })
		}
		run.wg.Wait()
		time.Sleep(time.Minute)
		out = run.result()
		run.pipe.Close()
		run.sim.Close()
	})
	return out
}

// acts are the recorded ones with those of the setup in place of lost ones.
func (x *hookRun) acts() []hookAct {
	acts := slices.Clone(x.set.acts)
	if x.set.drop {
		return acts
	}
	rest := x.row.Acts
	if len(acts) > 0 && len(rest) > 0 && rest[0].API != "" && strings.HasSuffix(rest[0].API, "status/start") {
		acts = nil // nothing was lost
	}
	return append(acts, rest...)
}

func (x *hookRun) begin(t *testing.T, mutated mutant.Name) {
	t.Helper()
	r := x.row
	c := map[string]string{"hookscript": "local:snippets/hook.pl", "memory": "128"}
	if r.Kind == guest.LXC {
		c["hostname"], c["ostype"], c["arch"] = "bb", "unmanaged", "amd64"
		c["rootfs"] = fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=1G", r.vmid(), r.vmid())
	}
	for k, v := range x.set.conf {
		c[k] = v
		if v == "" {
			delete(c, k)
		}
	}
	snippets := map[string]bool{"hook.pl": !x.set.plain, "true.sh": true}
	if x.set.absent {
		delete(snippets, "hook.pl")
	}
	sim, err := New(Options{
		Node: "N", Version: pickBool(r.PVE == 8, "8.4.21", "9.2.11"), Seed: 1, RunHook: x.hook, Mutant: mutated,
		Storages: []Storage{{ID: "local", Snippets: snippets}},
		Users: []User{
			{ID: "root@pam", Tokens: []Token{{ID: "root", Secret: "r", NoPrivSep: true}}},
			{ID: "agent@pve", Tokens: []Token{{ID: "full", Secret: "s", NoPrivSep: true}}},
		},
		ACL:    []Grant{{Path: "/", Who: "agent@pve", Role: "PVEAdmin"}},
		Guests: []GuestSpec{{Kind: r.Kind, VMID: r.vmid(), Config: c, Running: r.Pre == "running" || r.vmid() == 120, Times: x.set.times}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.sim, x.pipe = sim, sim.Pipe()
}

// hook stands for the recorder's script: it writes its line when it ends, so
// a script that was killed left none.
func (x *hookRun) hook(h HookCall) error {
	s, begun := hookSeen{Phase: h.Phase, Lock: "free"}, time.Now()
	if m := upidRE.FindStringSubmatch(h.UPID); m != nil {
		s.Task = m[5]
	}
	if len(x.sim.flockOf(lockFile(h.Kind, h.VMID)).slot) > 0 {
		s.Lock = "held"
	}
	err := x.behave(h)
	if h.Ctx.Err() != nil {
		return err
	}
	if !x.set.untold {
		x.mu.Lock()
		at, _ := slices.BinarySearchFunc(x.begun, begun, time.Time.Compare)
		x.begun, x.seen = slices.Insert(x.begun, at, begun), slices.Insert(x.seen, at, s)
		x.mu.Unlock()
	}
	return err
}

func (x *hookRun) behave(h HookCall) error {
	what := x.row.Beh[h.Phase]
	if x.set.untold {
		what = x.set.script[h.Phase]
	}
	verb, arg, _ := strings.Cut(what, " ")
	switch verb {
	case "sleep":
		n, err := strconv.Atoi(arg)
		if err == nil && !sleep(h.Ctx, time.Duration(n)*time.Second) {
			return errors.New("got signal 15")
		}
		return err
	case "exit":
		return errors.New("exit code " + arg)
	case "signal":
		return errors.New("got signal " + arg)
	case "print":
		_, _ = io.WriteString(h.Out, arg)
	case "noexec":
		return errors.New("failed to execute")
	case "set":
		k, v, _ := strings.Cut(arg, "=")
		if err := x.sim.Operator(h.Kind).Set(h.Ctx, h.VMID, map[string]string{k: v}); err != nil {
			return errors.New("exit code 4")
		}
	case "api":
		f := append(strings.Fields(arg), "")
		_, _, err := x.call(f[0], f[1], f[2])
		return err
	}
	return nil
}

// call makes one request and returns its status line and data.
func (x *hookRun) call(method, path, body string) (string, any, error) {
	path = regexp.MustCompile(`/nodes/pve\d`).ReplaceAllString(path, "/nodes/N")
	target := "http://pve/api2/json" + path
	if method == http.MethodDelete && body != "" {
		target, body = target+"?"+body, ""
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	cred := "agent@pve!full=s"
	if strings.HasSuffix(path, "all") {
		cred = "root@pam!root=r"
	}
	req.Header.Set("Authorization", "PVEAPIToken="+cred)
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := x.pipe.Client().Do(req)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var env struct{ Data any }
	_ = json.NewDecoder(resp.Body).Decode(&env) // errors have bodies of their own
	return resp.Status, env.Data, nil
}

func (x *hookRun) do(t *testing.T, a hookAct) {
	var err error
	switch {
	case a.API != "":
		err = x.api(t, a)
	case a.Cmd != "":
		err = x.command(t, a)
	}
	if err != nil {
		x.differ("%s%s: %v", a.API, a.Cmd, err)
	}
}

func (x *hookRun) differ(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.diffs = append(x.diffs, fmt.Sprintf(format, args...))
}

var pyDict = regexp.MustCompile(`'([^']*)': '([^']*)'`)

func (x *hookRun) api(t *testing.T, a hookAct) error {
	f := strings.SplitN(a.API, " ", 3)
	path := f[1]
	if method := f[0]; method == http.MethodDelete && strings.Contains(path, "/tasks/") {
		x.mu.Lock()
		path = "/nodes/N/tasks/" + url.PathEscape(x.upid)
		x.mu.Unlock()
	}
	form := url.Values{}
	for _, m := range pyDict.FindAllStringSubmatch(a.API, -1) {
		form.Set(m[1], strings.ReplaceAll(m[2], `\n`, "\n"))
	}
	status, data, err := x.call(f[0], path, form.Encode())
	if err != nil {
		return err
	}
	if want := a.Want; x.set.loose == "" && (want != "" && status != want || want == "" && !strings.HasPrefix(status, "200")) {
		x.differ("%s: want %q, got %q", a.API, want, status)
	}
	upid, _ := data.(string)
	x.mu.Lock()
	if x.upid == "" {
		x.upid = upid
	}
	x.mu.Unlock()
	return x.taskEnd(t, a, upid)
}

// script is a script's path in an error.
var script = regexp.MustCompile(`/var/lib/vz/snippets/\S+ `)

func (x *hookRun) taskEnd(t *testing.T, a hookAct, upid string) error {
	if !strings.HasPrefix(upid, "UPID:") {
		return nil
	}
	_, err := x.sim.WaitTask(t.Context(), upid)
	got := "OK"
	if err != nil {
		got = err.Error()
	}
	if a.Exit != "" && script.ReplaceAllString(got, "script ") != script.ReplaceAllString(a.Exit, "script ") && !strings.Contains(a.Exit, "open3: exec of") {
		x.differ("%s: task: want %q, got %q", a.API, a.Exit, got)
	}
	return nil
}

func (x *hookRun) command(t *testing.T, a hookAct) error {
	op, vmid := x.sim.Operator(x.row.Kind), x.row.vmid()
	f := strings.Fields(a.Cmd)
	var err error
	switch {
	case a.Cmd == "race", a.Cmd == "vm race":
		return x.race(t, a)
	case strings.Contains(a.Cmd, "poweroff"), strings.HasSuffix(a.Cmd, "sendkey 200 p"), strings.HasPrefix(a.Cmd, "systemctl stop pve-container"):
		return x.sim.Poweroff(vmid)
	case strings.Contains(a.Cmd, "reboot") && f[1] == "exec", strings.HasSuffix(a.Cmd, "sendkey 200 r"):
		return x.sim.RebootInside(vmid)
	case strings.HasPrefix(a.Cmd, "kill -9"):
		return x.sim.Crash(vmid)
	case a.Cmd == "pgrep":
		return x.sim.KillMonitor(vmid)
	case a.Cmd == "systemctl restart pvedaemon":
		x.sim.KillTasks()
	case a.Cmd == "systemctl restart pve-cluster":
		x.sim.ResetCounters()
	case f[0] == "pct" || f[0] == "qm":
		switch f[1] {
		case "start":
			_, err = op.Start(t.Context(), vmid)
		case "stop":
			_, err = op.Stop(t.Context(), vmid)
		case "shutdown":
			_, err = op.Shutdown(t.Context(), vmid, 0, false)
		case "reboot":
			_, err = op.Reboot(t.Context(), vmid)
		case "set":
			err = op.Set(t.Context(), vmid, map[string]string{strings.TrimPrefix(f[3], "--"): f[4]})
		}
		x.sim.log.Info("command", "cmd", a.Cmd, "error", err)
	}
	return nil
}

// race starts a guest that powers itself off as soon as it reads as stopped.
func (x *hookRun) race(t *testing.T, a hookAct) error {
	path := fmt.Sprintf("/nodes/N/%s/%d/status/", x.row.Kind, x.row.vmid())
	a.API = "POST " + path + "start"
	if a.Cmd == "vm race" {
		if err := x.sim.Poweroff(x.row.vmid()); err != nil {
			return err
		}
	}
	for {
		_, data, err := x.call(http.MethodGet, path+"current", "")
		if err != nil {
			return err
		}
		if m, ok := data.(map[string]any); ok && m["status"] == "stopped" {
			return x.api(t, a)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (x *hookRun) result() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := strings.Join(x.diffs, "\n")
	if d := cmp.Diff(x.row.Hooks, x.seen); d != "" && len(x.row.Hooks)+len(x.seen) > 0 {
		out += "\nphases (-recorded +double):\n" + d
	}
	after := "stopped"
	x.sim.mu.Lock()
	if g := x.sim.guests[x.row.vmid()]; g != nil {
		after = runState(g)
	}
	x.sim.mu.Unlock()
	if after != x.row.After {
		out += fmt.Sprintf("\nafterwards: want %s, got %s", x.row.After, after)
	}
	return out
}
