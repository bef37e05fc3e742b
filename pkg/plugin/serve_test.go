// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestMain is also the plugin of these tests, and the host that is killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve nothing":
		plugin.Serve(plugin.Set{})
	case len(os.Args) > 1 && os.Args[1] == "serve":
		plugin.Serve(plugin.Set{Executor: &talker{}})
	case len(os.Args) > 1 && os.Args[1] == "host":
		host()
	default:
		goleak.VerifyTestMain(m)
	}
}

// host starts a plugin, prints its pid, and is killed.
func host() {
	p, err := plugintest.Start(plugintest.Command{Path: self(), Args: []string{"serve"}, StartTimeout: patience})
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := p.Client().Executor().Apply(context.Background(), do("pid"), "", func(plugin.Progress) error { return nil })
	fmt.Println(out.Message, err)
	select {}
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// talker is an executor that prints, and does what Params["do"] says.
type talker struct{ cfg plugin.Config }

func (k *talker) Configure(_ context.Context, c plugin.Config) error {
	k.cfg = c
	return nil
}

func (k *talker) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "talker", Version: "1"}, nil
}

func (k *talker) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{}, errors.New("no")
}

// descriptor1 is never closed, nor forgotten, which would close it.
var descriptor1 = os.NewFile(1, "descriptor 1")

func (k *talker) Apply(ctx context.Context, a plugin.Action, handle string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	out := plugin.Outcome{Status: plugin.Done}
	switch a.Params["do"] {
	case "pid":
		out.Message = fmt.Sprint(os.Getpid())
	case "print":
		fmt.Println("printed on stdout")
		_, _ = syscall.Write(1, []byte("written to descriptor 1\n"))
		cmd := exec.Command("/bin/echo", "a child's word")
		cmd.Stdout = descriptor1
		_ = cmd.Run() // what matters is that the connection lives
	case "interrupt":
		_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
	case "deadline":
		d, ok := ctx.Deadline()
		out.Message = fmt.Sprint(ok, time.Until(d) > 0 && time.Until(d) <= patience)
	case "emit":
		err := emit(plugin.Progress{Handle: "UPID:1"})
		out.Message = fmt.Sprint(errors.Is(err, plugin.ErrNotSent), err)
	case "wait":
		<-ctx.Done()
		return plugin.Outcome{}, ctx.Err()
	}
	return out, nil
}

func do(what string) plugin.Action {
	return plugin.Action{
		OpID: "op", Attempt: 1, Kind: "test.do", Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Params: map[string]string{"do": what},
	}
}

// patience ends what hangs. It decides nothing: a busy machine may take long.
const patience = 5 * time.Minute

