// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"slices"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// dirPrefix begins the name of the directory that go-plugin makes in
// Options.SocketDir for each process.
const dirPrefix = "plugin-dir"

// processLauncher starts plugins as processes of the agent's own user.
type processLauncher struct {
	opts  Options
	spawn *spawner
}

func (l *processLauncher) launch(ctx context.Context, s Spec) (*instance, error) {
	_, p, err := l.start(ctx, s)
	return p, err
}

// start does the work of launch.
func (l *processLauncher) start(ctx context.Context, s Spec) (*running, *instance, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opts.StartTimeout)
	defer cancel()
	cfg, err := l.config(s)
	if err != nil {
		return nil, nil, err
	}
	if sock := l.opts.unitSocket(s); sock != "" {
		p, err := l.startUnit(ctx, sock, s, cfg)
		return nil, p, err
	}
	exe, err := openExecutable(s, l.opts.TrustedUIDs)
	if err != nil {
		return nil, nil, err
	}
	defer exe.file.Close()
	r := &running{log: newOutput(l.opts, s.Name, revealed(cfg.Secrets))}
	r.child = newChild(l.spawn, r.log.line)
	limits, err := s.ceilings()
	if err != nil {
		return nil, nil, refuse("correct the table limits", "%v", err)
	}
	r.child.hold = limits.hold
	p, err := l.bringUp(ctx, r, s, exe, cfg)
	if err == nil {
		return r, p, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errRefused) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return nil, nil, errors.Join(err, r.end(false, l.opts.StopTimeout))
}

// bringUp takes the steps from the checked file to a configured plugin. What
// was reached is in r, also when a step fails.
func (l *processLauncher) bringUp(ctx context.Context, r *running, s Spec, exe *executable, cfg plugin.Config) (*instance, error) {
	prog, err := l.program(s, exe)
	if err != nil {
		return nil, err
	}
	r.files = prog.staged
	addr, tlsConfig, err := l.handshake(ctx, r, s, prog)
	if err != nil {
		return nil, err
	}
	if prog.staged == "" {
		// From here on nobody can write the file; before, somebody might have.
		if err := exe.recheck(); err != nil {
			return nil, err
		}
	}
	if limits, err := s.ceilings(); err == nil && limits.memory > 0 {
		r.wg.Go(func() { r.watchMemory(limits.memory) })
	}
	if err := r.dial(addr, tlsConfig, cfg.Secrets); err != nil {
		return nil, err
	}
	r.watchStdio()
	client := plugin.NewClient(r.calls)
	kinds, info, err := introduce(ctx, client, s, cfg, l.opts.Version)
	if err != nil {
		return nil, err
	}
	return &instance{
		client: client, kinds: kinds, info: info, pid: r.child.pid(), isolation: IsolationGroup,
		exited: r.child.exited, why: r.child.why, health: r.health,
		stop: func(ask bool) error { return r.end(ask, l.opts.StopTimeout) },
	}, nil
}

// config is what the plugin will be handed over.
func (l *processLauncher) config(s Spec) (plugin.Config, error) {
	cfg := plugin.Config{JSON: []byte("{}"), Secrets: map[string]plugin.Secret{}}
	if len(s.Config) > 0 {
		b, err := json.Marshal(s.Config)
		if err != nil {
			return cfg, refuse("correct the table config", "config: %v", err)
		}
		cfg.JSON = b
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		value, err := readSecret(s.Secrets[name], l.opts)
		if err != nil {
			return cfg, fmt.Errorf("secret %q: %w", name, err)
		}
		cfg.Secrets[name] = value
	}
	return cfg, nil
}

// handshake starts the process and lets go-plugin do the handshake. Of
// go-plugin nothing else is used: its client would let the plugin make
// goroutines in the agent without a bound.
func (l *processLauncher) handshake(ctx context.Context, r *running, s Spec, prog program) (net.Addr, *tls.Config, error) {
	own, err := newIdentity()
	if err != nil {
		return nil, nil, err
	}
	cfg := &goplugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: plugin.HostPlugins(),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		TLSConfig:        own.config(), // what AutoMTLS would do, with our own key
		SkipHostEnv:      true,
		StartTimeout:     l.opts.StartTimeout,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: l.opts.SocketDir},
		Logger:           hclogTo(l.opts.Logger.With("plugin", s.Name)),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			r.dir = dir
			r.child.prepare(command(prog, s, append(cmd.Env, own.env()), dir), func(line string) error { return checkHandshake(line, dir) })
			return r.child, nil
		},
	}
	client := goplugin.NewClient(cfg)
	stop := context.AfterFunc(ctx, func() { _ = r.child.Kill(ctx) }) // end reports what this could not do
	addr, err := client.Start()
	stop()
	if err != nil {
		return nil, nil, r.startError(err)
	}
	if cfg.TLSConfig.RootCAs == nil {
		return nil, nil, refuse("update the plugin's kit: see PROTOCOL.md", "the plugin does not speak AutoMTLS")
	}
	return addr, cfg.TLSConfig, nil
}
