// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// killPatience is how long the end of a killed process is waited for.
const killPatience = 5 * time.Second

// baseEnv is the environment of every plugin, beside what its spec and the
// handshake add. Nothing of the agent's own is in it.
var baseEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}

// running is a plugin process, from before its start to after its end.
type running struct {
	child *child
	conn  *grpc.ClientConn
	calls discreet // conn, for all that is asked over it
	dir   string   // of its socket; "" before there is one
	files string   // the copy it was started from; "" if there is none
	log   *output
	wg    sync.WaitGroup // of readStdio and watchMemory
}

// command is the process to start.
func command(p program, s Spec, handshake []string, dir string) *exec.Cmd {
	env := append(slices.Clone(baseEnv), "HOME="+dir, "TMPDIR="+dir)
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		env = append(env, k+"="+s.Env[k])
	}
	return &exec.Cmd{
		Path: p.path,
		Args: append(slices.Clone(p.args), s.Args...),
		Env:  append(env, handshake...),
		Dir:  "/",
	}
}

// checkHandshake judges the line by which a plugin says where it listens:
//
//	1|PROTOCOL|unix|PATH|grpc|CERTIFICATE
func checkHandshake(line, dir string) error {
	f := strings.Split(strings.TrimSpace(line), "|")
	if len(f) < 5 {
		return fmt.Errorf("the plugin printed %.200q on its standard output where the handshake line belongs", line)
	}
	if f[0] != "1" || f[1] != strconv.Itoa(plugin.ProtocolVersion) {
		return refuse("use a build of the plugin that speaks felhom.plugin.v"+strconv.Itoa(plugin.ProtocolVersion),
			"the plugin speaks version %.20q of the protocol (core %.20q)", f[1], f[0])
	}
	if f[4] != "grpc" {
		return refuse("use a build of the plugin that speaks gRPC", "the plugin speaks %.20q", f[4])
	}
	if dir != "" && (f[2] != "unix" || filepath.Dir(f[3]) != dir) {
		return fmt.Errorf("the plugin listens on %.20q %.200q, not on a socket in its own directory", f[2], f[3])
	}
	return nil
}

// checkHandshakeLine judges one that a launcher has judged already, which
// knows the directory.
func checkHandshakeLine(line string) error { return checkHandshake(line, "") }

func handshakeCookie() string { return plugin.CookieKey + "=" + plugin.CookieValue }

func protocolVersions() string {
	return "PLUGIN_PROTOCOL_VERSIONS=" + strconv.Itoa(plugin.ProtocolVersion)
}

// startError makes the best of go-plugin's error.
func (r *running) startError(err error) error {
	if said := r.child.refusal(); said != nil {
		return said
	}
	select {
	case <-r.child.exited: // go-plugin sees the end of the output first
		err = fmt.Errorf("it ended before the handshake: %w", r.child.why())
	case <-time.After(time.Second):
		err = fmt.Errorf("handshake: %w", err)
	}
	if last := r.log.last(); last != "" {
		err = fmt.Errorf("%w; its last words: %.300s", err, last)
	}
	return err
}

func (r *running) dial(addr net.Addr, cfg *tls.Config, secrets map[string]plugin.Secret) error {
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, addr.Network(), addr.String())
	}
	conn, err := grpc.NewClient("passthrough:///plugin", append(plugin.DialOptions(),
		grpc.WithContextDialer(dialer), grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithIdleTimeout(0))...)
	r.conn, r.calls = conn, newDiscreet(conn, secrets)
	return err
}

// introduce hands over the configuration and hears who the plugin is. A spec
// without kinds takes what is served.
func introduce(ctx context.Context, c *plugin.Client, s Spec, cfg plugin.Config, version string) ([]plugin.Kind, plugin.Info, error) {
	kinds, err := c.Configure(ctx, cfg, version)
	if errors.Is(err, plugin.ErrInvalid) {
		return nil, plugin.Info{}, refuse("correct the configuration of the plugin", "it says: %v", err)
	}
	if err != nil {
		return nil, plugin.Info{}, fmt.Errorf("configure: %w", err)
	}
	for _, want := range s.Kinds {
		if !slices.Contains(kinds, want) {
			return nil, plugin.Info{}, refuse("correct the kind of the plugin", "it should be %s and serves %v", want, kinds)
		}
	}
	if len(kinds) == 0 {
		return nil, plugin.Info{}, refuse("use another build of the plugin", "it serves none of executor, observer, provider")
	}
	info, err := describe(ctx, c, append(slices.Clone(s.Kinds), kinds...)[0])
	if err != nil {
		return nil, plugin.Info{}, fmt.Errorf("describe: %w", err)
	}
	return kinds, info, nil
}

func describe(ctx context.Context, c *plugin.Client, k plugin.Kind) (plugin.Info, error) {
	switch k {
	case plugin.KindExecutor:
		return c.Executor().Describe(ctx)
	case plugin.KindObserver:
		return c.Observer().Describe(ctx)
	}
	return c.Provider().Describe(ctx)
}

// health asks gRPC's health service.
func (r *running) health(ctx context.Context) error {
	resp, err := grpc_health_v1.NewHealthClient(r.calls).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "plugin"})
	if err != nil {
		return err
	}
	if st := resp.GetStatus(); st != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("its health is %s", st)
	}
	return nil
}

// end takes down what there is: it asks the plugin to end, if that makes
// sense, and gives it grace for that; then it kills.
func (r *running) end(ask bool, grace time.Duration) error {
	if ask && r.conn != nil {
		r.ask(grace)
	}
	err := r.child.destroy(killPatience)
	if r.conn != nil {
		err = errors.Join(err, r.conn.Close())
	}
	r.wg.Wait()
	if r.dir != "" {
		err = errors.Join(err, sweep(r.dir))
	}
	for _, dir := range []string{r.dir, r.files} {
		if dir != "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// ask calls go-plugin's Shutdown, whose messages are empty, and waits until
// the process is gone or grace is over.
func (r *running) ask(grace time.Duration) { r.askUntil(grace, r.child.exited) }

// askUntil is ask for a process whose end is told otherwise.
func (r *running) askUntil(grace time.Duration, exited <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), grace) // the caller's has ended
	defer cancel()
	// An answer is not to be expected from a server that is being stopped.
	_ = r.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
	select {
	case <-exited:
	case <-ctx.Done():
	}
}
