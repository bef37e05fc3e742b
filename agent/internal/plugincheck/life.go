// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// lastChecks are those that end processes, and those that look at what is left.
func lastChecks() []check {
	return []check{
		{"health", "it answers a health check with SERVING", checkHealth},
		{"unknown key", "a configuration key that it does not know is INVALID_ARGUMENT, and the key is named", checkUnknownKey},
		{"other services", "what it does not serve is UNIMPLEMENTED", checkOther},
		{"deadline", "a call whose deadline has passed ends, and the process serves on", checkDeadline},
		{"many calls", "64 calls at once are answered", checkMany},
		{"big message", "a request of nearly 16 MiB is read, a larger one is an error, and it serves on", checkBig},
		{"garbage message", "what is not a message is an error, and it serves on", checkGarbage},
		{"strangers", "who has not the host's certificate gets no answer, and it serves on", checkStrangers},
		{"two at once", "two processes of it do not hinder each other", checkTwo},
		{"crash", "killed after an action, a fresh process does not do it again and does not call it not sent", checkCrash},
		{"crash mid-call", "killed in the middle of a call, a fresh process serves and can be asked what became of it", checkCrashMidCall},
		{"restart", "a fresh process of a provider has the same revision", checkRestart},
		{"shutdown", "asked to end, it ends within 2 seconds", checkShutdown},
		{"lost host", "when the last connection is lost, it ends by itself", checkLostHost},
		{"left behind", "no process of it is left when it has ended, and no file in its directory", checkLeft},
	}
}

func noEmit(plugin.Progress) error { return nil }

func checkDeadline(ctx context.Context, b *bench) (string, error) {
	if err := b.canApply(); err != nil {
		return "", err
	}
	p, err := b.process(ctx)
	if err != nil {
		return "", err
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { // ends with the process at the latest, and then with this check
		_, err := p.Client().Executor().Apply(short, b.action(), "", noEmit)
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(b.patient(10 * time.Second)):
		return "", fmt.Errorf("the call goes on %v after its deadline", b.patient(10*time.Second))
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, plugin.ErrNotSent) {
		return "", fmt.Errorf("the error is not of kind deadline: %w", err)
	}
	return "", stillAlive(ctx, p)
}

// replace kills a process, as a crash would end it, and starts a fresh one.
func (b *bench) replace(ctx context.Context, p *pluginhost.Process) (*pluginhost.Process, error) {
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		return nil, err
	}
	<-p.Exited()
	if err := p.Stop(false); err != nil {
		return nil, err
	}
	return b.launch(ctx)
}

func checkCrash(ctx context.Context, b *bench) (string, error) {
	if err := b.canApply(); err != nil {
		return "", err
	}
	first, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	a, before := b.action(), time.Now()
	out, err := first.Client().Executor().Apply(ctx, a, "", noEmit)
	if err != nil || out.Status != plugin.Done {
		return "", errors.Join(fmt.Errorf("the action ended as %s (%s), %w", out.Status, out.Message, err), first.Stop(true))
	}
	p, err := b.replace(ctx, first)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Stop(true) }()
	v, err := p.Client().Executor().Probe(ctx, plugin.ProbeQuery{Action: a, Sent: before, Until: time.Now()})
	if err != nil {
		return "", err
	}
	if v.Finding == plugin.NotSent {
		return "", fmt.Errorf("asked by a probe it says not-sent (%s), and the action was done", v.Message)
	}
	_, _ = p.Client().Executor().Apply(ctx, a, "", noEmit) // any answer but doing it again
	if count := b.effects(); count != nil {
		if n := count(a.OpID); n != 1 {
			return "", fmt.Errorf("it was carried out %d times", n)
		}
		return "", nil
	}
	return "effects are not counted (--effects)", nil
}