func start(t *testing.T, stderr *buffer) *plugintest.Process {
	t.Helper()
	p, err := plugintest.Start(plugintest.Command{Path: self(), Args: []string{"serve"}, Stderr: stderr, StartTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func apply(ctx context.Context, c *plugin.Client, what string) (string, error) {
	out, err := c.Executor().Apply(ctx, do(what), "", func(plugin.Progress) error { return nil })
	return out.Message, err
}

func TestServeSurvivesPrintsAndInterrupts(t *testing.T) {
	var stderr buffer
	p := start(t, &stderr)
	for _, what := range []string{"print", "interrupt", "print"} {
		if _, err := apply(t.Context(), p.Client(), what); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for deadline := time.Now().Add(patience); strings.Count(stderr.String(), "a child's word") < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("what went to descriptor 1 is not on stderr: %q", &stderr)
		}
		<-time.After(5 * time.Millisecond)
	}
	if !strings.Contains(stderr.String(), "written to descriptor 1") {
		t.Errorf("on stderr: %q", &stderr)
	}
}

func TestConfigureIsOnce(t *testing.T) {
	p := start(t, &buffer{})
	cfg := plugin.Config{JSON: []byte(`{"x": 1}`), Secrets: map[string]plugin.Secret{"token": "t"}}
	kinds, err := p.Client().Configure(t.Context(), cfg, "1")
	if err != nil || len(kinds) != 1 || kinds[0] != plugin.KindExecutor {
		t.Errorf("%v, %v", kinds, err)
	}
	if _, err := p.Client().Configure(t.Context(), cfg, "1"); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("the second time: %v", err)
	}
}

func TestKindsThatAreNotServed(t *testing.T) {
	c := start(t, &buffer{}).Client()
	if _, err := c.Observer().List(t.Context()); !errors.Is(err, plugin.ErrUnsupported) {
		t.Errorf("observer: %v", err)
	}
	if err := c.Provider().Watch(t.Context(), nil); !errors.Is(err, plugin.ErrUnsupported) {
		t.Errorf("provider: %v", err)
	}
}

func TestContextCrossesTheWire(t *testing.T) {
	c := start(t, &buffer{}).Client()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := apply(ctx, c, "deadline"); got != "true true" {
		t.Errorf("deadline: %q, %v", got, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := apply(ctx, c, "wait"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
}

// The plugin's emit returns what the host said of it.
func TestEmitReturnsTheHostsAnswer(t *testing.T) {
	c := start(t, &buffer{}).Client()
	var handles []string
	out, err := c.Executor().Apply(t.Context(), do("emit"), "", func(p plugin.Progress) error {
		handles = append(handles, p.Handle)
		return fmt.Errorf("%w: the disk is full", plugin.ErrNotSent)
	})
	if err != nil || out.Message != "true not sent: the disk is full" || len(handles) != 1 {
		t.Errorf("%q, %v, handles %v", out.Message, err, handles)
	}
}

func TestStoppedProcessIsShutdown(t *testing.T) {
	p := start(t, &buffer{})
	c := p.Client()
	if _, err := apply(t.Context(), c, "pid"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), c, "pid"); !errors.Is(err, plugin.ErrShutdown) || !errors.Is(err, plugin.ErrNotSent) {
		t.Errorf("an action: %v", err)
	}
	if _, err := c.Executor().Describe(t.Context()); !errors.Is(err, plugin.ErrShutdown) {
		t.Errorf("a question: %v", err)
	}
}

func TestServeByHandSaysWhy(t *testing.T) {
	for arg, want := range map[string]string{
		"serve": "is a plugin of felhom-agent (protocol felhom.plugin.v1)", "serve nothing": "serves nothing",
	} {
		out, err := exec.Command(self(), arg).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s", arg, err, out)
		}
	}
}

// A host that is killed says nothing to its plugins: they notice that the
// connection is gone. This host sets no parent-death signal.
func TestPluginEndsWithoutItsHost(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "ft") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command(self(), "host")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // what a killed host leaves
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || pid == 0 {
		t.Fatalf("no plugin: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(patience); alive(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("plugin %d lives on", pid)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// alive says whether a process runs; a zombie that nobody waits for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

// fussy is an executor that is its own Configurer; fussier refuses.
type fussy struct {
	talker
	err error
}

func (f *fussy) Configure(ctx context.Context, c plugin.Config) error {
	return errors.Join(f.talker.Configure(ctx, c), f.err)
}

func TestWhoIsConfigured(t *testing.T) {
	some := plugin.Config{JSON: []byte(`{"a": 1}`)}
	t.Run("nobody wants it", func(t *testing.T) {
		c := plugintest.Pipe(t, plugin.Set{Provider: plugintest.NewProvider(plugin.Snapshot{})})
		if _, err := c.Configure(t.Context(), some, ""); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing to say", func(t *testing.T) {
		c := plugintest.Pipe(t, plugin.Set{Provider: plugintest.NewProvider(plugin.Snapshot{})})
		if kinds, err := c.Configure(t.Context(), plugin.Config{}, ""); err != nil || len(kinds) != 1 {
			t.Errorf("%v, %v", kinds, err)
		}
	})
	t.Run("a member", func(t *testing.T) {
		k := &fussy{}
		c := plugintest.Pipe(t, plugin.Set{Executor: k})
		if _, err := c.Configure(t.Context(), some, ""); err != nil || string(k.cfg.JSON) != `{"a": 1}` {
			t.Errorf("%v, %s", err, k.cfg.JSON)
		}
	})
	t.Run("the one that is named", func(t *testing.T) {
		k, named := &fussy{err: errors.New("not me")}, &fussy{}
		c := plugintest.Pipe(t, plugin.Set{Executor: k, Configurer: named})
		if _, err := c.Configure(t.Context(), some, ""); err != nil || string(named.cfg.JSON) != `{"a": 1}` {
			t.Errorf("%v, %s", err, named.cfg.JSON)
		}
	})
	t.Run("refused", func(t *testing.T) {
		c := plugintest.Pipe(t, plugin.Set{Executor: &fussy{err: fmt.Errorf("%w: config: key x", plugin.ErrInvalid)}})
		if _, err := c.Configure(t.Context(), some, ""); !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "key x") {
			t.Errorf("got %v", err)
		}
	})
}

// A plugin that is not built with this kit may send what it likes.
func TestHostRefusesHugeMessages(t *testing.T) {
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer() // no limits
	plugin.Register(server, plugin.Set{Provider: plugintest.NewProvider(plugin.Snapshot{
		Revision: "1", Files: []plugin.File{{Name: "a", Data: make([]byte, plugin.MaxMessage+1)}},
	})})
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) }) // ends with Stop
	defer wg.Wait()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///x", append(plugin.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = plugin.NewClient(conn).Provider().Watch(t.Context(), func(plugin.Snapshot) error {
		t.Error("the message was taken")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("got %v", err)
	}
}

// Ten minutes of a call take no time in a bubble: tests of the engine rest on
// this.
func TestPipeInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := plugintest.NewWorld("n1")
		w.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}})
		w.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Task: 10 * time.Minute} })
		c := plugintest.Pipe(t, plugin.Set{Executor: w.Executor()})
		a, began := do(""), time.Now()
		a.Params = nil
		a.Kind = plugin.Start
		out, err := c.Executor().Apply(t.Context(), a, "", func(plugin.Progress) error { return nil })
		if err != nil || out.Status != plugin.Done || time.Since(began) != 10*time.Minute {
			t.Errorf("%v, %v after %v", out, err, time.Since(began))
		}
	})
}
