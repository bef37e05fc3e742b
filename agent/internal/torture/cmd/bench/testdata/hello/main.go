// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command hello is the least that go-plugin can serve: the reference for what
// our plugins cost.
package main

import (
	"context"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

type nothing struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (nothing) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error { return nil }

func (nothing) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func main() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "HELLO", MagicCookieValue: "hello"},
		Plugins:         goplugin.PluginSet{"hello": nothing{}},
		GRPCServer:      goplugin.DefaultGRPCServer,
	})
}
