// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package sdnotify tells the service manager how the daemon stands: that it is
// ready, reloads or stops, one line of state, and that it is alive.
//
// Alive is what the engine proves, not what a ticker claims: each sign of life
// is sent only after a pulse went through the parts that must not hang. A hung
// engine sends none, and the manager ends and restarts the daemon.
package sdnotify

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Beat is the longest time between two looks at the state.
const Beat = 5 * time.Second

// Notifier sends states. The zero value sends nothing.
type Notifier struct {
	// Send hands one message of sd_notify(3) over; nil sends nothing.
	Send func(state string)
	// Watchdog is within which time the manager wants a sign of life; 0 = it
	// does not.
	Watchdog time.Duration
	Log      *slog.Logger

	mu   sync.Mutex // guards last
	last string     // the status that was sent
}

// Ready says that the daemon serves, for the first time or after a reload.
func (n *Notifier) Ready(status string) { n.state("READY=1", status) }

// Reloading says that the configuration is being read; Ready must follow.
func (n *Notifier) Reloading() {
	var ts unix.Timespec
	// systemd compares it with when it asked for the reload (Type=notify-reload).
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		n.send("RELOADING=1")
		return
	}
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10))
}

// Stopping says that the daemon ends, and within which time: the manager waits
// that long, whatever TimeoutStopSec= says, if that is less.
func (n *Notifier) Stopping(status string, within time.Duration) {
	n.state("STOPPING=1\nEXTEND_TIMEOUT_USEC="+strconv.FormatInt(within.Microseconds(), 10), status)
}

// Status is the line of state, sent if it is another than before.
func (n *Notifier) Status(line string) {
	line = oneLine(line)
	n.mu.Lock()
	same := n.last == line
	n.mu.Unlock()
	if !same {
		n.state("", line)
	}
}

func (n *Notifier) state(what, status string) {
	status = oneLine(status)
	n.mu.Lock()
	n.last = status
	n.mu.Unlock()
	n.send(strings.TrimPrefix(what+"\nSTATUS="+status, "\n"))
}

// oneLine keeps a status from being read as further variables.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

func (n *Notifier) send(state string) {
	if n.Send != nil {
		n.Send(state)
	}
}

// Run feeds the watchdog and keeps the status fresh until ctx ends. After each
// pulse that succeeds it sends a sign of life. A pulse that fails is logged
// and sends none; one that never returns sends none either.
func (n *Notifier) Run(ctx context.Context, pulse func(context.Context) error, status func() string) {
	if n.Send == nil {
		return
	}
	beat := Beat
	if n.Watchdog > 0 {
		beat = min(beat, n.Watchdog/3)
	}
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		n.beat(ctx, pulse, status)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (n *Notifier) beat(ctx context.Context, pulse func(context.Context) error, status func() string) {
	if err := pulse(ctx); err != nil {
		if ctx.Err() == nil && n.Log != nil {
			n.Log.Error("the engine does not prove that it works; without a sign of life the service manager restarts the agent", "err", err)
		}
		return
	}
	if n.Watchdog > 0 {
		n.send("WATCHDOG=1")
	}
	n.Status(status())
}
