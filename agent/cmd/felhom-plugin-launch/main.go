// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command felhom-plugin-launch runs one vendor's plugin in a unit of its own:
// felhom-plugin@NAME.socket starts felhom-plugin@NAME.service when the agent
// connects, and that runs this program, under a user and limits that systemd
// gives it. It executes what /etc/felhom-agent/plugins.d/NAME.toml says, after
// the checks that the agent itself would make, and carries the connection. When
// the connection ends, it ends, and the unit with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "felhom-plugin-launch:", err)
		os.Exit(1)
	}
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("felhom-plugin-launch", flag.ContinueOnError)
	dir := f.String("dir", "/etc/felhom-agent/plugins.d", "`directory` of the manifests")
	trusted := f.Int("trusted", 0, "`uid` that may own manifest and plugin, besides root: for tests")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 || !namePattern.MatchString(f.Arg(0)) {
		return errors.New("want the name of a plugin: the unit felhom-plugin@NAME.service gives it")
	}
	l, err := listener()
	if err != nil {
		return err
	}
	return pluginhost.ServeUnit(ctx, l, filepath.Join(*dir, f.Arg(0)+".toml"), options(os.Getenv, *trusted))
}

// options are those of a unit. The copy of a plugin of several files is in the
// unit's state directory: in /run nothing can be executed on Debian.
func options(getenv func(string) string, trusted int) pluginhost.Options {
	o := pluginhost.DefaultOptions()
	// systemd's journal adds the time, and the unit's name.
	o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: noTime}))
	o.SocketDir = filepath.Join(getenv("RUNTIME_DIRECTORY"), "p")
	if state := getenv("STATE_DIRECTORY"); state != "" {
		o.CopyDir = filepath.Join(state, ".felhom")
	}
	o.TrustedUIDs = []uint32{0, uint32(trusted)}
	return o
}

func noTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// listener is the socket that systemd passes on.
func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		return nil, errors.New("systemd passed no socket: this program is started by felhom-plugin@NAME.socket")
	}
	file := os.NewFile(3, "socket")
	defer file.Close()
	return net.FileListener(file)
}
