// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/agent/internal/power"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// Status is the whole of the agent's state, as the control API tells it.
type Status struct {
	Version string    `json:"version"`
	Host    string    `json:"host"` // as signed texts name it
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// PVE is whether a connection to the node is configured.
	PVE bool `json:"pve_configured"`
	// Power is what is known of the host going down or coming up.
	Power   power.State               `json:"power"`
	Engine  engine.Status             `json:"engine"`
	Plugins []pluginhost.PluginStatus `json:"plugins"`
	Journal Head                      `json:"journal"`
}

// Head is the journal's last entry.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// SelftestTag marks the scratch guest of a selftest.
const SelftestTag = engine.SelftestTag

// SelftestResult is what a selftest found.
type SelftestResult = engine.SelftestResult

// api is the agent as the control server sees it.
type api struct{ a *Agent }

func (s api) status() Status {
	head := s.a.jrn.Head()
	return Status{
		Version: s.a.opt.Version, Host: s.a.opt.Host, PID: os.Getpid(), Started: s.a.started,
		PVE: s.a.config().PVE.URL != "", Power: s.a.power.State(), Engine: s.a.eng.Status(), Plugins: s.a.host.Status(),
		Journal: Head{Seq: head.Seq, Hash: head.Hash},
	}
}

func (s api) Status() any                                      { return s.status() }
func (s api) Plan(ctx context.Context) (plan.Plan, error)      { return s.a.eng.Plan(ctx) }
func (s api) View(id guest.VMID) (engine.View, error)          { return s.a.eng.View(id) }
func (s api) Ops() []op.Op                                     { return s.a.led.Ops() }
func (s api) Reload(ctx context.Context) error                 { return s.a.Reload(ctx) }
func (s api) Since(n uint64) ([]ledger.Entry, <-chan struct{}) { return s.a.led.Since(n) }

func (s api) Apply(ctx context.Context, q engine.Asked) (engine.Applied, error) {
	return s.a.eng.Apply(ctx, q)
}

func (s api) Pause(ctx context.Context, id guest.VMID, by string) error {
	return s.a.eng.Pause(ctx, id, by)
}

func (s api) Resume(ctx context.Context, id guest.VMID, by string) error {
	return s.a.eng.Resume(ctx, id, by)
}

func (s api) Selftest(ctx context.Context, id guest.VMID, by string) (any, error) {
	return s.a.eng.Selftest(ctx, id, by)
}

func (s api) Op(id string) (op.Op, bool) { return s.a.led.Op(id) }
func (s api) Permits() []ledger.Permit   { return s.a.led.Permits() }

func (s api) Ask(ctx context.Context, q engine.Order) (engine.Applied, error) {
	return s.a.eng.Ask(ctx, q)
}

func (s api) Approve(ctx context.Context, id, text string, sigs []ledger.Signature, by string) (engine.Applied, error) {
	return s.a.eng.Approve(ctx, id, text, sigs, by)
}

func (s api) Reject(ctx context.Context, id, by string) error { return s.a.eng.Reject(ctx, id, by) }

func (s api) Undo(ctx context.Context, id, by string) (engine.Applied, error) {
	return s.a.eng.Undo(ctx, id, by)
}

func (s api) Accept(ctx context.Context, id guest.VMID, by string) error {
	return s.a.eng.Accept(ctx, id, by)
}

func (s api) Forget(ctx context.Context, id guest.VMID, by string) error {
	return s.a.eng.Forget(ctx, id, by)
}

func (s api) Permit(ctx context.Context, text string, sigs []ledger.Signature, by string) (ledger.Permit, error) {
	return s.a.eng.Permit(ctx, text, sigs, by)
}

func (s api) WithdrawPermit(ctx context.Context, name, by string) error {
	return s.a.eng.WithdrawPermit(ctx, name, by)
}

// Metrics is the Prometheus text format, version 0.0.4.
func (s api) Metrics() []byte {
	var b bytes.Buffer
	st := s.status()
	gauge := func(name, help string, v any) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %v\n", name, help, name, name, v)
	}
	gauge("felhom_up_seconds", "Seconds since the agent started.", int64(time.Since(st.Started).Seconds()))
	gauge("felhom_enforcing", "1 if the host is in mode enforce.", number(st.Engine.Mode == engine.Enforce))
	gauge("felhom_node_reachable", "1 if the node answered when last asked.", number(st.Engine.NodeErr == "" && !st.Engine.NodeAt.IsZero()))
	gauge("felhom_journal_writable", "1 if the journal can be written.", number(st.Engine.Journal == ""))
	gauge("felhom_journal_seq", "The last journal entry.", st.Journal.Seq)
	gauge("felhom_queued", "Items on the lanes that are not finished.", st.Engine.Queued)
	byState := map[string]int{}
	for _, g := range st.Engine.Guests {
		byState[g.State]++
	}
	labelled(&b, "felhom_guests", "Managed guests by state.", "state", byState)
	ended := map[string]int{}
	for _, o := range s.a.led.Ops() {
		ended[string(o.State)]++
	}
	labelled(&b, "felhom_ops", "Remembered ops by state.", "state", ended)
	return b.Bytes()
}

func labelled(b *bytes.Buffer, name, help, label string, values map[string]int) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(b, "%s{%s=%q} %d\n", name, label, k, values[k])
	}
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
