// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// kept is a sink that keeps what it gets, or refuses it.
type kept struct {
	events []hook.Event
	err    error
}

func (k *kept) Events(_ context.Context, events []hook.Event) error {
	if k.err == nil {
		k.events = append(k.events, events...)
	}
	return k.err
}

func TestGateVetoesStartsThatAreTakenIn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		phase  guest.Phase
		from   string
		broken bool
		want   error
		asked  bool
	}{
		{name: "a start", phase: guest.PreStart, want: hook.ErrVeto, asked: true},
		{name: "an incoming migration", phase: guest.PreStart, from: "pve2"},
		{name: "it has started", phase: guest.PostStart},
		{name: "a stop", phase: guest.PreStop},
		{name: "a start that could not be journalled", phase: guest.PreStart, broken: true, want: hook.ErrNotAcknowledged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink, asked := &kept{}, false
			if tc.broken {
				sink.err = errors.New("the disk is full")
			}
			srv, err := New(Options{Sink: sink, PeerUIDs: []int{os.Getuid()}, Gate: func(hook.Event) string {
				asked = true
				if len(sink.events) != 1 {
					t.Error("asked before the event is taken in")
				}
				return "101.toml wants it stopped"
			}})
			if err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(t.TempDir(), "s")
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- srv.Serve(ctx, ln) }()
			got := hook.Post(socket, hook.New(101, tc.phase, tc.from), time.Minute)
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if !errors.Is(got, tc.want) || asked != tc.asked {
				t.Errorf("got %v (asked: %v), want %v (%v)", got, asked, tc.want, tc.asked)
			}
		})
	}
}
