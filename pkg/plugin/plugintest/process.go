// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugintest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Command is a plugin's executable and how to start it.
type Command struct {
	Path string
	Args []string
	// Env is the whole environment apart from what the handshake needs.
	Env []string
	// Stderr takes what the plugin writes there; nil drops it.
	Stderr io.Writer
	// StartTimeout is how long the handshake may take; 0 means 10 seconds.
	StartTimeout time.Duration
}

// Process is a plugin that Start started.
type Process struct {
	client *goplugin.Client
	conn   *plugin.Client
	dir    string
}

// Start starts a plugin as the agent does: gRPC only, AutoMTLS, a private
// directory for the socket, none of the caller's environment. It is made for
// the tests of a plugin's author; the agent's own host trusts a plugin less.
// The caller stops the process.
func Start(c Command) (*Process, error) {
	dir, err := os.MkdirTemp("", "fp") // short: a socket's path is bounded
	if err != nil {
		return nil, err
	}
	p := &Process{dir: dir, client: goplugin.NewClient(c.config(dir))}
	if err := p.connect(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.Path, err), p.Stop())
	}
	return p, nil
}

func (c Command) config(dir string) *goplugin.ClientConfig {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append([]string{"PLUGIN_UNIX_SOCKET_DIR=" + dir}, c.Env...)
	timeout := c.StartTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	return &goplugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: plugin.HostPlugins(),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		Cmd:              cmd,
		StartTimeout:     timeout,
		Stderr:           c.Stderr,
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  plugin.DialOptions(),
	}
}

func (p *Process) connect() error {
	proto, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := proto.Dispense(plugin.DispenseName)
	if err != nil {
		return err
	}
	p.conn = raw.(*plugin.Client)
	return nil
}

// Client is the connection to the plugin; it was not configured yet.
func (p *Process) Client() *plugin.Client { return p.conn }

// Stop asks the plugin to end, kills it after two seconds, and waits for it.
func (p *Process) Stop() error {
	p.client.Kill()
	return os.RemoveAll(p.dir)
}
