// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package fleet shows what many agents do together with one NATS server: each
// gets its set, carries it out and reports, and nothing is lost when the server
// is restarted.
//
// Its agents are lean: the real engine, journal, reporter and nats driver, all
// in one process, each with a scripted node in place of PVE. What is left out
// are the plugins' processes, the hook and the sockets; the figures for memory
// are so per agent without them.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/reporter"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
	"github.com/felhom/felhom-agent/plugins/nats/driver"
)

// provider is the name of each node's one provider.
const provider = "fleet"

// Node is one simulated node with its agent.
type Node struct {
	Host  string
	World *plugintest.World

	dir string
	led *ledger.Ledger
	jrn *journal.Journal
	eng *engine.Engine
	src *driver.Provider
	rep *reporter.Reporter
}

// memory keeps the last good set and how far the source was told.
type memory struct {
	mu   sync.Mutex
	snap plugin.Snapshot
	have bool
	mark reporter.Mark
	told bool
}

func (m *memory) Save(_ string, s plugin.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snap, m.have = s, true
	return nil
}

func (m *memory) Load(string) (plugin.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.have {
		return m.snap, errors.New("nothing is kept")
	}
	return m.snap, nil
}

// marks is memory as the reporter's Marks.
type marks struct{ *memory }

func (m marks) Save(_ string, mark reporter.Mark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark, m.told = mark, true
	return nil
}

func (m marks) Load(string) (reporter.Mark, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mark, m.told, nil
}

type oneExecutor struct{ w *plugintest.World }

func (o oneExecutor) Executor(plugin.ActionKind) (plugin.Executor, error) { return o.w.Executor(), nil }

// NewNode makes a node whose agent asks the server at url. Its journal is below
// dir.
func NewNode(ctx context.Context, host, url, dir string) (*Node, error) {
	n := &Node{Host: host, World: plugintest.NewWorld(host), dir: filepath.Join(dir, host), led: ledger.New()}
	quiet := slog.New(slog.DiscardHandler)
	j, _, err := journal.Open(ctx, journal.Options{Dir: n.dir, Fold: n.led, Host: host})
	if err != nil {
		return nil, err
	}
	n.jrn = j
	n.src = driver.New("fleet", quiet)
	conf, err := json.Marshal(driver.Settings{
		Servers: []string{url}, Host: host, Bucket: "felhom", Set: "desired", Subject: "felhom.report", Relist: "1m",
	})
	if err == nil {
		err = n.src.Configure(ctx, plugin.Config{JSON: conf})
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	kept := &memory{}
	n.eng, err = engine.New(engine.Options{
		Host: host, Settings: settings(), Observer: n.World.Observer(), Executors: oneExecutor{n.World},
		Journal: j, Ledger: n.led, Cache: kept, Logger: quiet, QueueSize: 1000, Drain: time.Second,
	})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	n.rep = reporter.New(reporter.Options{
		Host: host, Logger: quiet, Heartbeat: time.Minute, Since: n.led.Since, Read: n.read, Head: j.Head, Desired: n.led.Desired, Op: n.led.Op,
		Status: n.eng.Status, Marks: marks{kept},
		Send: func(ctx context.Context, _ string, r plugin.Report) error { return n.src.Report(ctx, r) },
	}, []string{provider})
	return n, nil
}

func settings() engine.Settings {
	return engine.Settings{
		Mode: engine.Enforce, Resync: 5 * time.Minute, Required: map[string]bool{provider: true},
		Limits: map[string]int{
			engine.SlotCalls: 2, engine.SlotReads: 4, engine.SlotStartStop: 4, engine.SlotBackup: 1, engine.SlotOther: 2,
		},
		Breaker: engine.BreakerSettings{GuestFailures: 5, GuestQuiet: 10 * time.Minute, NodeGuests: 20, NodePercent: 100},
	}
}

func (n *Node) read(after uint64, yield func(ledger.Entry) bool) error {
	var bad error
	err := journal.Read(fsys.OS{}, n.dir, after+1, func(e journal.Entry, _ journal.Frame) bool {
		r, err := ledger.Decode(e.Payload)
		if err != nil {
			bad = err
			return false
		}
		return yield(ledger.Entry{Seq: e.Seq, Time: e.Time, Record: r})
	})
	return errors.Join(err, bad)
}

// Run runs the node's agent until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	defer n.src.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.eng.Run(ctx) })
	g.Go(func() error { n.rep.Run(ctx); return nil })
	g.Go(func() error {
		return n.src.Watch(ctx, func(s plugin.Snapshot) error { return n.eng.SetDesired(ctx, provider, s) })
	})
	g.Go(func() error {
		return n.World.Observer().Watch(ctx, func(h plugin.Hint) error { n.eng.Hint(ctx, h); return nil })
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, n.jrn.Close())
}

// Set is a set of guests 101 and up: one core more in each round, and every
// other guest is running in one round and stopped in the next.
func Set(guests, round int) plugin.File {
	var b []byte
	for i := range guests {
		b = fmt.Appendf(b, "[guest.%d]\nkind = \"lxc\"\ncores = %d\nrun = %q\non_manual_change = \"revert\"\n", 101+i, 1+round, run(i, round))
	}
	return plugin.File{Name: "guests.toml", Data: b}
}

func run(i, round int) guest.RunState {
	if (i+round)%2 == 0 {
		return guest.Running
	}
	return guest.Stopped
}

// Fill makes the node's guests as they are before the first round.
func (n *Node) Fill(guests int) {
	for i := range guests {
		n.World.Put(plugintest.Guest{
			ID: guest.ID{Kind: guest.LXC, VMID: guest.VMID(101 + i)}, Run: run(i, 0), Config: guest.Config{"cores": "1"},
		})
	}
}

// Reached says what is not yet as the round wants it, or "".
func (n *Node) Reached(guests, round int) string {
	for i := range guests {
		id := guest.VMID(101 + i)
		g, _ := n.World.Guest(id)
		if g.Run != run(i, round) || g.Config["cores"] != fmt.Sprint(1+round) {
			return fmt.Sprintf("%s: guest %s is %s with %s cores", n.Host, id, g.Run, g.Config["cores"])
		}
		if v, err := n.eng.View(id); err != nil || v.State != engine.StateConverged {
			return fmt.Sprintf("%s: guest %s is %s, %v", n.Host, id, v.State, err)
		}
	}
	return ""
}

// Ended are the ids of the operations that have ended on the node.
func (n *Node) Ended() []string {
	var all []string
	for _, o := range n.led.Ops() {
		if o.State.Ended() && o.State != op.Retried {
			all = append(all, o.ID)
		}
	}
	return all
}
