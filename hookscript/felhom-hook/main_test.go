// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/hook"
)

// helper and bare are the binaries under test, as they are shipped.
var helper, bare string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "felhom-hook")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	helper, bare = filepath.Join(dir, "felhom-hook"), filepath.Join(dir, "bare")
	for out, pkg := range map[string]string{helper: ".", bare: "./testdata/bare"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", pkg, err, msg)
			return 1
		}
	}
	return m.Run()
}

// result is how a command ended and what it left on its outputs.
type result struct {
	status int // 128 + signal, as a shell says it
	out    string
	err    string
}

// run runs a command as PVE runs a hookscript: stdin at its end, stdout and
// stderr pipes, and it is over only when both are closed.
func run(t *testing.T, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append([]string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "LC_ALL=C"}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) || ctx.Err() != nil {
		t.Errorf("%s %v holds its caller: %v", name, args, err)
	}
	if cmd.ProcessState == nil {
		t.Errorf("%s %v was not started: %v", name, args, err)
	}
	return result{status(cmd.ProcessState), out.String(), errs.String()}
}

func status(p *os.ProcessState) int {
	if p == nil {
		return -1
	}
	if ws := p.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

// inbox is an agent that keeps what it is told.
type inbox struct {
	socket string
	mu     sync.Mutex
	more   *sync.Cond // of events, with mu
	events []hook.Event
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e, err := hook.Parse(body)
	if err != nil || r.URL.Path != hook.EventPath {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.events = append(in.events, e)
	in.more.Broadcast()
	w.WriteHeader(http.StatusNoContent)
}

func (in *inbox) got() []hook.Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.events)
}

// wait returns what came in, n events at least: the helper does not wait for
// them to be there.
func (in *inbox) wait(n int) []hook.Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.events) < n {
		in.more.Wait()
	}
	return slices.Clone(in.events)
}

func agentUp(tb testing.TB) *inbox {
	tb.Helper()
	in := &inbox{socket: filepath.Join(tb.TempDir(), "hook.sock")}
	in.more = sync.NewCond(&in.mu)
	ln, err := net.Listen("unix", in.socket)
	if err != nil {
		tb.Fatal(err)
	}
	srv, done := &http.Server{Handler: in}, make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	tb.Cleanup(func() { srv.Close(); <-done })
	return in
}

