// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"

	"github.com/felhom/felhom-agent/agent/internal/sysbus"
)

var (
	login1 = sysbus.Object{
		Service: "org.freedesktop.login1", Path: "/org/freedesktop/login1", Interface: "org.freedesktop.login1.Manager",
	}
	systemd = sysbus.Object{
		Service: "org.freedesktop.systemd1", Path: "/org/freedesktop/systemd1", Interface: "org.freedesktop.systemd1.Manager",
	}
	// guests is the unit's object: systemd escapes its name so.
	guests = sysbus.Object{
		Service: "org.freedesktop.systemd1", Path: "/org/freedesktop/systemd1/unit/pve_2dguests_2eservice",
		Interface: "org.freedesktop.systemd1.Unit",
	}
)

const goingDown = "the host is going down"

// reader reads the state over one connection.
type reader struct {
	bus       *sysbus.Conn
	preparing bool // login1 prepares for shutdown
}

func (r *reader) read(ctx context.Context) (State, error) {
	if r.preparing {
		return State{Frozen: goingDown + " (login1 prepares for shutdown)"}, nil
	}
	var state string
	if err := r.bus.Get(ctx, systemd, "SystemState", &state); err != nil {
		return State{}, err
	}
	if state == "stopping" {
		return State{Frozen: goingDown + " (systemd is stopping)"}, nil
	}
	why, err := r.guests(ctx)
	return State{Frozen: why}, err
}

// job is systemd's property of that name: id and object, 0 for none.
type job struct {
	ID   uint32
	Path string
}

// guests says what PVE's own start or stop of all guests is doing. The unit is
// "activating" until startall has ended, and has a job before that; it is
// "deactivating" during stopall.
func (r *reader) guests(ctx context.Context) (string, error) {
	var load, active string
	if err := r.bus.Get(ctx, guests, "LoadState", &load); err != nil {
		return "", err
	}
	if load != "loaded" {
		return "", nil // no such unit here, or masked: nobody starts guests
	}
	if err := r.bus.Get(ctx, guests, "ActiveState", &active); err != nil {
		return "", err
	}
	switch active {
	case "activating":
		return "the host has come up and starts its guests (" + GuestsUnit + " is at it)", nil
	case "deactivating":
		return goingDown + " and stops its guests (" + GuestsUnit + " is at it)", nil
	case "inactive":
		var j job
		if err := r.bus.Get(ctx, guests, "Job", &j); err != nil {
			return "", err
		}
		if j.ID != 0 {
			return "the host has come up and will start its guests (" + GuestsUnit + " waits)", nil
		}
	}
	return "", nil
}
