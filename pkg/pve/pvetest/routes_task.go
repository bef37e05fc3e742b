// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

func taskRoutes() []route {
	nonNeg := schema.F(0)
	return []route{
		{
			method: "GET", path: "/nodes/{node}/tasks", run: listTasks,
			params: []schema.Param{
				{Name: "start", Type: schema.Integer, Min: nonNeg},
				{Name: "limit", Type: schema.Integer, Min: nonNeg},
				{Name: "userfilter"},
				{Name: "typefilter"},
				{Name: "vmid", Type: schema.Integer, Min: schema.F(100), Max: schema.F(999999999)},
				{Name: "errors", Type: schema.Boolean},
				{Name: "source", Enum: []string{"archive", "active", "all"}},
				{Name: "since", Type: schema.Integer},
				{Name: "until", Type: schema.Integer},
				{Name: "statusfilter", Format: statusFilterFormat, List: true},
			},
		},
		{method: "GET", path: "/nodes/{node}/tasks/{upid}", run: taskIndex},
		{method: "GET", path: "/nodes/{node}/tasks/{upid}/status", protected: true, run: taskStatus},
		{
			method: "GET", path: "/nodes/{node}/tasks/{upid}/log", protected: true, run: taskLog,
			params: []schema.Param{
				{Name: "start", Type: schema.Integer, Min: nonNeg},
				{Name: "limit", Type: schema.Integer, Min: nonNeg},
				{Name: "download", Type: schema.Boolean},
			},
		},
		{method: "DELETE", path: "/nodes/{node}/tasks/{upid}", protected: true, run: abortTask},
	}
}

func statusFilterFormat(s string) string {
	for _, v := range splitList(s) {
		if !slices.Contains([]string{"ok", "error", "warning", "unknown"}, v) {
			return fmt.Sprintf("invalid status '%s'", v)
		}
	}
	return ""
}

var (
	upidRE     = regexp.MustCompile(`^UPID:([a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?):([0-9A-Fa-f]{8}):([0-9A-Fa-f]{8,9}):([0-9A-Fa-f]{8}):([^:\s/]+):([^:\s/]*):([^:\s/]+):$`)
	warningsRE = regexp.MustCompile(`^WARNINGS: \d+$`)
)

// taskFor finds the task in the path and checks that the caller may see it.
func (c *call) taskFor(privs ...string) (*task, error) {
	m := upidRE.FindStringSubmatch(c.path["upid"])
	if m == nil {
		return nil, badParam("upid", "unable to parse worker upid")
	}
	s := c.sim
	s.mu.Lock()
	t := s.tasks.byUPID[c.path["upid"]]
	s.mu.Unlock()
	if t == nil {
		return nil, errNoTask
	}
	if err := c.mayTask(m[7], privs...); err != nil {
		return nil, err
	}
	return t, nil
}

// errNoTask is the answer about a task that is not known, or not any more.
var errNoTask = badParam("upid", "no such task")

// mayTask: the owner itself, a user for his tokens' tasks, or the privilege
// on the node.
func (c *call) mayTask(owner string, privs ...string) error {
	user, _ := acl.Split(owner)
	if owner == c.authid || user == c.authid || c.authid == acl.Root {
		return nil
	}
	return c.need("/nodes/"+c.sim.opt.Node, privs...)
}

func taskIndex(*call) (any, error) {
	return []any{map[string]any{"name": "log"}, map[string]any{"name": "status"}}, nil
}

func taskStatus(c *call) (any, error) {
	t, err := c.taskFor("Sys.Audit")
	if err != nil {
		return nil, err
	}
	m := t.row(true)
	m["status"] = "running"
	if t.endedAt() != 0 {
		m["status"], m["exitstatus"] = "stopped", t.result()
	}
	return m, nil
}

