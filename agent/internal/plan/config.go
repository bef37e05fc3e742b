// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// config plans the changes of the guest's config, one set_config per class:
// what is benign, what makes something new, and what needs a signature.
func (in Input) config(g *Guest, want *desired.Guest, obs plugin.Observation) {
	if len(want.Config)+len(want.Delete)+len(want.Disks) == 0 {
		return
	}
	if obs.Config == nil {
		g.Withheld = append(g.Withheld, Withheld{Field: "config", What: "config not known", Why: obs.ConfigError})
		return
	}
	byClass := map[guest.Class]*Action{}
	for _, c := range in.changes(want, obs) {
		w := in.withhold(want, c)
		if w != nil {
			g.Withheld = append(g.Withheld, *w)
		}
		if w == nil || c.Class == guest.Irreversible && w.Why == whyGated {
			actionOf(byClass, c.Class, obs.Digest).add(c)
		}
	}
	for _, class := range []guest.Class{guest.Benign, guest.Additive} {
		if a := byClass[class]; a != nil {
			g.Actions = append(g.Actions, *a)
		}
	}
	if a := byClass[guest.Irreversible]; a != nil {
		g.Gated = append(g.Gated, *a)
	}
}

func actionOf(m map[guest.Class]*Action, class guest.Class, digest string) *Action {
	if m[class] == nil {
		m[class] = &Action{Kind: plugin.SetConfig, Class: class, Effect: guest.Live, Digest: digest}
	}
	return m[class]
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
	if a.Reason != "" {
		a.Reason += ", "
	}
	a.Reason += Describe(c)
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
	case c.Class == guest.Additive && !in.AllowAdditive:
		w.Why = whyAdditive
	case c.Class != guest.Benign && pol.Changed != "":
		w.Why = pol.Changed
	case c.Effect == guest.NeedsRoot:
		w.Why = "PVE allows it to root@pam only, not to a token"
	case c.Effect == guest.NeedsStop:
		w.Why = "PVE takes it only while the guest is stopped"
	case pol.SetAside[c.Key] != "":
		w.Why = "PVE refused it: " + pol.SetAside[c.Key]
	case held(want, pol, c.Key) != "":
		w.Why, w.Settled = held(want, pol, c.Key), true
	case c.Class == guest.Irreversible:
		w.Why = whyGated
	default:
		return nil
	}
	return &w
}

const (
	whyGated    = "irreversible: it needs a signed approval"
	whyAdditive = "it makes something new, which needs allow_additive = true"
)

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
