// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command vendor is the plugin of a made-up vendor, for the test of the package:
// an executor with one action of its own, which notes that it was asked.
package main

import (
	"context"
	"fmt"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

const notify plugin.ActionKind = "acme.notify"

type acme struct{}

func (acme) Configure(_ context.Context, c plugin.Config) error {
	var none struct{}
	return c.Decode(&none)
}

func (acme) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "acme", Version: "1.0", Actions: []plugin.ActionKind{notify}}, nil
}

func (acme) Apply(_ context.Context, a plugin.Action, _ string, _ func(plugin.Progress) error) (plugin.Outcome, error) {
	if a.Kind != notify {
		return plugin.Outcome{}, fmt.Errorf("%w: action %q", plugin.ErrUnsupported, a.Kind)
	}
	return plugin.Outcome{Status: plugin.Done}, nil
}

func (acme) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{Finding: plugin.Unclear, Message: "a notification leaves no trace"}, nil
}

func main() { plugin.Serve(plugin.Set{Executor: acme{}}) }
