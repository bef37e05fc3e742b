// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// task is one about VMID 101 that began that many seconds after noon and took
// two; with the status "-" it runs.
func task(typ string, at float64, status string) plugin.Task {
	started := noon.Add(time.Duration(at * float64(time.Second))).Truncate(time.Second)
	t := plugin.Task{
		UPID: fmt.Sprintf("UPID:n1:%s:%v", typ, at), Type: typ, ID: "101", User: "alice@pam", Status: status,
		Started: started, Ended: started.Add(2 * time.Second),
	}
	if status == "-" {
		t.Status, t.Ended = "", time.Time{}
	}
	return t
}

func ours(t plugin.Task) plugin.Task {
	t.UPID += ":own"
	return t
}

func isOurs(upid string) bool { return strings.HasSuffix(upid, ":own") }

// TestContinuityOf: the guest was last seen at noon.
func TestContinuityOf(t *testing.T) {
	otherVMID, ofSource := task("vzdestroy", 5, "OK"), task("vzclone", 5, "OK")
	otherVMID.ID = "1011"
	for _, tt := range []struct {
		name  string
		tasks []plugin.Task
		want  string // counts of Recreated, Underway, Gone, Doubts
	}{
		{"nothing", nil, "0 0 0 0"},
		{"what happens every day", []plugin.Task{
			task("vzstart", 1, "OK"), task("vzstop", 2, "OK"), task("vzdump", 3, "OK"), task("vzsnapshot", 4, "-"),
			task("vzrollback", 5, "OK"), task("move_volume", 6, "OK"), task("resize", 7, "OK"), task("vztemplate", 8, "OK"),
		}, "0 0 0 0"},
		{"another VMID", []plugin.Task{otherVMID}, "0 0 0 0"},
		{"the source of a clone", []plugin.Task{ofSource}, "0 0 0 0"},
		{"created", []plugin.Task{task("vzcreate", 5, "OK")}, "1 0 0 0"},
		{"created as a VM", []plugin.Task{task("qmcreate", 5, "OK")}, "1 0 0 0"},
		{"destroyed and created", []plugin.Task{task("vzcreate", 8, "OK"), task("vzdestroy", 5, "OK")}, "2 0 0 0"},
		{"destroyed", []plugin.Task{task("qmdestroy", 5, "OK")}, "1 0 0 0"},
		{"restored", []plugin.Task{task("vzrestore", 5, "OK")}, "1 0 0 0"},
		{"restored with warnings", []plugin.Task{task("qmrestore", 5, "WARNINGS: 2")}, "1 0 0 0"},
		{"restored, the end unknown", []plugin.Task{task("qmrestore", 5, "unexpected status")}, "1 0 0 0"},
		{"destroyed, the end unread", []plugin.Task{task("vzdestroy", 5, "")}, "1 0 0 0"},
		{"destroy failed", []plugin.Task{task("vzdestroy", 5, "storage 'x' is not online")}, "0 0 0 1"},
		{"restore failed", []plugin.Task{task("vzrestore", 5, "unable to restore CT 101")}, "0 0 0 1"},
		{"a creation that failed began without the guest", []plugin.Task{task("vzcreate", 5, "unable to create CT 101")}, "1 0 0 0"},
		{"being destroyed", []plugin.Task{task("vzdestroy", 5, "-")}, "0 1 0 0"},
		{"being destroyed for long", []plugin.Task{task("vzdestroy", -500, "-")}, "0 1 0 0"},
		{"being restored", []plugin.Task{task("qmrestore", 5, "-")}, "0 1 0 0"},

		{"before it was seen", []plugin.Task{task("vzdestroy", -9, "OK"), task("vzcreate", -5, "OK"), task("vzrestore", -3, "OK")}, "0 0 0 0"},
		{"ends later, or PVE noticed later", []plugin.Task{task("vzcreate", -1, "OK"), task("vzrestore", -1, "OK")}, "0 0 0 0"},
		{"destroyed in the same second", []plugin.Task{task("vzdestroy", 0.2, "OK")}, "1 0 0 0"},
		{"created in the same second", []plugin.Task{task("vzcreate", 0.2, "OK")}, "0 0 0 0"},

		{"migrated", []plugin.Task{task("vzmigrate", 5, "OK")}, "0 0 1 0"},
		{"migrated by HA", []plugin.Task{task("hamigrate", 5, "OK"), task("qmigrate", 6, "OK")}, "0 0 1 0"},
		{"migration failed", []plugin.Task{task("vzmigrate", 5, "migration aborted")}, "0 0 0 0"},
		{"migrating", []plugin.Task{task("qmigrate", 5, "-")}, "0 0 0 0"},

		{"restored by us", []plugin.Task{ours(task("vzrestore", 5, "OK"))}, "0 0 0 0"},
		{"made by us", []plugin.Task{ours(task("vzcreate", 5, "OK"))}, "0 0 0 0"},
		{"destroyed and made by us", []plugin.Task{ours(task("qmdestroy", 5, "OK")), ours(task("qmrestore", 8, "OK"))}, "0 0 0 0"},
		{"destroyed by us, and there", []plugin.Task{ours(task("vzdestroy", 5, "OK"))}, "1 0 0 0"},
		{"destroyed by us, not made", []plugin.Task{ours(task("vzdestroy", 5, "OK")), ours(task("vzcreate", 8, "no space"))}, "1 0 0 0"},
		{"not destroyed by us", []plugin.Task{ours(task("vzdestroy", 5, "storage 'x' is not online"))}, "0 0 0 0"},
		{"being destroyed by us", []plugin.Task{ours(task("vzdestroy", 5, "-"))}, "0 0 0 0"},
		{"destroyed by us before it was seen", []plugin.Task{ours(task("vzdestroy", -5, "OK"))}, "0 0 0 0"},
		{"destroyed by us, made by another", []plugin.Task{ours(task("vzdestroy", 5, "OK")), task("vzcreate", 8, "OK")}, "2 0 0 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.tasks)
			c := ContinuityOf(tt.tasks, 101, noon, isOurs)
			if got := fmt.Sprint(len(c.Recreated), len(c.Underway), len(c.Gone), len(c.Doubts)); got != tt.want || !c.Known {
				t.Errorf("%+v, want %s", c, tt.want)
			}
			if !reflect.DeepEqual(before, tt.tasks) {
				t.Error("the tasks were reordered")
			}
		})
	}
}

