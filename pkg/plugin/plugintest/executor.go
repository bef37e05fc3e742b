// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// ExecutorCase is an executor and what the checks need to know of it.
type ExecutorCase struct {
	Executor plugin.Executor
	// Action returns an action that the executor can carry out now, with an op
	// id that was not used before and attempt 1. It may be called from several
	// goroutines.
	Action func() plugin.Action
	// Effects, if not nil, counts how often the action with this op id was
	// really carried out.
	Effects func(opID string) int
}

// TestExecutor runs the contract of an executor as subtests.
func TestExecutor(t *testing.T, c ExecutorCase) {
	t.Helper()
	runTests(t, ExecutorChecks(), c)
}

// CheckExecutor runs the contract of an executor.
func CheckExecutor(ctx context.Context, c ExecutorCase) error {
	return runAll(ctx, ExecutorChecks(), c)
}

// ExecutorChecks are the rules of an executor's contract.
func ExecutorChecks() []Check[ExecutorCase] {
	return []Check[ExecutorCase]{
		{"describe", "an executor names itself, its version and its action kinds; a vendor's kinds have a dot", executorDescribes},
		{"apply", "a good action ends as done; a handle is emitted at most once and before the end", executorApplies},
		{"once per op", "the same op id and attempt is never carried out twice", executorOnce},
		{"once per op at once", "two calls at the same time with one op id and attempt carry it out once", executorOnceAtOnce},
		{"resume", "with a handle nothing is sent: the end of what it stands for is told", executorResumes},
		{"probe done", "a probe of an action that was carried out never says not-sent", executorProbesDone},
		{"probe unsent", "a probe of an action that never was sent does not say that it happened, and does not do it", executorProbesUnsent},
		{"unsupported", "an action kind that is not served is ErrUnsupported", executorUnsupported},
		{"foreign params", "a parameter or config key that the kind does not have is ErrInvalid, and nothing is done", executorForeignParams},
		{"cancelled", "a call whose context has ended returns", executorCancelled},
		{"emit fails", "a call whose emit fails returns, and the action is not carried out twice", executorEmitFails},
		{"parallel", "actions with different op ids may run at the same time", executorParallel},
	}
}

// applied is what one Apply did.
type applied struct {
	out     plugin.Outcome
	handles []string
}

func (c ExecutorCase) apply(ctx context.Context, a plugin.Action, handle string) (applied, error) {
	var got applied
	err := within(ctx, Patience, func(ctx context.Context) (err error) {
		got.out, err = c.Executor.Apply(ctx, a, handle, func(p plugin.Progress) error {
			if p.Handle != "" {
				got.handles = append(got.handles, p.Handle)
			}
			return nil
		})
		return err
	})
	return got, err
}

// effects fails unless the action was carried out want times.
func (c ExecutorCase) effects(opID string, want int) error {
	if c.Effects == nil {
		return nil
	}
	if got := c.Effects(opID); got != want {
		return fmt.Errorf("the action was carried out %d times, want %d", got, want)
	}
	return nil
}

func executorDescribes(ctx context.Context, c ExecutorCase) error {
	info, err := c.Executor.Describe(ctx)
	if err != nil {
		return err
	}
	if err := checkInfo(info); err != nil {
		return err
	}
	core := plugin.CoreActions()
	for _, k := range info.Actions {
		if !slices.Contains(core, k) && !strings.Contains(string(k), ".") {
			return fmt.Errorf("action kind %q is not one of the core's and has no vendor's prefix", k)
		}
	}
	if a := c.Action(); !slices.Contains(info.Actions, a.Kind) {
		return fmt.Errorf("Describe does not list %q", a.Kind)
	}
	return nil
}

func executorApplies(ctx context.Context, c ExecutorCase) error {
	a := c.Action()
	got, err := c.apply(ctx, a, "")
	if err != nil {
		return err
	}
	if got.out.Status != plugin.Done {
		return fmt.Errorf("ended as %s: %s", got.out.Status, got.out.Message)
	}
	if len(got.handles) > 1 {
		return fmt.Errorf("emitted %d handles", len(got.handles))
	}
	return c.effects(a.OpID, 1)
}

func executorOnce(ctx context.Context, c ExecutorCase) error {
	if c.Effects == nil {
		return fmt.Errorf("%w: effects are not counted", ErrSkip)
	}
	a := c.Action()
	if _, err := c.apply(ctx, a, ""); err != nil {
		return err
	}
	if _, err := c.apply(ctx, a, ""); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the second call: %w", err)
	}
	return c.effects(a.OpID, 1)
}

