// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package hookinstall puts the hookscript of felhom-agent on guests, takes it
// off, and tells where it is.
//
// It changes guests only by PVE's own pct and qm, as root on the node, because
// PVE refuses the option to every API token. Guarantees: a config names the
// snippet only after the snippet is in place on a storage that every node has
// where the guest may start; a former hookscript is in the chain before the
// option is changed, and comes back when ours is removed; what is so already
// is left as it is; and what would keep a guest from starting is refused with
// the reason. The snippet itself is never removed, since a snapshot or a
// backup may name it.
package hookinstall

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Runner runs one of PVE's commands and returns what it printed. Its error
// holds the command's own words.
type Runner func(ctx context.Context, name string, args ...string) ([]byte, error)

// Guest is a guest of this node.
type Guest struct {
	ID       guest.ID
	Name     string
	Template bool
	// HA is whether the HA stack may start it, and Nodes are those where it
	// may: all of the cluster unless a rule says less.
	HA    bool
	Nodes []string
}

// Facts are what is known of node and cluster.
type Facts struct {
	Node     string
	Nodes    []string // of the cluster
	Guests   []Guest
	Storages []Storage
}

// Gather asks PVE. What cannot be learned is an error: a guess could keep a
// guest from starting.
func Gather(ctx context.Context, run Runner, node string) (*Facts, error) {
	f := &Facts{Node: node}
	var nodes []struct{ Node string }
	if err := get(ctx, run, "/nodes", &nodes); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		f.Nodes = append(f.Nodes, n.Node)
	}
	if !slices.Contains(f.Nodes, node) {
		return nil, fmt.Errorf("there is no node %s in this cluster (%s); [agent] node in the configuration names this host's node",
			node, strings.Join(f.Nodes, ", "))
	}
	if err := f.guests(ctx, run); err != nil {
		return nil, err
	}
	if err := f.highAvailability(ctx, run); err != nil {
		return nil, err
	}
	return f, f.storages(ctx, run)
}

// get reads a path of the API by pvesh.
func get(ctx context.Context, run Runner, path string, into any, args ...string) error {
	out, err := run(ctx, "pvesh", slices.Concat([]string{"get", path}, args, []string{"--output-format", "json"})...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("pvesh get %s: answer not understood: %w", path, err)
	}
	return nil
}

// flag is a boolean as PVE prints it: 1, "1", true.
type flag bool

// UnmarshalJSON implements json.Unmarshaler.
func (f *flag) UnmarshalJSON(b []byte) error {
	switch strings.Trim(string(b), `"`) {
	case "1", "true", "yes", "on":
		*f = true
	}
	return nil
}

func (f *Facts) guests(ctx context.Context, run Runner) error {
	var rows []struct {
		Type, Node, Name string
		VMID             json.Number
		Template         flag
	}
	if err := get(ctx, run, "/cluster/resources", &rows, "--type", "vm"); err != nil {
		return err
	}
	for _, r := range rows {
		n, err := strconv.ParseUint(r.VMID.String(), 10, 32)
		id := guest.ID{Kind: guest.Kind(r.Type), VMID: guest.VMID(n)}
		if err != nil || !id.Kind.Valid() || r.Node != f.Node {
			continue
		}
		f.Guests = append(f.Guests, Guest{ID: id, Name: r.Name, Template: bool(r.Template)})
	}
	slices.SortFunc(f.Guests, func(a, b Guest) int { return int(a.ID.VMID) - int(b.ID.VMID) })
	return nil
}

// highAvailability learns which guests the HA stack may start, and where.
func (f *Facts) highAvailability(ctx context.Context, run Runner) error {
	var res []struct{ SID, Group string }
	if err := get(ctx, run, "/cluster/ha/resources", &res); err != nil {
		return fmt.Errorf("which guests are highly available is not known: %w", err)
	}
	if len(res) == 0 {
		return nil
	}
	rules, err := f.placement(ctx, run)
	if err != nil {
		return err
	}
	for _, r := range res {
		i := slices.IndexFunc(f.Guests, func(g Guest) bool { return sid(g.ID) == r.SID })
		if i < 0 {
			continue
		}
		f.Guests[i].HA, f.Guests[i].Nodes = true, f.Nodes
		if only := rules["group "+r.Group]; only != nil {
			f.Guests[i].Nodes = only
		}
		if only := rules[r.SID]; only != nil {
			f.Guests[i].Nodes = only
		}
	}
	return nil
}

// sid is a guest's name in the HA stack.
func sid(id guest.ID) string {
	if id.Kind == guest.QEMU {
		return "vm:" + id.VMID.String()
	}
	return "ct:" + id.VMID.String()
}

// placement are the nodes that a strict rule (PVE 9) or a restricted group
// allows, by service id or by "group NAME". One of the two exists.
func (f *Facts) placement(ctx context.Context, run Runner) (map[string][]string, error) {
	out := map[string][]string{}
	var rules []struct {
		Type, Nodes, Resources string
		Strict, Disable        flag
	}
	rulesErr := get(ctx, run, "/cluster/ha/rules", &rules)
	for _, r := range rules {
		if r.Type != "node-affinity" || !r.Strict || r.Disable {
			continue
		}
		for _, id := range strings.Split(r.Resources, ",") {
			out[strings.TrimSpace(id)] = names(r.Nodes)
		}
	}
	var groups []struct {
		Group, Nodes string
		Restricted   flag
	}
	groupsErr := get(ctx, run, "/cluster/ha/groups", &groups)
	for _, g := range groups {
		if g.Restricted {
			out["group "+g.Group] = names(g.Nodes)
		}
	}
	if rulesErr != nil && groupsErr != nil {
		return nil, fmt.Errorf("where highly available guests may run is not known: %w", groupsErr)
	}
	return out, nil
}

// names are the nodes of "n1:2,n2".
func names(list string) []string {
	var out []string
	for _, n := range strings.Split(list, ",") {
		n, _, _ = strings.Cut(strings.TrimSpace(n), ":")
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

// Find returns the named guests in order, or all but templates when none is
// named. A guest that is not on this node is an error.
func (f *Facts) Find(ids []guest.VMID) ([]Guest, error) {
	var out []Guest
	if len(ids) == 0 {
		for _, g := range f.Guests {
			if !g.Template {
				out = append(out, g)
			}
		}
		return out, nil
	}
	for _, id := range ids {
		i := slices.IndexFunc(f.Guests, func(g Guest) bool { return g.ID.VMID == id })
		if i < 0 {
			return nil, fmt.Errorf("there is no guest %s on node %s; its hookscript is set on the node where it is", id, f.Node)
		}
		out = append(out, f.Guests[i])
	}
	return out, nil
}
