// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// filler puts something into every field of a value.
type filler struct{ *rand.Rand }

func (f filler) word() string { return string(rune('a'+f.IntN(6))) + string(rune('a'+f.IntN(6))) }

func (f filler) fill(v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Unix(int64(f.IntN(5000)), int64(f.IntN(1e9))).UTC()
		return
	case *guest.VMID:
		*p = guest.VMID(101 + f.IntN(3))
		return
	case *guest.Phase:
		*p = []guest.Phase{guest.PreStart, guest.PostStart, guest.PreStop, guest.PostStop}[f.IntN(4)]
		return
	case *plugin.ActionKind:
		*p = []plugin.ActionKind{plugin.Shutdown, plugin.Provision, plugin.Destroy, plugin.Start}[f.IntN(4)]
		return
	}
	if f.IntN(4) == 0 && v.Kind() != reflect.Struct {
		return // also nothing, now and then
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(f.word())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(f.IntN(9)))
	case reflect.Uint64:
		v.SetUint(uint64(f.IntN(9)))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+f.IntN(2), 2))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range f.IntN(3) {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(k)
			f.fill(e)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(v.Field(i))
		}
	default:
		panic("no filling for " + v.Type().String())
	}
}

// fields are the record's own, by the type that sets them.
var fields = map[Type]string{
	TypeAgent: "Agent", TypeEvent: "Event", TypeDesired: "Desired", TypeOp: "Op", TypeStep: "Step", TypeKey: "Key", TypeSeen: "Seen",
	TypeSettled: "Settled", TypeHeld: "Held", TypeReleased: "Released", TypePaused: "Paused", TypeSetAside: "SetAside",
	TypeIdentity: "Identity", TypeAccepted: "Accepted", TypeForgot: "Forgot", TypeGone: "Gone", TypeApproval: "Approval",
	TypePermit: "Permit", TypeQuarantine: "Quarantine",
}

var everyState = []op.State{
	op.Planned, op.Awaiting, op.Granted, op.Intent, op.Started, op.Unknown, op.Succeeded, op.Failed, op.Refused, op.Abandoned, op.Retried,
}

// record is a random one that may come next.
func (f filler) record(l *Ledger) Record {
	for {
		types := slices.Sorted(maps.Keys(fields))
		r := Record{Type: []Type{TypeOp, TypeStep, types[f.IntN(len(types))]}[f.IntN(3)]}
		at := reflect.ValueOf(&r).Elem().FieldByName(fields[r.Type])
		at.Set(reflect.New(at.Type().Elem()))
		f.fill(at.Elem())
		if r.Type == TypeOp {
			r.Op.ID, r.Op.State = fmt.Sprint("o", f.IntN(900)), everyState[f.IntN(len(everyState))]
			if f.IntN(2) == 0 {
				r.Op.Params = map[string]string{"ha": "running"}
			}
		}
		if r.Agent != nil && f.IntN(2) == 0 {
			r.Agent.What = Started
		}
		if r.Type == TypeStep {
			open := l.Ops()
			if len(open) == 0 {
				continue
			}
			o := open[f.IntN(len(open))]
			r.Step.ID, r.Step.Guest, r.Step.From, r.Step.State = o.ID, o.Guest, "", everyState[f.IntN(len(everyState))]
		}
		if r.Approval != nil {
			r.Approval.Op = fmt.Sprint("o", f.IntN(900))
		}
		if r.Type == TypeQuarantine || l.Check(r) == nil { // whose op need not be there for the fold
			return r
		}
	}
}

// manyEnded lets so many ops end that some are forgotten.
func manyEnded(t *testing.T, l *Ledger) {
	t.Helper()
	var recs []Record
	for i := range keepEnded + 5 {
		id := fmt.Sprint("before", i)
		recs = append(recs, intent(id, plugin.Start), step(id, op.Succeeded))
	}
	if err := play(t, l, recs...); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshotIsAllOfTheState: a ledger that was restored from a snapshot in the
// middle of a random journal is the one that was there, and becomes what it
// would have become.
func TestSnapshotIsAllOfTheState(t *testing.T) {
	if n := reflect.TypeFor[Record]().NumField() - 1; n != len(fields) {
		t.Errorf("%d kinds of records, %d of them are tried here", n, len(fields))
	}
	seeds, length := 5, 300
	for seed := range uint64(seeds) {
		f := filler{rand.New(rand.NewPCG(seed, 1))}
		whole, twice, kept := New(), New(), New()
		for _, l := range []*Ledger{whole, twice, kept} {
			if seed == 0 {
				manyEnded(t, l)
			}
		}
		for i := range length {
			b, err := f.record(whole).Encode()
			if err != nil {
				t.Fatal(err)
			}
			e := journal.Entry{Seq: uint64(i + 1), Time: time.Unix(int64(1000+i), 0).UTC(), Payload: b}
			for _, l := range []*Ledger{whole, twice, kept} {
				if err := l.Apply(e); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if f.IntN(10) > 0 {
				continue
			}
			snap, err := kept.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			kept = New()
			if err := kept.Restore(snap); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(whole.s, kept.s, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d: after entry %d (-was +restored):\n%s", seed, i+1, diff)
			}
			if diff := cmp.Diff(whole.seen, kept.seen); diff != "" {
				t.Fatalf("seed %d: events (-was +restored):\n%s", seed, diff)
			}
		}
		a, _ := whole.Snapshot()
		b, _ := twice.Snapshot()
		if !bytes.Equal(a, b) {
			t.Errorf("seed %d: the same journal, folded twice, gave two states", seed)
		}
	}
}