func taskLog(c *call) (any, error) {
	t, err := c.taskFor("Sys.Audit")
	if errors.Is(err, errNoTask) {
		// The log is opened without asking whether there was such a task.
		one := 1
		c.total = &one
		line := map[string]any{"n": 1, "t": "unable to open file - No such file or directory"}
		if c.sim.major < 9 {
			return line, nil // not in a list
		}
		return []any{line}, nil
	}
	if err != nil {
		return nil, err
	}
	text := t.log()
	if c.in.Bool("download") {
		c.raw = &rawBody{
			contentType: "text/plain", body: []byte(text),
			disposition: fmt.Sprintf("attachment; filename=\"task-%s-%s-%s.log\"", t.node, t.typ, stamp(t.start)),
		}
		return nil, nil
	}
	lines := logLines(text)
	total := len(lines)
	start, limit := c.in.Int("start", 0), c.in.Int("limit", 50)
	if total == 0 {
		total = 1
		c.total = &total
		return []any{map[string]any{"n": 1, "t": "no content"}}, nil
	}
	c.total = &total
	out := []any{}
	for i := start; i < len(lines) && (limit == 0 || i < start+limit); i++ {
		out = append(out, map[string]any{"n": i + 1, "t": lines[i]})
	}
	return out, nil
}

func logLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// abortTask interrupts a task; a running one gets up to five seconds to end.
func abortTask(c *call) (any, error) {
	t, err := c.taskFor("Sys.Modify")
	if err != nil {
		return nil, err
	}
	t.abort()
	return nil, nil
}

func listTasks(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	f := c.taskFilter()
	source := c.in.Get("source")
	var rows []any
	if source == "active" || source == "all" {
		// What runs is listed in the order it began.
		for _, t := range slices.Backward(s.tasks.active) {
			if !t.archived && f.matches(t, t.user) {
				rows = append(rows, t.activeRow())
			}
		}
	}
	if source != "active" {
		for _, t := range s.tasks.archive {
			user, _ := acl.Split(t.user)
			if f.matches(t, user) {
				rows = append(rows, t.archiveRow())
			}
		}
	}
	total := len(rows)
	if total > 0 {
		c.total = &total
	}
	start, limit := c.in.Int("start", 0), c.in.Int("limit", 50)
	start = min(start, total)
	return append([]any{}, rows[start:min(start+limit, total)]...), nil
}

// activeRow is a task that has not been archived: its user is not split and
// it reads as running even if its process has just ended.
func (t *task) activeRow() map[string]any {
	m := t.row(false)
	m["saved"], m["status"] = "0", "RUNNING"
	return m
}

func (t *task) archiveRow() map[string]any {
	m := t.row(true)
	m["endtime"], m["status"] = t.endedAt(), t.result()
	return m
}

// taskFilter is what a task list is asked for.
type taskFilter struct {
	all          bool // the caller may see every task
	authid       string
	user, typ    string
	vmid         string
	errorsOnly   bool
	since, until int
	classes      []string
}

func (c *call) taskFilter() taskFilter {
	return taskFilter{
		all:    c.mayLocked("/nodes/"+c.sim.opt.Node, "Sys.Audit"),
		authid: c.authid, user: strings.ToLower(c.in.Get("userfilter")), typ: c.in.Get("typefilter"),
		vmid: c.in.Get("vmid"), errorsOnly: c.in.Bool("errors"),
		since: c.in.Int("since", 0), until: c.in.Int("until", 0), classes: splitList(c.in.Get("statusfilter")),
	}
}

// matches reports whether a task belongs to the list; shown is its user as
// the list shows it.
func (f taskFilter) matches(t *task, shown string) bool {
	owner, _ := acl.Split(t.user)
	switch {
	case !f.all && t.user != f.authid && owner != f.authid,
		!strings.Contains(strings.ToLower(shown), f.user),
		f.typ != "" && f.typ != t.typ,
		f.vmid != "" && f.vmid != t.id,
		f.since != 0 && t.start < int64(f.since),
		f.until != 0 && t.start > int64(f.until):
		return false
	}
	class := statusClass(t)
	if f.errorsOnly && class != "error" && class != "unknown" {
		return false
	}
	return len(f.classes) == 0 || slices.Contains(f.classes, class)
}

func statusClass(t *task) string {
	st := t.result()
	switch {
	case !t.archived || st == "" || st == unexpectedStatus:
		return "unknown"
	case st == "OK":
		return "ok"
	case warningsRE.MatchString(st):
		return "warning"
	}
	return "error"
}
