// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// likeSystemd starts a launcher for each connection to NAME.sock, one at a
// time, as the socket unit would.
func likeSystemd(t *testing.T, dir, manifest string) *capture {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(manifest), ".toml")
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	o, log := DefaultOptions(), &capture{}
	o.Logger, o.SocketDir = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), log), nil)), filepath.Join(dir, "r")
	o.CopyDir = filepath.Join(dir, "c")
	o.TrustedUIDs, o.StartTimeout = []uint32{0, uint32(os.Getuid())}, patience
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := ServeUnit(ctx, l, manifest, o); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
		if left, _ := filepath.Glob(filepath.Join(dir, "[rc]", "*")); len(left) > 0 {
			t.Errorf("the launcher left %v", left)
		}
	})
	return log
}

// vendor writes a manifest for this binary and returns its path.
func vendor(t *testing.T, dir, mode, sum string) string {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dir, "acme.toml")
	text := fmt.Sprintf("kind = \"executor\"\nexecutable = %q\nargs = [%q]\nactions = [\"test.acme\"]\nsha256 = [%q]\n", path, mode, sum)
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return manifest
}

func unitBed(t *testing.T, mode string) *bed {
	dir := shortDir(t)
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	manifest := vendor(t, dir, mode, sumOf(t, path))
	likeSystemd(t, dir, manifest)
	return startBed(t, func(o *Options) { o.UnitDir = dir }, ReadManifests(dir, []uint32{0, uint32(os.Getuid())})...)
}

