// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func TestRestartUsesTheLastGoodStateUntilTheProviderSpeaks(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.stop()
		r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
		r.start(Enforce)
		defer r.stop()
		after(time.Minute)
		r.wantApplied("101 set_config")
		// A cache that is not what the journal accepted is not used.
	})
}

func TestTamperedCacheIsNotUsed(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Minute)
		r.stop()
		s := cache["dir"]
		s.Files = []plugin.File{{Name: "guests.toml", Data: []byte(strings.Replace(wantRunning, "running", "stopped", 1))}}
		cache["dir"] = s
		r.start(Enforce)
		defer r.stop()
		after(time.Hour)
		r.wantApplied()
	})
}

func TestIntentIsOnDiskBeforeTheEffect(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		var seen []op.State
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			disk := ledger.New()
			err := journal.Read(fsys.OS{}, r.dir, 0, func(e journal.Entry, _ journal.Frame) bool { return disk.Apply(e) == nil })
			if err != nil {
				t.Error(err)
			}
			o, _ := disk.Op(a.OpID)
			seen = append(seen, o.State)
			return plugintest.Behaviour{Task: time.Second}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(time.Minute)
		if diff := cmp.Diff([]op.State{op.Intent}, seen); diff != "" {
			t.Errorf("state on disk when the executor was called (-want +got):\n%s", diff)
		}
	})
}

func TestLostReplyIsNotSentTwice(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(r *rig) {
			r.put(101, guest.Stopped, guest.Config{"cores": "4"})
			lost := false
			r.world.Script(func(plugin.Action) plugintest.Behaviour {
				b := plugintest.Behaviour{Task: 3 * time.Second, Lose: !late && !lost, LoseLate: late && !lost}
				lost = true
				return b
			})
			r.start(Enforce)
			defer r.stop()
			r.mustDesire(wantRunning)
			after(10 * time.Minute)
			r.wantApplied("101 start")
			if got := r.state(101); got != StateConverged {
				t.Errorf("late %v: state = %s", late, got)
			}
		})
	}
}

// seed writes records as an agent that crashed would have left them.
func (r *rig) seed(recs ...ledger.Record) {
	r.t.Helper()
	led := ledger.New()
	j, _, err := journal.Open(r.t.Context(), journal.Options{Dir: r.dir, Fold: led, Host: "pve1"})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, rec := range recs {
		b, err := rec.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := j.Append(r.t.Context(), json.RawMessage(b)); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func crashed(kind plugin.ActionKind) *op.Op {
	return &op.Op{
		ID: "o1", Asker: op.Reconciler, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Kind: kind, Class: guest.Benign,
		State: op.Intent, Attempt: 1, Sent: time.Now(), Planned: time.Now(), Node: "pve1",
	}
}

func TestStoppingWaitsForTheHandleOnly(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.world.Script(func(plugin.Action) plugintest.Behaviour {
			return plugintest.Behaviour{Delay: 3 * time.Second, Task: time.Hour}
		})
		r.start(Enforce)
		r.mustDesire(wantRunning)
		after(time.Second) // sent, not answered
		began := time.Now()
		r.stop()
		if took := time.Since(began); took < time.Second || took > 10*time.Second {
			t.Errorf("stopping took %s", took)
		}
		ops := r.led.Ops()
		if len(ops) != 1 || ops[0].State != op.Started || ops[0].Handle == "" {
			t.Errorf("ops %+v", ops)
		}
	})
}

func TestCrashAfterTheIntentAndBeforeTheSend(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: crashed(plugin.Start)})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(50 * time.Second)
		r.wantApplied() // it may still be under way
		after(5 * time.Minute)
		r.wantApplied("101 start")
		if o, _ := r.led.Op("o1"); !o.State.Ended() {
			t.Errorf("the op of before the crash is %s", o.State)
		}
	})
}

func TestHandleThatThePluginDoesNotKnow(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		o := crashed(plugin.Start)
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: o},
			ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: o.ID, Guest: o.Guest, State: op.Started, Handle: "UPID:of:another:plugin"}})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		r.wantApplied()
		if o, _ := r.led.Op("o1"); o.State != op.Succeeded || !strings.Contains(o.Message, "by observation") {
			t.Errorf("op %+v", o)
		}
	})
}

func TestCrashAfterTheSend(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Stopped, guest.Config{"cores": "4"})
		r.always(plugintest.Behaviour{Task: 20 * time.Second})
		o := crashed(plugin.Start)
		r.seed(ledger.Record{Type: ledger.TypeOp, Op: o})
		// The world has taken the request; the agent died before the answer.
		ctx, cancel := context.WithCancel(r.t.Context())
		sent := make(chan struct{})
		go func() {
			_, _ = r.world.Executor().Apply(ctx, o.Action(), "", func(plugin.Progress) error { close(sent); <-ctx.Done(); return ctx.Err() })
		}()
		<-sent
		cancel()
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wantRunning)
		after(5 * time.Minute)
		r.wantApplied("101 start") // the one before the crash
		if n := r.world.Effects("o1"); n != 1 {
			t.Errorf("carried out %d times", n)
		}
		if o, _ := r.led.Op("o1"); o.State != op.Succeeded || o.Handle == "" {
			t.Errorf("op %+v", o)
		}
	})
}
