// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// pveName is the first-party executor and observer.
const pveName = "pve"

// specs are the plugins that a configuration asks for: the pve plugin if a
// node is configured, one process per provider, and the vendors' executors and
// observers. A plugin that is one of these and a provider, too, is one process:
// that of the first provider that uses it.
func specs(c config.Config, host string) []pluginhost.Spec {
	var out []pluginhost.Spec
	if c.PVE.URL != "" {
		out = append(out, pveSpec(c, host))
	}
	vendors := pluginhost.ReadManifests(c.Plugins.Dir, c.Plugins.Trusted())
	for _, v := range vendors {
		if slices.Contains(v.Kinds, plugin.KindProvider) {
			if v.Kinds = others(v); len(v.Kinds) == 0 || used(c, v.Name) {
				continue
			}
		}
		out = append(out, v)
	}
	whole := map[string]bool{} // has a process that is all that it can be
	for _, p := range c.Providers {
		out = append(out, providerSpec(c, p, vendors, !whole[p.Plugin]))
		whole[p.Plugin] = true
	}
	return out
}

// others are the kinds of a plugin beside provider.
func others(v pluginhost.Spec) []plugin.Kind {
	return slices.DeleteFunc(slices.Clone(v.Kinds), func(k plugin.Kind) bool { return k == plugin.KindProvider })
}

// used reports whether a provider uses a vendor's plugin.
func used(c config.Config, name string) bool {
	return slices.ContainsFunc(c.Providers, func(p config.Provider) bool { return p.Plugin == name })
}

func pveSpec(c config.Config, host string) pluginhost.Spec {
	conf := map[string]any{
		"url": c.PVE.URL, "node": cmp.Or(c.Agent.Node, host), "server_name": c.PVE.ServerName, "poll_seconds": c.PVE.Poll.Seconds(),
	}
	for key, v := range map[string]string{"ca_file": c.PVE.CAFile, "vmlist": c.PVE.VMList} {
		if v != "" {
			conf[key] = v
		}
	}
	if len(c.PVE.Pins) > 0 {
		conf["pins"] = c.PVE.Pins
	}
	return pluginhost.Spec{
		Name: pveName, Kinds: []plugin.Kind{plugin.KindExecutor, plugin.KindObserver},
		Path: filepath.Join(c.Plugins.FirstParty, pveName), Config: conf, Actions: plugin.CoreActions(),
		Secrets: map[string]pluginhost.SecretSource{"token": {File: c.PVE.TokenFile}},
	}
}

// providerSpec is the process of one [[provider]]: a first-party plugin, or a
// vendor's by its manifest's name. Whole, it is what else that is, too.
func providerSpec(c config.Config, p config.Provider, vendors []pluginhost.Spec, whole bool) pluginhost.Spec {
	s := pluginhost.Spec{Path: filepath.Join(c.Plugins.FirstParty, p.Plugin)}
	for _, v := range vendors {
		if v.Name == p.Plugin {
			s = v
		}
	}
	s.Name, s.At = p.Name, p.At
	if whole && slices.Contains(s.Kinds, plugin.KindProvider) {
		s.Kinds = append([]plugin.Kind{plugin.KindProvider}, others(s)...)
	} else {
		s.Kinds, s.Actions, s.Benign = []plugin.Kind{plugin.KindProvider}, nil, nil
	}
	if p.Secrets != nil {
		s.Secrets = map[string]pluginhost.SecretSource{}
		for name, src := range p.Secrets {
			s.Secrets[name] = pluginhost.SecretSource{File: src.File, Credential: src.Credential}
		}
	}
	if p.Config != nil {
		s.Config = nil
		if err := json.Unmarshal(p.Config, &s.Config); err != nil {
			s.Refused = fmt.Sprintf("config: %v", err)
		}
	}
	return s
}

func (a *Agent) onSnapshot(ctx context.Context, provider string, s plugin.Snapshot) error {
	return a.eng.SetDesired(ctx, provider, s)
}

func (a *Agent) onHint(ctx context.Context, _ string, h plugin.Hint) { a.eng.Hint(ctx, h) }

// lateObserver finds the observer when it is asked: there may be none yet, or
// none at all.
type lateObserver struct{ host *pluginhost.Host }

var errNoNode = fmt.Errorf("%w: no PVE connection is configured ([pve] url) and no plugin observes a node", plugin.ErrUnavailable)

func (l lateObserver) List(ctx context.Context) (plugin.NodeState, error) {
	o, err := l.host.Observer()
	if err != nil {
		return plugin.NodeState{}, noNode(err)
	}
	return o.List(ctx)
}

func (l lateObserver) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	o, err := l.host.Observer()
	if err != nil {
		return plugin.Observation{}, noNode(err)
	}
	return o.Guest(ctx, q)
}

func noNode(err error) error {
	if errors.Is(err, plugin.ErrUnsupported) {
		return errNoNode
	}
	return err
}
