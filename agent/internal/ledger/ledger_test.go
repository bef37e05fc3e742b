// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

var ct = guest.ID{Kind: guest.LXC, VMID: 101}

// play folds records into l, a second apart.
func play(t *testing.T, l *Ledger, recs ...Record) error {
	t.Helper()
	for i, r := range recs {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Apply(journal.Entry{Seq: uint64(i + 1), Time: time.Unix(int64(1000+i), 0), Payload: b}); err != nil {
			return err
		}
	}
	return nil
}

func event(id string, p guest.Phase, at int64) Record {
	return Record{Type: TypeEvent, Event: &hook.Event{ID: id, VMID: 101, Phase: p, Time: at * 1e9}}
}

const boot1 = "b5e7a9c0-0000-4000-8000-000000000001"

// bootEvent is an event as the hook helper makes it.
func bootEvent(boot string, mono, at int64, p guest.Phase) Record {
	r := event(fmt.Sprintf("%s.%020d.%d", boot, mono, 9000-mono), p, at)
	r.Event.Boot = boot
	return r
}

func intent(id string, kind plugin.ActionKind) Record {
	return Record{Type: TypeOp, Op: &op.Op{ID: id, Guest: ct, Kind: kind, State: op.Intent, Asker: op.Reconciler}}
}

func step(id string, s op.State) Record {
	return Record{Type: TypeStep, Step: &Step{ID: id, Guest: ct, State: s}}
}

func TestSnapshotIsTheState(t *testing.T) {
	a := New()
	err := play(t, a,
		event("e1", guest.PreStop, 10),
		Record{Type: TypeDesired, Desired: &Desired{Provider: "dir", Revision: "r", Guests: map[guest.VMID]string{101: "g1"}}},
		Record{Type: TypeSeen, Seen: &Seen{Guest: ct, Incarnation: "i1"}},
		intent("o1", plugin.Shutdown), step("o1", op.Failed),
		intent("o2", plugin.Start),
		Record{Type: TypeSetAside, SetAside: &SetAside{VMID: 101, Key: "cores", Words: "no"}},
		Record{Type: TypePaused, Paused: &Paused{On: true}},
		Record{Type: TypeKey, Key: &Key{Key: "k", Content: "c", Ops: []string{"o1"}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := a.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b := New()
	if err := b.Restore(snap); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.Guest(101), b.Guest(101)); diff != "" {
		t.Errorf("guest (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(a.Ops(), b.Ops()); diff != "" {
		t.Errorf("ops (-before +after):\n%s", diff)
	}
	if k, ok := b.Key("k"); !ok || k.Content != "c" {
		t.Errorf("key %+v, %v", k, ok)
	}
	if !b.SeenEvent("e1") || !b.Paused() || b.Desired("dir") == nil {
		t.Error("events, pause or desired state did not survive")
	}
}

func TestEachEventCountsOnce(t *testing.T) {
	l := New()
	err := play(t, l, event("e1", guest.PreStop, 10), event("e2", guest.PostStop, 11), event("e1", guest.PreStop, 10))
	if err != nil {
		t.Fatal(err)
	}
	if g := l.Guest(101); g.Phase != guest.PostStop {
		t.Errorf("phase = %s: the event's second coming counted", g.Phase)
	}
}

func TestSpooledEventDoesNotOverrideALaterOne(t *testing.T) {
	l := New()
	if err := play(t, l, event("e2", guest.PostStart, 20), event("e1", guest.PreStop, 10)); err != nil {
		t.Fatal(err)
	}
	if g := l.Guest(101); g.Phase != guest.PostStart || !g.StopAsked.IsZero() {
		t.Errorf("phase %s, stop asked %s", g.Phase, g.StopAsked)
	}
}

// Whatever the order in which socket and spool bring them, events add up to the
// same: a stop that was asked for is not taken for a crash, nor a crash for it.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	for name, story := range map[string][]guest.Phase{
		"a stop":                   {guest.PreStart, guest.PostStart, guest.PreStop, guest.PostStop},
		"a crash":                  {guest.PreStart, guest.PostStart, guest.PostStop},
		"a stop, then a start":     {guest.PreStop, guest.PostStop, guest.PreStart, guest.PostStart},
		"a stop, a start, a crash": {guest.PreStop, guest.PostStop, guest.PreStart, guest.PostStart, guest.PostStop},
		"two stops":                {guest.PreStop, guest.PostStop, guest.PostStart, guest.PreStop, guest.PostStop},
	} {
		var events, setBack []Record
		for i, phase := range story {
			events = append(events, event(fmt.Sprint("e", i), phase, int64(10+i)))
			setBack = append(setBack, bootEvent(boot1, int64(i), int64(100-i), phase))
		}
		anyOrder(t, name, events)
		anyOrder(t, name+", the clock is set back all the time", setBack)
	}
}

func anyOrder(t *testing.T, name string, events []Record) {
	t.Helper()
	want := New()
	if err := play(t, want, events...); err != nil {
		t.Fatal(err)
	}
	for order := range permutations(len(events)) {
		got, shuffled := New(), []Record{}
		for _, i := range order {
			shuffled = append(shuffled, events[i])
		}
		if err := play(t, got, shuffled...); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.Guest(101), got.Guest(101)); d != "" {
			t.Errorf("%s, in the order %v (-in order +so):\n%s", name, order, d)
		}
	}
}

