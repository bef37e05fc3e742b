// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Mode is what the host allows the agent to do.
type Mode string

// The host's modes.
const (
	Observe Mode = "observe"
	Enforce Mode = "enforce"
)

// observer is what the engine needs to see the node.
type observer interface {
	List(ctx context.Context) (plugin.NodeState, error)
	Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error)
}

// executors finds who carries out an action kind.
type executors interface {
	Executor(kind plugin.ActionKind) (plugin.Executor, error)
}

// journaler puts records on disk; it returns once they are there and folded
// into the ledger.
type journaler interface {
	Append(ctx context.Context, payloads ...json.RawMessage) (journal.Head, error)
	Head() journal.Head
	Err() error
}

// Settings are what a reload may change.
type Settings struct {
	Mode    Mode
	Resync  time.Duration // every managed guest is looked at this often
	Breaker BreakerSettings
	Limits  map[string]int // slot name -> number, see the Slot constants
	Gate    GateSettings
	// AllowAdditive lets guests and volumes be made and disks grow; Reserve is
	// how many bytes must stay free on the storage then.
	AllowAdditive bool
	Reserve       int64

	MaxAge   map[string]time.Duration
	Required map[string]bool       // providers that are configured
	Signed   map[string]SignedRule // those whose sets must be signed
}

// BreakerSettings bound what may go wrong before the agent stops by itself.
type BreakerSettings struct {
	GuestFailures int
	GuestQuiet    time.Duration
	NodeGuests    int
	NodePercent   int
}

// The slots that bound what is asked of PVE at a time.
const (
	SlotCalls     = "calls"      // mutating calls outstanding
	SlotReads     = "reads"      // reads outstanding
	SlotStartStop = "start_stop" // tasks that start or stop a guest
	SlotBackup    = "backup"
	SlotOther     = "other"
)

// Options are the engine's dependencies.
type Options struct {
	Node      string // "" until the observer tells
	Host      string // this host's name, for documents bound to a host
	Settings  Settings
	Observer  observer
	Executors executors
	Journal   journaler
	Ledger    *ledger.Ledger
	Forms     *guest.Table // nil = the built-in table
	Cache     Cache
	Keys      Keys // nil = nobody may sign
	Logger    *slog.Logger
	QueueSize int
	// Clock tells whether this host's clock is synchronised; nil = it is not.
	Clock func(context.Context) bool
	// Wall is the wall clock, which somebody may set at any time; nil = the host's.
	Wall func() time.Time
	// HostState tells whether the host goes down or comes up; nil = neither.
	HostState func() HostState
	// Drain is how long Run waits at its end for ops that are just being sent.
	Drain time.Duration
	Crash func(point string) // named crash points for tests; nil outside them
}

// Cache keeps the files of the last good snapshot of each provider.
type Cache interface {
	Save(provider string, s plugin.Snapshot) error
	Load(provider string) (plugin.Snapshot, error)
}

// Engine is the loop. Make one with New, then Run it.
type Engine struct {
	opt   Options
	log   *slog.Logger
	led   *ledger.Ledger
	queue *queue.Queue[guest.VMID]
	slots *queue.Limiter
	forms *guest.Table

	resync   chan struct{} // a full resync is wanted
	awake    awake         // the resync loop's own sign of life
	sending  *sending
	began    time.Time // by the monotonic clock
	movers   movers
	keyed    movers // by idempotency key
	late     late
	permits  sync.Mutex // held while a permit's use is written
	arrivals arrivals

	// mu guards what follows.
	mu       sync.Mutex
	set      Settings
	node     plugin.NodeState
	nodeErr  error
	nodeAt   time.Time
	sets     map[string]*desired.Set
	provider map[string]*ProviderStatus
	want     map[guest.VMID]*desired.Guest
	conflict map[guest.VMID]string
	views    map[guest.VMID]View
	ran      map[guest.VMID]bool      // was running when last seen
	stopped  map[guest.VMID]time.Time // seen to have gone down, for the quiet moment
	sentAt   map[guest.VMID]time.Time // when this process last sent a request about it
	last     map[guest.VMID]attempt
	unserved map[guest.VMID]time.Time // since when no plugin serves its open op's kind
	sure     map[guest.VMID]time.Time // when it was surely the same guest, by the node's clock
	guards   guards
	twin     string // why another agent is believed to use our token
}

