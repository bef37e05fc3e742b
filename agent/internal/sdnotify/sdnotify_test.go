// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package sdnotify

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// manager keeps what it is told.
type manager struct {
	mu  sync.Mutex
	got []string
}

func (m *manager) send(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, s)
}

func (m *manager) count(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, s := range m.got {
		if s == what {
			n++
		}
	}
	return n
}

func start(t *testing.T, n *Notifier, pulse func(context.Context) error, status func() string) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx, pulse, status) }()
	t.Cleanup(func() { stop(); <-done })
}

func TestWatchdogIsFedByProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		var hung atomic.Bool
		n := &Notifier{Send: m.send, Watchdog: 30 * time.Second, Log: slog.New(slog.DiscardHandler)}
		start(t, n, func(context.Context) error {
			if hung.Load() {
				return errors.New("hung")
			}
			return nil
		}, func() string { return "" })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := m.count("WATCHDOG=1"); got < 6 {
			t.Errorf("%d signs of life in a minute, want at least 6 (a third of the watchdog's time apart)", got)
		}
		hung.Store(true)
		before := m.count("WATCHDOG=1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := m.count("WATCHDOG=1") - before; got != 0 {
			t.Errorf("%d signs of life of a hung engine", got)
		}
	})
}

func TestPulseThatNeverReturnsSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		n := &Notifier{Send: m.send, Watchdog: time.Second}
		start(t, n, func(ctx context.Context) error { <-ctx.Done(); return nil }, func() string { return "fine" })
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(m.got) != 0 {
			t.Errorf("sent %q", m.got)
		}
	})
}

func TestNoWatchdogNoSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, line := &manager{}, atomic.Value{}
		line.Store("a")
		start(t, &Notifier{Send: m.send}, func(context.Context) error { return nil }, func() string { return line.Load().(string) })
		time.Sleep(20 * time.Second)
		synctest.Wait()
		line.Store("b\nWATCHDOG=trigger")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if want := []string{"STATUS=a", "STATUS=b WATCHDOG=trigger"}; !slices.Equal(m.got, want) {
			t.Errorf("sent %q, want %q", m.got, want)
		}
	})
}

func TestStates(t *testing.T) {
	m := &manager{}
	n := &Notifier{Send: m.send}
	n.Ready("mode observe")
	n.Status("mode observe") // known already
	n.Reloading()
	n.Ready("mode enforce")
	n.Stopping("ends", 40*time.Second)
	want := []string{
		`READY=1\nSTATUS=mode observe`, `RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+`, `READY=1\nSTATUS=mode enforce`, `STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=ends`,
	}
	if len(m.got) != len(want) {
		t.Fatalf("sent %q", m.got)
	}
	for i, w := range want {
		if !regexp.MustCompile(`^` + w + `$`).MatchString(m.got[i]) {
			t.Errorf("sent %q, want %s", m.got[i], w)
		}
	}
	(&Notifier{}).Ready("nobody listens")
}
