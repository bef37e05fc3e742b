// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// disks plans volumes that should be larger. Sizes are never part of a
// set_config: PVE grows a volume by a call of its own, and never shrinks one.
func (in Input) disks(g *Guest, want *desired.Guest, obs plugin.Observation) {
	for _, key := range slices.Sorted(maps.Keys(want.Disks)) {
		if want.Ignores(key) || obs.Config == nil {
			continue
		}
		size := want.Disks[key]
		have, ok := guest.DiskSize(want.Kind, key, obs.Config[key])
		if ok && have >= size {
			continue
		}
		what := fmt.Sprintf("%s grow to %s", key, guest.FormatSize(size))
		if ok {
			what = fmt.Sprintf("%s size %s -> %s", key, guest.FormatSize(have), guest.FormatSize(size))
		}
		if why := in.noGrow(want, key, ok); why != "" {
			g.Withheld = append(g.Withheld, Withheld{Field: key, What: what, Why: why})
			continue
		}
		g.Actions = append(g.Actions, Action{
			Kind: plugin.GrowDisk, Class: guest.Additive, Effect: guest.Live, Reason: what, Digest: obs.Digest,
			Params: in.reserve(map[string]string{"disk": key, "size": strconv.FormatInt(size, 10)}),
		})
	}
}

func (in Input) noGrow(want *desired.Guest, key string, known bool) string {
	pol := in.Guests[want.VMID]
	switch {
	case !known:
		return "the volume is not there or its size is not known"
	case !in.AllowAdditive:
		return whyAdditive
	case pol.SetAside[key] != "":
		return "PVE refused it: " + pol.SetAside[key]
	}
	return pol.Changed
}

func (in Input) reserve(params map[string]string) map[string]string {
	if in.Reserve > 0 {
		params[plugin.ParamReserve] = strconv.FormatInt(in.Reserve, 10)
	}
	return params
}

// provision plans the making of a guest that is proven not to be there. What
// was known before is never made again by itself.
func (in Input) provision(g *Guest, want *desired.Guest) {
	no := func(what, why string) {
		g.Withheld = append(g.Withheld, Withheld{Field: "guest", What: what, Why: why})
	}
	pol := in.Guests[want.VMID]
	switch {
	case pol.Lost != "":
		no("lost", pol.Lost+"; it is not made again by itself: `felhom-agent forget "+want.VMID.String()+"` lets its document make it")
	case want.Provision == nil:
		no("absent", "no such guest on this node, and its document does not say how to make it")
	case !in.AllowAdditive:
		no("absent", whyAdditive)
	case cmp.Or(pol.Busy, in.Frozen) != "":
		g.Withheld = append(g.Withheld, Withheld{Field: "guest", What: "to be made", Why: cmp.Or(pol.Busy, in.Frozen), Waiting: true})
	default:
		if a, why := in.make(want); why == "" {
			g.Actions = append(g.Actions, a)
		} else {
			no("absent", why)
		}
	}
}

// make is the action that makes a guest, or why it cannot be.
func (in Input) make(want *desired.Guest) (Action, string) {
	p := want.Provision
	a := Action{Kind: plugin.Provision, Class: guest.Additive, Effect: guest.Live, Set: map[string]string{}}
	params := map[string]string{}
	switch {
	case p.Template != "":
		params["how"], params["source"] = "template", p.Template
	case p.Backup != "":
		params["how"], params["source"] = "backup", p.Backup
	default:
		params["how"], params["source"] = "clone", p.Clone.String()
	}
	if p.Storage != "" {
		params["storage"] = p.Storage
	}
	a.Params = in.reserve(params)
	a.Reason = fmt.Sprintf("make it from %s %s", params["how"], params["source"])
	if params["how"] != "template" {
		return a, "" // its config is compared once it is there
	}
	return a, in.firstConfig(&a, want)
}

// whyExists: PVE unpacks a template over what is on a volume that it is given,
// whosever it is, and asks no more for that than for a new one.
const whyExists = "it names a volume that exists, whose content would be lost or another's: order a new one as in local:8, or attach it once the guest is there, which needs a signed approval"

// firstConfig adds the config that a guest is made with.
func (in Input) firstConfig(a *Action, want *desired.Guest) string {
	all := maps.Clone(want.Config)
	if all == nil {
		all = guest.Config{}
	}
	maps.Copy(all, want.Provision.Config)
	forms := in.Forms
	if forms == nil {
		forms = guest.Standard()
	}
	for _, c := range forms.Diff(guest.Facts{Kind: want.Kind, PVE: in.PVE}, all, nil, guest.Config{}) {
		_, creating := want.Provision.Config[c.Key]
		switch {
		case c.Class == guest.Irreversible:
			return c.Key + ": " + whyExists
		case creating: // the owner of the document says that create needs it
			a.Set[c.Key] = all[c.Key]
		case c.Refuse != "":
			return c.Key + ": " + c.Refuse
		case c.Class == guest.Never || c.Class == guest.Unclassed || c.Effect == guest.NeedsRoot:
			return "a token cannot set " + c.Key + " when the guest is made"
		default:
			a.Set[c.Key] = c.Send
		}
		if c.Secret {
			a.Secret = append(a.Secret, c.Key)
		}
	}
	for key, v := range want.Provision.Config {
		a.Set[key] = v
	}
	return ""
}