// permutations are all orders of n things.
func permutations(n int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		var extend func(head []int) bool
		extend = func(head []int) bool {
			if len(head) == n {
				return yield(head)
			}
			for i := range n {
				if !slices.Contains(head, i) && !extend(append(slices.Clone(head), i)) {
					return false
				}
			}
			return true
		}
		extend(nil)
	}
}

// TestOrderOfEvents: of one boot's events the ids tell which came first, for
// somebody may set the clock in between.
func TestOrderOfEvents(t *testing.T) {
	const boot, other, unknown = boot1, "b5e7a9c0-0000-4000-8000-000000000002", "00000000-0000-0000-0000-000000000000"
	ev := bootEvent
	for _, tt := range []struct {
		name       string
		have, then Record
		counts     bool
	}{
		{"one after the other", ev(boot, 9, 10, guest.PostStart), ev(boot, 10, 11, guest.PreStop), true},
		{"the clock was set back since", ev(boot, 9, 5000, guest.PostStart), ev(boot, 10, 11, guest.PreStop), true},
		{"from the spool", ev(boot, 10, 11, guest.PostStart), ev(boot, 9, 10, guest.PreStop), false},
		{"from the spool, and the clock was set back since", ev(boot, 10, 11, guest.PostStart), ev(boot, 9, 5000, guest.PreStop), false},
		{"of another boot and later", ev(boot, 10, 11, guest.PostStart), ev(other, 9, 12, guest.PreStop), true},
		{"of another boot and earlier", ev(boot, 9, 11, guest.PostStart), ev(other, 10, 10, guest.PreStop), false},
		{"of a boot that is not known, and later", ev(unknown, 10, 11, guest.PostStart), ev(unknown, 9, 12, guest.PreStop), true},
		{"of a boot that is not known, and earlier", ev(unknown, 9, 11, guest.PostStart), ev(unknown, 10, 10, guest.PreStop), false},
	} {
		l := New()
		if err := play(t, l, tt.have, tt.then); err != nil {
			t.Fatal(err)
		}
		g := l.Guest(101)
		if got := g.Phase == guest.PreStop; got != tt.counts || got != !g.StopAsked.IsZero() || got != g.PhaseAt.Equal(time.Unix(0, tt.then.Event.Time)) {
			t.Errorf("%s: phase %s at %s, stop asked %s", tt.name, g.Phase, g.PhaseAt, g.StopAsked)
		}
	}
}

func TestStopAskedUntilTheNextStart(t *testing.T) {
	l := New()
	if err := play(t, l, event("e1", guest.PreStop, 10), event("e2", guest.PostStop, 11)); err != nil {
		t.Fatal(err)
	}
	if l.Guest(101).StopAsked.IsZero() {
		t.Error("a pre-stop was seen and nobody asked for the stop")
	}
	if err := play(t, l, event("e3", guest.PreStart, 12)); err != nil {
		t.Fatal(err)
	}
	if !l.Guest(101).StopAsked.IsZero() {
		t.Error("the guest was started and the old stop still counts")
	}
}

func TestNewRevisionStartsAfresh(t *testing.T) {
	l := New()
	desire := func(rev string) Record {
		return Record{Type: TypeDesired, Desired: &Desired{Provider: "dir", Revision: rev, Guests: map[guest.VMID]string{101: rev}}}
	}
	err := play(t, l, desire("a"), intent("o1", plugin.Shutdown), step("o1", op.Failed),
		Record{Type: TypeSetAside, SetAside: &SetAside{VMID: 101, Key: "cores"}}, desire("a"))
	if err != nil {
		t.Fatal(err)
	}
	g := l.Guest(101)
	if !g.ForceStop || len(g.SetAside) != 1 || !g.Since.Equal(time.Unix(1000, 0)) {
		t.Errorf("the same revision again changed what is remembered: %+v", g)
	}
	if err := play(t, l, desire("b")); err != nil {
		t.Fatal(err)
	}
	if g = l.Guest(101); g.ForceStop || g.SetAside != nil || g.Revision != "b" {
		t.Errorf("a new revision did not start afresh: %+v", g)
	}
	gone := Record{Type: TypeDesired, Desired: &Desired{Provider: "dir", Revision: "c"}}
	if err := play(t, l, gone); err != nil {
		t.Fatal(err)
	}
	if g = l.Guest(101); g.Revision != "" {
		t.Errorf("the guest was taken out and still has revision %q", g.Revision)
	}
}