// agentHung is a socket that is listened on and never read, as of an agent
// that is stopped by a signal.
func agentHung(tb testing.TB) (socket string) {
	tb.Helper()
	socket = filepath.Join(tb.TempDir(), "hook.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	return socket
}

// agentBusy is one that is hung with as many waiting for it as may wait.
func agentBusy(tb testing.TB) (socket string) {
	tb.Helper()
	socket = filepath.Join(tb.TempDir(), "hook.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}), syscall.Listen(fd, 0))
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { syscall.Close(fd) })
	first, err := net.Dial("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { first.Close() })
	return socket
}

func spooledEvents(t *testing.T, dir string) []hook.Event {
	t.Helper()
	entries, err := hook.ReadSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	var events []hook.Event
	for _, e := range entries {
		if e.Err != nil {
			t.Errorf("%s: %v", e.Path, e.Err)
		}
		events = append(events, e.Event)
	}
	return events
}

func TestAgentUp(t *testing.T) {
	t.Parallel()
	in, spool := agentUp(t), t.TempDir()
	for _, node := range []string{"", "pve2", "not a node\n"} {
		got := run(t, []string{"PVE_MIGRATED_FROM=" + node}, helper, "-socket", in.socket, "-spool", spool,
			"-budget", "10000", "101", "post-start")
		if got != (result{}) {
			t.Errorf("got %+v", got)
		}
	}
	var from []string
	for _, e := range in.wait(3) {
		if e.VMID != 101 || e.Phase != "post-start" {
			t.Errorf("got %+v", e)
		}
		from = append(from, e.MigratedFrom)
	}
	if slices.Sort(from); !slices.Equal(from, []string{"", "", "pve2"}) {
		t.Errorf("migrated from %q", from)
	}
	if told, spooled := ids(in.got()), ids(spooledEvents(t, spool)); len(told) != 3 || !slices.Equal(told, spooled) {
		t.Errorf("told %q, spooled %q", told, spooled)
	}
}

func ids(events []hook.Event) (out []string) {
	for _, e := range events {
		out = append(out, e.ID)
	}
	slices.Sort(out)
	return out
}

// Where an event cannot be spooled the agent must say that it has it.
func TestAgentUpWithoutSpool(t *testing.T) {
	t.Parallel()
	in := agentUp(t)
	got := run(t, nil, helper, "-socket", in.socket, "-spool", "/nonexistent", "-budget", "10000", "101", "post-start")
	if got != (result{}) || len(in.got()) != 1 {
		t.Errorf("got %+v, %d events", got, len(in.got()))
	}
}

func TestAgentAwayIsSpooled(t *testing.T) {
	t.Parallel()
	refusing := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", refusing)
	if err != nil {
		t.Fatal(err)
	}
	srv, done := &http.Server{Handler: http.NotFoundHandler()}, make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	for name, tc := range map[string]struct {
		socket string
		quiet  bool // the helper cannot know
	}{
		"down": {"/nonexistent/hook.sock", false}, "hung": {agentHung(t), true}, "refuses": {refusing, true},
		"not a socket": {"/etc/passwd", false}, "busy": {agentBusy(t), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spool := t.TempDir()
			got := run(t, nil, helper, "-socket", tc.socket, "-spool", spool, "101", "pre-stop")
			said := strings.HasSuffix(got.err, "; the event is spooled\n") && strings.Count(got.err, "\n") == 1
			if got.status != 0 || got.out != "" || tc.quiet && got.err != "" || !tc.quiet && !said {
				t.Errorf("got %+v", got)
			}
			if events := spooledEvents(t, spool); len(events) != 1 || events[0].VMID != 101 || events[0].Phase != "pre-stop" {
				t.Errorf("spooled %+v", events)
			}
		})
	}
}

func TestNothingWorks(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spool := range []string{"/nonexistent/spool", plain, "/proc/self/fd", "", strings.Repeat("x", 5000)} {
		got := run(t, nil, helper, "-socket", "/nonexistent", "-spool", spool, "101", "pre-start")
		if got.status != 0 || got.out != "" || !strings.Contains(got.err, "lost without being counted") ||
			strings.Count(got.err, "\n") != 1 {
			t.Errorf("%.20q: %+v", spool, got)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	in, spool := agentUp(t), t.TempDir()
	for _, args := range [][]string{
		{},
		{"101"},
		{"101", "pre-start", "more"},
		{"99", "pre-start"},
		{"0101", "pre-start"},
		{"../1", "pre-start"},
		{"101", "pre-migrate"},
		{"101", ""},
		{"101", "a\nb"},
		{"-budget", "x", "101", "pre-start"},
		{"-budget", "-1", "101", "pre-start"},
		{"-budget", "10001", "101", "pre-start"},
		{"-verbose", "1", "101", "pre-start"},
	} {
		got := run(t, nil, helper, append([]string{"-socket", in.socket, "-spool", spool}, args...)...)
		if got.status != 0 || got.out != "" || strings.Count(got.err, "\n") != 1 || !strings.HasPrefix(got.err, "felhom-hook: ") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if events := in.got(); len(events) > 0 {
		t.Errorf("posted %+v", events)
	}
}

func TestClosedDescriptors(t *testing.T) {
	t.Parallel()
	for name, redirect := range map[string]string{
		"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-",
	} {
		for _, up := range []bool{true, false} {
			in, spool, socket := agentUp(t), t.TempDir(), "/nonexistent"
			if up {
				socket = in.socket
			}
			got := run(t, nil, "/bin/sh", "-c", `"$0" -socket "$1" -spool "$2" 101 pre-start `+redirect, helper, socket, spool)
			if got.status != 0 || got.out != "" {
				t.Errorf("%s: %+v", name, got)
			}
			if n := len(spooledEvents(t, spool)); n != 1 {
				t.Errorf("%s, up %v: %d events", name, up, n)
			}
			if up {
				in.wait(1)
			}
		}
	}
}

func TestNobodyReadsStderr(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	spool := t.TempDir()
	cmd := exec.Command(helper, "-socket", "/nonexistent", "-spool", spool, "101", "post-stop")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		t.Errorf("died of it: %v", err)
	}
	if events := spooledEvents(t, spool); len(events) != 1 {
		t.Errorf("spooled %v", events)
	}
}

// At boot many guests start at once. Each event arrives, and each once: a
// helper whose budget ran out before the answer came spools a second copy
// under the same id.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const n = 500
	in, spool := agentUp(t), t.TempDir()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if got := run(t, nil, helper, "-socket", in.socket, "-spool", spool, fmt.Sprint(100+i), "pre-start"); got.status != 0 {
				t.Errorf("got %+v", got)
			}
		})
	}
	wg.Wait()
	ids, guests := map[string]bool{}, map[int]bool{}
	for _, e := range append(in.got(), spooledEvents(t, spool)...) {
		ids[e.ID], guests[int(e.VMID)] = true, true
	}
	if len(ids) != n || len(guests) != n {
		t.Errorf("%d ids of %d guests, want %d", len(ids), len(guests), n)
	}
}

// What the helper links decides how long it takes to start.
func TestFewImports(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, dear := range []string{
		"bufio", "context", "encoding/json", "flag", "fmt", "log", "math/big", "net", "net/http", "reflect", "regexp", "unicode",
		"github.com/felhom/felhom-agent/pkg/guest",
	} {
		if slices.Contains(deps, dear) {
			t.Errorf("the helper imports %s", dear)
		}
	}
}

func TestStatic(t *testing.T) {
	t.Parallel()
	f, err := elf.Open(helper)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("the helper needs %v", libs)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the helper needs an interpreter")
		}
	}
}
