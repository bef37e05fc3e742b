// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// TestMain is the plugin of these tests, and the host that is killed in one of
// them.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "be-host" {
		beHost(os.Args[2])
		return
	}
	if os.Getenv(plugin.CookieKey) != plugin.CookieValue {
		goleak.VerifyTestMain(m)
		return
	}
	bePlugin(os.Args[1])
}

// bePlugin is a plugin that misbehaves as mode says.
func bePlugin(mode string) {
	switch mode {
	case "crash at start":
		panic("no database")
	case "hang at start":
		select {}
	case "garbage":
		fmt.Println("hello, world")
	case "json trap": // go-plugin's own reader panics at this
		fmt.Fprintln(os.Stderr, `{"@message": 5, "@level": {}, "@timestamp": []}`)
	case "old protocol":
		serveVersion(0)
		return
	case "new protocol":
		serveVersion(2)
		return
	case "elsewhere":
		fmt.Println("1|1|unix|/run/elsewhere.sock|grpc|")
		select {}
	case "no certificate":
		os.Unsetenv("PLUGIN_CLIENT_CERT")
	case "stray prints":
		printToDescriptor1()
	case "long line":
		pour(os.Stdout)
	case "long handshake":
		fmt.Print("1|1|unix|" + filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s") + "|grpc|")
		pour(os.Stdout)
	case "many hints":
		plugin.Serve(plugin.Set{Observer: oddObserver{}})
		return
	case "many parts":
		serveParts()
		return
	}
	plugin.Serve(plugin.Set{Executor: &oddExecutor{mode: mode}})
	if mode == "hang at kill" {
		select {}
	}
}

func serveVersion(v int) {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: map[int]goplugin.PluginSet{v: plugin.HostPlugins()[1]},
		GRPCServer:       func(o []grpc.ServerOption) *grpc.Server { return grpc.NewServer(o...) },
	})
}

// printToDescriptor1 prints as a library in C would, all the time from the
// beginning of Serve.
func printToDescriptor1() {
	go func() {
		for {
			out, _ := os.Readlink("/proc/self/fd/1")
			if log, _ := os.Readlink("/proc/self/fd/2"); out == log {
				break
			}
		}
		for {
			_, _ = syscall.Write(1, []byte("stray\n"))
			time.Sleep(time.Millisecond)
		}
	}()
}

// oddExecutor does what the kind of the action says.
type oddExecutor struct {
	mode string
	cfg  plugin.Config
}

func (o *oddExecutor) Configure(_ context.Context, c plugin.Config) error {
	if o.mode == "picky" {
		return fmt.Errorf("%w: config: key \"path\": want a path", plugin.ErrInvalid)
	}
	o.cfg = c
	return nil
}

func (o *oddExecutor) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "odd", Version: "3.1"}, nil
}

func (o *oddExecutor) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{Finding: plugin.Unclear}, nil
}

func (o *oddExecutor) Apply(ctx context.Context, a plugin.Action, _ string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	say := func(format string, args ...any) (plugin.Outcome, error) {
		return plugin.Outcome{Status: plugin.Done, Message: fmt.Sprintf(format, args...)}, nil
	}
	switch a.Params["do"] {
	case "env":
		return say("%q", os.Environ())
	case "stdin":
		b, err := io.ReadAll(os.Stdin)
		return say("%d bytes, %v", len(b), err)
	case "descriptors":
		return say("%s", descriptors())
	case "config":
		return say("%s %x", o.cfg.JSON, sha256.Sum256([]byte(o.cfg.Secrets["token"].Reveal())))
	case "tell":
		return tell(o.cfg.Secrets["token"].Reveal()+a.Set["cipassword"], emit)
	case "fail":
		return plugin.Outcome{}, fmt.Errorf("%w: GET https://hub/?token=%s: 403", plugin.ErrDenied, url.QueryEscape(o.cfg.Secrets["token"].Reveal()))
	case "print raw":
		fmt.Fprintln(realStderr, "the token is "+o.cfg.Secrets["token"].Reveal())
		return say("")
	case "leak secret":
		fmt.Fprintln(os.Stderr, "the token is "+o.cfg.Secrets["token"].Reveal())
		return say("")
	case "crash":
		os.Exit(3)
	case "freeze":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-ctx.Done() // the signal takes its time; no answer may slip out before it
	case "flood":
		return say("%d", flood())
	case "pour":
		pour(realStderr)
		pour(os.Stderr)
	case "grandchild":
		return say("%d", grandchild())
	case "denied":
		return plugin.Outcome{}, fmt.Errorf("start %s: %w: 403 Permission check failed (/vms/101, VM.PowerMgmt)", a.Guest, plugin.ErrDenied)
	case "huge":
		return plugin.Outcome{Status: plugin.Done, RefusedKeys: map[string]string{"x": strings.Repeat("x", plugin.MaxMessage+1)}}, nil
	case "hang":
		<-ctx.Done()
		return plugin.Outcome{}, ctx.Err()
	}
	return say("pid %d", os.Getpid())
}

