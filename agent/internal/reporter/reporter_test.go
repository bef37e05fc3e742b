// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package reporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a journal, of which the last entries are in memory, and sources.
type world struct {
	mu      sync.Mutex
	entries []ledger.Entry
	first   uint64 // the first that is kept at all
	memory  int    // how many are in memory
	changed chan struct{}
	marks   map[string]Mark
	got     map[string][]plugin.ReportBody
	fail    map[string]error
	desired map[string]*ledger.Desired
}

func newWorld() *world {
	return &world{
		first: 1, memory: 1000, changed: make(chan struct{}), marks: map[string]Mark{},
		got: map[string][]plugin.ReportBody{}, fail: map[string]error{}, desired: map[string]*ledger.Desired{},
	}
}

func (w *world) append(r ledger.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, ledger.Entry{Seq: uint64(len(w.entries)) + 1, Time: time.Now(), Record: r})
	if r.Desired != nil {
		w.desired[r.Desired.Provider] = r.Desired
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) owns(provider string, ids ...guest.VMID) {
	d := &ledger.Desired{Provider: provider, Guests: map[guest.VMID]string{}}
	for _, id := range ids {
		d.Guests[id] = "r"
	}
	w.append(ledger.Record{Type: ledger.TypeDesired, Desired: d})
}

func lxc(id guest.VMID) guest.ID { return guest.ID{Kind: guest.LXC, VMID: id} }

// done journals an op that begins and ends.
func (w *world) done(name string, id guest.VMID) {
	w.begin(name, id)
	w.end(name, id)
}

func (w *world) begin(name string, id guest.VMID) {
	w.append(ledger.Record{Type: ledger.TypeOp, Op: &op.Op{ID: name, Guest: lxc(id), Kind: plugin.Start, State: op.Intent}})
}

func (w *world) end(name string, id guest.VMID) {
	w.append(ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: name, Guest: lxc(id), State: op.Succeeded}})
}

func (w *world) since(seq uint64) ([]ledger.Entry, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := max(int(seq), len(w.entries)-w.memory, 0)
	return slices.Clone(w.entries[min(from, len(w.entries)):]), w.changed
}

func (w *world) read(seq uint64, yield func(ledger.Entry) bool) error {
	w.mu.Lock()
	entries := slices.Clone(w.entries)
	w.mu.Unlock()
	if seq+1 < w.first {
		return journal.ErrGone
	}
	for _, e := range entries[seq:] {
		if !yield(e) {
			return nil
		}
	}
	return nil
}

// Load and Save make world the Marks.
func (w *world) Load(provider string) (Mark, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.marks[provider]
	return m, ok, nil
}

func (w *world) Save(provider string, m Mark) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks[provider] = m
	return nil
}

func (w *world) send(_ context.Context, provider string, r plugin.Report) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail[provider]; err != nil {
		return err
	}
	var b plugin.ReportBody
	if err := json.Unmarshal(r.JSON, &b); err != nil {
		return err
	}
	w.got[provider] = append(w.got[provider], b)
	return nil
}

func (w *world) failing(provider string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[provider] = err
}

func (w *world) options() Options {
	return Options{
		Host: "pve1", Logger: slog.New(slog.DiscardHandler), Heartbeat: time.Minute, Since: w.since, Read: w.read, Marks: w, Send: w.send,
		Head: func() journal.Head {
			w.mu.Lock()
			defer w.mu.Unlock()
			return journal.Head{Seq: uint64(len(w.entries)), Hash: "h"}
		},
		Desired: func(p string) *ledger.Desired {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.desired[p]
		},
		Op: func(string) (op.Op, bool) { return op.Op{}, false },
		Status: func() engine.Status {
			return engine.Status{Mode: engine.Enforce, Guests: []engine.View{
				{ID: lxc(101), State: "converged", Doc: engine.Provenance{Provider: "a"}},
				{ID: lxc(201), State: "drift", Doc: engine.Provenance{Provider: "b"}},
			}}
		},
	}
}

