// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// moment is when a hook ran.
type moment struct {
	at    time.Time // by the host's clock, which somebody may have set since
	event string    // the event's id
}

// after goes by the ids, which of one boot sort by time whatever becomes of the
// clock. Where they are not of one boot there is only the clock.
func (m moment) after(n moment) bool {
	if boot := bootOf(m.event); boot != "" && boot == bootOf(n.event) {
		return m.event > n.event
	}
	return m.at.After(n.at)
}

// bootOf is the boot id that an event's id begins with, "" if it was not known.
func bootOf(event string) string {
	boot, _, _ := strings.Cut(event, ".")
	if len(boot) != 36 || strings.Trim(boot, "0-") == "" {
		return ""
	}
	return boot
}

// event takes in a hook's phase. From the spool one may come that is older than
// one that came by the socket: it counts for what it tells and is not the last.
func (g *Guest) event(phase guest.Phase, ran moment) {
	started, asked := moment{g.StartedAt, g.StartedEvent}, moment{g.StopAsked, g.StopEvent}
	switch phase {
	case guest.PreStop:
		if ran.after(started) && ran.after(asked) {
			g.stopAsked(ran)
		}
	case guest.PreStart, guest.PostStart:
		if ran.after(started) {
			g.started(ran)
		}
		if !asked.after(ran) {
			g.stopAsked(moment{})
		}
	}
	if last := (moment{g.PhaseAt, g.PhaseEvent}); !last.after(ran) {
		g.phase(phase, ran)
	}
}

func (g *Guest) phase(p guest.Phase, m moment) { g.Phase, g.PhaseAt, g.PhaseEvent = p, m.at, m.event }

func (g *Guest) started(m moment) { g.StartedAt, g.StartedEvent = m.at, m.event }

func (g *Guest) stopAsked(m moment) { g.StopAsked, g.StopEvent = m.at, m.event }
