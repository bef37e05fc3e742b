// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := make(chan struct{})
		q := New(Options[int]{Handle: func(context.Context, int, Item) Result { <-forever; return Result{} }})
		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := q.Pulse(short); !errors.Is(err, errNoTurn) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before Run: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- q.Run(ctx) }()
		q.Look(1, "a lane that hangs is no reason")
		for range 3 {
			synctest.Wait()
			if err := q.Pulse(t.Context()); err != nil {
				t.Errorf("while it runs: %v", err)
			}
		}
		stop()
		close(forever)
		<-done
		short, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := q.Pulse(short); err == nil {
			t.Error("a pulse after Run has ended")
		}
	})
}
