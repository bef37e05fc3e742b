// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package clock_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/clock"
	"github.com/felhom/felhom-agent/agent/internal/sysbus"
	"github.com/felhom/felhom-agent/agent/internal/sysbus/bustest"
)

const timedate = "org.freedesktop.timedate1"

func TestSynchronised(t *testing.T) {
	for _, tc := range []struct {
		name   string
		value  any
		want   bool
		failed bool
	}{
		{name: "synchronised", value: true, want: true},
		{name: "not synchronised", value: false},
		{name: "timedated fails", value: errors.New("no such unit"), failed: true},
		{name: "a yes that is not a boolean", value: "yes", failed: true},
		{name: "a one that is not a boolean", value: uint32(1), failed: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bus := bustest.New(t)
			bus.Set("/org/freedesktop/timedate1", timedate, "NTPSynchronized", tc.value)
			got, err := clock.SynchronisedAt(t.Context(), bus.Address)
			if got != tc.want || (err != nil) != tc.failed {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestNoAnswerIsNo(t *testing.T) {
	t.Run("no timedate1 on the bus", func(t *testing.T) {
		if got, err := clock.SynchronisedAt(t.Context(), bustest.New(t).Address); got || err == nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("no bus", func(t *testing.T) {
		got, err := clock.SynchronisedAt(t.Context(), "unix:path="+filepath.Join(t.TempDir(), "none"))
		if got || !errors.Is(err, sysbus.ErrNoBus) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("a bus that hangs", func(t *testing.T) {
		bus := bustest.New(t)
		bus.Set("/org/freedesktop/timedate1", timedate, "NTPSynchronized", true)
		bus.Mute(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if got, err := clock.SynchronisedAt(ctx, bus.Address); got || err == nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// The environment decides which bus a D-Bus library uses by default.
func TestTheEnvironmentCannotNameTheBus(t *testing.T) {
	bus := bustest.New(t)
	bus.Set("/org/freedesktop/timedate1", timedate, "NTPSynchronized", true)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	_, _ = clock.Synchronised(t.Context()) // whatever this machine's own bus says
	if n := bus.Seen(); n != 0 {
		t.Errorf("the bus that the environment names was asked %d times", n)
	}
}
