// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Executor returns the executor for a kind of action. It stays valid: each
// call goes to the process that serves the kind at that moment. While there is
// none, calls fail with ErrShutdown; Apply without a handle fails with
// ErrNotSent as well, and everything else with ErrUnavailable.
func (h *Host) Executor(kind plugin.ActionKind) (plugin.Executor, error) {
	if _, err := h.executorSlot(kind); err != nil {
		return nil, err
	}
	return executorRoute{h: h, kind: kind}, nil
}

// Benign reports whether the operator declared a vendor's action kind benign,
// in the manifest of the plugin that serves it now.
func (h *Host) Benign(kind plugin.ActionKind) bool {
	s, err := h.executorSlot(kind)
	return err == nil && slices.Contains(s.spec.Benign, kind)
}

// Observer returns the observer. It stays valid as an executor does.
func (h *Host) Observer() (plugin.Observer, error) {
	if _, err := h.observerSlot(); err != nil {
		return nil, err
	}
	return observerRoute{h: h}, nil
}

// Report hands a report to a provider. A provider that carries none answers
// ErrUnsupported.
func (h *Host) Report(ctx context.Context, provider string, r plugin.Report) error {
	s, err := h.slot(provider)
	if err != nil {
		return err
	}
	if !slices.Contains(s.spec.Kinds, plugin.KindProvider) {
		return fmt.Errorf("%w: plugin %s is no provider", plugin.ErrUnsupported, provider)
	}
	p, err := s.live(plugin.ErrUnavailable)
	if err != nil {
		return err
	}
	return s.wrap(p.client.Provider().(plugin.Reporter).Report(ctx, r))
}

func (h *Host) executorSlot(kind plugin.ActionKind) (*slot, error) {
	return h.find(fmt.Sprintf("action %q", kind), func(s Spec) bool { return slices.Contains(s.Actions, kind) })
}

func (h *Host) observerSlot() (*slot, error) {
	return h.find("the observer's part", func(s Spec) bool { return slices.Contains(s.Kinds, plugin.KindObserver) })
}

// find returns the slot whose spec serves what; checkSet saw to it that there
// is at most one.
func (h *Host) find(what string, serves func(Spec) bool) (*slot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.slots {
		if s.spec.Refused == "" && serves(s.spec) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: no plugin serves %s", plugin.ErrUnsupported, what)
}

// live returns the running process, or an error of kinds ErrShutdown and also.
func (s *slot) live(also error) (*instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		return s.current, nil
	}
	return nil, fmt.Errorf("plugin %s: %w: %w: it is %s", s.spec.Name, also, plugin.ErrShutdown, s.status.State)
}

// wrap names the plugin in an error of its.
func (s *slot) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("plugin %s: %w", s.spec.Name, err)
}

type executorRoute struct {
	h    *Host
	kind plugin.ActionKind
}

func (r executorRoute) to(also error) (plugin.Executor, *slot, error) {
	s, err := r.h.executorSlot(r.kind)
	if err != nil {
		return nil, nil, err
	}
	p, err := s.live(also)
	if err != nil {
		return nil, nil, err
	}
	return p.client.Executor(), s, nil
}

func (r executorRoute) Describe(ctx context.Context) (plugin.Info, error) {
	e, s, err := r.to(plugin.ErrUnavailable)
	if err != nil {
		return plugin.Info{}, err
	}
	info, err := e.Describe(ctx)
	return info, s.wrap(err)
}

func (r executorRoute) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	if a.Kind != r.kind {
		return plugin.Outcome{}, fmt.Errorf("%w: action %q on the way for %q", plugin.ErrInvalid, a.Kind, r.kind)
	}
	also := plugin.ErrNotSent
	if handle != "" { // it was sent, some time ago
		also = plugin.ErrUnavailable
	}
	e, s, err := r.to(also)
	if handle != "" && errors.Is(err, plugin.ErrUnsupported) { // now; it was served when it was sent
		err = fmt.Errorf("%w: no plugin serves action %q any more", plugin.ErrUnavailable, r.kind)
	}
	if err != nil {
		return plugin.Outcome{}, err
	}
	g := handleGuard{handle: handle, next: emit}
	out, err := e.Apply(ctx, a, handle, g.emit)
	if g.wrong != nil {
		return plugin.Outcome{}, s.wrap(g.wrong)
	}
	return out, s.wrap(err)
}

// maxHandle bounds a handle, in bytes: it is journalled. A UPID has about 80.
const maxHandle = 1 << 10

// handleGuard lets one handle through. A plugin that tells another one answers
// for something else; what became of the action is not known then.
type handleGuard struct {
	handle string
	next   func(plugin.Progress) error
	wrong  error
}

func (g *handleGuard) emit(p plugin.Progress) error {
	if p.Handle == "" || g.wrong != nil {
		return errors.Join(g.wrong, g.next(p))
	}
	if len(p.Handle) > maxHandle {
		g.wrong = fmt.Errorf("it told a handle of %d bytes; %d are the most", len(p.Handle), maxHandle)
		return g.wrong
	}
	if g.handle != "" && p.Handle != g.handle {
		g.wrong = fmt.Errorf("it told a second handle, %.200q after %.200q: one of them is of something else", p.Handle, g.handle)
		return g.wrong
	}
	g.handle = p.Handle
	return g.next(p)
}

func (r executorRoute) Probe(ctx context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	e, s, err := r.to(plugin.ErrUnavailable)
	if err != nil {
		return plugin.Verdict{}, err
	}
	v, err := e.Probe(ctx, q)
	if v.Finding == plugin.Found && (v.Handle == "" || slices.Contains(q.Taken, v.Handle)) {
		return plugin.Verdict{
			Finding: plugin.Unclear,
			Message: fmt.Sprintf("plugin %s found handle %.200q, which is of another op (%s)", s.spec.Name, v.Handle, v.Message),
		}, s.wrap(err)
	}
	return v, s.wrap(err)
}

type observerRoute struct{ h *Host }

func (r observerRoute) to() (plugin.Observer, *slot, error) {
	s, err := r.h.observerSlot()
	if err != nil {
		return nil, nil, err
	}
	p, err := s.live(plugin.ErrUnavailable)
	if err != nil {
		return nil, nil, err
	}
	return p.client.Observer(), s, nil
}

func (r observerRoute) Describe(ctx context.Context) (plugin.Info, error) {
	o, s, err := r.to()
	if err != nil {
		return plugin.Info{}, err
	}
	info, err := o.Describe(ctx)
	return info, s.wrap(err)
}

// Watch is for callers that want a stream of their own; the host's own watch
// feeds Options.OnHint.
func (r observerRoute) Watch(ctx context.Context, emit func(plugin.Hint) error) error {
	o, s, err := r.to()
	if err != nil {
		return err
	}
	return s.wrap(o.Watch(ctx, emit))
}

func (r observerRoute) List(ctx context.Context) (plugin.NodeState, error) {
	o, s, err := r.to()
	if err != nil {
		return plugin.NodeState{}, err
	}
	n, err := o.List(ctx)
	return n, s.wrap(err)
}

func (r observerRoute) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	o, s, err := r.to()
	if err != nil {
		return plugin.Observation{}, err
	}
	obs, err := o.Guest(ctx, q)
	if err == nil && obs.Presence == plugin.Here && obs.State.ID.VMID != q.VMID {
		return plugin.Observation{}, s.wrap(fmt.Errorf("%w: asked for guest %s, it answered for %s", plugin.ErrUnavailable, q.VMID, obs.State.ID))
	}
	return obs, s.wrap(err)
}