// tell says a secret wherever an executor has words.
func tell(secret string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	auth := base64.StdEncoding.EncodeToString([]byte("felhom:" + secret))
	if err := emit(plugin.Progress{Text: "Authorization: Basic " + auth}); err != nil {
		return plugin.Outcome{}, err
	}
	return plugin.Outcome{
		Status: plugin.Done, Message: "sent " + secret, Reason: fmt.Sprintf("%x", secret),
		RefusedKeys: map[string]string{"memory": fmt.Sprintf("%q", secret)},
	}, nil
}

func descriptors() string {
	links, _ := filepath.Glob("/proc/self/fd/*")
	var all []string
	for _, l := range links {
		target, err := os.Readlink(l)
		if err == nil {
			all = append(all, filepath.Base(l)+"="+target)
		}
	}
	return strings.Join(all, "\n")
}

func flood() int {
	line := strings.Repeat("x", 200)
	for range 10_000 {
		fmt.Fprintln(os.Stderr, line)
		fmt.Println(line)
	}
	return 20_000
}

// pour writes 40 MiB without the end of a line.
func pour(w io.Writer) {
	b := bytes.Repeat([]byte("x"), 1<<20)
	for range 40 {
		_, _ = w.Write(b)
	}
}

// oddObserver hints at something without a pause, and at length.
type oddObserver struct{ plugin.Observer }

func (oddObserver) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "odd"}, nil
}

func (oddObserver) Watch(_ context.Context, emit func(plugin.Hint) error) error {
	h := plugin.Hint{Reason: strings.Repeat("x", 8<<10), Guests: manyVMIDs(1000)}
	for range 100_000 {
		if err := emit(h); err != nil {
			return err
		}
	}
	return nil
}

// parts answers everything with a million small parts.
type parts struct {
	pluginpb.UnimplementedPluginServer
	pluginpb.UnimplementedObserverServer
}

// inMessage are many, and yet a small message: an empty part takes two bytes.
const inMessage = 1 << 20

func (parts) Configure(context.Context, *pluginpb.ConfigureRequest) (*pluginpb.ConfigureResponse, error) {
	return &pluginpb.ConfigureResponse{Kinds: []string{"observer"}}, nil
}

func (parts) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	return &pluginpb.DescribeResponse{Name: "odd"}, nil
}

func (parts) List(context.Context, *pluginpb.ListRequest) (*pluginpb.NodeState, error) {
	return &pluginpb.NodeState{Guests: slices.Repeat([]*pluginpb.GuestState{{}}, inMessage)}, nil
}

func (parts) Guest(context.Context, *pluginpb.GuestRequest) (*pluginpb.Observation, error) {
	return &pluginpb.Observation{Tasks: slices.Repeat([]*pluginpb.Task{{}}, inMessage)}, nil
}

func (parts) Watch(_ *pluginpb.ObserverWatchRequest, stream grpc.ServerStreamingServer[pluginpb.Hint]) error {
	return stream.Send(&pluginpb.Hint{Vmids: slices.Repeat([]uint32{100}, inMessage)})
}

type partsPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (partsPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginpb.RegisterPluginServer(s, parts{})
	pluginpb.RegisterObserverServer(s, parts{})
	return nil
}

func (partsPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is no host")
}

func serveParts() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: map[int]goplugin.PluginSet{1: {plugin.DispenseName: partsPlugin{}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, plugin.ServerOptions()...)...)
		},
	})
}

// grandchild starts a process in a session of its own that keeps stderr open,
// and returns its pid.
func grandchild() int {
	cmd := exec.Command("sleep", "3600")
	cmd.Stderr = realStderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0
	}
	return cmd.Process.Pid
}

var realStderr = os.Stderr // Serve replaces it
