// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package sysbus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/sysbus"
	"github.com/felhom/felhom-agent/agent/internal/sysbus/bustest"
)

var manager = sysbus.Object{
	Service: "org.freedesktop.login1", Path: "/org/freedesktop/login1", Interface: "org.freedesktop.login1.Manager",
}

func dial(t *testing.T, bus *bustest.Bus) *sysbus.Conn {
	t.Helper()
	c, err := sysbus.Dial(t.Context(), bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestGetAndCall(t *testing.T) {
	bus := bustest.New(t)
	bus.Set(manager.Path, manager.Interface, "PreparingForShutdown", true)
	bus.Answer(manager.Path, manager.Interface, "CanReboot", "yes")
	c := dial(t, bus)
	var going bool
	if err := c.Get(t.Context(), manager, "PreparingForShutdown", &going); err != nil || !going {
		t.Errorf("PreparingForShutdown: %v, %v", going, err)
	}
	var can string
	if err := c.Call(t.Context(), manager, "CanReboot", nil, &can); err != nil || can != "yes" {
		t.Errorf("CanReboot: %q, %v", can, err)
	}
}

func TestSignalsArriveInOrderUntilTheConnectionEnds(t *testing.T) {
	bus := bustest.New(t)
	c := dial(t, bus)
	got, err := c.Signals(t.Context(), manager, "PrepareForShutdown")
	if err != nil {
		t.Fatal(err)
	}
	bus.Signal(":1.7", manager.Path, manager.Interface, "SessionNew", "12")
	bus.Signal(":1.7", manager.Path, manager.Interface, "PrepareForShutdown", true)
	bus.Signal(":1.7", manager.Path, manager.Interface, "PrepareForShutdown", false)
	for i, want := range []bool{true, false} {
		select {
		case body := <-got:
			if len(body) != 1 || body[0] != want {
				t.Errorf("signal %d: %v", i, body)
			}
		case <-time.After(time.Minute):
			t.Fatalf("signal %d did not arrive", i)
		}
	}
	bus.HangUp()
	select {
	case _, open := <-got:
		if open {
			t.Error("a signal from nowhere")
		}
	case <-time.After(time.Minute):
		t.Fatal("the channel stays open after the connection has ended")
	}
}

func TestHangingBusEndsWithTheContext(t *testing.T) {
	bus := bustest.New(t)
	bus.Mute(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sysbus.Dial(ctx, bus.Address); !errors.Is(err, sysbus.ErrNoBus) {
		t.Errorf("got %v", err)
	}
}
