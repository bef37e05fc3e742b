// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// startRows do not come as far as a plugin that serves.
var startRows = []Row{
	ends("crash at start", pluginhost.Quarantined, "no database"),
	slow("hang at start", "hang at start"),
	slow("hang in configure", "hang in configure"),
	slow("hang in describe", "hang in describe"),
	ends("garbage before the handshake", pluginhost.Quarantined, "Welcome to AcmeCloud", "garbage"),
	ends("binary garbage before the handshake", pluginhost.Quarantined, "where the handshake line belongs", "binary garbage"),
	ends("wrong protocol", pluginhost.Refused, `speaks version "7"`, "wrong protocol"),
	ends("old protocol", pluginhost.Refused, `speaks version "0"`, "old protocol"),
	ends("wrong core protocol", pluginhost.Refused, `(core "9")`, "other core"),
	ends("no TLS", pluginhost.Refused, "AutoMTLS", "no mtls"),
}

// ends is a row that ends in a state, with these words in what the operator is
// told. The mode is the name if none is given.
func ends(name string, state pluginhost.State, words string, mode ...string) Row {
	return Row{Name: name, Quick: true, Run: func(ctx context.Context, b *Bed) (string, error) {
		s := b.spec(bad, append(mode, name)[0], badKind)
		s.Restart.Restarts = 2
		if err := b.add(s); err != nil {
			return "", err
		}
		return b.told(ctx, state, words)
	}}
}

// slow is a row that runs into the start timeout.
func slow(name, mode string) Row {
	return Row{Name: name, StartTimeout: 3 * time.Second, Run: func(ctx context.Context, b *Bed) (string, error) {
		s := b.spec(bad, mode, badKind)
		s.Restart.Restarts = 1
		if err := b.add(s); err != nil {
			return "", err
		}
		return b.told(ctx, pluginhost.Quarantined, "deadline exceeded")
	}}
}

// callRows misbehave while they serve.
var callRows = []Row{
	dies("crash in a call", "crash", "exit status 3"),
	dies("panic in a call", "panic", "index out of range"),
	dies("stopped in a call", "freeze", "does not answer"),
	hangs("hang in apply", "hang in apply", func(ctx context.Context, b *Bed) error { _, err := b.do(ctx, badKind, "x"); return err }),
	hangs("hang in probe", "hang in probe", func(ctx context.Context, b *Bed) error {
		e, err := b.Host.Executor(badKind)
		if err == nil {
			_, err = e.Probe(ctx, plugin.ProbeQuery{Action: plugin.Action{Kind: badKind, OpID: "x", Guest: guest.ID{Kind: guest.LXC, VMID: 101}}})
		}
		return err
	}),
	{Name: "hang in watch", Quick: true, Run: hangWatch},
	hangs("hang in report", "hang in report", func(ctx context.Context, b *Bed) error {
		return b.Host.Report(ctx, bad, plugin.Report{Time: time.Now(), JSON: []byte("{}")})
	}),
	{Name: "hang at kill", Quick: true, Run: hangAtKill},
	{Name: "grandchild that holds stderr", Quick: true, Run: heldStderr},
	{Name: "answers that make no sense", Quick: true, Run: nonsense},
	{Name: "answers for another op", Quick: true, Run: otherOp},
}

// dies is a row in which the call ends with ErrShutdown, the reason is logged,
// and a fresh process serves.
func dies(name, what, words string) Row {
	return Row{Name: name, Quick: true, Run: func(ctx context.Context, b *Bed) (string, error) {
		if err := b.addBad("good"); err != nil {
			return "", err
		}
		first, err := b.await(ctx, bad, pluginhost.Running)
		if err != nil {
			return "", err
		}
		_, err = b.do(ctx, badKind, what)
		if !errors.Is(err, plugin.ErrShutdown) || errors.Is(err, plugin.ErrNotSent) {
			return "", fmt.Errorf("the call ended with %w, not as one whose outcome is not known", err)
		}
		told, err := b.logged(ctx, words)
		if err != nil {
			return "", err
		}
		return told, b.until(ctx, func() bool {
			st := b.status(bad)
			return st.State == pluginhost.Running && st.PID != first.PID
		})
	}}
}

