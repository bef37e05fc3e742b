// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// The zero time is an absent timestamp on the wire, and the reverse.

func timeToPB(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFromPB(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func durationToPB(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// durationFromPB reads a duration that cannot sensibly be negative.
func durationFromPB(d *durationpb.Duration) time.Duration { return max(d.AsDuration(), 0) }

func vmidFromPB(n uint32) (guest.VMID, error) {
	if v := guest.VMID(n); v >= guest.MinVMID && v <= guest.MaxVMID {
		return v, nil
	}
	return 0, fmt.Errorf("%w: %d is not a VMID", ErrInvalid, n)
}

func idToPB(id guest.ID) *pluginpb.GuestID {
	return &pluginpb.GuestID{Kind: string(id.Kind), Vmid: uint32(id.VMID)}
}

func idFromPB(p *pluginpb.GuestID) (guest.ID, error) {
	kind := guest.Kind(p.GetKind())
	if !kind.Valid() {
		return guest.ID{}, fmt.Errorf("%w: %q is not a kind of guest", ErrInvalid, kind)
	}
	vmid, err := vmidFromPB(p.GetVmid())
	return guest.ID{Kind: kind, VMID: vmid}, err
}

func runStateFromPB(s string) guest.RunState {
	switch r := guest.RunState(s); r {
	case guest.Running, guest.Stopped:
		return r
	}
	return ""
}

func infoToPB(i Info) *pluginpb.DescribeResponse {
	p := &pluginpb.DescribeResponse{Name: i.Name, Version: i.Version, Features: i.Features}
	for _, a := range i.Actions {
		p.Actions = append(p.Actions, string(a))
	}
	return p
}

func infoFromPB(p *pluginpb.DescribeResponse) Info {
	i := Info{Name: wireText(p.GetName()), Version: wireText(p.GetVersion()), Features: p.GetFeatures()}
	for _, a := range p.GetActions() {
		i.Actions = append(i.Actions, ActionKind(a))
	}
	return i
}
