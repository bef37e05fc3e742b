// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// MaxMessage bounds one message in either direction, in bytes.
const MaxMessage = 16 << 20

// Kind is a kind of plugin.
type Kind string

// The kinds of plugin. One process may serve several.
const (
	KindExecutor Kind = "executor"
	KindObserver Kind = "observer"
	KindProvider Kind = "provider"
)

// Valid reports whether k is one of the three kinds.
func (k Kind) Valid() bool { return k == KindExecutor || k == KindObserver || k == KindProvider }

// Set is what one plugin process serves. Fields that are nil are not served.
type Set struct {
	Executor Executor
	Observer Observer
	Provider Provider
	// Configurer takes the configuration. When nil, each of the three above
	// that is a Configurer is configured, in the order of the fields.
	Configurer Configurer
}

// Kinds are the kinds of the fields that are set.
func (s Set) Kinds() []Kind {
	var kinds []Kind
	if s.Executor != nil {
		kinds = append(kinds, KindExecutor)
	}
	if s.Observer != nil {
		kinds = append(kinds, KindObserver)
	}
	if s.Provider != nil {
		kinds = append(kinds, KindProvider)
	}
	return kinds
}

// configurers are those who take the configuration.
func (s Set) configurers() []Configurer {
	if s.Configurer != nil {
		return []Configurer{s.Configurer}
	}
	var all []Configurer
	for _, member := range []any{s.Executor, s.Observer, s.Provider} {
		if c, ok := member.(Configurer); ok {
			all = append(all, c)
		}
	}
	return all
}

// Register puts the services of set on r. Serve does this for a plugin's main;
// tests use it to serve a plugin over a connection of their own.
func Register(r grpc.ServiceRegistrar, set Set) {
	pluginpb.RegisterPluginServer(r, &configServer{set: set})
	if set.Executor != nil {
		pluginpb.RegisterExecutorServer(r, &executorServer{impl: set.Executor})
	}
	if set.Observer != nil {
		pluginpb.RegisterObserverServer(r, &observerServer{impl: set.Observer})
	}
	if set.Provider != nil {
		pluginpb.RegisterProviderServer(r, &providerServer{impl: set.Provider})
	}
}

// ServerOptions are the gRPC options of every server of this protocol.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage)}
}

// DialOptions are the gRPC options of every client of this protocol.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithDefaultCallOptions(
		grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage), grpc.ForceCodec(frugal{}))}
}

// configServer serves the Plugin service.
type configServer struct {
	pluginpb.UnimplementedPluginServer
	set  Set
	done atomic.Bool
}

func (s *configServer) Configure(ctx context.Context, r *pluginpb.ConfigureRequest) (*pluginpb.ConfigureResponse, error) {
	if s.done.Swap(true) {
		return nil, toStatus(fmt.Errorf("%w: already configured", ErrInvalid))
	}
	cfg := Config{JSON: r.GetConfigJson(), Secrets: map[string]Secret{}}
	for name, value := range r.GetSecrets() {
		cfg.Secrets[name] = Secret(value)
	}
	if err := s.configure(ctx, cfg); err != nil {
		return nil, toStatus(err)
	}
	p := &pluginpb.ConfigureResponse{}
	for _, k := range s.set.Kinds() {
		p.Kinds = append(p.Kinds, string(k))
	}
	return p, nil
}

func (s *configServer) configure(ctx context.Context, cfg Config) error {
	all := s.set.configurers()
	if len(all) == 0 && !cfg.empty() {
		return fmt.Errorf("%w: this plugin takes no configuration", ErrInvalid)
	}
	for _, c := range all {
		if err := c.Configure(ctx, cfg); err != nil {
			return err
		}
	}
	return nil
}
