// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/config"
)

// TestReloadsAtOnce: of a SIGHUP and a `felhom-agent reload` at the same time, the one that read the newer file counts.
func TestReloadsAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.toml")
	write := func(resync int) {
		text := fmt.Sprintf("[agent]\nresync = \"%ds\"\nstate_dir = %q\nrun_dir = %q\nlog_dir = %q\n[hook]\nsocket = %q\n[control]\nsocket = %q\n[plugins]\ndir = %q\n",
			resync, dir+"/state", dir+"/run", dir+"/log", dir+"/hook.sock", dir+"/control.sock", dir+"/plugins.d")
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(60)
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Config: cfg, ConfigPath: path, Host: "h", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.down.run() }()
	for n := range 300 {
		write(1000 + n)
		first := make(chan error, 1)
		go func() { first <- a.Reload(t.Context()) }()
		write(2000 + n)
		if err := a.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if got := int(a.config().Agent.Resync.Seconds()); got != 2000+n {
			t.Fatalf("round %d: the file says %d, the agent goes by %d", n, 2000+n, got)
		}
	}
}
