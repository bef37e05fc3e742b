// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustUPID(t testing.TB, s string) UPID {
	t.Helper()
	u, err := ParseUPID(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestTaskExit(t *testing.T) {
	tests := []struct {
		status   TaskStatus
		exit     Exit
		warnings int
		kind     Kind // of Err, "" for none
	}{
		{TaskStatus{Running: true}, "", 0, ""},
		{TaskStatus{Text: "OK"}, ExitOK, 0, ""},
		{TaskStatus{Text: "WARNINGS: 3"}, ExitWarnings, 3, ""},
		{TaskStatus{Text: "unexpected status"}, ExitUnknown, 0, ErrUnknownOutcome},
		{TaskStatus{Text: ""}, ExitUnknown, 0, ErrUnknownOutcome},
		{TaskStatus{Text: "unable to get last line from task log - No such file"}, ExitUnknown, 0, ErrUnknownOutcome},
		{TaskStatus{Text: "CT is locked (backup)"}, ExitError, 0, ErrLocked},
		{TaskStatus{Text: "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout"}, ExitError, 0, ErrBusy},
		{TaskStatus{Text: "VM 200 already running"}, ExitError, 0, ErrRunning},
		{TaskStatus{Text: "WARNINGS: many"}, ExitError, 0, ErrOther},
		{TaskStatus{Text: "unable to get PID for CT 101 (not running?)"}, ExitError, 0, ErrOther},
		{TaskStatus{Text: "hookscript error for 101 on pre-start: command '/x 101 pre-start' failed: exit code 1"}, ExitError, 0, ErrOther},
		{TaskStatus{Text: "cluster not ready - no quorum?"}, ExitError, 0, ErrNoQuorum},
		{TaskStatus{Text: "received interrupt"}, ExitError, 0, ErrOther},
	}
	for _, tt := range tests {
		s := tt.status
		if s.Exit() != tt.exit || s.Warnings() != tt.warnings || KindOf(s.Err()) != tt.kind {
			t.Errorf("%q: %q, %d warnings, %v", s.Text, s.Exit(), s.Warnings(), s.Err())
		}
		if err := s.Err(); err != nil && !strings.Contains(err.Error(), s.Text) {
			t.Errorf("%q is not in %v", s.Text, err)
		}
	}
}

// TestTaskStatusOfNoTask: only a task that is said to have ended has.
func TestTaskStatusOfNoTask(t *testing.T) {
	for _, body := range []string{`{"data":null}`, `{"data":{}}`, `{"data":{"status":""}}`, `{"data":{"status":"queued"}}`} {
		s, err := serveOne(t, ok(body)).TaskStatus(t.Context(), UPID{Node: "pve1"})
		if KindOf(err) != ErrOther || s.Exit() == ExitOK {
			t.Errorf("%s became %+v, %v", body, s, err)
		}
	}
}

// taskServer answers status calls one by one from a script of answers:
// "running", an exit status, or "500 text".
func taskServer(t *testing.T, script []string, asked *[]time.Duration) *Client {
	start := time.Now()
	return clientOf(t, &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, time.Since(start))
		step := script[min(len(*asked), len(script))-1]
		code, reason, isError := strings.Cut(step, " ")
		switch {
		case step == "running":
			_, _ = io.WriteString(w, `{"data":{"status":"running"}}`)
		case isError && (code == "500" || code == "400"):
			w.Header().Set("X-Reason", reason)
			w.WriteHeader(map[string]int{"500": 500, "400": 400}[code])
			if code == "400" {
				fmt.Fprintf(w, `{"errors":{"upid":%q}}`, reason)
			}
		default:
			fmt.Fprintf(w, `{"data":{"status":"stopped","exitstatus":%q}}`, step)
		}
	})}, nil)
}

