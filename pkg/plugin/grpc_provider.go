// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// providerServer serves a Provider, and its Reporter if it has one.
type providerServer struct {
	pluginpb.UnimplementedProviderServer
	impl Provider
}

func (s *providerServer) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	info, err := s.impl.Describe(ctx)
	return infoToPB(info), toStatus(err)
}

func (s *providerServer) Watch(stream grpc.BidiStreamingServer[pluginpb.ProviderWatchIn, pluginpb.Snapshot]) error {
	if _, err := stream.Recv(); err != nil { // start
		return err
	}
	return toStatus(s.impl.Watch(stream.Context(), func(snap Snapshot) error {
		return emitSnapshot(stream, snap)
	}))
}

// emitSnapshot returns the core's verdict on snap.
func emitSnapshot(stream grpc.BidiStreamingServer[pluginpb.ProviderWatchIn, pluginpb.Snapshot], snap Snapshot) error {
	if err := stream.Send(snapshotToPB(snap)); err != nil {
		return fromStatus(stream.Context(), err)
	}
	in, err := stream.Recv()
	if err != nil {
		return fromStatus(stream.Context(), err)
	}
	if in.GetVerdict() == nil {
		return fmt.Errorf("%w: the host sent no verdict", ErrInvalid)
	}
	return fromFailure(in.GetVerdict().GetFailure())
}

func (s *providerServer) Report(ctx context.Context, r *pluginpb.ReportRequest) (*pluginpb.ReportResponse, error) {
	rep, ok := s.impl.(Reporter)
	if !ok {
		return nil, toStatus(fmt.Errorf("%w: this provider carries no reports", ErrUnsupported))
	}
	err := rep.Report(ctx, Report{Time: timeFromPB(r.GetTime()), JSON: r.GetJson()})
	return &pluginpb.ReportResponse{}, toStatus(err)
}

// providerClient is the host's end; it is a Reporter, which answers
// ErrUnsupported when the plugin is not.
type providerClient struct{ c pluginpb.ProviderClient }

func (p *providerClient) Describe(ctx context.Context) (Info, error) {
	info, err := p.c.Describe(ctx, &pluginpb.DescribeRequest{})
	return infoFromPB(info), fromStatus(ctx, err)
}

func (p *providerClient) Watch(ctx context.Context, emit func(Snapshot) error) error {
	call, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream in every case
	stream, err := p.c.Watch(call)
	if err != nil {
		return fromStatus(ctx, err)
	}
	// A failed Send is io.EOF here and below; the next Recv says why.
	_ = stream.Send(&pluginpb.ProviderWatchIn{Msg: &pluginpb.ProviderWatchIn_Start{Start: &pluginpb.WatchStart{}}})
	for {
		snap, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return fromStatus(ctx, err)
		}
		verdict := &pluginpb.Verdict{Failure: toFailure(emit(snapshotFromPB(snap)))}
		_ = stream.Send(&pluginpb.ProviderWatchIn{Msg: &pluginpb.ProviderWatchIn_Verdict{Verdict: verdict}})
	}
}

func (p *providerClient) Report(ctx context.Context, r Report) error {
	_, err := p.c.Report(ctx, &pluginpb.ReportRequest{Time: timeToPB(r.Time), Json: r.JSON})
	return fromStatus(ctx, err)
}

func snapshotToPB(s Snapshot) *pluginpb.Snapshot {
	p := &pluginpb.Snapshot{Revision: s.Revision, Error: wireText(s.Err)}
	for _, f := range s.Files {
		p.Files = append(p.Files, &pluginpb.File{Name: f.Name, Data: f.Data, Signatures: f.Signatures})
	}
	return p
}

func snapshotFromPB(p *pluginpb.Snapshot) Snapshot {
	s := Snapshot{Revision: p.GetRevision(), Err: wireText(p.GetError())}
	for _, f := range p.GetFiles() {
		s.Files = append(s.Files, File{Name: f.GetName(), Data: f.GetData(), Signatures: f.GetSignatures()})
	}
	return s
}
