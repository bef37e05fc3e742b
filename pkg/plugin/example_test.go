// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"context"
	"fmt"
	"os"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// notifier is an executor for an action kind of its own.
type notifier struct{ greeting string }

func (n *notifier) Configure(_ context.Context, c plugin.Config) error {
	var cfg struct {
		Greeting string `json:"greeting"`
	}
	if err := c.Decode(&cfg); err != nil {
		return err
	}
	n.greeting = cfg.Greeting
	return nil
}

func (n *notifier) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "notify", Version: "1.0", Actions: []plugin.ActionKind{"acme.notify"}}, nil
}

func (n *notifier) Apply(_ context.Context, a plugin.Action, handle string, _ func(plugin.Progress) error) (plugin.Outcome, error) {
	if a.Kind != "acme.notify" {
		return plugin.Outcome{}, fmt.Errorf("%w: action %q", plugin.ErrUnsupported, a.Kind)
	}
	fmt.Printf("%s, %s: %s\n", n.greeting, a.Guest, a.Reason)
	return plugin.Outcome{Status: plugin.Done}, nil
}

func (n *notifier) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{Finding: plugin.Unclear, Message: "a notification leaves no trace"}, nil
}

// The whole main of a plugin.
func ExampleServe() {
	main := func() {
		plugin.Serve(plugin.Set{Executor: &notifier{}})
	}
	_ = main
}

// A plugin behind real gRPC, as the agent sees it. A test would use
// plugintest.Pipe.
func Example() {
	client, stop, err := plugintest.Connect(plugin.Set{Executor: &notifier{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()
	kinds, err := client.Configure(ctx, plugin.Config{JSON: []byte(`{"greeting": "hello"}`)}, "1.0")
	fmt.Println(kinds, err)
	out, err := client.Executor().Apply(ctx, plugin.Action{
		OpID: "01J", Attempt: 1, Kind: "acme.notify", Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Reason: "it was restarted",
	}, "", func(plugin.Progress) error { return nil })
	fmt.Println(out.Status, err)
	// Output:
	// [executor] <nil>
	// hello, lxc/101: it was restarted
	// done <nil>
}

// Log lines reach the agent's log with their level and fields.
func ExampleNewLogger() {
	log := plugin.NewLogger(os.Stderr) // before Serve, which replaces os.Stderr
	log.Warn("the queue is long", "length", 17)
}
