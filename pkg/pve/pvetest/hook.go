// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// HookCall is one execution of a hookscript.
type HookCall struct {
	Ctx   context.Context // ends when the task is aborted or the node goes
	Kind  guest.Kind
	VMID  int
	Phase string // pre-start, post-start, pre-stop or post-stop
	Path  string // of the script
	UPID  string // of the task it runs in; empty for a container's post-stop
	// Locked: the guest's config lock was held as it began.
	Locked bool
	Out    io.Writer
	Err    io.Writer
}

// hook runs a guest's hookscript for a phase; nil when it has none. out gets
// what it prints.
func (s *Sim) hook(ctx context.Context, g *guestState, phase, upid string, out io.Writer) error {
	s.mu.Lock()
	volid := g.value("hookscript")
	s.mu.Unlock()
	if volid == "" {
		return nil
	}
	path, err := s.hookPath(volid)
	if err != nil {
		return fmt.Errorf("hookscript error for %d on %s: %w", g.vmid, phase, err)
	}
	h := HookCall{
		Ctx: ctx, Kind: g.kind, VMID: g.vmid, Phase: phase, Path: path, UPID: upid, Out: out, Err: out,
		Locked: len(s.flockOf(lockFile(g.kind, g.vmid)).slot) > 0,
	}
	run := s.opt.RunHook
	if run == nil {
		run = s.execHook
	}
	s.log.Info("hook", "vmid", g.vmid, "phase", phase, "script", path)
	if err := run(h); err != nil {
		return fmt.Errorf("hookscript error for %d on %s: command '%s %d %s' failed: %w\n", g.vmid, phase, path, g.vmid, phase, err) //nolint:staticcheck // PVE's text ends so
	}
	return nil
}

// hookPath resolves and checks a hookscript as PVE does before every phase.
func (s *Sim) hookPath(volid string) (string, error) {
	store, rest, ok := strings.Cut(volid, ":")
	if !ok {
		return "", fmt.Errorf("unable to parse volume ID '%s'\n", volid) //nolint:staticcheck // PVE's text
	}
	s.mu.Lock()
	st, kind := s.storage(store), s.confPath(volid)
	s.mu.Unlock()
	if st == nil {
		return "", fmt.Errorf("storage '%s' does not exist\n", store) //nolint:staticcheck // PVE's text
	}
	name, ok := strings.CutPrefix(rest, "snippets/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("'%s' is not in the snippets directory\n", volid) //nolint:staticcheck // PVE's text
	}
	switch kind {
	case conf.PathExecutable:
		return filepath.Join(st.Path, "snippets", name), nil
	case conf.PathFile:
		return "", fmt.Errorf("script '%s' is not executable\n", volid) //nolint:staticcheck // PVE's text
	}
	return "", fmt.Errorf("script '%s' does not exist\n", volid) //nolint:staticcheck // PVE's text
}

// execHook runs the script as PVE does: two arguments, stdin at its end, no
// time limit, and done only when both outputs are closed by everyone who
// holds them.
func (s *Sim) execHook(h HookCall) error {
	cmd := exec.CommandContext(h.Ctx, h.Path, strconv.Itoa(h.VMID), h.Phase)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader("")
	cmd.Stdout, cmd.Stderr = h.Out, apart{h.Err}
	cmd.Env = append([]string{"LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1", "PATH=/sbin:/bin:/usr/sbin:/usr/bin"}, s.opt.HookEnv...)
	if h.Kind == guest.LXC && h.Phase == "post-stop" {
		cmd.Env = append(cmd.Env, "LXC_NAME="+strconv.Itoa(h.VMID), "LXC_TARGET=stop", "LXC_HOOK_VERSION=0", "LXC_LOG_LEVEL=ERROR")
	}
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ee):
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return fmt.Errorf("got signal %d", ws.Signal())
		}
		return fmt.Errorf("exit code %d", ee.ExitCode())
	}
	return errors.New("failed to execute")
}

// apart keeps os/exec from sharing one pipe between stdout and stderr, as
// PVE keeps two.
type apart struct{ io.Writer }

// taskWriter writes into a task's log.
type taskWriter struct{ t *task }

func (w taskWriter) Write(p []byte) (int, error) {
	w.t.say(string(p))
	return len(p), nil
}

// hookIn runs a hook as part of a task. Only pre-start's failure counts; the
// others are told in the log.
func (t *task) hookIn(g *guestState, phase string) error {
	err := t.sim.hook(t.ctx, g, phase, t.upid, taskWriter{t})
	if err == nil || phase == "pre-start" {
		return err
	}
	t.say(err.Error() + "\n")
	return nil
}
