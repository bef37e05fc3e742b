// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// resourceRows take more than they should.
var resourceRows = []Row{
	{Name: "1 GB answer", Run: gigabyte},
	{Name: "1 GB snapshot", Run: hugeSnapshot},
	{Name: "log flood", Quick: true, Run: logFlood},
	{Name: "flood of snapshots", Quick: true, Run: snapshotFlood},
	{Name: "memory hog", Quick: true, Run: memoryHog},
	{Name: "fork bomb", Unprivileged: true, Run: bombRow},
}

// serving adds a plugin in a mode and waits until it serves.
func (b *Bed) serving(ctx context.Context, s pluginhost.Spec) (pluginhost.PluginStatus, error) {
	if err := b.add(s); err != nil {
		return pluginhost.PluginStatus{}, err
	}
	return b.await(ctx, bad, pluginhost.Running)
}

// resident is this process's memory, in bytes.
func resident() int {
	var pages int
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(statm), new(int), &pages)
	}
	if err != nil {
		return 0
	}
	return pages * os.Getpagesize()
}

// maxGrowth is what a message that is refused may cost the host.
const maxGrowth = 100 << 20

func gigabyte(ctx context.Context, b *Bed) (string, error) {
	if _, err := b.serving(ctx, b.spec(bad, "unbounded", badKind)); err != nil {
		return "", err
	}
	before := resident()
	_, err := b.do(ctx, badKind, "gigabyte")
	if err == nil || errors.Is(err, plugin.ErrNotSent) {
		return "", fmt.Errorf("the call ended with %w", err)
	}
	if grown := resident() - before; grown > maxGrowth {
		return "", fmt.Errorf("the host grew by %d MiB", grown>>20)
	}
	return err.Error(), nil
}

func hugeSnapshot(ctx context.Context, b *Bed) (string, error) {
	before := resident()
	if err := b.add(b.providerSpec(bad, "unbounded")); err != nil {
		return "", err
	}
	told, err := b.logged(ctx, "watch ended")
	if err != nil {
		return "", err
	}
	if grown := resident() - before; grown > maxGrowth {
		return "", fmt.Errorf("the host grew by %d MiB", grown>>20)
	}
	return told, nil
}

func logFlood(ctx context.Context, b *Bed) (string, error) {
	if _, err := b.serving(ctx, b.spec(bad, "good", badKind)); err != nil {
		return "", err
	}
	if _, err := b.do(ctx, badKind, "flood"); err != nil {
		return "", err
	}
	if _, err := b.do(ctx, badKind, "flood"); err != nil { // what was dropped is told with the next line
		return "", err
	}
	told, err := b.logged(ctx, "plugin logs too much")
	if err != nil {
		return "", err
	}
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	if b.log.size > 4<<20 {
		return "", fmt.Errorf("%d MiB were logged", b.log.size>>20)
	}
	return told, nil
}

// snapshotFlood: some snapshots at once are taken, and then they are taken
// slowly; the other provider is not kept waiting.
func snapshotFlood(ctx context.Context, b *Bed) (string, error) {
	if err := b.add(b.providerSpec(bad, "flood of snapshots")); err != nil {
		return "", err
	}
	begun, n := time.Now(), 0
	err := b.until(ctx, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		n = b.snapshots[bad]
		return n > 22
	})
	if most := 30 + int(time.Since(begun).Seconds()); n > most {
		return "", fmt.Errorf("%d snapshots were taken, more than %d", n, most)
	}
	return fmt.Sprintf("%d snapshots, and no more", n), err
}

func memoryHog(ctx context.Context, b *Bed) (string, error) {
	s := b.spec(bad, "good", badKind)
	s.Limits = map[string]string{"memory": "128M"}
	if _, err := b.serving(ctx, s); err != nil {
		return "", err
	}
	if _, err := b.do(ctx, badKind, "hog"); !errors.Is(err, plugin.ErrShutdown) {
		return "", fmt.Errorf("the call ended with %w", err)
	}
	if told, err := b.logged(ctx, "of memory, and may use 128"); err == nil {
		return told, nil
	}
	return b.logged(ctx, "out of memory") // its limit was quicker than the look
}

