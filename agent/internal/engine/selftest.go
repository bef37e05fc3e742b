// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/queue"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// SelftestTag marks the scratch guest that a selftest may write to.
const SelftestTag = "felhom-selftest"

// SelftestResult is what a selftest found.
type SelftestResult struct {
	Guest guest.ID `json:"guest"`
	Tried int      `json:"tried"`
	// Unstable are values that read back as another value in normal form:
	// each of them would be drift for ever.
	Unstable []SelftestRow `json:"unstable"`
	// Refused are values PVE did not take.
	Refused []SelftestRow `json:"refused"`
}

// OK reports whether every value that PVE took came back the same.
func (r SelftestResult) OK() bool { return len(r.Unstable) == 0 && r.Tried > len(r.Refused) }

// SelftestRow is one value of a selftest.
type SelftestRow struct {
	Key   string `json:"key"`
	Wrote string `json:"wrote"`
	Read  string `json:"read,omitempty"`
	Why   string `json:"why"`
}

// selftest is an item of a lane.
type selftest struct{ asker string }

// corpus are the values a selftest writes, the awkward ones of each kind of
// value. They are harmless on a scratch guest, running or not.
var corpus = map[guest.Kind][][2]string{
	guest.LXC: {
		{"description", "one line"},
		{"description", "two\nlines, 100% ümläut: #hash"},
		{"description", "trailing blank lines\n\n"},
		{"tags", "zeta;Alpha;" + SelftestTag},
		{"cores", "1"},
		{"cores", "2"},
		{"cpulimit", "0.5"},
		{"cpuunits", "200"},
		{"memory", "128"},
		{"swap", "0"},
		{"swap", "64"},
		{"onboot", "0"},
		{"onboot", "1"},
		{"startup", "order=3,up=5,down=7"},
		{"startup", "4"},
		{"hostname", "felhom-selftest"},
		{"nameserver", "192.0.2.1 192.0.2.2"},
		{"searchdomain", "example.org"},
		{"console", "0"},
		{"tty", "3"},
		{"cmode", "shell"},
		{"timezone", "Europe/Budapest"},
	},
	guest.QEMU: {
		{"description", "two\nlines, 100% ümläut: #hash"},
		{"description", "trailing blanks  "},
		{"tags", "zeta;Alpha;" + SelftestTag},
		{"name", "felhom-selftest"},
		{"cores", "2"},
		{"sockets", "1"},
		{"memory", "128"},
		{"cpulimit", "0.5"},
		{"cpuunits", "200"},
		{"onboot", "1"},
		{"onboot", "0"},
		{"agent", "1"},
		{"agent", "enabled=1,fstrim_cloned_disks=1"},
		{"ostype", "l26"},
		{"tablet", "0"},
		{"acpi", "1"},
		{"localtime", "1"},
	},
}

// Selftest writes the corpus to a scratch guest, reads each value back, and
// puts the config back as it was. It goes through the guest's lane and the
// journal like any other op.
func (e *Engine) Selftest(ctx context.Context, id guest.VMID, asker string) (SelftestResult, error) {
	t, err := e.queue.Submit(id, selftest{asker: asker})
	if err != nil {
		return SelftestResult{}, err
	}
	v, err := t.Wait(ctx)
	if err != nil {
		return SelftestResult{}, err
	}
	return v.(SelftestResult), nil
}

func (e *Engine) runSelftest(ctx context.Context, id guest.VMID, st selftest) queue.Result {
	if res, open := e.settle(ctx, id); open {
		return queue.Result{Again: max(res.Again, 100*time.Millisecond)}
	}
	obs, err := e.scratch(ctx, id)
	if err != nil {
		return queue.Result{Err: err}
	}
	res := SelftestResult{Guest: obs.State.ID, Unstable: []SelftestRow{}, Refused: []SelftestRow{}}
	before := maps.Clone(obs.Config)
	for _, kv := range corpus[obs.State.ID.Kind] {
		if err := e.try(ctx, &res, st.asker, kv[0], kv[1]); err != nil {
			if uerr := e.untilSettled(ctx, id); uerr != nil {
				return queue.Result{Err: errors.Join(err, uerr)}
			}
			return queue.Result{Err: errors.Join(err, e.putBack(ctx, id, st.asker, before))}
		}
	}
	if err := e.putBack(ctx, id, st.asker, before); err != nil {
		return queue.Result{Err: err}
	}
	e.queue.Look(id, "selftest ended")
	return queue.Result{Done: res}
}

