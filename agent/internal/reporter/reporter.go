// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package reporter tells the source of each provider what became of what it
// wanted: each operation's outcome, and now and then how its guests stand.
//
// The queue of what is to be told is the journal itself: nothing is kept in
// memory but a bounded batch, so that the engine never waits for a source, and
// a source that was away for long is told everything that the journal still
// has. How far each one was told is in a small file, written after the source
// has acknowledged; losing it costs a repetition.
//
// It guarantees that a source hears of its own provider's guests alone, in the
// order of the journal, each outcome at least once, and that a hole (the
// journal has deleted entries that were not told yet) is told as such.
package reporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The bounds of one report and of the waits between them.
const (
	maxOutcomes = 200
	maxScan     = 10_000 // entries that are looked at for one report
	maxGuests   = 2000
	// A report stays below 1 MiB, the most that NATS takes by itself: one that
	// is refused for its size would be refused again, and all that comes after
	// would wait behind it. The bounds are for JSON, in bytes.
	maxMessage      = 8 << 10 // of an outcome
	maxText         = 256     // of the other texts
	outcomeSize     = 6 * maxText
	maxOutcomesSize = 300 << 10
	maxGuestsSize   = 400 << 10
	sendTimeout     = time.Minute
	gather          = 500 * time.Millisecond // so that what happens together is told together
	settle          = 5 * time.Second        // after an outcome the guests are told again
	firstWait       = time.Second
	longestWait     = 5 * time.Minute
	// askAgain is when a provider that takes no reports is asked again: its
	// plugin may have been replaced.
	askAgain = 10 * time.Minute
)

// Options are what a reporter needs.
type Options struct {
	Host, Version string
	Logger        *slog.Logger
	// Heartbeat is how often a source hears from the agent though nothing
	// happens.
	Heartbeat time.Duration
	// Since and Read give the journal's entries after a sequence number: the
	// latest from memory, and older ones from the disk.
	Since func(seq uint64) ([]ledger.Entry, <-chan struct{})
	Read  func(seq uint64, yield func(ledger.Entry) bool) error
	Head  func() journal.Head
	// Desired is the last set of a provider that was accepted, nil if none.
	Desired func(provider string) *ledger.Desired
	Op      func(id string) (op.Op, bool)
	Status  func() engine.Status
	Send    func(ctx context.Context, provider string, r plugin.Report) error
	Marks   Marks
}

// Marks keeps how far each source was told.
type Marks interface {
	// Load says that there is none where nothing was told yet.
	Load(provider string) (m Mark, ok bool, err error)
	Save(provider string, m Mark) error
}

// Mark is how far a source was told, and whose what was at that entry: what
// comes after it is told by that, not by whose it is now.
type Mark struct {
	Seq uint64 `json:"seq"`
	// Owned are the provider's guests; nil if that is not known.
	Owned []guest.VMID `json:"owned"`
	// Begun are the unfinished ops of guests that were the provider's when they
	// began.
	Begun []string `json:"begun,omitempty"`
}

// Reporter reports. Make one with New, then Run it.
type Reporter struct {
	opt  Options
	wake chan struct{}

	mu     sync.Mutex // guards wanted
	wanted map[string]bool
}

// New makes a reporter for these providers.
func New(opt Options, providers []string) *Reporter {
	r := &Reporter{opt: opt, wake: make(chan struct{}, 1)}
	r.Set(providers)
	return r
}

