// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// ProviderCase is a provider and what the checks need to know of it.
type ProviderCase struct {
	Provider plugin.Provider
	// Change, if not nil, changes the source, differently each time.
	Change func()
}

// TestProvider runs the contract of a provider as subtests.
func TestProvider(t *testing.T, c ProviderCase) {
	t.Helper()
	runTests(t, ProviderChecks(), c)
}

// CheckProvider runs the contract of a provider.
func CheckProvider(ctx context.Context, c ProviderCase) error {
	return runAll(ctx, ProviderChecks(), c)
}

// ProviderChecks are the rules of a provider's contract.
func ProviderChecks() []Check[ProviderCase] {
	return []Check[ProviderCase]{
		{"describe", "a provider names itself and its version", providerDescribes},
		{"at once", "the first snapshot comes without a change; it has a revision and each file once, or says why not", providerAtOnce},
		{"stable", "an unchanged source has an unchanged revision, and equal revisions have equal files", providerStable},
		{"change", "a change gives a snapshot of another revision", providerChanges},
		{"rejected", "a snapshot that the core rejected does not end the watch", providerRejected},
		{"watch ends", "a watch ends with its context", providerWatchEnds},
		{"report", "a report is taken, or answered with ErrUnsupported", providerReports},
	}
}

// errEnough ends a watch in these checks.
var errEnough = errors.New("seen enough")

// snapshots collects n snapshots, or says why it could not. verdict is the
// core's answer to each.
func (c ProviderCase) snapshots(ctx context.Context, n int, verdict error) ([]plugin.Snapshot, error) {
	var got []plugin.Snapshot
	err := within(ctx, Patience, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		err := c.Provider.Watch(ctx, func(s plugin.Snapshot) error {
			if got = append(got, s); len(got) >= n {
				cancel(errEnough)
			}
			return verdict
		})
		if errors.Is(context.Cause(ctx), errEnough) {
			return nil
		}
		return err
	})
	if err == nil && len(got) < n {
		err = errors.New("the watch ended by itself")
	}
	if err != nil {
		return nil, fmt.Errorf("got %d of %d snapshots: %w", len(got), n, err)
	}
	return got, nil
}

func providerDescribes(ctx context.Context, c ProviderCase) error {
	info, err := c.Provider.Describe(ctx)
	if err != nil {
		return err
	}
	return checkInfo(info)
}

func providerAtOnce(ctx context.Context, c ProviderCase) error {
	got, err := c.snapshots(ctx, 1, nil)
	if err != nil {
		return err
	}
	s := got[0]
	if s.Err != "" {
		return fmt.Errorf("the source cannot be read: %s", s.Err)
	}
	if s.Revision == "" {
		return errors.New("the snapshot has no revision")
	}
	seen := map[string]bool{}
	for _, f := range s.Files {
		if f.Name == "" || seen[f.Name] {
			return fmt.Errorf("file %q is there twice, or has no name", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

func providerStable(ctx context.Context, c ProviderCase) error {
	first, err := c.snapshots(ctx, 1, nil)
	if err != nil {
		return err
	}
	second, err := c.snapshots(ctx, 1, nil)
	if err != nil {
		return err
	}
	if first[0].Revision != second[0].Revision {
		return fmt.Errorf("revision %q, then %q", first[0].Revision, second[0].Revision)
	}
	if !sameFiles(first[0].Files, second[0].Files) {
		return errors.New("the files differ under one revision")
	}
	return nil
}

func sameFiles(a, b []plugin.File) bool {
	byName := map[string]plugin.File{}
	for _, f := range a {
		byName[f.Name] = f
	}
	for _, f := range b {
		if !bytes.Equal(byName[f.Name].Data, f.Data) {
			return false
		}
	}
	return len(a) == len(b)
}

func providerChanges(ctx context.Context, c ProviderCase) error { return c.changes(ctx, nil) }

func providerRejected(ctx context.Context, c ProviderCase) error {
	return c.changes(ctx, fmt.Errorf("%w: line 1: no such key", plugin.ErrInvalid))
}

// changes makes changes until a second snapshot comes.
func (c ProviderCase) changes(ctx context.Context, verdict error) error {
	if c.Change == nil {
		return fmt.Errorf("%w: the test has no way to change the source", ErrSkip)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := repeat(ctx, c.Change)
	got, err := c.snapshots(ctx, 2, verdict)
	cancel()
	<-changed
	if err != nil {
		return err
	}
	if got[0].Revision == got[1].Revision {
		return fmt.Errorf("two snapshots of revision %q", got[0].Revision)
	}
	return nil
}

// repeat calls f now and then until ctx ends; the channel is closed after the
// last call.
func repeat(ctx context.Context, f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() { // the caller waits for done
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				f()
			}
		}
	}()
	return done
}

func providerWatchEnds(ctx context.Context, c ProviderCase) error {
	return within(ctx, Patience, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if err := c.Provider.Watch(ctx, func(plugin.Snapshot) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

func providerReports(ctx context.Context, c ProviderCase) error {
	r, ok := c.Provider.(plugin.Reporter)
	if !ok {
		return fmt.Errorf("%w: it is no reporter", ErrSkip)
	}
	err := r.Report(ctx, plugin.Report{Time: time.Now(), JSON: []byte(`{}`)})
	if err != nil && !errors.Is(err, plugin.ErrUnsupported) {
		return err
	}
	return nil
}
