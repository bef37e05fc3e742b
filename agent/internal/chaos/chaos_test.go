// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/chaos"
)

// TestMain is the plugin of the rows.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == chaos.PluginArg {
		chaos.Plugin(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// program is the one that is the plugin: this one, or, under the race detector,
// the command of this package without it. Nobody reads what the detector says
// in a plugin.
func program(t *testing.T) string {
	t.Helper()
	if !raceDetector {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if self, err = filepath.EvalSymlinks(self); err != nil {
			t.Fatal(err)
		}
		return self
	}
	path := filepath.Join(t.TempDir(), "chaos")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/chaos").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// The rows that take no time; `make chaos` has all of them, and judges the
// neighbours' latency too. One after the other: they count what is left behind.
func TestQuickRowsAreContained(t *testing.T) {
	self := program(t)
	for _, row := range chaos.Rows() {
		if !row.Quick {
			continue
		}
		t.Run(row.Name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "fc") // short: for sockets
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			res := chaos.Env{Self: self, Dir: dir, Log: t.Output()}.Try(t.Context(), row)
			if res.Skipped() {
				t.Skip(res.Err)
			}
			if !res.Contained() {
				t.Error(res.Err)
			}
		})
	}
}
