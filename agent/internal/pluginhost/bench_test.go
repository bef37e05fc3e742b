// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// benchLauncher makes a launcher whose spawner runs until the benchmark ends,
// and a spec for it.
func benchLauncher(b *testing.B) (*processLauncher, Spec) {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "pb")
	if err != nil {
		b.Fatal(err)
	}
	path, err := self()
	if err != nil {
		b.Fatal(err)
	}
	o := DefaultOptions()
	o.Logger, o.SocketDir, o.TrustedUIDs = slog.New(slog.DiscardHandler), dir, me()
	l := &processLauncher{opts: o, spawn: &spawner{jobs: make(chan func())}}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { l.spawn.run(done) })
	b.Cleanup(func() {
		close(done)
		wg.Wait()
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return l, Spec{Name: "a", Kinds: []plugin.Kind{plugin.KindExecutor}, Path: path, Args: []string{"good"}}
}

// BenchmarkStart is from the check of the file to a configured plugin, and its
// end.
func BenchmarkStart(b *testing.B) {
	l, s := benchLauncher(b)
	for b.Loop() {
		p, err := l.launch(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.stop(true); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApply is one action that does nothing.
func BenchmarkApply(b *testing.B) {
	l, s := benchLauncher(b)
	p, err := l.launch(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	e := p.client.Executor()
	a := plugin.Action{OpID: "op", Attempt: 1, Kind: "test.a", Guest: guest.ID{Kind: guest.LXC, VMID: 101}}
	for b.Loop() {
		if _, err := e.Apply(b.Context(), a, "", noEmit); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.stop(true); err != nil {
		b.Fatal(err)
	}
}
