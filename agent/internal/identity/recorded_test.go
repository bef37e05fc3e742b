// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// recordedTask is a task as PVE's task list has it.
type recordedTask struct {
	UPID, Type, ID, User, Status string
	Start                        int64
}

func (r recordedTask) task() plugin.Task {
	at := time.Unix(r.Start, 0)
	return plugin.Task{UPID: r.UPID, Type: r.Type, ID: r.ID, User: r.User, Status: r.Status, Started: at, Ended: at.Add(time.Second)}
}

// recordedCase is described in testdata/README.md.
type recordedCase struct {
	Name, PVE, Source string
	Kind              guest.Kind
	Before, After     guest.Config
	Tasks             []recordedTask
	Op                string
	Kept, Gone        []string
	Want              map[string]Verdict
}

func readLines[T any](t *testing.T, name string) []T {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	for dec.More() {
		var v T
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// TestRecorded judges what real nodes did to their guests.
func TestRecorded(t *testing.T) {
	for _, c := range readLines[recordedCase](t, "testdata/recorded.jsonl") {
		t.Run(c.PVE+"/"+string(c.Kind)+"/"+c.Name, func(t *testing.T) {
			known, seen := Of(c.Kind, c.Before), Of(c.Kind, c.After)
			checkKept(t, c, known, seen)
			for way, want := range c.Want {
				cont, explained := c.between(t, way)
				if got, why := Judge(known, seen, cont, explained); got != want {
					t.Errorf("%s: %s, want %s: %q (%s)", way, got, want, why, c.Source)
				}
			}
		})
	}
}

// between is what is known of the time between the two configs.
func (c recordedCase) between(t *testing.T, way string) (Continuity, []string) {
	t.Helper()
	switch way {
	case "quiet":
		return unbroken, nil
	case "blind":
		return Continuity{Known: true, Doubts: []string{"the task list does not reach back"}}, nil
	case "away":
		return Continuity{Known: true, Gone: []string{"a look found it gone"}}, nil
	}
	var tasks []plugin.Task
	since, vmid := noon, guest.VMID(100)
	for i, r := range c.Tasks {
		tasks = append(tasks, r.task())
		vmid, _ = guest.ParseVMID(r.ID)
		if i == 0 {
			since = tasks[0].Started.Add(-time.Second)
		}
	}
	ours := way == "ours"
	cont := ContinuityOf(tasks, vmid, since, func(string) bool { return ours })
	if !ours {
		return cont, nil
	}
	return cont, Changes(c.action(t))
}

// action is the op of ours that did it.
func (c recordedCase) action(t *testing.T) plugin.Action {
	t.Helper()
	kind, key, _ := strings.Cut(c.Op, " ")
	a := plugin.Action{Kind: plugin.ActionKind(kind), Guest: guest.ID{Kind: c.Kind}}
	switch {
	case key == "":
	case c.After[key] == "":
		a.Delete = []string{key}
	default:
		a.Set = map[string]string{key: c.After[key]}
	}
	if len(Changes(a)) == 0 {
		t.Fatalf("%s explains nothing", c.Op)
	}
	return a
}

// checkKept compares which evidence was kept with what the case says.
func checkKept(t *testing.T, c recordedCase, known, seen Evidence) {
	t.Helper()
	there := map[fact]bool{}
	for _, f := range seen.facts() {
		there[f.anywhere()] = true
	}
	fields := map[bool][]string{}
	for _, f := range known.facts() {
		fields[there[f.anywhere()]] = append(fields[there[f.anywhere()]], f.field)
	}
	for is, want := range map[bool][]string{true: c.Kept, false: c.Gone} {
		got := fields[is]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("kept is %v of %q, want %q", is, got, want)
		}
	}
}

// TestRecordedCasesCover: both kinds, both versions, and each way a guest is
// made again.
func TestRecordedCasesCover(t *testing.T) {
	have := map[string]bool{}
	for _, c := range readLines[recordedCase](t, "testdata/recorded.jsonl") {
		have[c.PVE+" "+string(c.Kind)] = true
		for _, r := range c.Tasks {
			have[r.Type] = true
		}
		for way := range c.Want {
			have[way] = true
		}
	}
	for _, want := range []string{
		"8.4 lxc", "8.4 qemu", "9.2 lxc", "vzcreate", "vzdestroy", "vzrestore", "qmcreate", "qmdestroy", "qmrollback",
		"others", "ours", "quiet", "blind", "away",
	} {
		if !have[want] {
			t.Errorf("no case of %s among %v", want, slices.Sorted(maps.Keys(have)))
		}
	}
}

// TestRecordedTaskList: of a container that was made, backed up, restored over
// and not snapshotted, only the restore after the sighting counts.
func TestRecordedTaskList(t *testing.T) {
	var tasks []plugin.Task
	at := map[string]time.Time{}
	for _, r := range readLines[recordedTask](t, "testdata/tasks.jsonl") {
		tasks = append(tasks, r.task())
		at[r.Type] = tasks[len(tasks)-1].Started
	}
	for name, tt := range map[string]struct {
		since     time.Time
		recreated int
	}{
		"before it was made":    {at["vzcreate"].Add(-time.Second), 2},
		"when it was made":      {at["vzcreate"].Add(time.Second), 1},
		"in the same second":    {at["vzrestore"].Add(time.Second / 2), 1},
		"after it was put over": {at["vzrestore"].Add(time.Second), 0},
	} {
		c := ContinuityOf(tasks, 110, tt.since, nil)
		if len(c.Recreated) != tt.recreated || len(c.Gone)+len(c.Doubts)+len(c.Underway) > 0 || !c.Known {
			t.Errorf("seen %s: %+v, want %d re-creations", name, c, tt.recreated)
		}
		if c := ContinuityOf(tasks, 111, tt.since, nil); c.Broken() {
			t.Errorf("another VMID: %+v", c)
		}
	}
}