func TestWait(t *testing.T) {
	u := mustUPID(t, "UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:")
	many := make([]string, 40)
	for i := range many {
		many[i] = "running"
	}
	tests := []struct {
		name   string
		script []string
		want   TaskStatus
		kind   Kind
		asked  []time.Duration
	}{
		{"over at once", []string{"OK"}, TaskStatus{UPID: u, Text: "OK"}, "", []time.Duration{0}},
		{
			"the interval grows",
			[]string{"running", "running", "running", "WARNINGS: 1 "},
			TaskStatus{UPID: u, Text: "WARNINGS: 1"},
			"",
			[]time.Duration{0, 100 * time.Millisecond, 250 * time.Millisecond, 475 * time.Millisecond},
		},
		{
			"an error of the task is none of the call",
			[]string{"startup for container '101' failed"},
			TaskStatus{UPID: u, Text: "startup for container '101' failed"},
			"",
			[]time.Duration{0},
		},
		{
			"PVE is away for a while",
			[]string{"500 failed to read from command socket: Connection reset by peer", "500 odd", "500 odd", "OK"},
			TaskStatus{UPID: u, Text: "OK"},
			"",
			[]time.Duration{0, 250 * time.Millisecond, 2250 * time.Millisecond, 4250 * time.Millisecond},
		},
		{"the log is gone", []string{"running", "400 no such task"}, TaskStatus{}, ErrNoTask, []time.Duration{0, 100 * time.Millisecond}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Duration
				got, err := taskServer(t, tt.script, &asked).Wait(t.Context(), u, Poll{})
				if KindOf(err) != tt.kind || (err == nil) != (tt.kind == "") {
					t.Errorf("error %v, want kind %q", err, tt.kind)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.asked, asked); diff != "" {
					t.Errorf("asked at (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := mustUPID(t, "UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:")
		var asked []time.Duration
		c := taskServer(t, []string{"running"}, &asked)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s, err := c.Wait(ctx, u, Poll{})
		if !errors.Is(err, context.DeadlineExceeded) || !s.Running || !strings.Contains(err.Error(), u.String()) {
			t.Errorf("%+v, %v", s, err)
		}
		if n := len(asked); n < 1790 || n > 1810 {
			t.Errorf("asked %d times in an hour, want one in two seconds", n)
		}
	})
}

// listServer is a task list as PVE serves it: running entries first, then the
// archive, filtered and paged, a token split off only in the archive.
type listServer struct {
	running, archive []UPID
	queries          []url.Values
}

func (l *listServer) client(t *testing.T) *Client {
	return clientOf(t, &pipeServer{t: t, handle: handleHTTP(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		l.queries = append(l.queries, q)
		var all []map[string]any
		if q.Get("source") != "archive" {
			for _, u := range l.running {
				all = append(all, map[string]any{"upid": u.String(), "status": "RUNNING", "user": u.User})
			}
		}
		if q.Get("source") != "active" {
			for _, u := range l.archive {
				user, token, _ := strings.Cut(u.User, "!")
				all = append(all, map[string]any{"upid": u.String(), "status": "OK ", "user": user, "tokenid": token, "endtime": u.Start + 5})
			}
		}
		start, limit := 0, 50
		_, _ = fmt.Sscan(q.Get("start"), &start)
		_, _ = fmt.Sscan(q.Get("limit"), &limit)
		start = min(start, len(all))
		_ = json.NewEncoder(w).Encode(map[string]any{"data": all[start:min(start+limit, len(all))], "total": len(all)})
	})}, nil)
}

func TestTasks(t *testing.T) {
	id := func(n uint32, typ, vmid, user string) UPID {
		return UPID{Node: "pve1", PID: n, PStart: uint64(n), Start: 1795420000 + n, Type: typ, ID: vmid, User: user}
	}
	l := &listServer{
		running: []UPID{id(9, "vzstart", "101", "agent@pve!full"), id(8, "vzstop", "101", "agent@pve!full")},
		archive: []UPID{
			id(8, "vzstop", "101", "agent@pve!full"), // has just ended
			id(7, "vzstart", "101", "agent@pve!other"),
			id(6, "hastart", "101", "agent@pve!full"),
			id(5, "vzstart", "102", "agent@pve!full"),
			id(4, "vzstart", "101", "agent@pve"),
			id(3, "vzdump", "", "root@pam"),
		},
	}
	for i := range uint32(1200) { // three pages
		l.archive = append(l.archive, id(3, fmt.Sprintf("old%d", i), "103", "root@pam"))
	}
	c := l.client(t)
	at := func(n int64) time.Time { return time.Unix(1795420000+n, 0) }
	tests := []struct {
		name  string
		query TaskQuery
		want  []uint32
	}{
		{"own, of two types", TaskQuery{Types: []string{"vzstart", "hastart"}, VMID: 101, User: "agent@pve!full"}, []uint32{9, 6}},
		{"a user is not its tokens", TaskQuery{Types: []string{"vzstart"}, User: "agent@pve"}, []uint32{4}},
		{"each once, with its end", TaskQuery{Types: []string{"vzstop"}}, []uint32{8}},
		{"since is inclusive", TaskQuery{VMID: 101, Since: at(7)}, []uint32{9, 8, 7}},
		{"until is inclusive", TaskQuery{VMID: 101, Until: at(6)}, []uint32{6, 4}},
		{"active only", TaskQuery{Active: true}, []uint32{9, 8}},
		{"limited", TaskQuery{Limit: 3}, []uint32{9, 8}},
		{"the last page", TaskQuery{Types: []string{"old1199"}}, []uint32{3}},
		{"none", TaskQuery{VMID: 999}, nil},
	}
	for _, tt := range tests {
		list, err := c.Tasks(t.Context(), "pve1", tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		var got []uint32
		for _, k := range list {
			got = append(got, k.UPID.PID)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	list, _ := c.Tasks(t.Context(), "pve1", TaskQuery{Types: []string{"vzstop"}, VMID: 101, Since: at(1), Until: at(9)})
	if len(list) != 1 || list[0].Status().Running || list[0].Text != "OK" {
		t.Errorf("the archived entry is not the one that counts: %+v", list)
	}
	want := url.Values{"source": {"all"}, "limit": {"500"}, "vmid": {"101"}, "typefilter": {"vzstop"}, "since": {"1795420001"}, "until": {"1795420009"}, "start": {"1000"}}
	if diff := cmp.Diff(want, l.queries[len(l.queries)-1]); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
}

func TestTasksReachBack(t *testing.T) {
	u := UPID{Node: "pve1", PID: 1, Start: 1000, Type: "vzdump", User: "root@pam"} // ends at 1005
	tests := []struct {
		name string
		list listServer
		at   int64
		want bool
	}{
		{"empty", listServer{}, 2000, false},
		{"an older one has ended", listServer{archive: []UPID{u}}, 1006, true},
		{"it ended in the same second", listServer{archive: []UPID{u}}, 1005, false},
		{"it began before and ended after", listServer{archive: []UPID{u}}, 1003, false},
		{"an older one runs", listServer{running: []UPID{u}}, 2000, false},
	}
	for _, tt := range tests {
		got, err := tt.list.client(t).TasksReachBack(t.Context(), "pve1", time.Unix(tt.at, 0))
		if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

func TestTaskLog(t *testing.T) {
	for body, want := range map[string][]string{
		`{"total":2,"data":[{"n":1,"t":"a"},{"n":2,"t":"TASK OK"}]}`:                       {"a", "TASK OK"},
		`{"total":1,"data":{"t":"unable to open file - No such file or directory","n":1}}`: {"unable to open file - No such file or directory"},
		`{"total":0,"data":[]}`: nil,
	} {
		got, total, err := serveOne(t, exchange{Status: "200 OK", Body: body}).TaskLog(t.Context(), UPID{Node: "pve1"}, 0, 50)
		if err != nil || total != len(want) {
			t.Errorf("%s: %d lines, %v", body, total, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}
