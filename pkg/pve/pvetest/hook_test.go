// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// hookNode is a node in real time whose storage holds one hookscript.
func hookNode(t *testing.T, script string) *Sim {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "snippets"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeProgram(t, filepath.Join(dir, "snippets", "h"), "#!/bin/sh\n"+script+"\n")
	sim, err := New(Options{
		Speed: 100, HookEnv: []string{"WHERE=" + dir}, Guests: []GuestSpec{ct(101, false)},
		Storages: []Storage{{ID: "local", Path: dir}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	return sim
}

// writeProgram writes what is executed soon. A process that another test starts
// meanwhile would take the open file along until it has become its own program,
// and for so long the kernel refuses to execute it (ETXTBSY).
func writeProgram(t *testing.T, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestHookscriptIsExecuted(t *testing.T) {
	t.Parallel()
	sim := hookNode(t, `echo "$# $1 $2"; echo "$1 $2 $LXC_TARGET" >>$WHERE/calls; cat | wc -c | tr -d ' '`)
	op := sim.Operator(guest.LXC)
	log, err := op.Start(t.Context(), 101)
	if err != nil {
		t.Fatal(err)
	}
	if want := "2 101 pre-start\n0\n2 101 post-start\n0\nTASK OK\n"; log != want {
		t.Errorf("log %q, want %q", log, want)
	}
	if _, err := op.Stop(t.Context(), 101); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(sim.opt.Storages[0].Path, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "101 pre-start \n101 post-start \n101 pre-stop \n101 post-stop stop\n"; string(calls) != want {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestHookscriptFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ script, want string }{
		"exit code": {"exit 7", "' failed: exit code 7 "},
		"signal":    {"kill -9 $$", "' failed: got signal 9 "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := hookNode(t, tt.script)
			_, err := sim.Operator(guest.LXC).Start(t.Context(), 101)
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("got %v, want ... %q", err, tt.want)
			}
		})
	}
}

func TestHookWithoutNewlineSpoilsTheStatus(t *testing.T) {
	t.Parallel()
	sim := hookNode(t, `[ $2 = post-start ] && printf done || true`)
	_, err := sim.Operator(guest.LXC).Start(t.Context(), 101)
	if err == nil || err.Error() != unexpectedStatus {
		t.Errorf("got %v, want %q", err, unexpectedStatus)
	}
}

func TestBackgroundChildHoldsTheTask(t *testing.T) {
	t.Parallel()
	sim := hookNode(t, `[ $2 = post-start ] || exit 0; (while [ ! -e $WHERE/go ]; do sleep 0.02; done; echo late) & exit 0`)
	done := make(chan string, 1)
	go func() {
		log, err := sim.Operator(guest.LXC).Start(t.Context(), 101)
		if err != nil {
			log = err.Error()
		}
		done <- log
	}()
	for sim.Operator(guest.LXC).List()[0].Status != guest.Running {
		if len(done) > 0 {
			t.Fatal("the task ended while a child held its output")
		}
	}
	if err := os.WriteFile(filepath.Join(sim.opt.Storages[0].Path, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if log := <-done; log != "late\nTASK OK\n" {
		t.Errorf("log %q", log)
	}
}