// untilSettled waits until nothing is in flight about the guest: a write whose
// outcome is not known may still take effect.
func (e *Engine) untilSettled(ctx context.Context, id guest.VMID) error {
	for {
		res, open := e.settle(ctx, id)
		if !open {
			return nil
		}
		select {
		case <-time.After(max(res.Again, time.Second)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// scratch observes the guest and refuses any that is not marked, is managed,
// or could not be read.
func (e *Engine) scratch(ctx context.Context, id guest.VMID) (plugin.Observation, error) {
	obs, err := e.observe(ctx, plugin.GuestQuery{VMID: id})
	switch {
	case err != nil:
		return obs, err
	case obs.Presence != plugin.Here || obs.Config == nil:
		return obs, fmt.Errorf("guest %s: its config could not be read: %s %s", id, obs.Presence, obs.ConfigError)
	case e.wanted(id) != nil:
		return obs, fmt.Errorf("guest %s: a document manages it; a selftest needs a guest of its own", obs.State.ID)
	case !slices.Contains(strings.Split(obs.Config["tags"], ";"), SelftestTag):
		return obs, fmt.Errorf("guest %s: it does not carry the tag %s, by which a scratch guest is marked", obs.State.ID, SelftestTag)
	case obs.State.Lock != "":
		return obs, fmt.Errorf("guest %s: it is locked (%s)", obs.State.ID, obs.State.Lock)
	}
	return obs, nil
}

// try writes one value and reads it back.
func (e *Engine) try(ctx context.Context, res *SelftestResult, asker, key, value string) error {
	id := res.Guest
	obs, err := e.observe(ctx, plugin.GuestQuery{VMID: id.VMID})
	if err != nil {
		return err
	}
	res.Tried++
	want := guest.Config{key: value}
	facts := guest.Facts{Kind: id.Kind, Running: obs.State.Run == guest.Running, PVE: major(e.version())}
	o, err := e.write(ctx, obs, asker, "selftest: "+key, e.forms.Diff(facts, want, nil, obs.Config))
	if err != nil {
		return err
	}
	if o != nil && o.State != op.Succeeded {
		res.Refused = append(res.Refused, SelftestRow{Key: key, Wrote: value, Why: o.Message})
		return nil
	}
	obs, err = e.observe(ctx, plugin.GuestQuery{VMID: id.VMID})
	if err != nil {
		return err
	}
	if len(e.forms.Diff(facts, want, nil, obs.Config)) > 0 {
		res.Unstable = append(res.Unstable, SelftestRow{
			Key: key, Wrote: value, Read: obs.Config[key], Why: "what PVE gives back is not what was written",
		})
	}
	return nil
}

// putBack writes the benign keys back that differ from before.
func (e *Engine) putBack(ctx context.Context, id guest.VMID, asker string, before guest.Config) error {
	obs, err := e.observe(ctx, plugin.GuestQuery{VMID: id})
	if err != nil {
		return fmt.Errorf("guest %s: put the config back: %w", id, err)
	}
	var gone []string
	touched := guest.Config{}
	for _, kv := range corpus[obs.State.ID.Kind] {
		if v, ok := before[kv[0]]; ok {
			touched[kv[0]] = v
		} else if !slices.Contains(gone, kv[0]) {
			gone = append(gone, kv[0])
		}
	}
	facts := guest.Facts{Kind: obs.State.ID.Kind, Running: obs.State.Run == guest.Running, PVE: major(e.version())}
	o, err := e.write(ctx, obs, asker, "selftest: put the config back", e.forms.Diff(facts, touched, gone, obs.Config))
	if err != nil {
		return err
	}
	if o != nil && o.State != op.Succeeded {
		return fmt.Errorf("guest %s: the config was not put back: %s", id, o.Message)
	}
	return nil
}

// write carries out one set_config; nil when there is nothing to write.
func (e *Engine) write(ctx context.Context, obs plugin.Observation, asker, reason string, changes []guest.Change) (*op.Op, error) {
	o := &op.Op{
		ID: op.NewID(time.Now()), Asker: asker, Guest: obs.State.ID, Kind: plugin.SetConfig, Class: guest.Benign,
		Reason: reason, Set: map[string]string{}, Digest: obs.Digest, Node: e.nodeName(), Planned: time.Now(),
	}
	for _, c := range changes {
		switch {
		case c.Class != guest.Benign || c.Refuse != "":
			return nil, fmt.Errorf("guest %s: %s is not a benign change: %s", obs.State.ID, c.Key, c.Refuse)
		case c.Delete:
			o.Delete = append(o.Delete, c.Key)
		default:
			o.Set[c.Key] = c.Send
		}
	}
	if len(o.Set)+len(o.Delete) == 0 {
		return nil, nil
	}
	state, res := e.run(ctx, o)
	if state.InFlight() || state == op.Planned || state == "" {
		return nil, fmt.Errorf("guest %s: %s: %w", o.Guest, reason, errors.Join(errNoOutcome, res.Err))
	}
	if state == op.Retried { // by nobody: it has no place on the lane
		e.abandon(ctx, o.ID, "not tried again")
	}
	if done, ok := e.led.Op(o.ID); ok {
		o = &done
	}
	return o, nil
}

var errNoOutcome = errors.New("no outcome")

func (e *Engine) version() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.node.Version
}
