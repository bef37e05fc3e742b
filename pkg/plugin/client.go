// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
	"slices"

	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// Client is the host's end of a connection to one plugin process. Its methods
// may be called by several goroutines at once.
type Client struct{ conn grpc.ClientConnInterface }

// NewClient makes a client of a connection that was dialled with DialOptions.
// Closing the connection stays with the caller.
func NewClient(conn grpc.ClientConnInterface) *Client { return &Client{conn: conn} }

// Configure hands over the configuration and returns the kinds which the
// plugin serves. It is called once, before anything else.
func (c *Client) Configure(ctx context.Context, cfg Config, hostVersion string) ([]Kind, error) {
	req := &pluginpb.ConfigureRequest{
		ConfigJson: cfg.object(), Secrets: map[string][]byte{}, HostVersion: hostVersion,
		HostFeatures: []string{grease()},
	}
	for name, value := range cfg.Secrets {
		req.Secrets[name] = []byte(value.Reveal())
	}
	p, err := pluginpb.NewPluginClient(c.conn).Configure(ctx, req)
	if err != nil {
		return nil, fromStatus(ctx, err)
	}
	var kinds []Kind
	for _, name := range p.GetKinds() {
		if k := Kind(name); k.Valid() && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds, nil
}

// Executor is the plugin's executor; a plugin without one answers
// ErrUnsupported.
func (c *Client) Executor() Executor {
	return &executorClient{c: pluginpb.NewExecutorClient(c.conn)}
}

// Observer is the plugin's observer; a plugin without one answers
// ErrUnsupported.
func (c *Client) Observer() Observer {
	return &observerClient{c: pluginpb.NewObserverClient(c.conn)}
}

// Provider is the plugin's provider; a plugin without one answers
// ErrUnsupported. It is a Reporter too.
func (c *Client) Provider() Provider {
	return &providerClient{c: pluginpb.NewProviderClient(c.conn)}
}

// grease is a feature name that means nothing: who cannot cope with names it
// does not know finds out at once.
func grease() string {
	b := [4]byte{}
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return "grease-" + hex.EncodeToString(b[:])
}
