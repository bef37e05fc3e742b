// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package power tells whether this host is going down, or has come up and is
// still starting its guests. In both PVE starts and stops guests in an order
// of its own, and nobody else may.
//
// It goes by systemd: login1's PrepareForShutdown, the manager's state
// "stopping", and pve-guests.service, which starts the guests at boot and
// stops them at shutdown. Guarantees: a shutdown counts from login1's signal
// on, which comes before the first stop. Without D-Bus it says so, and what is
// left are PVE's tasks; then a boot counts until a startall has been seen to
// end, at most [Settle] long. A bus that goes away while the host goes down
// does not undo that.
package power

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/agent/internal/sysbus"
)

const (
	// Settle is how long after a boot guests are left alone at most when
	// systemd cannot be asked and no startall is seen to end.
	Settle = 15 * time.Minute
	// poll is how often systemd's state is read beside login1's signal: a
	// shutdown that does not go through login1 has none.
	poll = time.Second
	// redial is how long a bus that is away is left alone.
	redial = 5 * time.Second
)

// GuestsUnit is PVE's unit that starts the guests at boot.
const GuestsUnit = "pve-guests.service"

// State is how the host stands.
type State struct {
	// Frozen says why no guest may be started or stopped; "" if nothing is
	// against it.
	Frozen string `json:"frozen,omitempty"`
	// Booted is when the host came up, if it is not known whether the start of
	// the guests after it has ended: a startall that ended since then says so.
	Booted time.Time `json:"booted,omitzero"`
	// Blind says why systemd cannot be asked; "" if it can.
	Blind string `json:"blind,omitempty"`
}

// Watcher follows the host's state.
type Watcher struct {
	address string
	unitDir []string
	uptime  func() time.Duration
	log     *slog.Logger
	changed func(why string)

	mu    sync.Mutex // guards what follows
	state State
}

// New makes a watcher. changed is told of each change, in no lock.
func New(log *slog.Logger, changed func(why string)) *Watcher {
	return newWatcher(sysbus.System, log, changed)
}

func newWatcher(address string, log *slog.Logger, changed func(string)) *Watcher {
	w := &Watcher{
		address: address, log: log, changed: changed, uptime: uptime,
		unitDir: []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"},
	}
	w.state = State{Frozen: "", Blind: "systemd was not asked yet"}
	return w
}

// State is the latest that is known.
func (w *Watcher) State() State {
	w.mu.Lock()
	s := w.state
	w.mu.Unlock()
	if s.Blind != "" {
		s.Booted = w.booting()
	}
	return s
}

// booting is when the host came up, if that is so short ago that it may still
// start its guests; zero otherwise and where nothing starts guests at boot.
func (w *Watcher) booting() time.Time {
	up := w.uptime()
	if up >= Settle || !w.startsGuests() {
		return time.Time{}
	}
	return time.Now().Add(-up)
}

func (w *Watcher) startsGuests() bool {
	for _, dir := range w.unitDir {
		if _, err := os.Stat(filepath.Join(dir, GuestsUnit)); err == nil {
			return true
		}
	}
	return false
}

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Run follows systemd until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.set(w.blind(err))
		w.wait(ctx)
	}
}

// blind is the state without the bus. A host that was going down still does:
// its bus ends before its last guest may have.
func (w *Watcher) blind(err error) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := State{Blind: err.Error()}
	if strings.HasPrefix(w.state.Frozen, goingDown) {
		s.Frozen = w.state.Frozen
	}
	return s
}

// wait leaves the bus alone for a while; the end of the time a boot counts is
// a change as well.
func (w *Watcher) wait(ctx context.Context) {
	before := w.State().Booted
	select {
	case <-ctx.Done():
	case <-time.After(redial):
	}
	if !before.IsZero() && w.State().Booted.IsZero() {
		w.changed("the host has been up for " + Settle.String())
	}
}

// follow connects and keeps the state fresh until something fails.
func (w *Watcher) follow(ctx context.Context) error {
	bus, err := sysbus.Dial(ctx, w.address)
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	signals, err := bus.Signals(ctx, login1, "PrepareForShutdown")
	if err != nil {
		return err
	}
	r := reader{bus: bus}
	// Read after the signal was subscribed to: none is missed in between. A
	// host without logind still has systemd's own state.
	_ = bus.Get(ctx, login1, "PreparingForShutdown", &r.preparing)
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		s, err := r.read(ctx)
		if err != nil {
			return err
		}
		w.set(s)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case body, ok := <-signals:
			if !ok {
				return sysbus.ErrNoBus
			}
			if len(body) == 1 {
				r.preparing, _ = body[0].(bool)
			}
		}
	}
}

// set takes a new state, and tells if it is another.
func (w *Watcher) set(s State) {
	w.mu.Lock()
	old := w.state
	w.state = s
	w.mu.Unlock()
	if old == s {
		return
	}
	switch {
	case s.Blind != "" && s.Blind != old.Blind:
		w.log.Warn("whether the host goes down is known from PVE's tasks only: systemd cannot be asked", "err", s.Blind)
	case s.Frozen != "" && s.Frozen != old.Frozen:
		w.log.Info("no guest is started or stopped", "why", s.Frozen)
	case s.Frozen == "" && old.Frozen != "":
		w.log.Info("guests may be started and stopped again")
	}
	if old.Frozen != s.Frozen || old.Blind != s.Blind {
		w.changed("the host's state changed")
	}
}