// Set says which providers there are from now on.
func (r *Reporter) Set(providers []string) {
	r.mu.Lock()
	r.wanted = map[string]bool{}
	for _, p := range providers {
		r.wanted[p] = true
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[string]context.CancelFunc{}
	for {
		r.mu.Lock()
		wanted := r.wanted
		r.mu.Unlock()
		for name, cancel := range running {
			if !wanted[name] {
				cancel()
				delete(running, name)
			}
		}
		for name := range wanted {
			if running[name] == nil {
				each, cancel := context.WithCancel(ctx)
				running[name] = cancel
				wg.Go(func() { defer cancel(); r.newTeller(name).run(each) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
	}
}

// teller tells one source.
type teller struct {
	*Reporter
	name string
	log  *slog.Logger
	scan scan
	lost bool
	// due is when the source hears from the agent though nothing happened.
	due time.Time
}

func (r *Reporter) newTeller(name string) *teller {
	t := &teller{Reporter: r, name: name, log: r.opt.Logger.With("provider", name)}
	m, ok, err := r.opt.Marks.Load(name)
	seq := m.Seq
	if err != nil {
		t.log.Warn("how far the source was told is not known; it is told again what is in memory", "err", err)
	}
	if head := r.opt.Head().Seq; seq > head {
		t.log.Warn("the source was told more than the journal has: it is another journal", "told", seq, "head", head)
		ok = false
	}
	if !ok {
		seq = r.opt.Head().Seq
		if recent, _ := r.opt.Since(0); len(recent) > 0 {
			seq = recent[0].Seq - 1
		}
	}
	t.scan = newScan(name, seq, t.ownedNow())
	if ok {
		t.scan.recall(m)
	}
	return t
}

// ownedNow are the guests that are the provider's by the set in force.
func (t *teller) ownedNow() map[guest.VMID]bool {
	if d := t.opt.Desired(t.name); d != nil {
		return owners(d)
	}
	return map[guest.VMID]bool{}
}

func (t *teller) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		changed := t.collect()
		if len(t.scan.outcomes) == 0 && t.scan.full() {
			continue // nothing that matters in so many entries; there are more
		}
		if len(t.scan.outcomes) == 0 && time.Now().Before(t.due) {
			t.wait(ctx, time.Until(t.due), changed)
			continue
		}
		err := t.tell(ctx)
		wait := time.Duration(0)
		switch {
		case err == nil:
			failures = 0
			continue
		case errors.Is(err, plugin.ErrUnsupported):
			wait = askAgain
		default:
			wait = backoff(failures)
			failures++
			t.log.Log(ctx, level(failures), "report not delivered", "err", err, "retry_in", wait)
		}
		t.wait(ctx, wait, nil)
	}
}

// level: the first failure is news, the same again is not.
func level(failures int) slog.Level {
	if failures == 1 {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// backoff doubles, and is spread over its second half so that the agents of a
// fleet do not all come at once when their source is back.
func backoff(failures int) time.Duration {
	d := firstWait << min(failures, 20)
	d = min(d, longestWait)
	return d/2 + rand.N(d/2)
}

// wait returns after d, or when there are new entries (nil: those do not
// matter), or when ctx ends.
func (t *teller) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
		return
	case <-changed:
	}
	calm := time.NewTimer(gather)
	defer calm.Stop()
	select {
	case <-ctx.Done():
	case <-calm.C:
	}
}

// collect looks at the entries after the last one that was looked at, until
// the report is full. The channel is closed at the next entry.
func (t *teller) collect() <-chan struct{} {
	t.scan.begin()
	entries, changed := t.opt.Since(t.scan.at)
	if t.scan.full() {
		return changed
	}
	if t.scan.at < t.opt.Head().Seq && (len(entries) == 0 || entries[0].Seq > t.scan.at+1) {
		t.catchUp()
		entries, changed = t.opt.Since(t.scan.at)
		if len(entries) > 0 && entries[0].Seq > t.scan.at+1 {
			return changed // the report is full before the gap is closed
		}
	}
	for _, e := range entries {
		if t.scan.full() {
			break
		}
		t.scan.take(e)
	}
	return changed
}

// catchUp reads from the disk what memory has no more.
func (t *teller) catchUp() {
	err := t.opt.Read(t.scan.at, func(e ledger.Entry) bool {
		t.scan.take(e)
		return !t.scan.full()
	})
	if err == nil {
		return
	}
	// What is left starts with the oldest entry in memory.
	entries, _ := t.opt.Since(0)
	t.log.Warn("not all that happened can be told", "err", err)
	if len(entries) > 0 && entries[0].Seq > t.scan.at+1 {
		t.lost = true
		t.scan.at, t.scan.owned = entries[0].Seq-1, t.ownedNow()
	}
}

// tell sends what was collected and notes that it was.
func (t *teller) tell(ctx context.Context) error {
	body := t.body()
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrInvalid, err)
	}
	sendCtx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	err = t.opt.Send(sendCtx, t.name, plugin.Report{Time: body.Time, JSON: b})
	if errors.Is(err, plugin.ErrInvalid) {
		t.log.Error("the source refuses a report for good; it is left out", "from", body.From, "to", body.To, "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	moved := t.scan.at != t.scan.told
	t.due = time.Now().Add(t.opt.Heartbeat - t.opt.Heartbeat/10 + rand.N(t.opt.Heartbeat/5+1))
	if len(body.Outcomes) > 0 {
		t.due = time.Now().Add(settle)
	}
	t.scan.said()
	t.lost = false
	if moved {
		if err := t.opt.Marks.Save(t.name, t.scan.mark()); err != nil {
			t.log.Warn("how far the source was told cannot be kept; after a restart it is told again", "err", err)
		}
	}
	return nil
}