// New wires an engine.
func New(opt Options) (*Engine, error) {
	slots, err := queue.NewLimiter(opt.Settings.Limits)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		opt: opt, log: opt.Logger, led: opt.Ledger, forms: opt.Forms, set: opt.Settings, slots: slots,
		resync: make(chan struct{}, 1), sending: newSending(),
		sets: map[string]*desired.Set{}, provider: map[string]*ProviderStatus{},
		want: map[guest.VMID]*desired.Guest{}, conflict: map[guest.VMID]string{},
		views: map[guest.VMID]View{}, ran: map[guest.VMID]bool{}, stopped: map[guest.VMID]time.Time{},
		sentAt: map[guest.VMID]time.Time{}, began: time.Now(),
		unserved: map[guest.VMID]time.Time{},
		last:     map[guest.VMID]attempt{}, sure: map[guest.VMID]time.Time{},
	}
	if e.forms == nil {
		e.forms = guest.Standard()
	}
	if e.opt.Wall == nil {
		e.opt.Wall = time.Now
	}
	if e.opt.Crash == nil {
		e.opt.Crash = func(string) {}
	}
	if e.guards, err = newGuards(opt.Settings.Breaker); err != nil {
		return nil, err
	}
	e.queue = queue.New(queue.Options[guest.VMID]{
		Bound: opt.QueueSize, MinBackoff: minWait, MaxBackoff: maxWait,
		Handle: e.handle, // it logs what fails
	})
	return e, nil
}

// Run loads the last good desired state, puts every unfinished op back on its
// guest's lane, and works until ctx ends. Then it begins nothing any more,
// gives what is just being sent Options.Drain to learn its handle, and waits
// for the lanes. A task that PVE works on goes on and is found again by its
// handle at the next start.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	several := len(e.set.Required) > 1
	e.mu.Unlock()
	e.loadCached()
	e.resume()
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.queue.Run(work) })
	g.Go(func() error { return e.resyncLoop(gctx) })
	if several {
		g.Go(func() error {
			select {
			case <-time.After(firstWord):
				e.Resync("each provider had its time to speak")
			case <-gctx.Done():
			}
			return nil
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		left, cancel := context.WithTimeout(work, e.opt.Drain)
		defer cancel()
		e.sending.drain(left)
		stop(errStopping)
		return nil
	})
	if err := g.Wait(); !errors.Is(err, errStopping) {
		return err
	}
	return nil
}

// Reload puts new settings in force.
func (e *Engine) Reload(s Settings) error {
	lost := e.unbelieved(s.Signed)
	if err := e.slots.Resize(s.Limits); err != nil {
		return err
	}
	e.mu.Lock()
	if err := e.guards.reload(s.Breaker); err != nil {
		e.mu.Unlock()
		return err
	}
	e.set = s
	for name := range e.sets {
		if !s.Required[name] {
			delete(e.sets, name)
			delete(e.provider, name)
		} else if err := lost[name]; err != nil {
			e.withdrawLocked(name, err)
		}
	}
	changed := e.mergeLocked()
	e.mu.Unlock()
	e.lookAll(changed, "desired state changed")
	e.loadCached() // what is believed again
	e.takeUp()
	e.Resync("reload")
	return nil
}

// Events takes in hook events, all or none. It returns once they are synced; an
// event that was taken in before is acknowledged and changes nothing.
func (e *Engine) Events(ctx context.Context, events []hook.Event) error {
	leave, err := e.arrivals.enter(ctx, events)
	if err != nil {
		return err
	}
	defer leave()
	if recs := e.unseen(events); len(recs) > 0 {
		if err := e.append(ctx, recs...); err != nil {
			return err
		}
	}
	for _, ev := range events {
		e.queue.Look(ev.VMID, "hook "+string(ev.Phase))
	}
	return nil
}

