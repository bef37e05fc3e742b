// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// ProtocolVersion is the major version of the protocol: felhom.plugin.v1.
const ProtocolVersion = 1

// The magic cookie tells a plugin that the agent started it and not a person
// at a prompt. It is no secret and never changes.
const (
	CookieKey   = "FELHOM_PLUGIN"
	CookieValue = "c2f5a1f0e6c94b6f8f4a0f6f1d0c6a0f5d3b7a4e"
)

// How long a plugin lives without a connection: before the first one, and
// after the last one was lost. They end a plugin whose host was killed.
const (
	firstConnection = time.Minute
	lostConnection  = 3 * time.Second
)

// dispensed is the one name under which the services of a process are
// dispensed. It is not on the wire.
const dispensed = "felhom"

// Serve is the whole of a plugin's main: it does the handshake with the host
// and serves set until the host ends it or is gone. A process that the agent
// did not start says so on stderr and exits with status 1.
//
// While Serve runs, what the program prints on its standard output goes to
// the agent's log. Nothing may be printed there before the call of Serve.
func Serve(set Set) {
	if len(set.Kinds()) == 0 {
		exit("the plugin serves nothing: plugin.Set is empty")
	}
	if os.Getenv(CookieKey) != CookieValue {
		exit("%s is a plugin of felhom-agent (protocol felhom.plugin.v%d): the agent starts it, see its plugins.d",
			filepath.Base(os.Args[0]), ProtocolVersion)
	}
	if err := protectStdout(); err != nil {
		exit("standard output: %v", err)
	}
	nameProcess(filepath.Base(os.Args[0]))
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  HandshakeConfig(),
		VersionedPlugins: versions(set),
		GRPCServer:       grpcServer,
		Logger: hclog.New(&hclog.LoggerOptions{
			Name: "go-plugin", Level: hclog.Warn, Output: os.Stderr, JSONFormat: true,
		}),
	})
}

func exit(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// HandshakeConfig is what host and plugin must agree on. Only a host needs it.
func HandshakeConfig() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{MagicCookieKey: CookieKey, MagicCookieValue: CookieValue}
}

// HostPlugins is the host's side of the version negotiation. What Dispense
// returns for DispenseName is a *Client.
func HostPlugins() map[int]goplugin.PluginSet { return versions(Set{}) }

// DispenseName is the only name a host can dispense.
const DispenseName = dispensed

func versions(set Set) map[int]goplugin.PluginSet {
	return map[int]goplugin.PluginSet{ProtocolVersion: {dispensed: &glue{set: set}}}
}

// glue is a Set in go-plugin's terms, on either side.
type glue struct {
	goplugin.NetRPCUnsupportedPlugin
	set Set
}

func (g *glue) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	Register(s, g.set)
	return nil
}

func (g *glue) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return NewClient(c), nil
}

func grpcServer(opts []grpc.ServerOption) *grpc.Server {
	watch := &connWatch{}
	opts = append(opts, ServerOptions()...)
	s := grpc.NewServer(append(opts, grpc.StatsHandler(watch))...)
	watch.arm(s.Stop)
	return s
}

// connWatch stops a server that nobody is connected to: the kernel closes the
// connections of a host that was killed, and that is all a plugin gets to
// know of it.
type connWatch struct {
	mu    sync.Mutex // guards the fields that follow
	open  int
	timer *time.Timer
}

func (w *connWatch) arm(stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(firstConnection, stop)
}

func (w *connWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (w *connWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (w *connWatch) HandleRPC(context.Context, stats.RPCStats)                       {}

func (w *connWatch) HandleConn(_ context.Context, s stats.ConnStats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		w.open++
		w.timer.Stop()
	case *stats.ConnEnd:
		w.open--
		if w.open == 0 {
			w.timer.Reset(lostConnection)
		}
	}
}
