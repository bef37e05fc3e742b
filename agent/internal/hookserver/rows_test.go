// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/hooktable"
)

// never is a resync that does not come while a row is played.
const never = 24 * time.Hour

// TestRecordedHooks plays every row of the recorded hookscript tables beside a
// watching agent. Its journal must have exactly the phases that were recorded,
// in order, and it must see the state that the guest is in then, hooks or not:
// nothing but the observer's watch tells of a guest without one.
func TestRecordedHooks(t *testing.T) {
	right, unlike, silent := 0, 0, 0
	rows := rows(t)
	for _, row := range rows {
		wrong, quiet := playRow(t, &row, posted, never)
		if wrong != "" {
			t.Errorf("%s %s: %s", &row, row.Excepted(), wrong)
			continue
		}
		right++
		if row.Excepted() != "" {
			unlike++
		}
		if quiet {
			silent++
		}
	}
	fmt.Printf("hooks at the agent: %d of %d rows (%d of them as the simulator, which is excepted there); in %d no hook told of the change\n",
		right, len(rows), unlike, silent)
	if !raceDetector && (len(rows) != 194 || unlike != 5 || silent < 20) {
		t.Errorf("%d rows, %d excepted, %d changed without a hook, want 194, 5 and 20", len(rows), unlike, silent)
	}
}

// TestRecordedHooksTwice: an event that comes by the socket and by the spool,
// in whatever order, is in the journal once, and one that waited in the spool
// until all was over still in its place.
func TestRecordedHooksTwice(t *testing.T) {
	ways := map[delivery]int{}
	for i, row := range rows(t) {
		if len(row.Hooks) == 0 || i%2 == 1 && len(row.Hooks) < 3 {
			continue
		}
		way := spooledFirst + delivery(i/2)%4
		ways[way]++
		if wrong, _ := playRow(t, &row, way, never); wrong != "" {
			t.Errorf("%s, way %d: %s", &row, way, wrong)
		}
	}
	for way := spooledFirst; way <= spooledOnly; way++ {
		if ways[way] < 10 && !raceDetector {
			t.Errorf("%d rows went way %d, want at least 10", ways[way], way)
		}
	}
}

// TestRecordedHooksUnwatched: without the watch the resync notices.
func TestRecordedHooksUnwatched(t *testing.T) {
	n := 0
	for _, row := range rows(t) {
		if len(row.Hooks) > 0 || row.Pre == row.After {
			continue
		}
		n++
		if wrong, _ := playRow(t, &row, posted, 30*time.Second); wrong != "" {
			t.Errorf("%s: %s", &row, wrong)
		}
	}
	if n < 20 && !raceDetector {
		t.Errorf("only %d rows", n)
	}
}

// raceSample is how much of the rows the race detector sees.
const raceSample = 10

// rows are all that were recorded, or of each kind a sample.
func rows(t *testing.T) []hooktable.Row {
	t.Helper()
	rows, err := hooktable.Rows()
	if err != nil {
		t.Fatal(err)
	}
	if !raceDetector {
		return rows
	}
	var some []hooktable.Row
	for i := 0; i < len(rows); i += raceSample {
		some = append(some, rows[i])
	}
	return some
}

// playRow says what is wrong with the agent, and whether the guest's state
// changed without a hook. The observer watches unless resync is its way.
func playRow(t *testing.T, row *hooktable.Row, way delivery, resync time.Duration) (wrong string, quiet bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rowRig{t: t, row: row, way: way}
		r.begin(resync)
		r.must(r.eng.SetDesired(t.Context(), "dir", plugin.Snapshot{Revision: "1", Files: []plugin.File{{Name: "g.toml", Data: r.document()}}}))
		if resync == never {
			r.run(func(ctx context.Context) error {
				return r.node.Watch(ctx, func(h plugin.Hint) error { r.eng.Hint(ctx, h); return nil })
			})
		}
		time.Sleep(time.Second)
		r.play.Play(t.Context())
		if way == spooledOnly {
			r.must(r.ingest())
			r.must(r.ingest())
			time.Sleep(time.Second)
		}
		synctest.Wait()
		wrong, quiet = r.judge(), r.told == 0 && row.Pre != row.After
	})
	return wrong, quiet
}

// document wants the guest as it is.
func (r *rowRig) document() []byte {
	return fmt.Appendf(nil, "[guest.%s]\nkind = %q\nrun = %q\n", r.row.VMID(), r.row.Kind, r.row.Pre)
}

// judge says what is wrong, "" if nothing is.
func (r *rowRig) judge() string {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	want, after := r.row.Hooks, r.row.After
	if r.row.Excepted() != "" { // the simulator's word is as good as it gets
		want, after = r.play.Told(), r.play.After()
	} else if d := r.play.Diff(); d != "" {
		add("with an agent the node is not as recorded: %s", d)
	}
	if d := cmp.Diff(phases(want), r.journalled()); d != "" {
		add("phases in the journal (-recorded +got):\n%s", d)
	}
	if n := len(want); n > 0 && r.led.Guest(r.row.VMID()).Phase != want[n-1].Phase {
		add("the ledger's last phase is %q, want %q", r.led.Guest(r.row.VMID()).Phase, want[n-1].Phase)
	}
	if why := r.noticed(after); why != "" {
		add("%s", why)
	}
	if r.told != len(want) || len(r.wrong) > 0 {
		add("%d events were told: %v", r.told, r.wrong)
	}
	if len(r.wrote) > 0 {
		add("in mode observe the agent asked for %q", r.wrote)
	}
	return strings.Join(wrong, "\n")
}

func phases(ps []hooktable.Phase) []guest.Phase {
	var out []guest.Phase
	for _, p := range ps {
		out = append(out, p.Phase)
	}
	return out
}

// journalled are the phases of the guest as the journal has them on disk.
func (r *rowRig) journalled() []guest.Phase {
	var out []guest.Phase
	r.must(journal.Read(r.fs, jdir, 0, func(e journal.Entry, _ journal.Frame) bool {
		rec, err := ledger.Decode(e.Payload)
		r.must(err)
		if rec.Event != nil && rec.Event.VMID == r.row.VMID() {
			out = append(out, rec.Event.Phase)
		}
		return true
	}))
	return out
}

// noticed says why the agent does not see the guest as it is, "" if it does. An
// agent that only watches shows a change as what it would do about it, or as
// somebody's decision; the latter it journals.
func (r *rowRig) noticed(after guest.RunState) string {
	v, err := r.eng.View(r.row.VMID())
	r.must(err)
	held := r.led.Guest(r.row.VMID()).Held
	switch {
	case r.row.Deleted():
		if v.State != string(plugin.Gone) {
			return "the guest is gone, the agent says " + v.State
		}
	case v.Run != after:
		return fmt.Sprintf("the guest is %s, the agent says %q (%s)", after, v.Run, v.State)
	case v.Wanted == after:
		if v.State != engine.StateConverged || held != "" {
			return fmt.Sprintf("the guest is %s as wanted, the agent says %s, held %q", after, v.State, held)
		}
	case v.State == engine.StateHeld && held != "": // somebody's task did it
	case v.State == engine.StateDrift && held == "" && v.Note != "" && !v.Plan.Empty():
	case v.State == engine.StateWaiting && strings.Contains(v.Plan.Withheld[0].Why, "locked"):
	default:
		return fmt.Sprintf("the guest is %s and wanted %s, the agent says %s, held %q, plan %+v", after, v.Wanted, v.State, held, v.Plan)
	}
	return ""
}
