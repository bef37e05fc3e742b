// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/hook"
)

// Spool hands over what helpers left in a spool directory.
type Spool struct {
	// Dir is the directory. It may be absent and come later.
	Dir  string
	Sink Sink
	// Resync is called when events are known to be lost: n of them could be
	// neither posted nor spooled, or were not readable. They are forgotten once
	// it returns nil. nil forgets them at once.
	Resync func(ctx context.Context, n int64) error
	Logger *slog.Logger
}

// The pace of Run.
const (
	// rescan is how often the spool is read without a sign of anything new, for
	// half-written events that grow old.
	rescan = 30 * time.Second
	// poll is the same where the directory is not watched: there is none yet, or
	// the kernel refuses.
	poll = 2 * time.Second
	// The delay after a failure doubles from the first to the last.
	firstRetry, lastRetry = 500 * time.Millisecond, 30 * time.Second
)

// lag is how long a new event is left to the socket, over which the helper tells
// of it.
const lag = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// usualAge is what an event in the spool has when the agent is there: every
// helper leaves one, and tells of it.
const usualAge = 2 * time.Second

// Run ingests the spool, now and whenever something new is in it, until ctx
// ends. Failures are logged and tried again.
func (s *Spool) Run(ctx context.Context) {
	w := watch(ctx, s.Dir)
	defer w.stop()
	retry := firstRetry
	for {
		wait := rescan
		if err := w.arm(); err != nil {
			s.logger().Debug("hook spool is not watched, only read now and then", "dir", s.Dir, "err", err)
			wait = poll
		}
		switch err := s.Ingest(ctx); {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			retry = firstRetry
		case ctx.Err() != nil:
			return
		default:
			s.logger().Error("hook spool: not all taken in, trying again", "dir", s.Dir, "in", retry, "err", err)
			wait, retry = retry, min(2*retry, lastRetry)
		}
		if !w.wait(ctx, wait) || !pause(ctx, lag) {
			return
		}
	}
}

// Ingest hands over what is in the spool now, in order of time and in batches.
// An event is removed only after the sink has it; the first batch that the sink
// does not take ends the pass, as those after it are younger. What is not an
// event is moved aside and counts as lost.
//
// The error is an fs.ErrNotExist if there is no directory.
func (s *Spool) Ingest(ctx context.Context) error {
	entries, err := hook.ReadSpool(s.Dir)
	if err != nil {
		return err
	}
	var unreadable int64
	var errs []error
	good := entries[:0]
	for _, e := range entries {
		if e.Err == nil {
			good = append(good, e)
		} else if err := s.setAside(e); err != nil {
			errs = append(errs, err) // the events behind it are good
		} else {
			unreadable++
		}
	}
	for batch := range slices.Chunk(good, maxBatch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.handOver(ctx, batch); err != nil {
			errs = append(errs, err)
			break
		}
	}
	return errors.Join(append(errs, s.lost(ctx, unreadable))...)
}

func (s *Spool) handOver(ctx context.Context, batch []hook.Entry) error {
	events := make([]hook.Event, len(batch))
	for i, e := range batch {
		events[i] = e.Event
	}
	if err := s.Sink.Events(ctx, events); err != nil {
		return fmt.Errorf("hook spool: event %s and %d more: %w", events[0].ID, len(events)-1, err)
	}
	var errs []error
	for _, e := range batch {
		if err := os.Remove(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("hook spool: event %s is taken in and stays: %w", e.Event.ID, err))
		}
		s.logTaken(ctx, e.Event)
	}
	return errors.Join(errs...)
}

func (s *Spool) logTaken(ctx context.Context, e hook.Event) {
	age, level := time.Since(time.Unix(0, e.Time)), slog.LevelInfo
	if age < usualAge {
		level = slog.LevelDebug
	}
	s.logger().Log(ctx, level, "hook event from the spool", "guest", e.VMID, "phase", e.Phase, "age", age.Round(time.Millisecond))
}

func (s *Spool) setAside(e hook.Entry) error {
	s.logger().Warn("hook spool: not an event, moved aside; a resync is due", "file", e.Path, "err", e.Err)
	return hook.SetAside(s.Dir, e)
}

// lost asks for the resync that unreadable and counted events make due.
func (s *Spool) lost(ctx context.Context, unreadable int64) error {
	counted, err := hook.Lost(s.Dir)
	if err != nil {
		return err
	}
	n := counted + unreadable
	if n == 0 {
		return nil
	}
	if counted > 0 {
		s.logger().Warn("hook events were lost; a resync is due", "events", counted)
	}
	if s.Resync != nil {
		if err := s.Resync(ctx, n); err != nil {
			return fmt.Errorf("hook spool: resync after %d lost events: %w", n, err)
		}
	}
	if counted == 0 {
		return nil
	}
	return hook.ForgetLost(s.Dir, counted)
}

func (s *Spool) logger() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}
