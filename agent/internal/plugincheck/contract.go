// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// slowStart is from where on a plugin is refused by the agent.
const slowStart = 10 * time.Second

// checkStart starts the plugin as the host does, three times, and learns what
// it is.
func checkStart(ctx context.Context, b *bench) (string, error) {
	var took []time.Duration
	for range 3 {
		begin := time.Now()
		p, err := b.launch(ctx)
		if err != nil {
			return "", err
		}
		took = append(took, time.Since(begin))
		b.kinds, b.info = p.Kinds(), p.Info()
		if err := p.Stop(true); err != nil {
			return "", err
		}
	}
	slices.Sort(took)
	if took[2] > b.patient(slowStart) {
		return "", fmt.Errorf("it took %v; the agent waits %v", took[2], slowStart)
	}
	b.chooseAction()
	return fmt.Sprintf("%v, the slowest of three %v", took[1].Round(time.Millisecond), took[2].Round(time.Millisecond)), nil
}

// chooseAction takes a vendor's kind if none was named.
func (b *bench) chooseAction() {
	if b.o.Action.Kind != "" {
		return
	}
	for _, k := range b.info.Actions {
		if strings.Contains(string(k), ".") {
			b.o.Action.Kind = k
			return
		}
	}
}

// contract are the checks of package plugintest for the kinds it serves, on
// one process.
func (b *bench) contract() []check {
	var all []check
	if slices.Contains(b.kinds, plugin.KindExecutor) {
		for _, c := range plugintest.ExecutorChecks() {
			all = append(all, of("executor", c, b.executorCase))
		}
	}
	if slices.Contains(b.kinds, plugin.KindObserver) {
		for _, c := range plugintest.ObserverChecks() {
			all = append(all, of("observer", c, b.observerCase))
		}
	}
	if slices.Contains(b.kinds, plugin.KindProvider) {
		for _, c := range plugintest.ProviderChecks() {
			all = append(all, of("provider", c, b.providerCase))
		}
	}
	return all
}

// of makes a check of one of package plugintest.
func of[C any](kind string, c plugintest.Check[C], with func(*plugin.Client) (C, error)) check {
	return check{kind + " " + c.Name, c.Rule, func(ctx context.Context, b *bench) (string, error) {
		p, err := b.process(ctx)
		if err != nil {
			return "", err
		}
		v, err := with(p.Client())
		if err != nil {
			return "", err
		}
		if err := c.Run(ctx, v); err != nil {
			return "", err
		}
		return "", stillAlive(ctx, p)
	}}
}

func (b *bench) executorCase(c *plugin.Client) (plugintest.ExecutorCase, error) {
	return plugintest.ExecutorCase{Executor: c.Executor(), Action: b.action, Effects: b.effects()}, b.canApply()
}

func (b *bench) observerCase(c *plugin.Client) (plugintest.ObserverCase, error) {
	return plugintest.ObserverCase{Observer: c.Observer(), Change: b.change()}, nil
}

func (b *bench) providerCase(c *plugin.Client) (plugintest.ProviderCase, error) {
	return plugintest.ProviderCase{Provider: c.Provider(), Change: b.change()}, nil
}
