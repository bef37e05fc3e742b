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

// executorServer serves an Executor.
type executorServer struct {
	pluginpb.UnimplementedExecutorServer
	impl Executor
}

func (s *executorServer) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	info, err := s.impl.Describe(ctx)
	return infoToPB(info), toStatus(err)
}

func (s *executorServer) Apply(stream grpc.BidiStreamingServer[pluginpb.ApplyIn, pluginpb.ApplyOut]) error {
	in, err := stream.Recv()
	if err != nil {
		return err
	}
	a, err := actionFromPB(in.GetRequest().GetAction())
	if err != nil {
		return toStatus(err)
	}
	emit := func(p Progress) error { return emitProgress(stream, p) }
	out, err := s.impl.Apply(stream.Context(), a, in.GetRequest().GetHandle(), emit)
	if err != nil {
		return toStatus(err)
	}
	return stream.Send(&pluginpb.ApplyOut{Msg: &pluginpb.ApplyOut_Outcome{Outcome: outcomeToPB(out)}})
}

// emitProgress returns when the host has dealt with p.
func emitProgress(stream grpc.BidiStreamingServer[pluginpb.ApplyIn, pluginpb.ApplyOut], p Progress) error {
	msg := &pluginpb.Progress{Handle: p.Handle, Text: wireText(p.Text)}
	if err := stream.Send(&pluginpb.ApplyOut{Msg: &pluginpb.ApplyOut_Progress{Progress: msg}}); err != nil {
		return fromStatus(stream.Context(), err)
	}
	in, err := stream.Recv()
	if err != nil {
		return fromStatus(stream.Context(), err)
	}
	if in.GetAck() == nil {
		return fmt.Errorf("%w: the host sent no ack", ErrInvalid)
	}
	return fromFailure(in.GetAck().GetFailure())
}

func (s *executorServer) Probe(ctx context.Context, r *pluginpb.ProbeRequest) (*pluginpb.ProbeResponse, error) {
	a, err := actionFromPB(r.GetAction())
	if err != nil {
		return nil, toStatus(err)
	}
	v, err := s.impl.Probe(ctx, ProbeQuery{
		Action: a, Handle: r.GetHandle(),
		Sent: timeFromPB(r.GetSent()), Until: timeFromPB(r.GetUntil()), Taken: r.GetTaken(),
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &pluginpb.ProbeResponse{
		Finding: string(v.Finding), Handle: v.Handle, Outcome: outcomeToPB(v.Outcome), Message: wireText(v.Message),
	}, nil
}

// executorClient is the host's end.
type executorClient struct{ c pluginpb.ExecutorClient }

func (e *executorClient) Describe(ctx context.Context) (Info, error) {
	p, err := e.c.Describe(ctx, &pluginpb.DescribeRequest{})
	return infoFromPB(p), fromStatus(ctx, err)
}

func (e *executorClient) Apply(ctx context.Context, a Action, handle string, emit func(Progress) error) (Outcome, error) {
	call, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream in every case
	stream, err := e.start(call, a, handle)
	if err != nil {
		return Outcome{}, err
	}
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return Outcome{}, errors.New("the plugin ended the call without an outcome")
		}
		if err != nil {
			return Outcome{}, fromStatus(ctx, err)
		}
		switch msg := out.GetMsg().(type) {
		case *pluginpb.ApplyOut_Outcome:
			return outcomeFromPB(msg.Outcome), nil
		case *pluginpb.ApplyOut_Progress:
			err := emit(Progress{Handle: msg.Progress.GetHandle(), Text: wireText(msg.Progress.GetText())})
			ack := &pluginpb.Ack{Failure: toFailure(err)}
			// A failed Send is io.EOF; the next Recv says why.
			_ = stream.Send(&pluginpb.ApplyIn{Msg: &pluginpb.ApplyIn_Ack{Ack: ack}})
		}
	}
}

