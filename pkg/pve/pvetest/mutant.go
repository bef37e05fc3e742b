// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// mutate changes the one behaviour that the options name. It wraps what New
// has put together, so that the code that serves requests knows nothing of
// it.
func (s *Sim) mutate(routes []route) {
	switch s.opt.Mutant {
	case "":
	case mutant.LockWait:
		s.lockWait = lockWait / 2
	case mutant.TaskDelay:
		s.settleLate = true
	case mutant.HookOrder:
		s.opt.RunHook = otherPhase(s.opt.RunHook)
	case mutant.Privilege:
		mutateRoutes(routes, "/status/", func(r *route) { r.perm = guestPerm("VM.Audit", "VM.PowerMgmt") })
	case mutant.ErrorText:
		mutateRoutes(routes, "", func(r *route) { r.run = otherText(r.run) })
	default:
		mutateRoutes(routes, "/config", func(r *route) {
			if r.method == "GET" {
				r.run = otherView(r.run, s.opt.Mutant)
			}
		})
	}
}

func mutateRoutes(routes []route, path string, f func(*route)) {
	for i := range routes {
		if strings.Contains(routes[i].path, path) && strings.Contains(routes[i].path, "{vmid}") {
			f(&routes[i])
		}
	}
}

func otherPhase(run func(HookCall) error) func(HookCall) error {
	swap := strings.NewReplacer("pre-", "post-", "post-", "pre-")
	return func(h HookCall) error {
		h.Phase = swap.Replace(h.Phase)
		if run == nil {
			return nil
		}
		return run(h)
	}
}

func otherText(run func(*call) (any, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		data, err := run(c)
		var ae *apiError
		if errors.As(err, &ae) {
			changed := *ae
			changed.reason = strings.ReplaceAll(ae.reason, "does not exist", "not found")
			err = &changed
		}
		return data, err
	}
}

// otherView changes how a config reads back.
func otherView(run func(*call) (any, error), what mutant.Name) func(*call) (any, error) {
	return func(c *call) (any, error) {
		data, err := run(c)
		view, ok := data.(map[string]any)
		if !ok {
			return data, err
		}
		for k, v := range view {
			switch text, isText := v.(string); {
			case !isText:
				if what == mutant.NumberType {
					view[k] = string(encode(v))
				}
			case what == mutant.Newline && k == "description":
				view[k] = strings.TrimSuffix(text, "\n")
			case what == mutant.TagOrder && k == "tags":
				tags := strings.Split(text, ";")
				slices.Reverse(tags)
				view[k] = strings.Join(tags, ";")
			case what == mutant.MACCase:
				view[k] = macRE.ReplaceAllStringFunc(text, strings.ToLower)
			case what == mutant.DigestScope && k == "digest":
				view[k] = digestOf(c.sim.valuesOf(c.vmid()))
			}
		}
		return view, err
	}
}

// valuesOf is a guest's config file without its comments.
func (s *Sim) valuesOf(vmid int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[vmid]
	if g == nil {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(g.conf.Text()) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
