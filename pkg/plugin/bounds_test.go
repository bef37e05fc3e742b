// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// The wordy are a plugin that was not made with this package and bounds nothing.
type (
	wordy struct {
		pluginpb.UnimplementedPluginServer
	}
	wordyExecutor struct {
		pluginpb.UnimplementedExecutorServer
	}
	wordyObserver struct {
		pluginpb.UnimplementedObserverServer
	}
	wordyProvider struct {
		pluginpb.UnimplementedProviderServer
	}
)

var words = strings.Repeat("x", 1<<20)

func (wordy) Configure(context.Context, *pluginpb.ConfigureRequest) (*pluginpb.ConfigureResponse, error) {
	return &pluginpb.ConfigureResponse{Kinds: strings.Split(strings.Repeat("provider ", 1000), " ")}, nil
}

func (wordyExecutor) Apply(s grpc.BidiStreamingServer[pluginpb.ApplyIn, pluginpb.ApplyOut]) error {
	_ = s.Send(&pluginpb.ApplyOut{Msg: &pluginpb.ApplyOut_Progress{Progress: &pluginpb.Progress{Text: words}}})
	return s.Send(&pluginpb.ApplyOut{Msg: &pluginpb.ApplyOut_Outcome{Outcome: &pluginpb.Outcome{Status: words, Message: words, Reason: words}}})
}

func (wordyExecutor) Probe(context.Context, *pluginpb.ProbeRequest) (*pluginpb.ProbeResponse, error) {
	return &pluginpb.ProbeResponse{Message: words}, nil
}

func (wordyProvider) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	return &pluginpb.DescribeResponse{Name: words, Version: words}, nil
}

func (wordyProvider) Watch(s grpc.BidiStreamingServer[pluginpb.ProviderWatchIn, pluginpb.Snapshot]) error {
	return s.Send(&pluginpb.Snapshot{Error: words})
}

func (wordyProvider) Report(context.Context, *pluginpb.ReportRequest) (*pluginpb.ReportResponse, error) {
	return nil, status.Error(codes.InvalidArgument, words)
}

func (wordyObserver) Watch(_ *pluginpb.ObserverWatchRequest, s grpc.ServerStreamingServer[pluginpb.Hint]) error {
	return s.Send(&pluginpb.Hint{Reason: words})
}

func (wordyObserver) Guest(context.Context, *pluginpb.GuestRequest) (*pluginpb.Observation, error) {
	return &pluginpb.Observation{ConfigError: words, TasksGap: words}, nil
}

// dialWordy connects to a plugin that is all of these.
func dialWordy(t *testing.T) *Client {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(ServerOptions()...)
	pluginpb.RegisterPluginServer(srv, wordy{})
	pluginpb.RegisterExecutorServer(srv, wordyExecutor{})
	pluginpb.RegisterProviderServer(srv, wordyProvider{})
	pluginpb.RegisterObserverServer(srv, wordyObserver{})
	go func() { _ = srv.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient("passthrough:///plugin", append(DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop() })
	return NewClient(conn)
}

// TestWordsOfAStranger: what a plugin says is shown, logged and kept, so it is
// bounded on this side of the wire.
func TestWordsOfAStranger(t *testing.T) {
	c, ctx := dialWordy(t), t.Context()
	short := func(what, s string) {
		t.Helper()
		if s == "" || len(s) > 2*maxText {
			t.Errorf("%s: %d bytes", what, len(s))
		}
	}
	kinds, err := c.Configure(ctx, Config{}, "1")
	if err != nil || len(kinds) != 1 {
		t.Errorf("%d kinds, %v", len(kinds), err)
	}
	info, err := c.Provider().Describe(ctx)
	short("name", info.Name)
	short("version", info.Version)
	err = errors.Join(err, c.Provider().Watch(ctx, func(s Snapshot) error { short("snapshot", s.Err); return nil }))
	err = errors.Join(err, c.Observer().Watch(ctx, func(h Hint) error { short("hint", h.Reason); return nil }))
	obs, e := c.Observer().Guest(ctx, GuestQuery{VMID: 101})
	short("config error", obs.ConfigError)
	short("gap", obs.TasksGap)
	a := Action{OpID: "1", Kind: Start, Guest: guest.ID{Kind: guest.LXC, VMID: 101}}
	out, e2 := c.Executor().Apply(ctx, a, "", func(p Progress) error { short("progress", p.Text); return nil })
	short("outcome", out.Message)
	short("reason", out.Reason)
	v, e3 := c.Executor().Probe(ctx, ProbeQuery{Action: a})
	short("verdict", v.Message)
	if err = errors.Join(err, e, e2, e3); err != nil {
		t.Errorf("%.200s", err)
	}
	err = c.Provider().(Reporter).Report(ctx, Report{})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("report: %.200v", err)
	}
	short("error", err.Error())
}