// TestTheTokenIsNotEnough: a task of our token that is no op of ours is
// another's, a copy of this agent for instance.
func TestTheTokenIsNotEnough(t *testing.T) {
	own := task("vzrestore", 5, "OK")
	own.Own, own.User = true, "felhom@pve!agent-n1"
	for name, f := range map[string]func(string) bool{"no handle": isOurs, "no function": nil} {
		if c := ContinuityOf([]plugin.Task{own}, 101, noon, f); len(c.Recreated) != 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestSeenWithinASecond(t *testing.T) {
	since := noon.Add(700 * time.Millisecond)
	for typ, want := range map[string]int{"vzdestroy": 1, "vzrestore": 1, "vzcreate": 0} {
		if c := ContinuityOf([]plugin.Task{task(typ, 0, "OK")}, 101, since, nil); len(c.Recreated) != want {
			t.Errorf("%s of that second: %+v", typ, c)
		}
		if c := ContinuityOf([]plugin.Task{task(typ, 1, "OK")}, 101, since, nil); len(c.Recreated) != 1 {
			t.Errorf("%s of the next second: %+v", typ, c)
		}
	}
}

func TestContinuityIsNotKnownOfItself(t *testing.T) {
	if c := ContinuityOf(nil, 101, time.Time{}, nil); c.Known {
		t.Error("continuity since never is known")
	}
	if v, why := Judge(Of(guest.LXC, ct), Of(guest.LXC, ct), Continuity{}, nil); v != Changed || len(why) != 1 {
		t.Errorf("with the zero Continuity: %s %q", v, why)
	}
}

func TestJoin(t *testing.T) {
	earlier := Continuity{Known: true, Recreated: []string{"r"}, Gone: []string{"g"}, Doubts: []string{"d"}, Underway: []string{"u"}}
	text, err := json.Marshal(earlier)
	if err != nil {
		t.Fatal(err)
	}
	var carried Continuity
	if err := json.Unmarshal(text, &carried); err != nil {
		t.Fatal(err)
	}
	if carried.Underway != nil {
		t.Error("what was under way then is carried along")
	}
	got := ContinuityOf(nil, 101, noon, nil).Join(carried)
	want := Continuity{Known: true, Recreated: []string{"r"}, Gone: []string{"g"}, Doubts: []string{"d"}}
	if !reflect.DeepEqual(got, want) || !got.Broken() {
		t.Errorf("%+v", got)
	}
	if got := got.Join(carried); !reflect.DeepEqual(got, want) {
		t.Errorf("told twice: %+v", got)
	}
	if (Continuity{}).Join(Continuity{Known: true}).Known {
		t.Error("that it was known then makes it known now")
	}
	if (Continuity{Known: true, Underway: []string{"u"}}).Broken() {
		t.Error("what is under way is carried along")
	}
	for i := range 100 {
		got = Continuity{Gone: []string{fmt.Sprint(i)}}.Join(got)
	}
	if len(got.Gone) != maxReasons || got.Gone[0] != "g" {
		t.Errorf("grows without bound, or forgets the first: %q", got.Gone)
	}
}

// TestWordsOfALiar: a plugin's task does not write on the terminal, nor fill
// the journal.
func TestWordsOfALiar(t *testing.T) {
	lie := task("vzdestroy", 5, "OK")
	lie.User, lie.UPID = "a\x1b[2J\nb", strings.Repeat("x", 9999)
	c := ContinuityOf([]plugin.Task{lie}, 101, noon, nil)
	if len(c.Recreated) != 1 || len(c.Recreated[0]) > 400 || strings.ContainsAny(c.Recreated[0], "\x1b\n") {
		t.Errorf("%q", c.Recreated)
	}
}

func TestUnsteady(t *testing.T) {
	id := guest.ID{Kind: guest.LXC, VMID: 101}
	good := plugin.Observation{Presence: plugin.Here, State: plugin.GuestState{ID: id}, Config: ct}
	other := task("vzcreate", 0, "-")
	other.ID = "102"
	for name, tt := range map[string]struct {
		change func(*plugin.Observation)
		steady bool
	}{
		"as it is":           {func(*plugin.Observation) {}, true},
		"gone":               {func(o *plugin.Observation) { o.Presence = plugin.Gone }, false},
		"unsure":             {func(o *plugin.Observation) { o.Presence = plugin.Unsure }, false},
		"not read":           {func(o *plugin.Observation) { o.Config = nil }, false},
		"being created":      {func(o *plugin.Observation) { o.State.Lock = "create" }, false},
		"being destroyed":    {func(o *plugin.Observation) { o.State.Lock = "destroyed" }, false},
		"backup":             {func(o *plugin.Observation) { o.State.Lock = "backup" }, true},
		"destroy waits":      {func(o *plugin.Observation) { o.Tasks = []plugin.Task{task("vzdestroy", 0, "-")} }, false},
		"our restore runs":   {func(o *plugin.Observation) { o.Tasks = []plugin.Task{ours(task("vzrestore", 0, "-"))} }, false},
		"rollback runs":      {func(o *plugin.Observation) { o.Tasks = []plugin.Task{task("qmrollback", 0, "-")} }, false},
		"migration runs":     {func(o *plugin.Observation) { o.Tasks = []plugin.Task{task("vzmigrate", 0, "-")} }, false},
		"creation has ended": {func(o *plugin.Observation) { o.Tasks = []plugin.Task{task("vzcreate", 0, "OK")} }, true},
		"it starts":          {func(o *plugin.Observation) { o.Tasks = []plugin.Task{task("vzstart", 0, "-")} }, true},
		"another's creation": {func(o *plugin.Observation) { o.Tasks = []plugin.Task{other} }, true},
	} {
		o := good
		tt.change(&o)
		if why := Unsteady(o); (why == "") != tt.steady {
			t.Errorf("%s: %q", name, why)
		}
	}
}
