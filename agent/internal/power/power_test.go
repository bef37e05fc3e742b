// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/felhom/felhom-agent/agent/internal/sysbus/bustest"
)

// host is a bus with systemd and logind of a PVE node on it.
type host struct {
	*bustest.Bus
	t *testing.T
}

func newHost(t *testing.T) host {
	h := host{bustest.New(t), t}
	h.Set(login1.Path, login1.Interface, "PreparingForShutdown", false)
	h.system("running")
	h.unit("loaded", "active", 0)
	return h
}

func (h host) system(s string) { h.Set(systemd.Path, systemd.Interface, "SystemState", s) }

func (h host) unit(load, active string, jobID uint32) {
	h.Set(guests.Path, guests.Interface, "LoadState", load)
	h.Set(guests.Path, guests.Interface, "ActiveState", active)
	h.Set(guests.Path, guests.Interface, "Job", struct {
		ID   uint32
		Path dbus.ObjectPath
	}{jobID, "/"})
}

// watch runs a watcher and returns it with a channel that gets something at
// each change.
func watch(t *testing.T, address string) (*Watcher, <-chan string) {
	t.Helper()
	changes := make(chan string, 100)
	w := newWatcher(address, slog.New(slog.DiscardHandler), func(why string) { changes <- why })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return w, changes
}

// until waits for a state.
func until(t *testing.T, w *Watcher, changes <-chan string, what string, ok func(State) bool) {
	t.Helper()
	end := time.After(time.Minute)
	for !ok(w.State()) {
		select {
		case <-changes:
		case <-end:
			t.Fatalf("%s: got %+v", what, w.State())
		}
	}
}

func free(s State) bool { return s.Frozen == "" && s.Blind == "" && s.Booted.IsZero() }

func frozenBy(word string) func(State) bool {
	return func(s State) bool { return strings.Contains(s.Frozen, word) }
}

func TestShutdownCountsFromTheSignalOn(t *testing.T) {
	h := newHost(t)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "up", free)
	h.Signal(":1.7", login1.Path, login1.Interface, "PrepareForShutdown", true)
	until(t, w, changes, "signal", frozenBy("login1"))
	h.Signal(":1.7", login1.Path, login1.Interface, "PrepareForShutdown", false)
	until(t, w, changes, "cancelled", free)
}

func TestShutdownThatHasBegun(t *testing.T) {
	h := newHost(t)
	h.Set(login1.Path, login1.Interface, "PreparingForShutdown", true)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "property", frozenBy("login1"))
}

func TestShutdownWithoutLogind(t *testing.T) {
	h := newHost(t)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "up", free)
	h.system("stopping")
	until(t, w, changes, "stopping", frozenBy("systemd is stopping"))
}

func TestBootUntilTheGuestsHaveStarted(t *testing.T) {
	h := newHost(t)
	h.system("starting")
	h.unit("loaded", "inactive", 17)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "queued", frozenBy("will start"))
	h.unit("loaded", "activating", 17)
	until(t, w, changes, "starting", frozenBy("starts its guests"))
	h.unit("loaded", "active", 0)
	until(t, w, changes, "started", free)
	h.unit("loaded", "deactivating", 18)
	until(t, w, changes, "stopall", frozenBy("stops its guests"))
}

func TestUnitThatStartsNothing(t *testing.T) {
	for _, tc := range []struct{ load, active string }{
		{"not-found", "inactive"}, {"masked", "inactive"}, {"loaded", "failed"}, {"loaded", "inactive"},
	} {
		h := newHost(t)
		h.unit(tc.load, tc.active, 0)
		w, changes := watch(t, h.Address)
		until(t, w, changes, tc.load+" "+tc.active, free)
	}
}

func TestWithoutABusABootCountsForAWhile(t *testing.T) {
	pve := t.TempDir()
	if err := os.WriteFile(filepath.Join(pve, GuestsUnit), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		dir    string
		up     time.Duration
		booted bool
	}{
		{"just booted", pve, time.Minute, true},
		{"long up", pve, Settle, false},
		{"no PVE", t.TempDir(), time.Minute, false},
	} {
		w := newWatcher("unix:path="+filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler), func(string) {})
		w.uptime = func() time.Duration { return tc.up }
		w.unitDir = []string{tc.dir}
		if err := w.follow(t.Context()); err == nil {
			t.Fatal("a bus from nowhere")
		} else {
			w.set(State{Blind: err.Error()})
		}
		if s := w.State(); s.Booted.IsZero() == tc.booted || s.Blind == "" || s.Frozen != "" {
			t.Errorf("%s: got %+v", tc.name, s)
		}
	}
}

func TestBusThatGoesAwayIsNoFreeze(t *testing.T) {
	h := newHost(t)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "up", free)
	h.HangUp()
	until(t, w, changes, "away", func(s State) bool { return s.Blind != "" })
	until(t, w, changes, "back", free)
}

func TestBusThatEndsDuringAShutdownIsNoThaw(t *testing.T) {
	h := newHost(t)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "up", free)
	h.Signal(":1.7", login1.Path, login1.Interface, "PrepareForShutdown", true)
	until(t, w, changes, "signal", frozenBy("login1"))
	h.HangUp()
	var away State
	until(t, w, changes, "away", func(s State) bool { away = s; return s.Blind != "" })
	if away.Frozen == "" {
		t.Errorf("thawed when the bus went away: %+v", away)
	}
	until(t, w, changes, "back, and not going down any more", free)
}

func TestBusThatGoesFirstInAShutdown(t *testing.T) {
	h := newHost(t)
	w, changes := watch(t, h.Address)
	until(t, w, changes, "up", free)
	h.Signal(":1.7", login1.Path, login1.Interface, "PrepareForShutdown", true)
	until(t, w, changes, "signal", frozenBy("login1"))
	h.Stop()
	until(t, w, changes, "no bus", func(s State) bool { return s.Blind != "" })
	if s := w.State(); !frozenBy("login1")(s) {
		t.Errorf("the shutdown is forgotten with the bus: %+v", s)
	}
}