// unseen are the records of the events that were not taken in yet, each once.
func (e *Engine) unseen(events []hook.Event) (recs []ledger.Record) {
	among := make(map[string]bool, len(events))
	for _, ev := range events {
		if among[ev.ID] || e.led.SeenEvent(ev.ID) {
			continue
		}
		among[ev.ID] = true
		recs = append(recs, ledger.Record{Type: ledger.TypeEvent, Event: &ev})
	}
	return recs
}

// Hint takes in an observer's hint.
func (e *Engine) Hint(_ context.Context, h plugin.Hint) {
	if h.All {
		e.Resync(h.Reason)
		return
	}
	e.lookAll(h.Guests, h.Reason)
}

// Resync asks for a look at every managed guest.
func (e *Engine) Resync(reason string) {
	select {
	case e.resync <- struct{}{}:
		e.log.Debug("resync asked for", "reason", reason)
	default: // one is due already
	}
}

func (e *Engine) lookAll(ids []guest.VMID, reason string) {
	for _, id := range ids {
		if e.wanted(id) != nil {
			e.queue.Look(id, reason)
		}
	}
}

// resyncLoop observes the node and looks at every managed guest: at the start,
// when asked to, and every Settings.Resync.
func (e *Engine) resyncLoop(ctx context.Context) error {
	for {
		e.awake.begin()
		if err := e.observeNode(ctx); err == nil {
			e.lookAll(e.managed(), "resync")
		}
		e.endUnsigned(ctx)
		e.awake.end()
		timer := time.NewTimer(e.resyncDelay())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-e.resync:
			timer.Stop()
		}
	}
}

// resyncDelay is shorter while the node cannot be reached, and shorter still
// while the plugins start.
func (e *Engine) resyncDelay() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.nodeErr == nil:
		return e.set.Resync
	case e.nodeAt.IsZero() && unavailable(e.nodeErr):
		return min(time.Second, e.set.Resync)
	}
	return min(5*time.Second, e.set.Resync)
}

// observeNode refreshes what is known of the node itself.
func (e *Engine) observeNode(ctx context.Context) error {
	release, err := e.slots.Acquire(ctx, SlotReads)
	if err != nil {
		return err
	}
	n, err := e.opt.Observer.List(ctx)
	release()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		switch {
		case e.nodeAt.IsZero() && unavailable(err):
			e.log.Info("the node cannot be observed yet", "err", err)
		case e.nodeErr == nil || e.nodeErr.Error() != err.Error():
			e.log.Warn("cannot observe the node", "err", err)
		}
		e.nodeErr = err
		return err
	}
	if e.nodeErr != nil {
		e.log.Info("the node answers")
	}
	e.node, e.nodeErr, e.nodeAt = n, nil, time.Now()
	return nil
}

// handle is what a lane does with one item.
func (e *Engine) handle(ctx context.Context, id guest.VMID, it queue.Item) queue.Result {
	var res queue.Result
	switch v := it.Value.(type) {
	case request:
		res = e.carryOut(ctx, id, v)
	case leaving:
		res = e.leave(ctx, id, v)
	case selftest:
		res = e.runSelftest(ctx, id, v)
	default:
		res = e.look(ctx, id)
	}
	if res.Err != nil && !errors.Is(res.Err, context.Canceled) && !errors.Is(res.Err, errWait) && !errors.Is(res.Err, errStopping) {
		e.log.Warn("look failed", "guest", id, "err", res.Err)
	}
	return res
}

// minWait is the first of a growing delay, maxWait its last.
const (
	minWait = 500 * time.Millisecond
	maxWait = 2 * time.Minute
)

// errWait makes a lane wait with growing delay; it is not worth a log line.
var errWait = errors.New("waiting")
