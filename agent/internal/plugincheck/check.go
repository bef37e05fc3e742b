// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package plugincheck judges an executable as a plugin: everything that
// PROTOCOL.md asks of it, tried by the agent's own host.
//
// [Run] copies the executable, and the files that belong to it, into a private
// directory and starts it from there again and again, as package pluginhost
// does for the daemon. It guarantees that nothing it started is left when it
// returns, and that every check ends, whatever the plugin does. Actions are
// applied only when the caller named one, or when the plugin has a vendor's
// kind: the core's kinds would change guests.
package plugincheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// Options say what is checked and with what.
type Options struct {
	// Path is the executable; Files are the other files of the plugin, by their
	// paths from its directory.
	Path  string
	Args  []string
	Files []string
	Env   map[string]string
	// Config and Secrets are handed to the plugin.
	Config  map[string]any
	Secrets map[string]pluginhost.SecretSource
	// Kinds are those it must serve; none means whatever it serves.
	Kinds []plugin.Kind
	// Action is applied by the checks, under op ids of their own. Its zero
	// value means the plugin's first kind that has a dot.
	Action plugin.Action
	// Guests are whom the actions are about, each the next one's turn; none
	// means lxc/101.
	Guests []guest.ID
	// Effects is a shell command that prints how often the op id $1 was carried
	// out; Change is one that changes a provider's source. Without them, what
	// needs them is skipped.
	Effects string
	Change  string
	// Patience multiplies the time that the plugin is given, for machines that
	// are slow or loaded; 0 means 1.
	Patience int
	// Log takes what the plugin logs; nil drops it.
	Log io.Writer
	// Each, if not nil, is told each result as it comes.
	Each func(Result)
}

// The ends of a check.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result is the end of one check.
type Result struct {
	Name   string        `json:"name"`
	Rule   string        `json:"rule"`
	Status string        `json:"status"`
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"took_ns"`
}

// Report is the end of all of them.
type Report struct {
	Path    string        `json:"path"`
	SHA256  string        `json:"sha256"`
	Name    string        `json:"name,omitempty"`
	Version string        `json:"version,omitempty"`
	Kinds   []plugin.Kind `json:"kinds,omitempty"`
	Results []Result      `json:"checks"`
}

// Count is how many checks ended so.
func (r Report) Count(status string) int {
	n := 0
	for _, res := range r.Results {
		if res.Status == status {
			n++
		}
	}
	return n
}

// check is one rule. Its detail is shown also when it holds.
type check struct {
	name, rule string
	run        func(ctx context.Context, b *bench) (detail string, err error)
}

// skip is an error that says why a check cannot tell.
func skip(format string, args ...any) error {
	return fmt.Errorf("%w: %s", plugintest.ErrSkip, fmt.Sprintf(format, args...))
}

// limit bounds one check.
const limit = 5 * time.Minute

// Run carries out every check and returns what they found. Its error says why
// it could not even begin.
func Run(ctx context.Context, o Options) (Report, error) {
	if len(o.Guests) == 0 {
		o.Guests = []guest.ID{{Kind: guest.LXC, VMID: 101}}
	}
	b, err := newBench(o)
	if err != nil {
		return Report{}, err
	}
	defer b.close()
	rep := Report{Path: o.Path, SHA256: b.spec.SHA256[0]}
	run := func(c check) bool {
		res := b.try(ctx, c)
		rep.Results = append(rep.Results, res)
		if o.Each != nil {
			o.Each(res)
		}
		return res.Status != Failed
	}
	for _, c := range firstChecks() {
		run(c)
	}
	if !run(check{"start", "it is configured within the start timeout", checkStart}) {
		return rep, nil // nothing more can be tried
	}
	rep.Name, rep.Version, rep.Kinds = b.info.Name, b.info.Version, b.kinds
	for _, c := range append(b.contract(), lastChecks()...) {
		run(c)
	}
	return rep, nil
}

// try runs one check.
func (b *bench) try(ctx context.Context, c check) Result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	detail, err := c.run(ctx, b)
	res := Result{Name: c.name, Rule: c.rule, Status: OK, Detail: detail, Took: time.Since(begin)}
	switch {
	case errors.Is(err, plugintest.ErrSkip):
		res.Status, res.Detail = Skipped, err.Error()
	case err != nil:
		res.Status, res.Detail = Failed, err.Error()
	}
	return res
}
