// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest/id"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// vetoing is an agent that takes every event and vetoes every start, whatever
// the phase.
func vetoing(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "hook.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "101.toml wants it stopped", http.StatusConflict)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return socket
}

func TestGate(t *testing.T) {
	t.Parallel()
	closed := t.TempDir()
	if err := os.WriteFile(filepath.Join(closed, "101"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	up, veto, hung, none := agentUp(t).socket, vetoing(t), agentHung(t), "/nonexistent/hook.sock"
	for _, tc := range []struct {
		name, socket, vmid, phase string
		status, spooled           int
	}{
		{"the agent vetoes a start", veto, "102", "pre-start", hook.ExitVeto, 0},
		{"gated, the agent lets it", up, "102", "pre-start", 0, 0},
		{"gated, no agent", none, "102", "pre-start", 0, 1},
		{"gated, hung agent", hung, "102", "pre-start", 0, 1},
		{"not gated, the agent is not asked", veto, "103", "pre-start", 0, 1},
		{"a veto is about starts alone: post-start", veto, "102", "post-start", 0, 1},
		{"a veto is about starts alone: pre-stop", veto, "102", "pre-stop", 0, 1},
		{"a veto is about starts alone: post-stop", veto, "102", "post-stop", 0, 1},
		{"open, no agent", none, "103", "pre-start", 0, 1},
		{"open, hung agent", hung, "103", "pre-start", 0, 1},
		{"closed, the agent lets it", up, "101", "pre-start", 0, 0},
		{"closed, no agent", none, "101", "pre-start", hook.ExitVeto, 1},
		{"closed, hung agent", hung, "101", "pre-start", hook.ExitVeto, 1},
		{"closed, no agent, a stop", none, "101", "pre-stop", 0, 1},
		{"closed, no agent, it has started", none, "101", "post-start", 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			spool := t.TempDir()
			if err := hook.MarkGated(spool, []id.VMID{102}); err != nil {
				t.Fatal(err)
			}
			budget := "10000"
			if tc.socket == hung {
				budget = "100"
			}
			got := run(t, nil, helper, "-socket", tc.socket, "-spool", spool, "-closed", closed, "-budget", budget, tc.vmid, tc.phase)
			if got.status != tc.status || got.out != "" {
				t.Errorf("got %+v, want status %d", got, tc.status)
			}
			if n := len(spooledEvents(t, spool)); n != tc.spooled {
				t.Errorf("%d events in the spool, want %d", n, tc.spooled)
			}
		})
	}
}

// An event that can be left nowhere is no reason to let a closed guest start.
func TestClosedWithoutSpool(t *testing.T) {
	t.Parallel()
	closed := t.TempDir()
	if err := os.WriteFile(filepath.Join(closed, "101"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, helper, "-socket", "/nonexistent", "-spool", "/nonexistent", "-closed", closed, "101", "pre-start")
	if got.status != hook.ExitVeto {
		t.Errorf("got %+v", got)
	}
}

func TestSnippetPassesTheRealVetoOn(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	if err := hook.MarkGated(spool, []id.VMID{101}); err != nil {
		t.Fatal(err)
	}
	wrapper := script(t, "exec "+helper+" -budget 10000 -socket "+vetoing(t)+" -spool "+spool+` "$@"`)
	path := snippet(t, wrapper)
	former(t, path, "101", "#!/bin/sh\necho ran\n")
	if got := run(t, nil, path, "101", "pre-start"); got.status != hook.ExitVeto || got.out != "" {
		t.Errorf("pre-start: %+v", got)
	}
	if got := run(t, nil, path, "101", "pre-stop"); got.status != 0 || got.out != "ran\n" {
		t.Errorf("pre-stop: %+v", got)
	}
}
