// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/hooktable"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/wire"
	"github.com/felhom/felhom-agent/plugins/pve/driver"
)

const (
	token  = "felhom@pve!agent"
	secret = "00000000-0000-0000-0000-000000000001"
	jdir   = "/journal"
)

// rowRig is a recorded row on a simulated node with an agent's core on it that
// only watches: hook server, engine, journal and the observer of plugin pve,
// in one synctest bubble. Only what is between the processes is not there: the
// hook socket and the connection to the node are in memory.
type rowRig struct {
	t     *testing.T
	row   *hooktable.Row
	way   delivery
	play  *hooktable.Replay
	fs    *fault.FS
	led   *ledger.Ledger
	eng   *engine.Engine
	node  *driver.Driver
	hooks *http.Client
	spool Spool

	mu    sync.Mutex // guards what follows
	told  int
	wrote []string // what the agent asked of the node that is no read
	wrong []error  // deliveries that failed
}

// begin makes node and agent; what it begins ends with the test.
func (r *rowRig) begin(resync time.Duration) {
	r.t.Helper()
	x, err := r.row.Begin(hooktable.Options{Change: admit, Tell: r.tell})
	r.must(err)
	r.t.Cleanup(x.Close)
	r.play, r.fs, r.led = x, fault.New(), ledger.New()
	jrn, _, err := journal.Open(r.t.Context(), journal.Options{FS: r.fs, Dir: jdir, Fold: r.led, Host: "N"})
	r.must(err)
	r.t.Cleanup(func() { r.must(jrn.Close()) })
	r.node, err = driver.New(driver.Options{Client: r.connect(), Node: "N"})
	r.must(err)
	r.eng, err = engine.New(engine.Options{
		Host: "N", Settings: watching(resync), Observer: r.node, Executors: r, Journal: jrn, Ledger: r.led, Cache: noCache{},
		Logger: slog.New(slog.DiscardHandler), QueueSize: 100,
	})
	r.must(err)
	r.listen()
	r.spool = Spool{Dir: r.t.TempDir(), Sink: r.eng}
	r.run(r.eng.Run)
}

// run runs f until the test ends.
func (r *rowRig) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			r.t.Error(err)
		}
	})
}

func (r *rowRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// admit gives the node a user for the agent who may look at everything. That
// of the row is another: what it does is not the agent's.
func admit(o *pvetest.Options) {
	o.Users = append(o.Users, pvetest.User{ID: "felhom@pve", Tokens: []pvetest.Token{{ID: "agent", Secret: secret}}})
	for _, who := range []string{"felhom@pve", token} {
		o.ACL = append(o.ACL, pvetest.Grant{Path: "/", Who: who, Role: "PVEAuditor"})
	}
}

func watching(resync time.Duration) engine.Settings {
	return engine.Settings{
		Mode: engine.Observe, Resync: resync, Required: map[string]bool{"dir": true},
		Limits:  map[string]int{engine.SlotCalls: 2, engine.SlotReads: 4, engine.SlotStartStop: 4, engine.SlotBackup: 1, engine.SlotOther: 2},
		Breaker: engine.BreakerSettings{GuestFailures: 5, GuestQuiet: 10 * time.Minute, NodeGuests: 20, NodePercent: 50},
	}
}

// Executor is asked for by an agent that would do something.
func (r *rowRig) Executor(kind plugin.ActionKind) (plugin.Executor, error) {
	r.note(fmt.Sprintf("an executor for %s", kind))
	return nil, errors.New("an agent in mode observe executes nothing")
}

func (r *rowRig) note(wrote string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrote = append(r.wrote, wrote)
}

type noCache struct{}

func (noCache) Save(string, plugin.Snapshot) error { return nil }
func (noCache) Load(string) (plugin.Snapshot, error) {
	return plugin.Snapshot{}, errors.New("nothing cached")
}

// connect returns the agent's client of the node. Nobody else asks there, so
// all that is no read is the agent's.
func (r *rowRig) connect() *pve.Client {
	r.t.Helper()
	srv := r.play.Sim().Server()
	node := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet {
			r.note(req.Method + " " + req.URL.Path)
		}
		node.ServeHTTP(w, req)
	})
	return wire.Client(r.t, srv, token+"="+secret)
}

// listen serves hooks, to root alone, whom the kernel would name on a socket.
func (r *rowRig) listen() {
	r.t.Helper()
	s, err := New(Options{Sink: r.eng, PeerUIDs: []int{0}})
	r.must(err)
	l := bufconn.Listen(4 << 10)
	srv := &http.Server{
		Handler: s.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peer{cred: &unix.Ucred{}})
		},
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	r.t.Cleanup(func() { _ = srv.Close(); <-served })
	r.hooks = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) },
	}}
}

// delivery is a way of an event to the agent.
type delivery int

// The ways: the agent answers, it answers too late and the event is in the
// spool too, which is read before, after or meanwhile, or it answers only once
// all is over.
const (
	posted delivery = iota
	spooledFirst
	spooledToo
	spooledMeanwhile
	spooledOnly
)

// tell is what the helper does behind the snippet.
func (r *rowRig) tell(h pvetest.HookCall) {
	e := hook.New(guest.VMID(h.VMID), guest.Phase(h.Phase), "")
	var errs []error
	switch r.way {
	case posted:
		errs = append(errs, r.post(e))
	case spooledFirst:
		errs = append(errs, r.leave(e), r.ingest(), r.post(e))
	case spooledToo:
		errs = append(errs, r.post(e), r.leave(e), r.ingest())
	case spooledMeanwhile:
		errs = append(errs, r.leave(e))
		ingested := make(chan error)
		go func() { ingested <- r.ingest() }()
		errs = append(errs, r.post(e), <-ingested)
	case spooledOnly:
		errs = append(errs, r.leave(e))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told++
	if err := errors.Join(errs...); err != nil {
		r.wrong = append(r.wrong, fmt.Errorf("event %s of %s: %w", e.ID, e.Phase, err))
	}
}

// post is hook.Post, whose plain system calls know no connection in memory.
func (r *rowRig) post(e hook.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), hook.DefaultBudget)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://felhom"+hook.EventPath, bytes.NewReader(e.AppendJSON(nil)))
	if err != nil {
		return err
	}
	resp, err := r.hooks.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusNoContent {
		why, err := io.ReadAll(resp.Body)
		return errors.Join(fmt.Errorf("%s: %s", resp.Status, why), err)
	}
	return nil
}

func (r *rowRig) leave(e hook.Event) error { return hook.Spool(r.spool.Dir, e) }

func (r *rowRig) ingest() error { return r.spool.Ingest(context.Background()) }