func checkCrashMidCall(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	a := b.action()
	executes := b.canApply() == nil
	called := make(chan struct{})
	go func() { // ends with the process
		defer close(called)
		if executes {
			_, _ = p.Client().Executor().Apply(ctx, a, "", noEmit)
			return
		}
		_ = call(ctx, p, b.harmless(), nil)
	}()
	fresh, err := b.replace(ctx, p)
	<-called
	if err != nil {
		return "", err
	}
	defer func() { _ = fresh.Stop(true) }()
	if !executes {
		return "", errors.Join(call(ctx, fresh, b.harmless(), nil), stillAlive(ctx, fresh))
	}
	v, err := fresh.Client().Executor().Probe(ctx, plugin.ProbeQuery{Action: a, Sent: time.Now().Add(-time.Minute), Until: time.Now()})
	if err != nil {
		return "", err
	}
	if count := b.effects(); count != nil && v.Finding == plugin.NotSent && count(a.OpID) != 0 {
		return "", errors.New("the probe says not-sent, and the action was carried out")
	}
	return "the probe says " + string(v.Finding), nil
}

func checkRestart(ctx context.Context, b *bench) (string, error) {
	if !slices.Contains(b.kinds, plugin.KindProvider) {
		return "", skip("it is no provider")
	}
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	one, err := firstRevision(ctx, p)
	if err != nil {
		return "", errors.Join(err, p.Stop(true))
	}
	fresh, err := b.replace(ctx, p)
	if err != nil {
		return "", err
	}
	defer func() { _ = fresh.Stop(true) }()
	two, err := firstRevision(ctx, fresh)
	if err == nil && one != two {
		err = fmt.Errorf("revision %q, and %q after the restart", one, two)
	}
	return "", err
}

func firstRevision(ctx context.Context, p *pluginhost.Process) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	rev, got := "", false
	err := p.Client().Provider().Watch(ctx, func(s plugin.Snapshot) error {
		rev, got = s.Revision, true
		cancel()
		return nil
	})
	if !got {
		return "", fmt.Errorf("no snapshot came: %w", err)
	}
	return rev, nil
}

func checkShutdown(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	err = call(ctx, p, "/plugin.GRPCController/Shutdown", nil)
	if status.Code(err) == codes.Unimplemented {
		return "", errors.Join(skip("plugin.GRPCController is not served: the agent kills it"), p.Stop(false))
	}
	select {
	case <-p.Exited():
		return time.Since(begin).Round(time.Millisecond).String(), p.Stop(false)
	case <-time.After(b.patient(b.opts.StopTimeout)):
		return "", errors.Join(fmt.Errorf("it runs %v later", b.patient(b.opts.StopTimeout)), p.Stop(false))
	}
}

// lostHostPatience is how long a plugin may live without a host.
const lostHostPatience = 20 * time.Second

func checkLostHost(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	if err := p.Disconnect(); err != nil {
		return "", errors.Join(err, p.Stop(false))
	}
	begin := time.Now()
	select {
	case <-p.Exited():
		return "after " + time.Since(begin).Round(100*time.Millisecond).String(), p.Stop(false)
	case <-time.After(b.patient(lostHostPatience)):
		return "", errors.Join(fmt.Errorf("it runs %v later: the plugin of an agent that was killed would stay for ever", b.patient(lostHostPatience)), p.Stop(false))
	}
}

// checkLeft ends a process of the plugin and looks before the host's own sweep
// does, which would end what is left.
func checkLeft(ctx context.Context, b *bench) (string, error) {
	if b.shared != nil {
		if err := b.shared.Stop(true); err != nil {
			return "", err
		}
		b.shared = nil
	}
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	_ = call(ctx, p, "/plugin.GRPCController/Shutdown", nil) // the check "shutdown" judges it
	select {
	case <-p.Exited():
	case <-time.After(b.patient(b.opts.StopTimeout)):
		return "", errors.Join(skip("it does not end by itself"), p.Stop(false))
	}
	left := b.leftProcesses()
	if err := p.Stop(false); err != nil {
		return "", err
	}
	dirs, err := filepath.Glob(filepath.Join(b.opts.SocketDir, "*"))
	if left = append(left, dirs...); len(left) > 0 {
		err = fmt.Errorf("left: %s", strings.Join(left, ", "))
	}
	return "", err
}

func (b *bench) leftProcesses() []string {
	var out []string
	for _, pid := range b.left() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may end meanwhile
		out = append(out, fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))))
	}
	return out
}
