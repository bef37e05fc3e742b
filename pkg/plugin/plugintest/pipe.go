// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// pipeBuffer is the capacity of an in-memory connection, in bytes.
const pipeBuffer = 1 << 20

// Pipe serves set over real gRPC on a connection in memory and returns the
// host's end. It works in a testing/synctest bubble. Both ends are closed when
// the test ends.
func Pipe(t testing.TB, set plugin.Set) *plugin.Client {
	t.Helper()
	c, stop, err := Connect(set)
	if err != nil {
		t.Fatalf("connect to the plugin in memory: %v", err)
	}
	t.Cleanup(stop)
	return c
}

// Connect is Pipe without a test. stop ends both ends and waits for them; to
// the client that looks like a plugin which died.
func Connect(set plugin.Set) (c *plugin.Client, stop func(), err error) {
	lis := bufconn.Listen(pipeBuffer)
	server := grpc.NewServer(plugin.ServerOptions()...)
	plugin.Register(server, set)
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }
	opts := append(plugin.DialOptions(), grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("passthrough:///plugin", opts...)
	if err != nil {
		return nil, nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) }) // ends with Stop and says nothing new
	stop = sync.OnceFunc(func() {
		server.Stop()
		_ = conn.Close()
		wg.Wait()
	})
	return plugin.NewClient(conn), stop, nil
}
