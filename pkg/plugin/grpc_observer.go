// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// observerServer serves an Observer.
type observerServer struct {
	pluginpb.UnimplementedObserverServer
	impl Observer
}

func (s *observerServer) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	info, err := s.impl.Describe(ctx)
	return infoToPB(info), toStatus(err)
}

func (s *observerServer) Watch(_ *pluginpb.ObserverWatchRequest, stream grpc.ServerStreamingServer[pluginpb.Hint]) error {
	return toStatus(s.impl.Watch(stream.Context(), func(h Hint) error {
		return fromStatus(stream.Context(), stream.Send(hintToPB(h)))
	}))
}

func (s *observerServer) List(ctx context.Context, _ *pluginpb.ListRequest) (*pluginpb.NodeState, error) {
	n, err := s.impl.List(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	p := &pluginpb.NodeState{
		Node: n.Node, Version: n.Version, Quorate: n.Quorate, Busy: n.Busy, Time: timeToPB(n.Time),
		Privileges: n.Privileges,
	}
	for _, g := range n.Guests {
		p.Guests = append(p.Guests, stateToPB(g))
	}
	return p, nil
}

func (s *observerServer) Guest(ctx context.Context, r *pluginpb.GuestRequest) (*pluginpb.Observation, error) {
	vmid, err := vmidFromPB(r.GetVmid())
	if err != nil {
		return nil, toStatus(err)
	}
	o, err := s.impl.Guest(ctx, GuestQuery{VMID: vmid, TasksSince: timeFromPB(r.GetTasksSince()), Inventory: r.GetInventory()})
	if err != nil {
		return nil, toStatus(err)
	}
	return observationToPB(o), nil
}

// observerClient is the host's end.
type observerClient struct{ c pluginpb.ObserverClient }

func (o *observerClient) Describe(ctx context.Context) (Info, error) {
	p, err := o.c.Describe(ctx, &pluginpb.DescribeRequest{})
	return infoFromPB(p), fromStatus(ctx, err)
}

func (o *observerClient) Watch(ctx context.Context, emit func(Hint) error) error {
	call, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream in every case
	stream, err := o.c.Watch(call, &pluginpb.ObserverWatchRequest{})
	if err != nil {
		return fromStatus(ctx, err)
	}
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return fromStatus(ctx, err)
		}
		if err := emit(hintFromPB(p)); err != nil {
			return err
		}
	}
}

func (o *observerClient) List(ctx context.Context) (NodeState, error) {
	p, err := o.c.List(ctx, &pluginpb.ListRequest{})
	if err != nil {
		return NodeState{}, fromStatus(ctx, err)
	}
	n := NodeState{
		Node: p.GetNode(), Version: p.GetVersion(), Quorate: p.GetQuorate(), Busy: p.GetBusy(), Time: timeFromPB(p.GetTime()),
		Privileges: p.GetPrivileges(),
	}
	for _, g := range p.GetGuests() {
		state, err := stateFromPB(g)
		if err != nil {
			return NodeState{}, fmt.Errorf("%w: the plugin's guest list: %w", ErrUnavailable, err)
		}
		n.Guests = append(n.Guests, state)
	}
	return n, nil
}

func (o *observerClient) Guest(ctx context.Context, q GuestQuery) (Observation, error) {
	p, err := o.c.Guest(ctx, &pluginpb.GuestRequest{
		Vmid: uint32(q.VMID), TasksSince: timeToPB(q.TasksSince), Inventory: q.Inventory,
	})
	if err != nil {
		return Observation{}, fromStatus(ctx, err)
	}
	return observationFromPB(p)
}

func hintToPB(h Hint) *pluginpb.Hint {
	p := &pluginpb.Hint{All: h.All, Reason: wireText(h.Reason)}
	for _, v := range h.Guests {
		p.Vmids = append(p.Vmids, uint32(v))
	}
	return p
}

// hintFromPB drops what is not a VMID: a hint is only a reason to look.
func hintFromPB(p *pluginpb.Hint) Hint {
	h := Hint{All: p.GetAll(), Reason: wireText(p.GetReason())}
	for _, n := range p.GetVmids() {
		if v, err := vmidFromPB(n); err == nil {
			h.Guests = append(h.Guests, v)
		}
	}
	return h
}

func stateToPB(g GuestState) *pluginpb.GuestState {
	return &pluginpb.GuestState{
		Id: idToPB(g.ID), Name: g.Name, Run: string(g.Run), Lock: g.Lock, Template: g.Template, Tags: g.Tags,
		Uptime: durationToPB(g.Uptime),
	}
}

func stateFromPB(p *pluginpb.GuestState) (GuestState, error) {
	id, err := idFromPB(p.GetId())
	return GuestState{
		ID: id, Name: p.GetName(), Run: runStateFromPB(p.GetRun()), Lock: p.GetLock(), Template: p.GetTemplate(),
		Tags: p.GetTags(), Uptime: durationFromPB(p.GetUptime()),
	}, err
}

func observationToPB(o Observation) *pluginpb.Observation {
	p := &pluginpb.Observation{
		Presence: string(o.Presence), Digest: o.Digest, ConfigError: wireText(o.ConfigError), Pending: o.Pending, TasksGap: wireText(o.TasksGap),
		HaManaged: o.HA.Managed, HaState: o.HA.State, Protection: o.Protection, Time: timeToPB(o.Time),
		Inventory: inventoryToPB(o.Inventory),
	}
	if o.State.ID.Kind != "" {
		p.State = stateToPB(o.State)
	}
	if o.Config != nil {
		p.Config = &pluginpb.Config{Values: o.Config}
	}
	for _, t := range o.Tasks {
		p.Tasks = append(p.Tasks, &pluginpb.Task{
			Upid: t.UPID, Type: t.Type, Id: t.ID, User: t.User, Started: timeToPB(t.Started), Ended: timeToPB(t.Ended),
			Status: wireText(t.Status), Own: t.Own,
		})
	}
	return p
}

func observationFromPB(p *pluginpb.Observation) (Observation, error) {
	o := Observation{
		Presence: presenceFromPB(p.GetPresence()), Digest: p.GetDigest(), ConfigError: wireText(p.GetConfigError()),
		Pending: p.GetPending(), TasksGap: wireText(p.GetTasksGap()),
		HA: HA{Managed: p.GetHaManaged(), State: p.GetHaState()}, Protection: p.GetProtection(), Time: timeFromPB(p.GetTime()),
		Inventory: inventoryFromPB(p.GetInventory()),
	}
	var err error
	if p.GetState() != nil {
		if o.State, err = stateFromPB(p.GetState()); err != nil {
			return Observation{}, fmt.Errorf("%w: the plugin's observation: %w", ErrUnavailable, err)
		}
	}
	if p.GetConfig() != nil {
		o.Config = guest.Config{}
		for k, v := range p.GetConfig().GetValues() {
			o.Config[k] = v
		}
	}
	for _, t := range p.GetTasks() {
		o.Tasks = append(o.Tasks, Task{
			UPID: t.GetUpid(), Type: t.GetType(), ID: t.GetId(), User: t.GetUser(), Started: timeFromPB(t.GetStarted()),
			Ended: timeFromPB(t.GetEnded()), Status: t.GetStatus(), Own: t.GetOwn(),
		})
	}
	return o, nil
}

func presenceFromPB(s string) Presence {
	switch p := Presence(s); p {
	case Here, Elsewhere, Gone, Unsure:
		return p
	}
	return Unsure
}