// hangs is a row whose call ends with its deadline.
func hangs(name, mode string, call func(context.Context, *Bed) error) Row {
	return Row{Name: name, Quick: true, Run: func(ctx context.Context, b *Bed) (string, error) {
		s := b.spec(bad, mode, badKind)
		s.Kinds = append(s.Kinds, plugin.KindProvider)
		if err := b.add(s); err != nil {
			return "", err
		}
		if _, err := b.await(ctx, bad, pluginhost.Running); err != nil {
			return "", err
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err := call(short, b)
		if !errors.Is(err, context.DeadlineExceeded) {
			return "", fmt.Errorf("the call ended with %w", err)
		}
		return err.Error(), nil
	}}
}

func hangWatch(ctx context.Context, b *Bed) (string, error) {
	if err := b.add(b.providerSpec(bad, "hang in watch")); err != nil {
		return "", err
	}
	if _, err := b.await(ctx, bad, pluginhost.Running); err != nil {
		return "", err
	}
	// Nothing to report: a provider that says nothing changes nothing. It must
	// not keep the host from ending.
	return "it runs and provides nothing", b.add()
}

func hangAtKill(ctx context.Context, b *Bed) (string, error) {
	if err := b.addBad("hang at kill"); err != nil {
		return "", err
	}
	st, err := b.await(ctx, bad, pluginhost.Running)
	if err != nil {
		return "", err
	}
	if err := b.add(); err != nil {
		return "", err
	}
	return "it is killed after the stop timeout", b.until(ctx, func() bool { return !alive(st.PID) })
}

// alive says whether a process runs; a zombie that nobody waits for does not:
// what lost its parent is left to whatever is process 1 here.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func heldStderr(ctx context.Context, b *Bed) (string, error) {
	if err := b.addBad("good"); err != nil {
		return "", err
	}
	if _, err := b.await(ctx, bad, pluginhost.Running); err != nil {
		return "", err
	}
	out, err := b.do(ctx, badKind, "grandchild")
	if err != nil {
		return "", err
	}
	pid, err := strconv.Atoi(out.Message)
	if err != nil || pid == 0 {
		return "", fmt.Errorf("no grandchild: %q", out.Message)
	}
	if err := b.add(); err != nil {
		return "", err
	}
	return "it ends with its plugin", b.until(ctx, func() bool { return !alive(pid) })
}

// nonsense: what is not one of the known answers is the cautious one, and what
// it says cannot forge a line of the log.
func nonsense(ctx context.Context, b *Bed) (string, error) {
	if err := b.addBad("good"); err != nil {
		return "", err
	}
	if _, err := b.await(ctx, bad, pluginhost.Running); err != nil {
		return "", err
	}
	out, err := b.do(ctx, badKind, "nonsense")
	if err != nil {
		return "", err
	}
	if out.Status != plugin.Unknown {
		return "", fmt.Errorf("the outcome counts as %s", out.Status)
	}
	for l := range strings.Lines(b.log.String()) {
		if strings.HasPrefix(l, "forged line") || strings.Contains(l, "\x1b[") {
			return "", errors.New("a line of the log is forged")
		}
	}
	return strings.ToValidUTF8(strings.ReplaceAll(fmt.Sprintf("%s: %q", out.Status, out.Message), "\n", " "), "?"), nil
}

// otherOp: a second handle, and a probe that finds another op's handle.
func otherOp(ctx context.Context, b *Bed) (string, error) {
	if err := b.addBad("other op"); err != nil {
		return "", err
	}
	if _, err := b.await(ctx, bad, pluginhost.Running); err != nil {
		return "", err
	}
	_, err := b.do(ctx, badKind, "handles")
	if err == nil || !strings.Contains(err.Error(), "a second handle") {
		return "", fmt.Errorf("a second handle was taken: %w", err)
	}
	told := err.Error()
	e, err := b.Host.Executor(badKind)
	if err != nil {
		return "", err
	}
	v, err := e.Probe(ctx, plugin.ProbeQuery{
		Action: plugin.Action{Kind: badKind, OpID: "x", Attempt: 1, Guest: guest.ID{Kind: guest.LXC, VMID: 101}},
		Taken:  []string{"UPID:of-another-op"},
	})
	if err == nil && v.Finding == plugin.Found {
		return "", errors.New("a probe's answer with the handle of another op was taken")
	}
	return told, nil
}
