// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/felhom/felhom-agent/agent/internal/clock"
	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// gateSettings maps the table [gate] to what the engine asks of an approval.
func gateSettings(c config.Gate) engine.GateSettings {
	rule := gate.Rule{Threshold: c.Signatures, FourEyes: c.FourEyes, SecurityKey: c.SecurityKey || c.PIN, PIN: c.PIN}
	p := gate.DefaultPolicy()
	p.Classes = map[guest.Class]gate.Rule{guest.Irreversible: rule}
	p.MaxWindow = 2 * c.Window // of the deletion after a quarantine, see engine.request
	return engine.GateSettings{Policy: p, Window: c.Window, Quarantine: c.Quarantine, BackupAge: c.BackupAge}
}

// clockGood tells whether this host's clock is synchronised.
func (a *Agent) clockGood(ctx context.Context) bool {
	if a.config().Gate.AssumeClock {
		return true
	}
	good, err := clock.Synchronised(ctx)
	if err != nil {
		a.log.Warn("nothing that needs a signature is done", "err", err)
	}
	return good
}
