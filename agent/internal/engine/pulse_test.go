// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// deaf is an observer whose List does not return and ignores its context.
type deaf struct {
	observer
	until chan struct{}
}

func (d deaf) List(context.Context) (plugin.NodeState, error) {
	<-d.until
	return plugin.NodeState{}, plugin.ErrUnavailable
}

func TestPulseOfAWorkingEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(Enforce)
		defer r.stop()
		for range 24 {
			after(time.Hour)
			r.must(r.eng.Pulse(t.Context()))
		}
	})
}

func TestPulseMissesAHungResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start(Enforce)
		defer r.stop()
		after(time.Second)
		d := deaf{r.world.Observer(), make(chan struct{})}
		r.eng.opt.Observer = d
		r.eng.Resync("test")
		after(time.Minute)
		if err := r.eng.Pulse(t.Context()); err != nil {
			t.Errorf("a slow node is no hung engine: %v", err)
		}
		after(resyncStuck)
		if err := r.eng.Pulse(t.Context()); err == nil {
			t.Error("a resync that never ends goes unnoticed")
		}
		close(d.until)
	})
}
