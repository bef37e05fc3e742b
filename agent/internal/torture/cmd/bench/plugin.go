// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

const (
	pluginStarts = 25
	pluginCalls  = 5000
)

// plugged is a plugin process, ours or a bare one.
type plugged struct {
	pid  int
	ping func() error // a gRPC health check, on either side
	stop func() error
}

// pluginFigures are what was measured of one kind of plugin.
type pluginFigures struct{ start, call, memory float64 }

// benchPlugin measures our host with our plugin dir against bare go-plugin (with its AutoMTLS) with the least that it can
// serve: the way to the first answer, one call, and the memory of the process after the calls. Ours has the file checked,
// is configured and described on the way to its first answer.
func benchPlugin(ctx context.Context, dir string) ([]figure, error) {
	ours, bare := filepath.Join(dir, "dir"), filepath.Join(dir, "hello")
	for out, pkg := range map[string]string{ours: "./plugins/dir", bare: "./agent/internal/torture/cmd/bench/testdata/hello"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", pkg, err, said)
		}
	}
	socks, err := os.MkdirTemp("/tmp", "fb")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(socks)
	desired := filepath.Join(socks, "d")
	if err := os.Mkdir(desired, 0o700); err != nil {
		return nil, err
	}
	var mine, theirs pluginFigures
	// Side by side, so that what else the machine does falls on both.
	err = measurePlugins([2]func() (plugged, error){
		func() (plugged, error) { return startOurs(ctx, ours, socks, desired) },
		func() (plugged, error) { return startBare(bare) },
	}, [2]*pluginFigures{&mine, &theirs})
	return []figure{
		less("plugin start to first answer, p50", mine.start, "ms", "bare go-plugin hello, AutoMTLS", theirs.start),
		less("plugin call, p50", mine.call, "us", "bare go-plugin hello, AutoMTLS", theirs.call),
		less("plugin memory after the calls", mine.memory, "MiB", "bare go-plugin hello, AutoMTLS", theirs.memory),
	}, err
}

func startOurs(ctx context.Context, path, socks, desired string) (plugged, error) {
	o := pluginhost.DefaultOptions()
	o.Logger, o.SocketDir, o.Version = slog.New(slog.DiscardHandler), filepath.Join(socks, "s"), "bench"
	o.TrustedUIDs = []uint32{0, uint32(os.Getuid())}
	trusted := filepath.Join(socks, "dir")
	if _, err := os.Stat(trusted); err != nil { // where nobody else could have written it
		data, err := os.ReadFile(path)
		if err := errors.Join(err, os.WriteFile(trusted, data, 0o700)); err != nil {
			return plugged{}, err
		}
	}
	p, err := pluginhost.Launch(ctx, o, pluginhost.Spec{
		Name: "dir", Kinds: []plugin.Kind{plugin.KindProvider}, Path: trusted, Config: map[string]any{"path": desired},
	})
	if err != nil {
		return plugged{}, err
	}
	return plugged{pid: p.PID(), ping: func() error { return p.Health(ctx) }, stop: func() error { return p.Stop(true) }}, nil
}

type noPlugin struct{ goplugin.Plugin }

func startBare(path string) (plugged, error) {
	c := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "HELLO", MagicCookieValue: "hello"},
		Plugins:          goplugin.PluginSet{"hello": noPlugin{}},
		Cmd:              exec.Command(path),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		Logger:           hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
	})
	conn, err := c.Client()
	if err != nil {
		return plugged{}, err
	}
	return plugged{pid: c.ReattachConfig().Pid, ping: conn.Ping, stop: func() error { c.Kill(); return nil }}, nil
}

func measurePlugins(start [2]func() (plugged, error), out [2]*pluginFigures) error {
	var starts, calls, memory [2][]float64
	for round := range pluginStarts {
		for side := range start {
			begin := time.Now()
			p, err := start[side]()
			if err != nil {
				return err
			}
			if err := p.ping(); err != nil {
				return errors.Join(err, p.stop())
			}
			starts[side] = append(starts[side], float64(time.Since(begin))/1e6)
			if round == pluginStarts-1 {
				took, mem, err := pingMany(p)
				calls[side], memory[side] = took, []float64{mem}
				if err != nil {
					return errors.Join(err, p.stop())
				}
			}
			if err := p.stop(); err != nil {
				return err
			}
		}
	}
	for side, f := range out {
		f.start, f.call, f.memory = middle(starts[side]), middle(calls[side]), middle(memory[side])
	}
	return nil
}

// pingMany returns how long each call took, in microseconds, and the memory of the process afterwards, in MiB.
func pingMany(p plugged) (took []float64, memory float64, err error) {
	for range pluginCalls {
		begin := time.Now()
		if err := p.ping(); err != nil {
			return nil, 0, err
		}
		took = append(took, float64(time.Since(begin))/1e3)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return nil, 0, err
	}
	for l := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			var kib float64
			_, err := fmt.Sscan(rest, &kib)
			return took, kib / 1024, err
		}
	}
	return nil, 0, errors.New("no VmRSS in /proc")
}

func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
