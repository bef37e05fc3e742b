// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// The tests of this file break a build on purpose, by what is handed in to it, and pass when the judge notices.

// wantRed fails unless the judge found something of the kind; the same without the break must be clean.
func wantRed(t *testing.T, what string, try func(b broken) Verdict, b broken, count func(Verdict) int) {
	t.Helper()
	if v := try(broken{}); !v.OK() {
		t.Errorf("not even the real build is clean: %q", v.Texts)
	}
	v := try(b)
	if count(v) == 0 {
		t.Fatalf("%s, and it was not noticed: %q", what, v.Texts)
	}
	t.Logf("%s: lost %d, doubled %d, stuck %d; %.200s", what, v.Lost, v.Doubled, v.Stuck, v.Texts[0])
}

func lost(v Verdict) int    { return v.Lost }
func doubled(v Verdict) int { return v.Doubled }

// TestBrokenSyncLeftOut: the journal says that it synced and did not.
func TestBrokenSyncLeftOut(t *testing.T) {
	forgetful := broken{disk: func(c fault.Call) fault.Action { return fault.Action{Skip: c.Op == "APPEND:DATASYNC"} }}
	for _, p := range []string{engine.CrashHandle, engine.CrashOutcome} {
		try := func(b broken) Verdict {
			v, _ := crashOnce(t, jobs("start")[0], crash{point: p, cut: "power-none"}, b)
			return v
		}
		wantRed(t, "the sync was left out, power cut at "+p, try, forgetful, lost)
	}
}

// TestBrokenIntentAfterTheSend: the intent reaches the disk with the record after it.
func TestBrokenIntentAfterTheSend(t *testing.T) {
	notUnderRace(t)
	try := func(b broken) (all Verdict) {
		for _, p := range []string{engine.CrashSent, engine.CrashHandle} {
			v, _ := crashOnce(t, jobs("set_config")[0], crash{point: p, cut: "kill"}, b)
			all.Add(p, v)
		}
		return all
	}
	wantRed(t, "the intent was written after the send", try, broken{lateIntent: true}, lost)
}

// TestBrokenProbeSkipped: what is not known is taken for not sent. The second sending is executed where PVE does not
// refuse it, which it does once the first has taken effect.
func TestBrokenProbeSkipped(t *testing.T) {
	notUnderRace(t)
	for _, j := range jobs("start")[:1] { // a virtual machine refuses the second start
		try := func(b broken) (all Verdict) {
			for _, delay := range []time.Duration{time.Second, 2 * time.Second, 15 * time.Second} {
				all.Add(delay.String(), loseOnce(t, j, reply{kind: pvetest.FaultLost, delay: delay, hang: time.Millisecond}, b))
			}
			return all
		}
		wantRed(t, "the probe was skipped, "+j.String(), try, broken{noProbe: true}, doubled)
	}
}

// TestBrokenBatchBeforeTheSync: a batch is written before the sync of the one before. Nobody is told too early.
func TestBrokenBatchBeforeTheSync(t *testing.T) {
	if v := twoBatches(t, false); !v.OK() {
		t.Errorf("not even the real journal is clean: %q", v.Texts)
	}
	v := twoBatches(t, true)
	if v.OK() {
		t.Fatal("a batch was written before the sync of the one before, and it was not noticed")
	}
	t.Logf("lost %d, doubled %d, stuck %d; %.200s", v.Lost, v.Doubled, v.Stuck, v.Texts[0])
}

// twoBatches has two writers append one batch each, and cuts the power before each call to the disk, keeping every
// subset of what was not synced. Early makes the first batch's sync wait for the second batch; then the first writer is
// told when that is done.
func twoBatches(t *testing.T, early bool) (v Verdict) {
	for at := 1; ; at++ {
		f := fault.New()
		p := &pipelined{early: early, at: at}
		f.Inject(p.rule)
		if !p.run(t, f) {
			return v // the crash did not happen any more
		}
		for choice := range fault.Outcomes(f.Choices(), 64, rand.New(rand.NewPCG(1, 1))) {
			found := f.Clone()
			found.PowerCut(choice)
			v.Add(fmt.Sprintf("crash at call %d, kept %v", at, choice), reopened(t, found, p.acked))
		}
	}
}

// pipelined is the rule by which the first of two batches is synced with the second, if early is set.
type pipelined struct {
	early     bool
	at, syncs int
	acked     []string
}

func (p *pipelined) rule(c fault.Call) fault.Action {
	if c.N == p.at {
		return fault.Action{Crash: fault.Before}
	}
	if c.Op == "APPEND:DATASYNC" {
		if p.syncs++; p.early && p.syncs == 1 {
			return fault.Action{Skip: true}
		}
	}
	return fault.Action{}
}

// run appends two batches of several pages each and reports whether the crash came.
func (p *pipelined) run(t *testing.T, f *fault.FS) bool {
	j, _, err := journal.Open(t.Context(), journal.Options{FS: f, Dir: jdir, Fold: &texts{}})
	if err != nil {
		return f.Crashed()
	}
	var told []string
	for n := range 2 {
		text := fmt.Sprintf(`"%d %s"`, n, strings.Repeat("x", 400))
		if _, err := j.Append(context.Background(), json.RawMessage(text)); err != nil {
			break
		}
		told = append(told, text)
		if !p.early || n == 1 {
			p.acked = told
		}
	}
	crashed := f.Crashed()
	f.Stop()
	_ = j.Close()
	return crashed
}

// reopened opens what a power cut left and judges it.
func reopened(t *testing.T, f *fault.FS, acked []string) (v Verdict) {
	fold := &texts{}
	j, _, err := journal.Open(t.Context(), journal.Options{FS: f, Dir: jdir, Fold: fold})
	if err != nil {
		v.Jam("open: %v", err)
		return v
	}
	if err := j.Err(); err != nil {
		v.Jam("open: %v", err)
	}
	if len(fold.got) < len(acked) || !slices.Equal(fold.got[:len(acked)], acked) {
		v.Lose("%d were acknowledged, %d are there", len(acked), len(fold.got))
	}
	_ = j.Close()
	return v
}

// texts is a fold that keeps the payloads.
type texts struct {
	mu  sync.Mutex
	got []string
}

func (x *texts) Apply(e journal.Entry) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = append(x.got, string(e.Payload))
	return nil
}

func (x *texts) Snapshot() ([]byte, error) { return json.Marshal(x.got) }
func (x *texts) Restore(b []byte) error    { return json.Unmarshal(b, &x.got) }
