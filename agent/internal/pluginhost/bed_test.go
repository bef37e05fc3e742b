// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// capture is a logger that a test can look into.
type capture struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// patience ends what hangs. It decides nothing: a busy machine may take long.
const patience = 5 * time.Minute

// bed is a host with real processes.
type bed struct {
	*Host
	log  *capture
	opts Options
	stop func()
}

// shortDir makes a private directory with a short name: t.TempDir's are too
// long for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func startBed(t *testing.T, change func(*Options), specs ...Spec) *bed {
	t.Helper()
	b := &bed{log: &capture{}, opts: DefaultOptions()}
	b.opts.Logger = slog.New(slog.NewTextHandler(b.log, nil))
	b.opts.SocketDir = shortDir(t)
	b.opts.TrustedUIDs = []uint32{0, uint32(os.Getuid())}
	b.opts.BackoffMin, b.opts.BackoffMax = 20*time.Millisecond, 100*time.Millisecond
	b.opts.StartTimeout = patience
	b.opts.Version = "test"
	if change != nil {
		change(&b.opts)
	}
	h, err := New(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	b.Host = h
	if err := h.Set(specs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Run does not return")
		}
		if left, _ := filepath.Glob(filepath.Join(b.opts.SocketDir, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Cleanup(func() {
		b.stop()
		if t.Failed() {
			t.Logf("log of the host:\n%s", b.log)
		}
	})
	return b
}

// self is a copy of the test binary in a directory that only the trusted may
// write.
var self = sync.OnceValues(func() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(exe)
})

func spec(t *testing.T, name, mode string) Spec {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	return Spec{
		Name: name, Kinds: []plugin.Kind{plugin.KindExecutor}, Path: path, Args: []string{mode},
		Actions: []plugin.ActionKind{plugin.ActionKind("test." + name)},
	}
}

// await waits until a plugin is in a state.
func (b *bed) await(t *testing.T, name string, want State) PluginStatus {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		for _, s := range b.Status() {
			if s.Name == name && s.State == want {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("plugin %s does not become %s: %+v", name, want, b.Status())
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (b *bed) do(t *testing.T, name, what string) (plugin.Outcome, error) {
	t.Helper()
	kind := plugin.ActionKind("test." + name)
	e, err := b.Executor(kind)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return e.Apply(ctx, plugin.Action{
		OpID: what, Attempt: 1, Kind: kind, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Params: map[string]string{"do": what},
	}, "", noEmit)
}

func (b *bed) must(t *testing.T, name, what string) string {
	t.Helper()
	out, err := b.do(t, name, what)
	if err != nil || out.Status != plugin.Done {
		t.Fatalf("%s: %v, %v", what, out, err)
	}
	return out.Message
}
