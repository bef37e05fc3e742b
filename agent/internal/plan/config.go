// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// config plans one set_config with all benign changes of the guest.
func (in Input) config(g *Guest, want *desired.Guest, obs plugin.Observation) {
	if len(want.Config) == 0 && len(want.Delete) == 0 {
		return
	}
	if obs.Config == nil {
		g.Withheld = append(g.Withheld, Withheld{Field: "config", What: "config not known", Why: obs.ConfigError})
		return
	}
	act := Action{Kind: plugin.SetConfig, Class: guest.Benign, Effect: guest.Live, Digest: obs.Digest}
	var reasons []string
	for _, c := range in.changes(want, obs) {
		if w := in.withhold(want, c); w != nil {
			g.Withheld = append(g.Withheld, *w)
			continue
		}
		act.add(c)
		reasons = append(reasons, Describe(c))
	}
	if len(act.Changes) > 0 {
		act.Reason = strings.Join(reasons, ", ")
		g.Actions = append(g.Actions, act)
	}
}

func (in Input) changes(want *desired.Guest, obs plugin.Observation) []guest.Change {
	forms := in.Forms
	if forms == nil {
		forms = guest.Standard()
	}
	facts := guest.Facts{Kind: want.Kind, Running: obs.State.Run == guest.Running, PVE: in.PVE}
	all := forms.Diff(facts, want.Config, want.Delete, obs.Config)
	return slices.DeleteFunc(all, func(c guest.Change) bool { return want.Ignores(c.Key) })
}

func (a *Action) add(c guest.Change) {
	a.Changes = append(a.Changes, view(c))
	if c.Effect == guest.Restart {
		a.Effect = guest.Restart
	}
	if c.Delete {
		a.Delete = append(a.Delete, c.Key)
		return
	}
	if a.Set == nil {
		a.Set = map[string]string{}
	}
	a.Set[c.Key] = c.Send
	if c.Secret {
		a.Secret = append(a.Secret, c.Key)
	}
}

func view(c guest.Change) Change {
	v := Change{Key: c.Key, Effect: c.Effect}
	if c.HasFrom {
		v.From = &c.From
	}
	if !c.Delete {
		v.To = &c.To
	}
	return v
}

// withhold says why a change is not made, or nil.
func (in Input) withhold(want *desired.Guest, c guest.Change) *Withheld {
	pol := in.Guests[want.VMID]
	w := Withheld{Field: c.Key, What: Describe(c)}
	switch {
	case c.Refuse != "":
		w.Why = c.Refuse
	case c.Class == guest.Never:
		w.Why = "this key is never written through the API" + rootHint(c)
	case c.Class == guest.Unclassed:
		w.Why = "nobody has classified this key, so it is reported and not written"
	case c.Class == guest.Irreversible:
		w.Why = "irreversible: it needs a signed approval"
	case c.Class != guest.Benign:
		w.Why = "it makes something new, which needs allow_additive and is not part of reconciling"
	case c.Effect == guest.NeedsRoot:
		w.Why = "PVE allows it to root@pam only, not to a token"
	case c.Effect == guest.NeedsStop:
		w.Why = "PVE takes it only while the guest is stopped"
	case pol.SetAside[c.Key] != "":
		w.Why = "PVE refused it: " + pol.SetAside[c.Key]
	case held(want, pol, c.Key) != "":
		w.Why, w.Settled = held(want, pol, c.Key), true
	default:
		return nil
	}
	return &w
}

func rootHint(c guest.Change) string {
	if c.Privilege == "root@pam" {
		return " (root@pam only)"
	}
	return ""
}

// held says why a config key that was changed by hand is left alone.
func held(want *desired.Guest, pol Policy, key string) string {
	if want.Manual(key) != desired.Hold {
		return ""
	}
	if why := pol.Hold[key]; why != "" {
		return why
	}
	return pol.Hold["*"]
}

// Describe puts a change in words: "cores 2 -> 4".
func Describe(c guest.Change) string {
	from, to := short(c.From), short(c.To)
	if !c.HasFrom {
		from = "(absent)"
	}
	if c.Delete {
		to = "(absent)"
	}
	return fmt.Sprintf("%s %s -> %s", c.Key, from, to)
}

// short keeps a reason on one line.
func short(v string) string {
	v = strings.TrimRight(v, "\n")
	if strings.ContainsAny(v, "\n\r\t") || v == "" {
		v = fmt.Sprintf("%q", v)
	}
	if r := []rune(v); len(r) > 100 {
		v = string(r[:97]) + "..."
	}
	return v
}

// disks reports volumes that should be larger. Sizes are never part of a
// set_config: PVE grows a volume by a call of its own.
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
		w := Withheld{Field: key, What: fmt.Sprintf("%s grow to %s", key, guest.FormatSize(size))}
		if ok {
			w.What = fmt.Sprintf("%s size %s -> %s", key, guest.FormatSize(have), guest.FormatSize(size))
		}
		w.Why = "growing a disk makes something new, which needs allow_additive and is not part of reconciling"
		if !ok {
			w.Why = "the volume is not there or its size is not known"
		}
		g.Withheld = append(g.Withheld, w)
	}
}
