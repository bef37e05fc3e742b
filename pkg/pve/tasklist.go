// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Task is an entry of a node's task list.
type Task struct {
	UPID UPID
	// End is when it ended, by the node's clock; zero while it runs, and up to
	// some 10 s longer, until PVE has noticed.
	End time.Time
	// Text is the exit status in PVE's words, "" while End is zero.
	Text string
}

// Status is the entry as the status of its task. One that is listed as running
// may have ended just now.
func (t Task) Status() TaskStatus {
	return TaskStatus{UPID: t.UPID, Running: t.End.IsZero(), Text: t.Text}
}

// TaskQuery says which tasks of a node to list; zero fields do not restrict.
type TaskQuery struct {
	Types []string
	VMID  guest.VMID
	// User is a full auth id. PVE's own filter cannot tell the tokens of a
	// user apart, so it is compared with the UPID.
	User string
	// Since and Until bound the start of a task, to the second, inclusive.
	Since, Until time.Time
	// Active lists only tasks that run, as far as PVE has noticed.
	Active bool
	// Limit bounds how many matching entries PVE is asked for, before Types
	// and User are applied; 0 stands for MaxTasks.
	Limit int
}

// MaxTasks is about all that PVE keeps.
const MaxTasks = 2000

// pageSize is how many entries one call asks for.
const pageSize = 500

// Tasks lists the tasks of a node that match q, latest start first, running
// and ended, each once. A caller without Sys.Audit on the node sees only its
// own. While PVE moves a task from its list of running ones to the archive it
// may for a moment be in neither.
func (c *Client) Tasks(ctx context.Context, node string, q TaskQuery) ([]Task, error) {
	found := make(map[UPID]Task)
	limit := q.Limit
	if limit <= 0 {
		limit = MaxTasks
	}
	for start := 0; start < limit; start += pageSize {
		page, err := c.taskPage(ctx, node, q, start, min(pageSize, limit-start))
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			// An entry of the archive knows more than one of the active list.
			if old, ok := found[t.UPID]; q.matches(t) && (!ok || old.End.IsZero()) {
				found[t.UPID] = t
			}
		}
		if len(page) < pageSize {
			break
		}
	}
	out := make([]Task, 0, len(found))
	for _, t := range found {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Task) int {
		return cmp.Or(cmp.Compare(b.UPID.Start, a.UPID.Start), cmp.Compare(b.UPID.PStart, a.UPID.PStart), strings.Compare(a.UPID.String(), b.UPID.String()))
	})
	return out, nil
}

// taskPage reads one page; entries whose UPID makes no sense are left out.
func (c *Client) taskPage(ctx context.Context, node string, q TaskQuery, start, limit int) ([]Task, error) {
	type entry struct {
		UPID    text   `json:"upid"`
		EndTime number `json:"endtime"`
		Status  text   `json:"status"`
	}
	entries, _, err := getList[entry](ctx, c, "/nodes/"+node+"/tasks", q.values(start, limit))
	if err != nil {
		return nil, err
	}
	out := make([]Task, 0, len(entries))
	for _, e := range entries {
		u, err := ParseUPID(string(e.UPID))
		if err != nil {
			u = UPID{} // kept, so that the page does not look like the last one
		}
		t := Task{UPID: u}
		if e.EndTime != 0 {
			t.End = time.Unix(int64(e.EndTime), 0)
			t.Text = c.exitText(e.Status)
		}
		out = append(out, t)
	}
	return out, nil
}

// values is the part of q that PVE can filter by.
func (q TaskQuery) values(start, limit int) url.Values {
	v := url.Values{"source": {"all"}, "limit": {strconv.Itoa(limit)}}
	if q.Active {
		v.Set("source", "active")
	}
	if start > 0 {
		v.Set("start", strconv.Itoa(start))
	}
	if q.VMID != 0 {
		v.Set("vmid", q.VMID.String())
	}
	if len(q.Types) == 1 {
		v.Set("typefilter", q.Types[0])
	}
	if !q.Since.IsZero() {
		v.Set("since", strconv.FormatInt(q.Since.Unix(), 10))
	}
	if !q.Until.IsZero() {
		v.Set("until", strconv.FormatInt(q.Until.Unix(), 10))
	}
	return v
}

// matches applies all of q again: what PVE filters by differs from version to
// version.
func (q TaskQuery) matches(t Task) bool {
	u := t.UPID
	switch {
	case u.IsZero():
		return false
	case len(q.Types) > 0 && !slices.Contains(q.Types, u.Type):
		return false
	case q.VMID != 0 && u.ID != q.VMID.String():
		return false
	case q.User != "" && u.User != q.User:
		return false
	case !q.Since.IsZero() && u.Started().Unix() < q.Since.Unix():
		return false
	case !q.Until.IsZero() && u.Started().Unix() > q.Until.Unix():
		return false
	}
	return true
}

// TasksReachBack reports whether the node's task list still holds every task
// that ended at or after t: it keeps the latest ones only. The proof is an
// entry that ended before t; false means that there is none.
func (c *Client) TasksReachBack(ctx context.Context, node string, t time.Time) (bool, error) {
	list, err := c.Tasks(ctx, node, TaskQuery{Until: t})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(k Task) bool { return !k.End.IsZero() && k.End.Before(t) }), nil
}