func TestPluginInAUnit(t *testing.T) {
	b := unitBed(t, "good")
	st := b.await(t, "acme", Running)
	if st.Isolation != IsolationUnit || st.PID == 0 {
		t.Errorf("%+v", st)
	}
	if got := b.must(t, "acme", "pid"); got != "pid "+strconv.Itoa(st.PID) {
		t.Errorf("got %q, status says %d", got, st.PID)
	}
	if _, err := b.do(t, "acme", "denied"); !errors.Is(err, plugin.ErrDenied) {
		t.Errorf("got %v", err)
	}
	if _, err := b.do(t, "acme", "crash"); !errors.Is(err, plugin.ErrShutdown) || errors.Is(err, plugin.ErrNotSent) {
		t.Errorf("a crash in a call: %v", err)
	}
	for again := st; again.PID == 0 || again.PID == st.PID; {
		again = b.await(t, "acme", Running)
	}
	b.must(t, "acme", "pid")
	pid := b.await(t, "acme", Running).PID
	b.stop()
	for deadline := time.Now().Add(patience); alive(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("plugin %d lives on", pid)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestUnitOfSeveralFiles: the launcher makes the directory of the copies.
func TestUnitOfSeveralFiles(t *testing.T) {
	mine, err := self()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := scriptPlugin(t, "/bin/sh", mine)
	dir := shortDir(t)
	manifest := filepath.Join(dir, "acme.toml")
	text := fmt.Sprintf("kind = \"executor\"\nexecutable = %q\nargs = [\"good\"]\nactions = [\"test.acme\"]\nsha256 = [%q]\n[files]\n\"lib/real\" = %q\n",
		s.Path, s.SHA256[0], s.Files["lib/real"])
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	likeSystemd(t, dir, manifest)
	b := startBed(t, func(o *Options) { o.UnitDir = dir }, ReadManifests(dir, []uint32{0, uint32(os.Getuid())})...)
	for { // no end of its own: what fails for good is Quarantined
		st := stateOf(t, b.Host, "acme")
		if st.State == Running {
			break
		}
		if st.State == Quarantined || st.State == Refused {
			t.Fatalf("%+v", st)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// What the launcher refuses the operator is told.
func TestUnitRefuses(t *testing.T) {
	for mode, why := range map[string]string{"old protocol": `speaks version "0"`, "no certificate": "AutoMTLS", "picky": "want a path"} {
		t.Run(mode, func(t *testing.T) {
			b := unitBed(t, mode)
			if st := b.await(t, "acme", Refused); !strings.Contains(st.LastError, why) || !strings.Contains(st.LastError, "remedy") {
				t.Errorf("%s", st.LastError)
			}
		})
	}
}

// The launcher looks at the file by itself: it does not take the agent's word.
func TestLauncherChecksThePin(t *testing.T) {
	dir := shortDir(t)
	manifest := vendor(t, dir, "good", strings.Repeat("0", 64))
	likeSystemd(t, dir, manifest)
	s := spec(t, "acme", "good") // as an agent that was deceived would have it
	s.Source = manifest
	b := startBed(t, func(o *Options) { o.UnitDir = dir }, s)
	if st := b.await(t, "acme", Refused); !strings.Contains(st.LastError, "put this line into "+manifest) {
		t.Errorf("%s", st.LastError)
	}
}

// TestUnitMasksSecrets: what a plugin in a unit prints itself is logged by its
// launcher, and there, too, its secrets are masked.
func TestUnitMasksSecrets(t *testing.T) {
	dir := shortDir(t)
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	manifest := vendor(t, dir, "good", sumOf(t, path))
	log := likeSystemd(t, dir, manifest)
	s := telling(t)
	s.Name, s.Source, s.Actions = "acme", manifest, []plugin.ActionKind{"test.acme"}
	for i := range 17 { // as many and as large as they may be
		file := filepath.Join(dir, fmt.Sprint("key", i))
		if err := os.WriteFile(file, []byte(strings.Repeat(string(rune('a'+i)), maxSecret)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Secrets[fmt.Sprint("key", i)] = SecretSource{File: file}
	}
	b := startBed(t, func(o *Options) { o.UnitDir = dir }, s)
	b.await(t, "acme", Running)
	b.must(t, "acme", "print raw")
	waitFor(t, log, "the token is ")
	if text := log.String(); !strings.Contains(text, "the token is [secret]") {
		t.Errorf("the launcher logged:\n%s", text)
	}
}

// TestTwoInOneUnit: a unit runs one process. The first has it, and of the second
// it is said which that is, where both are asked for, and what to do.
func TestTwoInOneUnit(t *testing.T) {
	dir := shortDir(t)
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	manifest := vendor(t, dir, "good", sumOf(t, path))
	likeSystemd(t, dir, manifest)
	first, second := spec(t, "fleet", "good"), spec(t, "lab", "good")
	first.Source, second.Source = manifest, manifest
	first.At, second.At = "agent.toml:3", "agent.toml:7"
	b := startBed(t, func(o *Options) { o.UnitDir, o.StartTimeout = dir, 5*time.Second }, first, second)
	b.await(t, "fleet", Running)
	st := b.await(t, "lab", Refused)
	for _, word := range []string{"fleet", "agent.toml:3", "agent.toml:7", "felhom-plugin@acme", "remedy: ", manifest} {
		if !strings.Contains(st.LastError, word) {
			t.Errorf("no %q in %q", word, st.LastError)
		}
	}
	// A line that moved is no reason for a new process; the first one's end is
	// the second's turn.
	pid := b.await(t, "fleet", Running).PID
	first.At = "agent.toml:4"
	if err := b.Set([]Spec{first}); err != nil {
		t.Fatal(err)
	}
	if again := b.await(t, "fleet", Running); again.PID != pid {
		t.Errorf("process %d for %d", again.PID, pid)
	}
	if err := b.Set([]Spec{second}); err != nil {
		t.Fatal(err)
	}
	b.await(t, "lab", Running)
}

// Without a socket of its unit a vendor's plugin runs as the agent's user.
func TestNoUnitIsTheProcessGroup(t *testing.T) {
	b := startBed(t, func(o *Options) { o.UnitDir = shortDir(t) }, spec(t, "a", "good"))
	if st := b.await(t, "a", Running); st.Isolation != IsolationGroup {
		t.Errorf("%+v", st)
	}
}