func bombRow(ctx context.Context, b *Bed) (string, error) {
	s := b.spec(bad, "good", badKind)
	s.Limits = map[string]string{"tasks": "60"}
	if _, err := b.serving(ctx, s); err != nil {
		return "", err
	}
	// It may take itself down before it answers.
	if _, err := b.do(ctx, badKind, "bomb"); err != nil && !errors.Is(err, plugin.ErrShutdown) {
		return "", err
	}
	told := ""
	err := b.until(ctx, func() bool {
		for _, words := range []string{"cannot fork", "failed to create new OS thread"} {
			if strings.Contains(b.log.String(), words) {
				told = words
			}
		}
		return told != ""
	})
	if err != nil {
		return "", fmt.Errorf("no fork failed: %w", err)
	}
	if n := len(takeStock(b.env.Dir).processes); n > 60 {
		return "", fmt.Errorf("%d processes, and 60 tasks allowed", n)
	}
	return "its own log: " + told + "; all of it ends with the plugin", nil
}

// ruleRows try to get or to be what they are not given.
var ruleRows = []Row{
	{Name: "stdin reader", Quick: true, Run: stdinReader},
	{Name: "environment printer", Quick: true, Run: envPrinter},
	{Name: "duplicate claims", Quick: true, Run: duplicates},
	{Name: "lies about its class", Quick: true, Run: liar},
}

func stdinReader(ctx context.Context, b *Bed) (string, error) {
	if _, err := b.serving(ctx, b.spec(bad, "good", badKind)); err != nil {
		return "", err
	}
	out, err := b.do(ctx, badKind, "stdin")
	if err == nil && out.Message != "0 bytes, <nil>" {
		err = fmt.Errorf("it read %s", out.Message)
	}
	return "its standard input is empty: " + out.Message, err
}

func envPrinter(ctx context.Context, b *Bed) (string, error) {
	const token = "s3cr3t-t0ken-of-chaos"
	file := filepath.Join(b.env.Dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return "", err
	}
	if err := os.Setenv("FELHOM_CHAOS_SECRET", "s3cr3t-of-the-agent"); err != nil {
		return "", err
	}
	defer os.Unsetenv("FELHOM_CHAOS_SECRET")
	s := b.spec(bad, "good", badKind)
	s.Secrets = map[string]pluginhost.SecretSource{"token": {File: file}}
	if _, err := b.serving(ctx, s); err != nil {
		return "", err
	}
	out, err := b.do(ctx, badKind, "env")
	if err != nil {
		return "", err
	}
	if strings.Contains(out.Message, "s3cr3t") || strings.Contains(out.Message, "[secret]") { // its own comes masked
		return "", errors.New("its environment holds what is the agent's, or a secret of its own")
	}
	if _, err := b.do(ctx, badKind, "print env"); err != nil {
		return "", err
	}
	told, err := b.logged(ctx, "token=[secret]")
	if err == nil && strings.Contains(b.log.String(), token) {
		err = errors.New("the secret is in the log")
	}
	return told, err
}

// duplicates: the first stands, the second is refused alone.
func duplicates(ctx context.Context, b *Bed) (string, error) {
	if err := b.add(b.spec(bad, "good", goodKind)); err != nil {
		return "", err
	}
	if _, err := b.told(ctx, pluginhost.Refused, `plugin neighbour serves action "test.good" already`); err != nil {
		return "", err
	}
	if err := b.add(b.spec(neighbour, "good", badKind)); err != nil {
		return "", err
	}
	st, err := b.await(ctx, neighbour+"-2", pluginhost.Refused)
	return st.LastError, err
}

// liar: what it says of itself gives it nothing that the operator did not.
func liar(ctx context.Context, b *Bed) (string, error) {
	s := b.spec(bad, "liar", badKind)
	if _, err := b.serving(ctx, s); err != nil {
		return "", err
	}
	for _, k := range []plugin.ActionKind{plugin.Start, plugin.Destroy} {
		if _, err := b.Host.Executor(k); !errors.Is(err, plugin.ErrUnsupported) {
			return "", fmt.Errorf("it is asked for %q, which its manifest does not have: %w", k, err)
		}
	}
	return b.logged(ctx, "says that it serves")
}
