// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/nats/natstest"
)

var (
	nodes  = flag.Int("nodes", 10, "how many nodes")
	guests = flag.Int("guests", 4, "how many guests on each")
)

// patience is for all nodes together; the machine may be busy.
const patience = 5 * time.Minute

// fleet is a server and its nodes.
type fleet struct {
	t   *testing.T
	srv *natstest.Server
	js  jetstream.JetStream
	kv  jetstream.KeyValue
	all []*Node
}

func host(i int) string { return fmt.Sprintf("node%03d", i) }

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, srv: natstest.Start(t, "")}
	f.js = f.srv.JetStream()
	f.kv = f.srv.Fleet(f.js)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i := range *nodes {
		n, err := NewNode(t.Context(), host(i), f.srv.URL(), dir)
		if err != nil {
			t.Fatal(err)
		}
		n.Fill(*guests)
		f.all = append(f.all, n)
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Errorf("%s: %v", n.Host, err)
			}
		})
	}
	return f
}

// publish puts the round's set for these nodes.
func (f *fleet) publish(nodes []*Node, round int) {
	f.t.Helper()
	for _, n := range nodes {
		f.retry(func() error { return natstest.Put(f.t.Context(), f.kv, n.Host+".desired", Set(*guests, round)) })
	}
}

func (f *fleet) retry(do func() error) {
	f.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // another process: no event
		if err = do(); err == nil {
			return
		}
	}
	f.t.Fatal(err)
}

// reached waits until every node is as the round wants it, and returns how long
// each took since begun, in order.
func (f *fleet) reached(round int, begun time.Time) []time.Duration {
	f.t.Helper()
	var took []time.Duration
	left := slices.Clone(f.all)
	for end := time.Now().Add(patience); len(left) > 0; time.Sleep(5 * time.Millisecond) { // 200 nodes: no one event
		left = slices.DeleteFunc(left, func(n *Node) bool {
			if n.Reached(*guests, round) != "" {
				return false
			}
			took = append(took, time.Since(begun))
			return true
		})
		if time.Now().After(end) {
			f.t.Fatalf("%d of %d nodes did not reach round %d: %s", len(left), len(f.all), round, left[0].Reached(*guests, round))
		}
	}
	return took
}

func (f *fleet) figure(what string, took []time.Duration) {
	p := func(q int) time.Duration { return took[(len(took)-1)*q/100].Round(time.Millisecond) }
	f.t.Logf("fleet: %s: %d nodes, first %s, p50 %s, p95 %s, last %s", what, len(took), p(0), p(50), p(95), p(100))
}

// told are the ids of the ops that the stream has an outcome of.
func (f *fleet) told() map[string]bool {
	f.t.Helper()
	told := map[string]bool{}
	f.retry(func() error {
		c, err := f.js.OrderedConsumer(f.t.Context(), "felhom-reports", jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		for {
			batch, err := c.Fetch(100, jetstream.FetchMaxWait(500*time.Millisecond))
			if err != nil {
				return err
			}
			n := 0
			for m := range batch.Messages() {
				n++
				var b plugin.ReportBody
				if err := json.Unmarshal(m.Data(), &b); err != nil {
					return err
				}
				for _, o := range b.Outcomes {
					told[o.Op] = true
				}
			}
			if n == 0 {
				return batch.Error()
			}
		}
	})
	return told
}

// A set that is published is reached on all nodes; a server that is killed
// while the next one is being published loses neither a set nor an outcome.
func TestFleet(t *testing.T) {
	before := self(t)
	f := newFleet(t)
	begun := time.Now()
	f.publish(f.all, 1)
	t.Logf("fleet: %d sets of %d guests published in %s", len(f.all), *guests, time.Since(begun).Round(time.Millisecond))
	f.figure("a set is published, its state is reached", f.reached(1, begun))
	f.memory(before)

	half := len(f.all) / 2
	begun = time.Now()
	f.publish(f.all[:half], 2)
	f.srv.Down()
	f.srv.Up()
	f.publish(f.all[half:], 2)
	f.figure("nats-server killed in between, reached", f.reached(2, begun))

	want := 0
	var missing []string
	f.retry(func() error {
		told := f.told()
		want, missing = 0, nil
		for _, n := range f.all {
			for _, id := range n.Ended() {
				if want++; !told[id] {
					missing = append(missing, n.Host+" "+id)
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d of %d outcomes are not in the stream, the first of %s", len(missing), want, missing[0])
		}
		return nil
	})
	if want < 2**guests*len(f.all) {
		t.Errorf("only %d operations ended", want)
	}
	t.Logf("fleet: %d outcomes, %d of them not in the stream", want, len(missing))
}

func self(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	rss, err := natstest.RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return rss
}

func (f *fleet) memory(before int64) {
	f.t.Helper()
	srv, err := natstest.RSS(f.srv.PID())
	if err != nil {
		f.t.Fatal(err)
	}
	mine := self(f.t)
	f.t.Logf("fleet: memory: %d lean agents %.1f MB, %.2f MB each; nats-server %.1f MB",
		len(f.all), float64(mine)/1e6, float64(mine-before)/1e6/float64(len(f.all)), float64(srv)/1e6)
}
