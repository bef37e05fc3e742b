// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"slices"
	"sync"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// FakeProvider is a provider that publishes what a test wants. It is a
// Reporter too.
type FakeProvider struct {
	mu       sync.Mutex // guards what follows
	current  plugin.Snapshot
	changed  chan struct{} // closed and replaced at each change
	verdicts []error
	reports  []plugin.Report
}

// NewProvider makes a provider whose first snapshot is s.
func NewProvider(s plugin.Snapshot) *FakeProvider {
	return &FakeProvider{current: s, changed: make(chan struct{})}
}

// Publish changes the snapshot. It does not wait for anybody to take it.
func (p *FakeProvider) Publish(s plugin.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = s
	close(p.changed)
	p.changed = make(chan struct{})
}

// Verdicts are the answers to each snapshot so far; nil is an acceptance.
func (p *FakeProvider) Verdicts() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.verdicts)
}

// Reports are the reports so far.
func (p *FakeProvider) Reports() []plugin.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.reports)
}

// Describe implements plugin.Provider.
func (p *FakeProvider) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "fake", Version: "1"}, nil
}

// Watch implements plugin.Provider.
func (p *FakeProvider) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	for {
		p.mu.Lock()
		s, changed := p.current, p.changed
		p.mu.Unlock()
		err := emit(s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.mu.Lock()
		p.verdicts = append(p.verdicts, err)
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Report implements plugin.Reporter.
func (p *FakeProvider) Report(_ context.Context, r plugin.Report) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, r)
	return nil
}
