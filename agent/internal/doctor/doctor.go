// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package doctor checks every precondition of the agent and says of each how
// it stands, why, and what to do.
//
// It changes nothing and needs no running agent: what only the agent could
// tell is then unknown. A check that cannot be made is unknown, never good.
package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/hookinstall"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/agent/internal/power"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// Verdict is how a check ended.
type Verdict string

// The verdicts, the better ones first.
const (
	OK      Verdict = "ok"
	Unknown Verdict = "unknown" // it could not be checked
	Warn    Verdict = "warn"    // it works, and may not for long or not for everything
	Bad     Verdict = "bad"
)

// Finding is what one check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Remedy  string  `json:"remedy,omitempty"`
}

// Agent is what a running agent tells of itself.
type Agent struct {
	PID     int
	Engine  engine.Status
	Plugins []pluginhost.PluginStatus
	Power   power.State
}

// Node is what the checks ask of PVE.
type Node interface {
	Version(ctx context.Context) (pve.Version, error)
	Cluster(ctx context.Context) (pve.Cluster, error)
	Permissions(ctx context.Context, path string) (pve.Permissions, error)
	Resources(ctx context.Context) ([]pve.Resource, error)
}

// Hooks tells how the hookscripts stand, and the error if it cannot.
type Hooks func(ctx context.Context) ([]hookinstall.Standing, error)

// Env is everything the checks look at. What is nil could not be had, and the
// error beside it says why.
type Env struct {
	Config config.Config
	Now    time.Time
	Node   string // this node's name in PVE

	Agent    *Agent
	AgentErr error
	PVE      Node
	PVEErr   error
	Hooks    Hooks
	// Bus is the address of the system bus; Proc where /proc is.
	Bus, Proc string
	// Root is whether root asks: what others may not see is unknown then.
	Root bool
}

// Checks are all checks, in the order in which they are told.
var Checks = []struct {
	Name string
	Do   func(context.Context, *Env) []Finding
}{
	{"agent", agent},
	{"reconcile", reconcile},
	{"desired state", desired},
	{"journal", journalCheck},
	{"disk", disk},
	{"sockets", sockets},
	{"spool", spool},
	{"plugins", plugins},
	{"hardening", hardening},
	{"clock", clockCheck},
	{"host state", hostState},
	{"pve", version},
	{"tls", tlsCheck},
	{"quorum", quorum},
	{"privileges", privileges},
	{"approvals", approvals},
	{"ha", ha},
	{"hooks", hooks},
}

// Run makes every check.
func Run(ctx context.Context, env *Env) []Finding {
	var out []Finding
	for _, c := range Checks {
		for _, f := range c.Do(ctx, env) {
			f.Check = c.Name
			out = append(out, f)
		}
	}
	return out
}

// Worst is the worst verdict; unknown is better than a warning.
func Worst(all []Finding) Verdict {
	rank := map[Verdict]int{OK: 0, Unknown: 1, Warn: 2, Bad: 3}
	worst := OK
	for _, f := range all {
		if rank[f.Verdict] > rank[worst] {
			worst = f.Verdict
		}
	}
	return worst
}

func ok(format string, args ...any) []Finding { return one(OK, "", format, args...) }

func unknown(format string, args ...any) []Finding { return one(Unknown, "", format, args...) }

func one(v Verdict, remedy, format string, args ...any) []Finding {
	return []Finding{{Verdict: v, Reason: fmt.Sprintf(format, args...), Remedy: remedy}}
}