func executorOnceAtOnce(ctx context.Context, c ExecutorCase) error {
	if c.Effects == nil {
		return fmt.Errorf("%w: effects are not counted", ErrSkip)
	}
	a := c.Action()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _ = c.apply(ctx, a, "") }) // either may be an error
	}
	wg.Wait()
	return c.effects(a.OpID, 1)
}

func executorResumes(ctx context.Context, c ExecutorCase) error {
	a := c.Action()
	first, err := c.apply(ctx, a, "")
	if err != nil {
		return err
	}
	if len(first.handles) == 0 {
		return fmt.Errorf("%w: the action has no handle", ErrSkip)
	}
	again, err := c.apply(ctx, a, first.handles[0])
	if err != nil {
		return err
	}
	if again.out.Status != first.out.Status {
		return fmt.Errorf("ended as %s, and as %s when resumed", first.out.Status, again.out.Status)
	}
	return c.effects(a.OpID, 1)
}

func executorProbesDone(ctx context.Context, c ExecutorCase) error {
	a, before := c.Action(), time.Now()
	got, err := c.apply(ctx, a, "")
	if err != nil {
		return err
	}
	for _, handle := range append(got.handles, "") {
		v, err := c.Executor.Probe(ctx, plugin.ProbeQuery{Action: a, Handle: handle, Sent: before, Until: time.Now()})
		if err != nil {
			return err
		}
		if v.Finding == plugin.NotSent {
			return fmt.Errorf("with handle %q: not-sent (%s)", handle, v.Message)
		}
	}
	return c.effects(a.OpID, 1)
}

func executorProbesUnsent(ctx context.Context, c ExecutorCase) error {
	a, now := c.Action(), time.Now()
	v, err := c.Executor.Probe(ctx, plugin.ProbeQuery{Action: a, Sent: now, Until: now})
	if err != nil {
		return err
	}
	if v.Finding == plugin.Found || (v.Finding == plugin.Settled && v.Outcome.Status == plugin.Done) {
		return fmt.Errorf("%s %s (%s)", v.Finding, v.Outcome.Status, v.Message)
	}
	return c.effects(a.OpID, 0)
}

func executorUnsupported(ctx context.Context, c ExecutorCase) error {
	a := c.Action()
	a.Kind = "plugintest.no-such-kind"
	switch _, err := c.apply(ctx, a, ""); {
	case err == nil:
		return errors.New("got no error")
	case !errors.Is(err, plugin.ErrUnsupported):
		return fmt.Errorf("got error: %w", err)
	}
	return c.effects(a.OpID, 0)
}

// executorForeignParams: what a newer host asks for and an executor does not
// know of must not be done halfway.
func executorForeignParams(ctx context.Context, c ExecutorCase) error {
	a := c.Action()
	a.Params = maps.Clone(a.Params)
	if a.Params == nil {
		a.Params = map[string]string{}
	}
	a.Params["plugintest-no-such-param"] = "1"
	switch _, err := c.apply(ctx, a, ""); {
	case err == nil:
		return errors.New("got no error")
	case !errors.Is(err, plugin.ErrInvalid):
		return fmt.Errorf("got error: %w", err)
	}
	return c.effects(a.OpID, 0)
}

func executorCancelled(ctx context.Context, c ExecutorCase) error {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	a := c.Action()
	err := within(ctx, Patience, func(context.Context) error {
		_, err := c.Executor.Apply(ended, a, "", func(plugin.Progress) error { return nil })
		if err == nil || errors.Is(err, context.Canceled) {
			return nil
		}
		return fmt.Errorf("the error is neither nil nor context.Canceled: %w", err)
	})
	return err
}

func executorEmitFails(ctx context.Context, c ExecutorCase) error {
	a := c.Action()
	failure := errors.New("the journal is full")
	emitted := false
	err := within(ctx, Patience, func(ctx context.Context) error {
		_, _ = c.Executor.Apply(ctx, a, "", func(plugin.Progress) error { emitted = true; return failure })
		return ctx.Err() // whatever it returned, it must not have waited for the end of ctx
	})
	if err != nil {
		return err
	}
	if !emitted {
		return fmt.Errorf("%w: nothing was emitted", ErrSkip)
	}
	if c.Effects != nil && c.Effects(a.OpID) > 1 {
		return errors.New("carried out more than once")
	}
	return nil
}

func executorParallel(ctx context.Context, c ExecutorCase) error {
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			a := c.Action()
			got, err := c.apply(ctx, a, "")
			if err == nil && got.out.Status != plugin.Done {
				err = fmt.Errorf("ended as %s: %s", got.out.Status, got.out.Message)
			}
			errs[i] = errors.Join(err, c.effects(a.OpID, 1))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// missingVMID is one that no sensible test node has.
const missingVMID guest.VMID = 999_999_998