func TestIllegalRecordsAreErrors(t *testing.T) {
	for name, recs := range map[string][]Record{
		"step of an unknown op":   {step("o1", op.Succeeded)},
		"an op that ended twice":  {intent("o1", plugin.Start), step("o1", op.Succeeded), step("o1", op.Failed)},
		"an intent after the end": {intent("o1", plugin.Start), step("o1", op.Succeeded), intent("o1", plugin.Start)},
		"an op that begins ended": {{Type: TypeOp, Op: &op.Op{ID: "o1", Guest: ct, State: op.Succeeded}}},
	} {
		if err := play(t, New(), recs...); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestOpenIsTheOpInFlight(t *testing.T) {
	l := New()
	if err := play(t, l, intent("o1", plugin.Start)); err != nil {
		t.Fatal(err)
	}
	if o, ok := l.Open(101); !ok || o.ID != "o1" {
		t.Fatalf("open = %+v, %v", o, ok)
	}
	if err := play(t, l, step("o1", op.Started), step("o1", op.Unknown)); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Open(101); !ok {
		t.Error("an unknown op is not open any more")
	}
	if err := play(t, l, step("o1", op.Succeeded)); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Open(101); ok {
		t.Error("an op that succeeded is still open")
	}
}

func TestEndedOpsAreBounded(t *testing.T) {
	l := New()
	for i := range keepEnded + 50 {
		id := fmt.Sprintf("%04d", i)
		if err := play(t, l, intent(id, plugin.Start), step(id, op.Succeeded)); err != nil {
			t.Fatal(err)
		}
	}
	ops := l.Ops()
	if len(ops) != keepEnded || ops[0].ID != "0050" {
		t.Errorf("%d ops kept, oldest %s", len(ops), ops[0].ID)
	}
}

func TestBootEndsTransitions(t *testing.T) {
	l := New()
	boot := func(id string) Record { return Record{Type: TypeAgent, Agent: &Agent{What: "started", Boot: id}} }
	if err := play(t, l, boot("b1"), event("e1", guest.PreStop, 10), boot("b1")); err != nil {
		t.Fatal(err)
	}
	if g := l.Guest(101); g.Phase != guest.PreStop || g.StopAsked.IsZero() {
		t.Errorf("a restart of the agent ended the transition: %+v", g)
	}
	if err := play(t, l, boot("b2")); err != nil {
		t.Fatal(err)
	}
	if g := l.Guest(101); g.Phase != "" || !g.StopAsked.IsZero() {
		t.Errorf("the host has booted and the guest is still in transition: %+v", g)
	}
}

func TestUnknownRecordTypeIsKept(t *testing.T) {
	l := New()
	if err := l.Apply(journal.Entry{Seq: 1, Payload: json.RawMessage(`{"type":"from-the-future"}`)}); err != nil {
		t.Errorf("a record of a later version is an error: %v", err)
	}
}

func TestEveryRecordHasText(t *testing.T) {
	recs := []Record{
		{Type: TypeAgent, Agent: &Agent{What: "started"}},
		event("e", guest.PreStop, 1), intent("o", plugin.Start), step("o", op.Succeeded),
		{Type: TypeKey, Key: &Key{Key: "k"}},
		{Type: TypeDesired, Desired: &Desired{}},
		{Type: TypeSeen, Seen: &Seen{Guest: ct}},
		{Type: TypeSettled, Settled: &Settled{VMID: 101}},
		{Type: TypeReleased, Released: &Released{VMID: 101}},
		{Type: TypeHeld, Held: &Held{VMID: 101}},
		{Type: TypePaused, Paused: &Paused{VMID: 101}},
		{Type: TypeSetAside, SetAside: &SetAside{VMID: 101}},
	}
	for _, r := range recs {
		if r.Text() == "" || (r.Type != TypeAgent && r.Type != TypeDesired && r.Type != TypeKey && r.VMID() != 101) {
			t.Errorf("%s: text %q, guest %s", r.Type, r.Text(), r.VMID())
		}
	}
}
