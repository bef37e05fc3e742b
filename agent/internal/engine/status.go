// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The words for how a guest stands.
const (
	StateConverged = "converged" // as wanted
	StateDrift     = "drift"     // differs, and it will be put right
	StateHeld      = "held"      // differs, and somebody decided to leave it
	StateWaiting   = "waiting"   // differs, and something has to end first
	StateDiffers   = "differs"   // differs, and the agent may not put it right
	StateWorking   = "working"   // an op is in flight
	StateUnknown   = "unknown"   // could not be observed
	StateAwaiting  = "awaiting-approval"
	// StateQuarantine: it is going to be destroyed.
	StateQuarantine = "quarantine"
)

// View is how one guest stands.
type View struct {
	ID     guest.ID       `json:"guest"`
	Name   string         `json:"name,omitempty"`
	State  string         `json:"state"`
	Run    guest.RunState `json:"run,omitempty"`
	Wanted guest.RunState `json:"wanted,omitempty"`
	Plan   plan.Guest     `json:"plan"`
	// Note says why nothing is done although the guest differs.
	Note string     `json:"note,omitempty"`
	Err  string     `json:"error,omitempty"`
	Op   *op.Op     `json:"op,omitempty"`
	At   time.Time  `json:"observed"`
	Doc  Provenance `json:"document"`
}

// Provenance is where a guest's desire comes from.
type Provenance struct {
	Provider string `json:"provider"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

// Status is the engine's part of the agent's status.
type Status struct {
	Mode      Mode             `json:"mode"`
	Paused    bool             `json:"paused,omitempty"`
	Node      string           `json:"node,omitempty"`
	PVE       string           `json:"pve,omitempty"`
	NodeErr   string           `json:"node_error,omitempty"`
	NodeAt    time.Time        `json:"node_observed,omitzero"`
	Quorate   bool             `json:"quorate"`
	Journal   string           `json:"journal_error,omitempty"`
	Breaker   string           `json:"breaker,omitempty"`
	Twin      string           `json:"twin,omitempty"` // another agent uses our token
	Providers []ProviderStatus `json:"providers"`
	Conflicts []string         `json:"conflicts,omitempty"`
	Guests    []View           `json:"guests"`
	Surplus   int              `json:"surplus"`
	Lanes     int              `json:"busy_lanes"`
	Queued    int              `json:"queued"`
}

func (e *Engine) makeView(s sighting) View {
	v := View{
		ID: guest.ID{Kind: s.want.Kind, VMID: s.want.VMID}, Name: s.obs.State.Name,
		Run: s.obs.State.Run, Wanted: s.want.Run, Plan: s.plan, At: time.Now(), Doc: provenance(s.want),
	}
	switch {
	case s.obs.Presence != plugin.Here:
		v.State = string(s.obs.Presence)
	case s.plan.Empty():
		v.State = StateConverged
	case len(s.plan.Actions) > 0:
		v.State, v.Note = StateDrift, s.inactive
	default:
		v.State = withheldState(s.plan.Withheld)
	}
	return v
}

// withheldState is the word for a guest that differs and has no action: what
// waits counts more than what is forbidden, that more than what is settled.
func withheldState(ws []plan.Withheld) string {
	state := StateHeld
	for _, w := range ws {
		switch {
		case w.Waiting:
			return StateWaiting
		case !w.Settled:
			state = StateDiffers
		}
	}
	return state
}

func (e *Engine) errorView(want *desired.Guest, err error) View {
	return View{
		ID: guest.ID{Kind: want.Kind, VMID: want.VMID}, State: StateUnknown, Wanted: want.Run,
		Err: err.Error(), At: time.Now(), Doc: provenance(want),
	}
}

func provenance(g *desired.Guest) Provenance {
	return Provenance{Provider: g.Provider, File: g.File, Line: g.Line}
}

func (e *Engine) setView(v View) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.views[v.ID.VMID] = v
}

func (e *Engine) forgetView(id guest.VMID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.views, id)
	delete(e.stopped, id)
	delete(e.ran, id)
	delete(e.last, id)
}

// Status tells how everything stands, without asking PVE.
func (e *Engine) Status() Status {
	q := e.queue.Stats()
	e.mu.Lock()
	defer e.mu.Unlock()
	st := Status{
		Mode: e.set.Mode, Paused: e.led.Paused(), Node: cmp.Or(e.opt.Node, e.node.Node), PVE: e.node.Version,
		NodeAt: e.nodeAt, Quorate: e.node.Quorate, Breaker: e.guards.nodeState(), Twin: e.twin,
		Lanes: q.Active, Queued: q.Items, Providers: []ProviderStatus{}, Guests: []View{},
	}
	if e.nodeErr != nil {
		st.NodeErr = e.nodeErr.Error()
	}
	if err := e.opt.Journal.Err(); err != nil {
		st.Journal = err.Error()
	}
	for _, name := range slices.Sorted(maps.Keys(e.provider)) {
		st.Providers = append(st.Providers, *e.provider[name])
	}
	for _, id := range slices.Sorted(maps.Keys(e.conflict)) {
		st.Conflicts = append(st.Conflicts, e.conflict[id])
	}
	for _, id := range slices.Sorted(maps.Keys(e.want)) {
		st.Guests = append(st.Guests, e.viewLocked(id))
	}
	for _, g := range e.node.Guests {
		if e.want[g.ID.VMID] == nil {
			st.Surplus++
		}
	}
	return st
}

// viewLocked is a guest's view with its op in flight.
func (e *Engine) viewLocked(id guest.VMID) View {
	v, ok := e.views[id]
	if !ok {
		w := e.want[id]
		v = View{ID: guest.ID{Kind: w.Kind, VMID: id}, State: StateUnknown, Wanted: w.Run, Note: "not looked at yet", Doc: provenance(w)}
	}
	if o, open := e.led.Open(id); open {
		v.Op, v.State = &o, StateWorking
		return v
	}
	for _, o := range e.led.Waiting(id) {
		if o.State == op.Awaiting {
			v.Op = &o
			if v.State == StateDiffers {
				v.State = StateAwaiting
			}
		}
	}
	return v
}

// View tells how one guest stands.
func (e *Engine) View(id guest.VMID) (View, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.want[id] == nil {
		return View{}, ErrNotManaged
	}
	return e.viewLocked(id), nil
}