// start opens the stream and hands over the request. An error that leaves no
// doubt that the plugin never saw the request is an ErrNotSent; that says
// nothing about an action which has a handle, so there it is not used.
func (e *executorClient) start(ctx context.Context, a Action, handle string) (grpc.BidiStreamingClient[pluginpb.ApplyIn, pluginpb.ApplyOut], error) {
	stream, err := e.c.Apply(ctx)
	if err == nil {
		req := &pluginpb.ApplyRequest{Action: actionToPB(a), Handle: handle}
		err = stream.Send(&pluginpb.ApplyIn{Msg: &pluginpb.ApplyIn_Request{Request: req}})
		if errors.Is(err, io.EOF) { // the stream broke under the message; Recv says why
			return stream, nil
		}
	}
	if err == nil {
		return stream, nil
	}
	err = fromStatus(ctx, err)
	if handle == "" {
		err = fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return nil, err
}

func (e *executorClient) Probe(ctx context.Context, q ProbeQuery) (Verdict, error) {
	p, err := e.c.Probe(ctx, &pluginpb.ProbeRequest{
		Action: actionToPB(q.Action), Handle: q.Handle, Sent: timeToPB(q.Sent), Until: timeToPB(q.Until),
		Taken: q.Taken,
	})
	if err != nil {
		return Verdict{}, fromStatus(ctx, err)
	}
	v := Verdict{Finding: findingFromPB(p.GetFinding()), Handle: p.GetHandle(), Message: wireText(p.GetMessage())}
	if p.GetOutcome() != nil {
		v.Outcome = outcomeFromPB(p.GetOutcome())
	}
	return v, nil
}

func actionToPB(a Action) *pluginpb.Action {
	return &pluginpb.Action{
		OpId: a.OpID, Attempt: uint32(max(a.Attempt, 0)), Node: a.Node, Guest: idToPB(a.Guest), Kind: string(a.Kind),
		Set: a.Set, Delete: a.Delete, Digest: a.Digest, Params: a.Params, Reason: wireText(a.Reason), Secret: a.Secret,
	}
}

func actionFromPB(p *pluginpb.Action) (Action, error) {
	id, err := idFromPB(p.GetGuest())
	if err != nil {
		return Action{}, err
	}
	return Action{
		OpID: p.GetOpId(), Attempt: int(p.GetAttempt()), Node: p.GetNode(), Guest: id, Kind: ActionKind(p.GetKind()),
		Set: p.GetSet(), Delete: p.GetDelete(), Digest: p.GetDigest(), Params: p.GetParams(), Reason: p.GetReason(),
		Secret: p.GetSecret(),
	}, nil
}

func outcomeToPB(o Outcome) *pluginpb.Outcome {
	if o.Status == "" { // a verdict without an outcome
		return nil
	}
	p := &pluginpb.Outcome{
		Status: string(o.Status), Message: wireText(o.Message), Warnings: uint32(max(o.Warnings, 0)),
		RetryAfter: durationToPB(o.RetryAfter), RefusedKeys: o.RefusedKeys, Reason: o.Reason,
		Params: o.Params,
	}
	if o.Undo != nil {
		p.Undo = actionToPB(*o.Undo)
	}
	return p
}

// outcomeFromPB reads what a plugin said. A status of no known kind is
// Unknown: it may have taken effect. An undo that makes no sense is dropped;
// as an error it would hide what was done.
func outcomeFromPB(p *pluginpb.Outcome) Outcome {
	o := Outcome{
		Status: Status(p.GetStatus()), Message: wireText(p.GetMessage()), Warnings: int(p.GetWarnings()),
		RetryAfter: durationFromPB(p.GetRetryAfter()), RefusedKeys: p.GetRefusedKeys(), Reason: wireText(p.GetReason()),
		Params: p.GetParams(),
	}
	switch o.Status {
	case Done, Retry, Refused, Failed, Unknown:
	default:
		o.Message = fmt.Sprintf("the plugin answered with status %.64q: %s", o.Status, o.Message)
		o.Status = Unknown
	}
	if undo, err := actionFromPB(p.GetUndo()); err == nil {
		o.Undo = &undo
	}
	return o
}

func findingFromPB(s string) Finding {
	switch f := Finding(s); f {
	case Found, Settled, NotSent, Unclear:
		return f
	}
	return Unclear
}