// run runs a reporter for the time of f.
func (w *world) run(t *testing.T, f func(r *Reporter)) {
	t.Helper()
	r := New(w.options(), []string{"a", "b"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	f(r)
	cancel()
	<-done
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// ops are the outcomes a source was told, in order.
func (w *world) ops(provider string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []string{}
	for _, b := range w.got[provider] {
		for _, o := range b.Outcomes {
			out = append(out, o.Op)
		}
	}
	return out
}

func (w *world) wantOps(t *testing.T, provider string, want ...string) {
	t.Helper()
	if d := cmp.Diff(append([]string{}, want...), w.ops(provider)); d != "" {
		t.Errorf("%s was told (-want +got):\n%s", provider, d)
	}
}

func (w *world) reports(provider string) []plugin.ReportBody {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got[provider])
}

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld()) })
}

func TestEachSourceHearsOfItsOwnGuests(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.owns("b", 201)
		w.run(t, func(*Reporter) {
			w.done("one", 101)
			w.done("two", 201)
			w.done("of nobody", 301)
			w.begin("given up", 101)
			w.owns("a")
			w.end("given up", 101) // it began when the guest was a's
			w.done("no longer", 101)
			after(10 * time.Second)
		})
		w.wantOps(t, "a", "one", "given up")
		w.wantOps(t, "b", "two")
		last := w.reports("a")[len(w.reports("a"))-1]
		if len(last.Guests) != 1 || last.Guests[0].Guest != lxc(101) {
			t.Errorf("a was told of guests %+v", last.Guests)
		}
	})
}

func TestHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.run(t, func(*Reporter) { after(10 * time.Minute) })
		if n := len(w.reports("a")); n < 9 || n > 13 {
			t.Errorf("%d reports in ten minutes", n)
		}
		b := w.reports("a")[0]
		if b.Host != "pve1" || b.Head.Seq != 1 || b.Head.Hash != "h" || b.Mode != "enforce" || b.Provider != "a" {
			t.Errorf("%+v", b)
		}
	})
}

// A source that is away holds up nobody, and is told everything when it is
// back, in order, though it is more than memory has.
func TestSourceThatIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.memory = 50
		w.owns("a", 101)
		w.owns("b", 201)
		w.failing("a", plugin.ErrUnavailable)
		var want []string
		w.run(t, func(*Reporter) {
			for i := range 700 {
				want = append(want, fmt.Sprint("op", i))
				w.done(want[i], 101)
				if i%100 == 0 {
					after(time.Second)
				}
			}
			w.done("two", 201)
			after(time.Hour)
			w.wantOps(t, "a")
			w.wantOps(t, "b", "two")
			w.failing("a", nil)
			after(10 * time.Minute)
		})
		w.wantOps(t, "a", want...)
		for _, b := range w.reports("a") {
			if len(b.Outcomes) > maxOutcomes || b.Lost {
				t.Errorf("a report of %d outcomes, lost %v", len(b.Outcomes), b.Lost)
			}
		}
	})
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.run(t, func(*Reporter) { w.done("one", 101); after(time.Minute) })
		w.done("two", 101) // told before, or not at all
		w.run(t, func(*Reporter) { after(time.Minute) })
		w.wantOps(t, "a", "one", "two")

		w.failing("a", errors.New("gone"))
		w.run(t, func(*Reporter) { w.done("three", 101); after(time.Minute) })
		w.failing("a", nil)
		w.run(t, func(*Reporter) { after(time.Minute) })
		w.wantOps(t, "a", "one", "two", "three")

		delete(w.marks, "a") // lost: it is told again
		w.run(t, func(*Reporter) { after(time.Minute) })
		w.wantOps(t, "a", "one", "two", "three", "one", "two", "three")
	})
}

func TestHoleIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.run(t, func(*Reporter) { after(time.Minute) })
		for i := range 100 {
			w.done(fmt.Sprint(i), 101)
		}
		w.first, w.memory = 50, 10
		w.run(t, func(*Reporter) { after(time.Minute) })
		w.wantOps(t, "a", "95", "96", "97", "98", "99")
		lost := 0
		for _, b := range w.reports("a") {
			if b.Lost {
				lost++
			}
		}
		if lost != 1 {
			t.Errorf("the hole was told %d times", lost)
		}
	})
}

