// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// ObserverCase is an observer and what the checks need to know of it.
type ObserverCase struct {
	Observer plugin.Observer
	// Change, if not nil, changes a guest; the observer must give a hint.
	Change func()
}

// TestObserver runs the contract of an observer as subtests.
func TestObserver(t *testing.T, c ObserverCase) {
	t.Helper()
	runTests(t, ObserverChecks(), c)
}

// CheckObserver runs the contract of an observer.
func CheckObserver(ctx context.Context, c ObserverCase) error {
	return runAll(ctx, ObserverChecks(), c)
}

// ObserverChecks are the rules of an observer's contract.
func ObserverChecks() []Check[ObserverCase] {
	return []Check[ObserverCase]{
		{"describe", "an observer names itself and its version", observerDescribes},
		{"list", "the list names the node, its clock, and each guest once", observerLists},
		{"guest", "a guest in the list is here; its config comes with a digest, or else with the reason why not", observerTellsGuests},
		{"inventory", "an inventory comes when it is asked for, and only then; snapshots oldest first, backups newest first", observerInventory},
		{"missing guest", "a guest that is not there is a presence, not an error", observerMissing},
		{"watch ends", "a watch ends with its context", observerWatchEnds},
		{"watch hints", "a change gives a hint, and a watch ends when its emit fails", observerHints},
	}
}

func observerDescribes(ctx context.Context, c ObserverCase) error {
	info, err := c.Observer.Describe(ctx)
	if err != nil {
		return err
	}
	return checkInfo(info)
}

func observerLists(ctx context.Context, c ObserverCase) error {
	n, err := c.Observer.List(ctx)
	if err != nil {
		return err
	}
	if n.Node == "" || n.Time.IsZero() {
		return fmt.Errorf("node %q, time %v", n.Node, n.Time)
	}
	seen := map[guest.VMID]bool{}
	for _, g := range n.Guests {
		if !g.ID.Kind.Valid() || seen[g.ID.VMID] {
			return fmt.Errorf("%s is in the list twice, or of no known kind", g.ID)
		}
		seen[g.ID.VMID] = true
	}
	return nil
}

func observerTellsGuests(ctx context.Context, c ObserverCase) error {
	n, err := c.Observer.List(ctx)
	if err != nil {
		return err
	}
	if len(n.Guests) == 0 {
		return fmt.Errorf("%w: the node has no guests", ErrSkip)
	}
	for _, g := range n.Guests {
		o, err := c.Observer.Guest(ctx, plugin.GuestQuery{VMID: g.ID.VMID})
		if err != nil {
			return fmt.Errorf("%s: %w", g.ID, err)
		}
		if o.Presence != plugin.Here || o.State.ID != g.ID {
			return fmt.Errorf("%s is in the list; asked for alone it is %q, %s", g.ID, o.Presence, o.State.ID)
		}
		if (o.Config == nil) != (o.ConfigError != "") || (o.Config != nil) != (o.Digest != "") {
			return fmt.Errorf("%s: config known: %v, digest %q, reason %q", g.ID, o.Config != nil, o.Digest, o.ConfigError)
		}
	}
	return nil
}

func observerInventory(ctx context.Context, c ObserverCase) error {
	n, err := c.Observer.List(ctx)
	if err != nil {
		return err
	}
	for _, g := range n.Guests {
		for _, asked := range []bool{false, true} {
			o, err := c.Observer.Guest(ctx, plugin.GuestQuery{VMID: g.ID.VMID, Inventory: asked})
			if err != nil {
				return fmt.Errorf("%s: %w", g.ID, err)
			}
			if asked != (o.Inventory != nil) {
				return fmt.Errorf("%s: inventory asked for: %v, told: %v", g.ID, asked, o.Inventory != nil)
			}
			if asked && !ordered(o.Inventory) {
				return fmt.Errorf("%s: the inventory is out of order: %+v", g.ID, *o.Inventory)
			}
		}
	}
	return nil
}

func ordered(v *plugin.Inventory) bool {
	return slices.IsSortedFunc(v.Snapshots, func(a, b plugin.SnapshotInfo) int { return a.Time.Compare(b.Time) }) &&
		slices.IsSortedFunc(v.Backups, func(a, b plugin.BackupInfo) int { return b.Time.Compare(a.Time) })
}

func observerMissing(ctx context.Context, c ObserverCase) error {
	o, err := c.Observer.Guest(ctx, plugin.GuestQuery{VMID: missingVMID})
	if err != nil {
		return err
	}
	if o.Presence == plugin.Here || o.Config != nil {
		return fmt.Errorf("presence %q, config known: %v", o.Presence, o.Config != nil)
	}
	return nil
}

func observerWatchEnds(ctx context.Context, c ObserverCase) error {
	return within(ctx, Patience, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if err := c.Observer.Watch(ctx, func(plugin.Hint) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// observerHints makes changes until one gives a hint: what happened before
// the watch was established need not.
func observerHints(ctx context.Context, c ObserverCase) error {
	if c.Change == nil {
		return fmt.Errorf("%w: the test has no way to change a guest", ErrSkip)
	}
	hint := errors.New("a hint")
	err := within(ctx, Patience, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		changed := repeat(ctx, c.Change)
		err := c.Observer.Watch(ctx, func(plugin.Hint) error { return hint })
		cancel()
		<-changed
		return err
	})
	if !errors.Is(err, hint) {
		return fmt.Errorf("no hint came: %w", err)
	}
	return nil
}
