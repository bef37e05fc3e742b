// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Patience is how long a check waits for what must happen.
const Patience = 10 * time.Second

// Check is one rule of the contract of a kind of plugin. C is the case it is
// run on.
type Check[C any] struct {
	Name string
	// Rule is the rule in words.
	Rule string
	// Run returns nil when the rule holds, ErrSkip (wrapped, with the reason)
	// when the case does not allow to tell, and else what was wrong.
	Run func(ctx context.Context, c C) error
}

// ErrSkip is returned by a check that cannot tell.
var ErrSkip = errors.New("cannot be checked")

// runTests runs each check as a subtest.
func runTests[C any](t *testing.T, checks []Check[C], c C) {
	t.Helper()
	for _, check := range checks {
		t.Run(check.Name, func(t *testing.T) {
			err := runOne(t.Context(), check, c)
			if errors.Is(err, ErrSkip) {
				t.Skip(err)
			}
			if err != nil {
				t.Errorf("%v\nthe rule: %s", err, check.Rule)
			}
		})
	}
}

// runAll runs the checks and joins what was wrong.
func runAll[C any](ctx context.Context, checks []Check[C], c C) error {
	var all []error
	for _, check := range checks {
		if err := runOne(ctx, check, c); err != nil && !errors.Is(err, ErrSkip) {
			all = append(all, fmt.Errorf("%s: %w", check.Name, err))
		}
	}
	return errors.Join(all...)
}

func runOne[C any](ctx context.Context, check Check[C], c C) error {
	ctx, cancel := context.WithTimeout(ctx, 3*Patience)
	defer cancel()
	return check.Run(ctx, c)
}

// within runs f with a context that ends after d and returns f's error, or
// one that says f did not return although its context had ended.
func within(ctx context.Context, d time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }() // waited for below, unless it breaks the contract
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(Patience)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("still running %v after its context ended", Patience)
	}
}

// checkInfo is what every Describe must satisfy.
func checkInfo(i plugin.Info) error {
	if i.Name == "" {
		return errors.New("Describe gave no name")
	}
	if i.Version == "" {
		return errors.New("Describe gave no version")
	}
	return nil
}