func TestWhatIsRefusedForGoodIsLeftOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.failing("a", plugin.ErrInvalid)
		w.run(t, func(*Reporter) {
			w.done("one", 101)
			after(time.Minute)
			w.failing("a", nil)
			w.done("two", 101)
			after(time.Minute)
		})
		w.wantOps(t, "a", "two")
	})
}

// A provider that takes no reports is asked now and then, not all the time.
func TestUnsupported(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		asked := 0
		opt := w.options()
		opt.Send = func(context.Context, string, plugin.Report) error { asked++; return plugin.ErrUnsupported }
		r := New(opt, []string{"a"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				w.done("x", 101)
				time.Sleep(time.Second)
			}
		})
		r.Run(ctx)
		wg.Wait()
		if asked < 4 || asked > 8 {
			t.Errorf("asked %d times in an hour", asked)
		}
	})
}

func TestProvidersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.owns("c", 301)
		w.run(t, func(r *Reporter) {
			after(time.Minute)
			r.Set([]string{"c"})
			after(time.Minute)
			w.done("one", 101)
			w.done("three", 301)
			after(time.Minute)
		})
		w.wantOps(t, "a")
		w.wantOps(t, "c", "three")
	})
}

// What was whose guest when something happened does not change with a restart:
// neither is an outcome lost with the guest, nor told to who has it now.
func TestRestartKnowsWhoseGuestItWas(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		w.owns("b", 201)
		w.run(t, func(*Reporter) {
			w.begin("early", 101)
			after(10 * time.Second) // its source knows all until here
			w.failing("a", plugin.ErrUnavailable)
			w.failing("b", plugin.ErrUnavailable)
			w.done("late", 101)
			w.owns("a")
			w.end("early", 101)
			w.owns("b", 101, 201)
			w.done("of b", 101)
			after(time.Minute)
		})
		w.failing("a", nil)
		w.failing("b", nil)
		w.run(t, func(*Reporter) { after(time.Minute) })
		w.wantOps(t, "a", "late", "early")
		w.wantOps(t, "b", "of b")
	})
}

// A report stays below what sources take in one message (NATS: 1 MiB), however
// much there is to say: one that is too large would be refused each time, and
// with it all that comes after.
func TestReportIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.owns("a", 101)
		words := strings.Repeat("\x01PVE said so. ", 1000)
		opt := w.options()
		size, seen := 0, map[string]bool{}
		opt.Status = func() engine.Status {
			st := engine.Status{Mode: engine.Enforce, Providers: []engine.ProviderStatus{{Name: "a", Err: words}}}
			for i := range 3000 {
				st.Guests = append(st.Guests, engine.View{
					ID: lxc(guest.VMID(1000 + i)), Name: words[:60], State: "drift", Note: words, Doc: engine.Provenance{Provider: "a"},
				})
			}
			return st
		}
		opt.Send = func(_ context.Context, _ string, r plugin.Report) error {
			size = max(size, len(r.JSON))
			var b plugin.ReportBody
			if err := json.Unmarshal(r.JSON, &b); err != nil {
				return err
			}
			if n := len(b.Guests) + b.More; n != 3000 {
				t.Errorf("%d guests are told of or counted", n)
			}
			for _, o := range b.Outcomes {
				seen[o.Op] = true
			}
			return nil
		}
		for i := range 300 {
			name := fmt.Sprint("op", i)
			w.append(ledger.Record{Type: ledger.TypeOp, Op: &op.Op{ID: name, Guest: lxc(101), State: op.Failed, Message: words}})
		}
		r := New(opt, []string{"a"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.Run(ctx)
		if size > 900<<10 || len(seen) != 300 {
			t.Errorf("%d bytes, %d outcomes were told", size, len(seen))
		}
	})
}
