// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package clock tells whether this host's clock is kept by somebody: a
// signature that is good from one time to another is worth nothing on a host
// whose clock anything may have set.
//
// Guarantee: true only if systemd's timedate1 said so just now. No bus, no
// answer or a strange answer is false, with the reason.
package clock

import (
	"context"
	"fmt"

	"github.com/felhom/felhom-agent/agent/internal/sysbus"
)

// timedate1 answers from the kernel's own estimate of the clock's error
// (adjtimex), so it tells of chrony and ntpd as well as of timesyncd.
var timedate1 = sysbus.Object{
	Service: "org.freedesktop.timedate1", Path: "/org/freedesktop/timedate1", Interface: "org.freedesktop.timedate1",
}

// Synchronised reports whether the clock is synchronised. With an error it is
// always false.
func Synchronised(ctx context.Context) (bool, error) { return SynchronisedAt(ctx, sysbus.System) }

// SynchronisedAt asks the bus at another address, in a test.
func SynchronisedAt(ctx context.Context, address string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, sysbus.Timeout)
	defer cancel()
	bus, err := sysbus.Dial(ctx, address)
	if err != nil {
		return false, fmt.Errorf("whether the clock is synchronised is not known: %w", err)
	}
	defer func() { _ = bus.Close() }()
	var yes bool
	if err := bus.Get(ctx, timedate1, "NTPSynchronized", &yes); err != nil {
		return false, fmt.Errorf("whether the clock is synchronised is not known: %w", err)
	}
	return yes, nil
}
