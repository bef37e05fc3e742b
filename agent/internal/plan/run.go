// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// defaultDown is how long PVE lets a clean shutdown take when the guest's
// startup option does not say (API2 default of both kinds).
const defaultDown = 60 * time.Second

// maxDown is the longest that a document may give a guest, and a plugin takes.
const maxDown = 24 * time.Hour

// runState plans the start or stop of a guest. It needs no config: the run
// state comes from the list.
func (in Input) runState(g *Guest, want *desired.Guest, obs plugin.Observation) {
	have := obs.State.Run
	if want.Run == "" || want.Ignores(desired.RunField) || have == want.Run {
		return
	}
	what := fmt.Sprintf("run %s -> %s", have, want.Run)
	if have == "" {
		g.Withheld = append(g.Withheld, Withheld{Field: desired.RunField, What: "run state not known", Why: "the node's list did not tell"})
		return
	}
	if w := in.withholdRun(want, obs); w != nil {
		w.Field, w.What = desired.RunField, what
		g.Withheld = append(g.Withheld, *w)
		return
	}
	g.Actions = append(g.Actions, runAction(want, obs, in.Guests[want.VMID], what))
}

// withholdRun says why the run state is left alone, or nil.
func (in Input) withholdRun(want *desired.Guest, obs plugin.Observation) *Withheld {
	pol := in.Guests[want.VMID]
	switch {
	case obs.HA.Managed && want.HA != "request":
		return &Withheld{Why: "the HA stack manages this guest (state " + obs.HA.State + "); say ha = \"request\" to have it asked"}
	case obs.HA.Managed && !haReady(obs.HA.State):
		return &Withheld{Why: "the HA stack is in state " + obs.HA.State + ": hands off"}
	case obs.HA.Managed && pol.HARequested == want.Run:
		return &Withheld{Why: "requested from the HA stack, which has not carried it out yet"}
	case in.Frozen != "":
		return &Withheld{Why: in.Frozen, Waiting: true}
	case pol.Hold[desired.RunField] != "":
		return &Withheld{Why: pol.Hold[desired.RunField], Settled: true}
	}
	return nil
}

// haReady reports whether the HA stack takes requests for a guest in this
// state (design section 7: error, freeze, maintenance mean hands off).
func haReady(state string) bool {
	switch state {
	case "error", "fence", "recovery", "freeze", "migrate", "relocate", "ignored":
		return false
	}
	return true
}

func runAction(want *desired.Guest, obs plugin.Observation, pol Policy, what string) Action {
	a := Action{Class: guest.Benign, Reason: what}
	switch {
	case want.Run == guest.Running:
		a.Kind = plugin.Start
	case want.Stop == desired.StopForce && pol.ForceStop:
		a.Kind = plugin.Stop
		a.Reason += " (hard: a clean shutdown failed)"
	default:
		down := stopTimeout(want, obs)
		a.Kind = plugin.Shutdown
		a.Params = map[string]string{"timeout": strconv.Itoa(int(down / time.Second))}
		a.Reason += fmt.Sprintf(" (may take %s)", down)
	}
	return a
}

// stopTimeout is the document's, else the guest's own "down=" as far as it may
// be sent, else PVE's default.
func stopTimeout(want *desired.Guest, obs plugin.Observation) time.Duration {
	if want.StopTimeout > 0 {
		return want.StopTimeout
	}
	for _, part := range strings.Split(obs.Config["startup"], ",") {
		v, ok := strings.CutPrefix(strings.TrimSpace(part), "down=")
		if n, err := strconv.Atoi(v); ok && err == nil && n > 0 {
			return time.Duration(min(n, int(maxDown/time.Second))) * time.Second
		}
	}
	return defaultDown
}
