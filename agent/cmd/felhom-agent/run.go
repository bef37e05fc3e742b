// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/mainlog"
)

// version is set when the program is linked.
var version = ""

func versionString() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "dev"
}

func cmdVersion(_ context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "version", "print the version.")
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	fmt.Fprintln(e.stdout, "felhom-agent", versionString())
	return exitOK, nil
}

func cmdConfig(_ context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "config check", "check a configuration file (default "+defaultConfig+") and print every error.")
	if len(args) == 0 || args[0] != "check" {
		return exitUsage, fmt.Errorf("%w: the only form is `felhom-agent config check [FILE]`", errUsage)
	}
	rest, err := f.parse(args[1:], 0, 1)
	if err != nil {
		return exitUsage, err
	}
	path := f.config
	if len(rest) == 1 {
		path = rest[0]
	}
	cfg, err := config.Load(path)
	if err != nil {
		return exitError, err
	}
	for _, n := range cfg.Notes {
		fmt.Fprintln(e.stdout, "note:", n)
	}
	fmt.Fprintf(e.stdout, "%s: good; mode %s, %s\n", path, cfg.Agent.Mode, counted(len(cfg.Providers), "provider"))
	return exitOK, nil
}

// cmdRun is the daemon. SIGHUP reads the configuration again, SIGTERM and
// SIGINT end it.
func cmdRun(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "run", "be the daemon: observe, and in mode enforce keep the guests as they are wanted.")
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return exitError, err
	}
	// A log that nobody reads any more is no reason to end, least of all with
	// SIGPIPE, which systemd takes for an end in order. Caught, not ignored:
	// plugins would inherit that.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	level := new(slog.LevelVar)
	level.Set(cfg.Agent.LogLevel)
	log := slog.New(mainlog.New(e.stderr, level))
	for _, n := range cfg.Notes {
		log.Info(n)
	}
	host, err := shortHostname()
	if err != nil {
		return exitError, err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	a, err := agent.New(ctx, agent.Options{
		Config: cfg, ConfigPath: f.config, Version: versionString(), Host: host, Logger: log, Level: level,
		Notify: notifier(), Watchdog: watchdog(log), Crash: crashPoint(),
	})
	if err != nil {
		return exitError, err
	}
	return exitOK, runWithReload(ctx, a, hup, log)
}

func runWithReload(ctx context.Context, a *agent.Agent, hup <-chan os.Signal, log *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-hup:
			if err := a.Reload(ctx); err != nil {
				log.Error("reload", "err", err)
			}
		}
	}
}

// notifier is nil when no service manager listens.
func notifier() func(string) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	return func(s string) { _, _ = daemon.SdNotify(false, s) }
}

// watchdog is the time within which the service manager wants signs of life.
func watchdog(log *slog.Logger) time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("no watchdog", "err", err)
	}
	return d
}

func shortHostname() (string, error) {
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this host's name: %w", err)
	}
	name, _, _ := strings.Cut(h, ".")
	return name, nil
}

// crashPoint kills the daemon at the engine's named point that
// FELHOM_CRASH_AT names: for tests of recovery only. The point may have a
// count ("handle:2" = the second time).
func crashPoint() func(string) {
	at := os.Getenv("FELHOM_CRASH_AT")
	if at == "" {
		return nil
	}
	name, count, _ := strings.Cut(at, ":")
	left := 1
	if count != "" {
		if _, err := fmt.Sscanf(count, "%d", &left); err != nil {
			return nil
		}
	}
	return crasher(name, left)
}
