// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// PluginArg is the first argument of a process that is to be a plugin; the
// mode is the second.
const PluginArg = "be-plugin"

// Plugin is a plugin that misbehaves as mode says. It is the whole of a main.
func Plugin(mode string) {
	switch mode {
	case "crash at start":
		panic("no database")
	case "hang at start":
		time.Sleep(time.Hour)
	case "garbage":
		fmt.Println("Welcome to AcmeCloud 3.1!")
	case "binary garbage":
		_, _ = os.Stdout.Write([]byte(strings.Repeat("\x00\xff\x1b[2J", 100_000)))
	case "old protocol":
		serveVersion(0)
		return
	case "wrong protocol":
		serveVersion(7)
		return
	case "other core":
		fmt.Printf("9|1|unix|%s/x|grpc|\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		time.Sleep(time.Hour)
	case "no mtls":
		_ = os.Unsetenv("PLUGIN_CLIENT_CERT")
	case "bomb":
		forkBomb(os.Stderr)
		time.Sleep(time.Hour)
	}
	p := &misfit{mode: mode, stderr: os.Stderr}
	set := plugin.Set{Executor: p, Provider: p, Configurer: p}
	if mode == "unbounded" {
		serveUnbounded(set)
		return
	}
	plugin.Serve(set)
	if mode == "hang at kill" {
		select {}
	}
}

// unbounded is a plugin that does without the kit, and its bounds.
type unbounded struct {
	goplugin.NetRPCUnsupportedPlugin
	set plugin.Set
}

func (u unbounded) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	plugin.Register(s, u.set)
	return nil
}

func (unbounded) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is no host")
}

func serveUnbounded(set plugin.Set) {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: map[int]goplugin.PluginSet{plugin.ProtocolVersion: {plugin.DispenseName: unbounded{set: set}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxSendMsgSize(math.MaxInt32))...)
		},
	})
}

func serveVersion(v int) {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig(),
		VersionedPlugins: map[int]goplugin.PluginSet{v: plugin.HostPlugins()[plugin.ProtocolVersion]},
		GRPCServer:       func(o []grpc.ServerOption) *grpc.Server { return grpc.NewServer(o...) },
	})
}

// misfit is an executor and a provider that does what the action says, and
// hangs where the mode says.
type misfit struct {
	mode   string
	stderr *os.File // Serve replaces os.Stderr
	cfg    plugin.Config
}

func (m *misfit) hang(where string) {
	if m.mode == "hang in "+where {
		select {}
	}
}

func (m *misfit) Configure(_ context.Context, c plugin.Config) error {
	m.hang("configure")
	m.cfg = c
	return nil
}

func (m *misfit) Describe(context.Context) (plugin.Info, error) {
	m.hang("describe")
	i := plugin.Info{Name: "misfit", Version: stamp}
	if m.mode == "liar" { // it serves what it was not given, and calls it harmless
		i.Actions = []plugin.ActionKind{badKind, plugin.Start, plugin.Destroy}
		i.Features = []string{"benign", "class=benign", "no-approval"}
	}
	return i, nil
}

func (m *misfit) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	m.hang("probe")
	if m.mode == "other op" {
		return plugin.Verdict{Finding: plugin.Found, Handle: "UPID:of-another-op"}, nil
	}
	return plugin.Verdict{Finding: plugin.Unclear}, nil
}

func (m *misfit) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	m.hang("watch")
	if m.mode == "flood of snapshots" {
		for n := 0; ctx.Err() == nil; n++ {
			_ = emit(plugin.Snapshot{Revision: fmt.Sprint(n)})
		}
	}
	if m.mode == "unbounded" {
		_ = emit(plugin.Snapshot{Revision: "1", Files: []plugin.File{{Name: "a.toml", Data: make([]byte, 1<<30)}}})
	}
	_ = emit(plugin.Snapshot{Revision: "1"})
	<-ctx.Done()
	return ctx.Err()
}

func (m *misfit) Report(context.Context, plugin.Report) error {
	m.hang("report")
	return nil
}

func (m *misfit) Apply(ctx context.Context, a plugin.Action, _ string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	m.hang("apply")
	say := func(format string, args ...any) (plugin.Outcome, error) {
		return plugin.Outcome{Status: plugin.Done, Message: fmt.Sprintf(format, args...)}, nil
	}
	switch a.Params["do"] {
	case "crash":
		os.Exit(3)
	case "panic":
		panic("index out of range")
	case "freeze":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		<-ctx.Done()
	case "env":
		return say("%s", strings.Join(os.Environ(), "\n"))
	case "print env":
		fmt.Fprintln(m.stderr, strings.Join(os.Environ(), "\n")+"\ntoken="+m.cfg.Secrets["token"].Reveal())
		return say("printed")
	case "stdin":
		b, err := io.ReadAll(os.Stdin)
		return say("%d bytes, %v", len(b), err)
	case "gigabyte":
		return plugin.Outcome{Status: plugin.Done, RefusedKeys: map[string]string{"x": strings.Repeat("x", 1<<30)}}, nil
	case "flood":
		return say("%d lines", m.flood())
	case "grandchild":
		return say("%d", m.grandchild())
	case "hog":
		hog()
	case "bomb":
		go forkBomb(m.stderr)
	case "handles":
		err := errors.Join(emit(plugin.Progress{Handle: "UPID:one"}), emit(plugin.Progress{Handle: "UPID:two"}))
		return plugin.Outcome{Status: plugin.Done}, err
	case "nonsense":
		return plugin.Outcome{Status: "splendid", Message: "\x1b[2Jok\n\nforged line", Undo: &plugin.Action{Kind: plugin.Destroy, OpID: "other"}}, nil
	}
	return say("pid %d", os.Getpid())
}

func (m *misfit) flood() int {
	line := strings.Repeat("flood ", 40)
	for range 200_000 {
		fmt.Fprintln(m.stderr, line)
	}
	return 200_000
}

// grandchild starts a process in a session of its own that holds stderr, and
// returns its pid.
func (m *misfit) grandchild() int {
	cmd := exec.Command("sleep", "3600")
	cmd.Stderr = m.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0
	}
	return cmd.Process.Pid
}

// hog takes memory until there is none, and touches it.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := range b {
			b[i] = byte(i)
		}
		all = append(all, b)
		if len(all) > 2048 { // 16 GiB: nobody has stopped it
			time.Sleep(time.Hour)
		}
	}
}

// The bomb's size, should nobody limit it: each process has so many children,
// so deep. It is bounded so that a failure of this row is not one of the machine.
const bombWidth, bombDepth = 3, 5

// forkBomb forks as often as it can, each child in a session of its own.
func forkBomb(log *os.File) {
	depth := ""
	if len(os.Args) > 3 {
		depth = os.Args[3]
	}
	for n := 0; n < bombWidth && len(depth) < bombDepth; {
		cmd := exec.Command("/proc/self/exe", PluginArg, "bomb", depth+"x")
		cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(log, "cannot fork:", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		n++
	}
}

// stamp is what a row changes in a file: "good" becomes "evil".
const stamp = "felhom-chaos-stamp:good"
