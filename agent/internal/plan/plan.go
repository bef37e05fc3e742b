// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package plan decides what to do: from what is wanted of a guest and what is
// there, the smallest list of actions that makes the two agree, each with its
// reason, and the list of what differs and is left alone, each with why.
//
// It is pure: it touches nothing, asks nothing and remembers nothing. It
// guarantees that a config that could not be read is never written (P9), that
// nothing irreversible is among the actions (P4), that nothing is made without
// the policy that allows it and never twice (P5), and that an empty plan means
// that everything managed is as wanted or listed as withheld (P6).
package plan

import (
	"maps"
	"slices"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Input is everything a plan rests on.
type Input struct {
	// Forms are the normal forms; nil means the built-in table.
	Forms    *guest.Table
	Want     map[guest.VMID]*desired.Guest
	Observed map[guest.VMID]plugin.Observation
	// PVE is the node's major version, 0 if not known.
	PVE int
	// Frozen, when not empty, says why no guest is started or stopped now.
	Frozen string
	// AllowAdditive lets guests and volumes be made and disks grow. Reserve is
	// how many bytes must stay free on the storage then.
	AllowAdditive bool
	Reserve       int64
	Guests        map[guest.VMID]Policy
}

// Policy is what the agent remembers of one guest that bears on its plan.
type Policy struct {
	// Hold says, per config key or desired.RunField, why it is left alone.
	// The key "*" stands for every config key whose manual change is held.
	Hold map[string]string
	// SetAside says, per config key, with which words PVE refused the present
	// change.
	SetAside map[string]string
	// Busy, when not empty, says why no action of any kind may go out now (a
	// transition, a task of somebody else).
	Busy string
	// ForceStop is set once a clean shutdown failed.
	ForceStop bool
	// HARequested is the run state already requested from the HA stack for
	// the present revision of the desire.
	HARequested guest.RunState
	// Identity, when not empty, says why this guest may not be touched: it is
	// not the one that was known, or it is in quarantine.
	Identity string
	// Changed, when not empty, says what about the guest changed and is not
	// explained: then only what is benign is done.
	Changed string
	// Lost, when not empty, says why a guest that is not here is not made: it
	// was known before.
	Lost string
}

// Plan is the plan of a node, guests in VMID order. Guests that are as wanted
// are counted, not listed.
type Plan struct {
	Guests    []Guest `json:"guests"`
	Converged int     `json:"converged"`
	// Surplus counts the guests on the node that no document names. They are
	// left alone.
	Surplus int `json:"surplus"`
}

// Changes counts what is to be done: the actions, and what waits for its time.
func (p Plan) Changes() int {
	n := 0
	for _, g := range p.Guests {
		n += len(g.Actions)
		for _, w := range g.Withheld {
			if w.Waiting {
				n++
			}
		}
	}
	return n
}

// Guest is the plan of one guest.
type Guest struct {
	ID   guest.ID `json:"guest"`
	Name string   `json:"name,omitempty"`
	// Actions are to be carried out in this order.
	Actions []Action `json:"actions,omitempty"`
	// Gated are those that need a signed approval. Each of their differences
	// is in Withheld too.
	Gated []Action `json:"gated,omitempty"`
	// Withheld is what differs and is left alone.
	Withheld []Withheld `json:"withheld,omitempty"`
	// RestartNeeded names the keys that wait for the guest's next start.
	RestartNeeded []string `json:"restart_needed,omitempty"`
}

// Empty reports whether the guest is as wanted in everything that is managed.
func (g Guest) Empty() bool { return len(g.Actions) == 0 && len(g.Withheld) == 0 }

// Action is one step of a plan.
type Action struct {
	Kind    plugin.ActionKind `json:"kind"`
	Reason  string            `json:"reason"`
	Class   guest.Class       `json:"class"`
	Effect  guest.Effect      `json:"effect,omitempty"`
	Changes []Change          `json:"changes,omitempty"`
	Params  map[string]string `json:"params,omitempty"`
	// Set, Delete and Digest are what is sent. Set holds clear text: it is
	// never printed.
	Set    map[string]string `json:"-"`
	Secret []string          `json:"-"`
	Delete []string          `json:"-"`
	Digest string            `json:"-"`
}

// Change is one config key of an action, for reading. Secret values are
// masked.
type Change struct {
	Key    string       `json:"key"`
	From   *string      `json:"from"` // null: absent
	To     *string      `json:"to"`   // null: to be deleted
	Effect guest.Effect `json:"effect,omitempty"`
}

// Withheld is a difference that is left alone.
type Withheld struct {
	Field string `json:"field"` // a config key, "run", or "guest"
	What  string `json:"what"`  // "cores 2 -> 4"
	Why   string `json:"why"`
	// Settled is set when a person decided it (a hold, an ignore): then it is
	// not something that still has to be done.
	Settled bool `json:"settled,omitempty"`
	// Waiting is set when it will be done once something has ended.
	Waiting bool `json:"waiting,omitempty"`
}

// Make plans a whole node.
func Make(in Input) Plan {
	var p Plan
	for _, id := range slices.Sorted(maps.Keys(in.Want)) {
		obs, ok := in.Observed[id]
		if !ok {
			obs = plugin.Observation{Presence: plugin.Unsure}
		}
		g := in.Guest(in.Want[id], obs)
		if g.Empty() {
			p.Converged++
			continue
		}
		p.Guests = append(p.Guests, g)
	}
	for id := range in.Observed {
		if in.Want[id] == nil {
			p.Surplus++
		}
	}
	return p
}

// Guest plans one guest: config before run state.
func (in Input) Guest(want *desired.Guest, obs plugin.Observation) Guest {
	g := Guest{ID: guest.ID{Kind: want.Kind, VMID: want.VMID}, Name: obs.State.Name}
	if obs.Presence == plugin.Gone && want.Mode != desired.Paused {
		in.provision(&g, want)
		return g
	}
	if w := untouchable(want, obs, in.Guests[want.VMID]); w != nil {
		g.Withheld = []Withheld{*w}
		return g
	}
	in.config(&g, want, obs)
	in.disks(&g, want, obs)
	in.runState(&g, want, obs)
	in.holdBack(&g, obs)
	g.RestartNeeded = slices.Sorted(maps.Keys(obs.Pending))
	return g
}

// untouchable says why a guest is not planned at all.
func untouchable(want *desired.Guest, obs plugin.Observation, pol Policy) *Withheld {
	no := func(what, why string) *Withheld {
		return &Withheld{Field: "guest", What: what, Why: why}
	}
	switch {
	case want.Mode == desired.Paused:
		return &Withheld{Field: "guest", What: "paused", Why: "its document says mode = \"paused\"", Settled: true}
	case obs.Presence == plugin.Elsewhere:
		return no("not here", "the guest is on another node of the cluster")
	case obs.Presence != plugin.Here:
		return no("not seen", unsure(obs))
	case obs.State.ID.Kind != want.Kind:
		return no("stranger", "the document wants "+string(want.Kind)+", but "+obs.State.ID.String()+" has this VMID")
	case pol.Identity != "":
		return no("stranger", pol.Identity)
	case obs.State.Template:
		return no("template", "a template is left alone")
	}
	return nil
}

func unsure(obs plugin.Observation) string {
	if obs.ConfigError != "" {
		return obs.ConfigError
	}
	return "the guest is not in what the node lists, which does not prove that it is gone"
}

// holdBack turns a guest's actions into withheld ones while something forbids
// any action on it.
func (in Input) holdBack(g *Guest, obs plugin.Observation) {
	why := in.Guests[g.ID.VMID].Busy
	if obs.State.Lock != "" {
		why = "the guest is locked (" + obs.State.Lock + ")"
	}
	if why == "" {
		return
	}
	for _, a := range g.Actions {
		g.Withheld = append(g.Withheld, Withheld{Field: fieldOf(a), What: a.Reason, Why: why, Waiting: true})
	}
	g.Actions, g.Gated = nil, nil
}

func fieldOf(a Action) string {
	switch a.Kind {
	case plugin.SetConfig:
		return "config"
	case plugin.GrowDisk:
		return a.Params["disk"]
	}
	return desired.RunField
}
