// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// bin holds the programs under test as a user gets them.
var bin string

func TestMain(m *testing.M) {
	var code int
	err := build(func() { code = m.Run() })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build builds the real programs, runs f, and removes them.
func build(f func()) error {
	dir, err := os.MkdirTemp("", "felhom-bin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin = dir
	for name, pkg := range map[string]string{
		"felhom-agent": "./agent/cmd/felhom-agent", "felhom-hook": "./hookscript/felhom-hook",
		"pvesim": "./pkg/pve/pvetest/cmd/pvesim", "plugins/pve": "./plugins/pve", "plugins/dir": "./plugins/dir",
		"plugins/hub": "./plugins/hub", "plugins/nats": "./plugins/nats", "refhub": "./plugins/hub/cmd/refhub",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Dir = "../../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	for _, name := range []string{"pct", "qm", "pvesh", "pveum"} {
		standIn := "#!/bin/sh\nexec pvesim " + name + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(standIn), 0o755); err != nil {
			return err
		}
	}
	f()
	return nil
}

// TestScripts runs the programs as a user would: one script per visible
// behaviour in testdata.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: prepare,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"node":    cmdNode,
			"agent":   cmdAgent,
			"waitfor": cmdWaitfor,
			"killed":  cmdKilled,
			"count":   cmdCount,
			"hub":     cmdHub,
		},
		RequireExplicitExec: true,
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("no condition %q", cond)
			}
			return os.Geteuid() == 0, nil
		},
	})
}

func prepare(e *testscript.Env) error {
	for _, d := range []string{"state", "run", "spool", "plugins.d", "desired", "pve/storage/snippets"} {
		if err := os.MkdirAll(filepath.Join(e.WorkDir, d), 0o700); err != nil {
			return err
		}
	}
	e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	e.Setenv("PVESIM_DIR", filepath.Join(e.WorkDir, "pve"))
	e.Setenv("UID", strconv.Itoa(os.Getuid()))
	return snippet(e.WorkDir)
}

// snippet installs the shipped hookscript with a helper that knows this
// test's sockets, and whose budget a busy machine does not use up: an agent that
// is there has its say.
func snippet(work string) error {
	b, err := os.ReadFile("../../../hookscript/felhom-hookscript")
	if err != nil {
		return err
	}
	helper := filepath.Join(work, "felhom-hook")
	script := fmt.Sprintf("#!/bin/sh\nexec %s -budget 10000 -socket %s/run/hook.sock -spool %s/spool \"$@\"\n", filepath.Join(bin, "felhom-hook"), work, work)
	// While nothing forks: a process that another script starts meanwhile would
	// keep the file open for writing for a moment, and it could not be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(helper, []byte(script), 0o755); err != nil {
		return err
	}
	out := strings.Replace(string(b), "helper=/usr/libexec/felhom-agent/felhom-hook", "helper="+helper, 1)
	return os.WriteFile(filepath.Join(work, "pve/storage/snippets/felhom-hook"), []byte(out), 0o755)
}

// cmdNode starts the simulated node with guests.toml and waits for it.
func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	background(ts, "node", append([]string{"pvesim", "--dir", ts.MkAbs("pve"), "--guests", ts.MkAbs("guests.toml"), "--listen", "127.0.0.1:0"}, args...))
	retry(ts, "pvesim", "pct", "list")
}

// cmdAgent starts the agent: with the usual configuration in this mode (agent
// MODE), or with the script's own agent.toml (agent).
func cmdAgent(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs("agent.toml")
	if len(args) > 0 {
		conf := strings.NewReplacer("WORK", ts.Getenv("WORK"), "UID", ts.Getenv("UID"), "BIN", bin, "MODE", args[0],
			"URL", strings.TrimSpace(read(ts, "pve/url"))).Replace(agentTOML + read(ts, "more.toml"))
		ts.Check(os.WriteFile(path, []byte(conf), 0o600))
	}
	background(ts, "agent", []string{"felhom-agent", "run", "--config", path})
	retry(ts, "felhom-agent", "status", "--config", path)
}

const agentTOML = `[agent]
mode = "MODE"
node = "pve1"
state_dir = "WORK/state"
run_dir = "WORK/run"
log_dir = "WORK/log"
[hook]
socket = "WORK/run/hook.sock"
spool = "WORK/spool"
peer_uids = [UID]
[control]
socket = "WORK/run/control.sock"
[plugins]
dir = "WORK/plugins.d"
firstparty = "BIN/plugins"
trusted_uids = [UID]
[pve]
url = "URL"
token_file = "WORK/pve/token"
ca_file = "WORK/pve/ca.pem"
vmlist = "WORK/pve/etc-pve/.vmlist"
[[provider]]
name = "local"
plugin = "dir"
config = { path = "WORK/desired" }
`

func read(ts *testscript.TestScript, name string) string {
	b, err := os.ReadFile(ts.MkAbs(name))
	if os.IsNotExist(err) {
		return ""
	}
	ts.Check(err)
	return string(b)
}

// processes are what a script has started, by name.
type processes map[string]*exec.Cmd

var (
	procMu  sync.Mutex // guards running: scripts run side by side
	running = map[*testscript.TestScript]processes{}
)

// background starts a program that is ended with the script; its output goes
// to NAME.log.
func background(ts *testscript.TestScript, name string, argv []string) {
	log, err := os.OpenFile(ts.MkAbs(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	cmd := exec.Command(filepath.Join(bin, argv[0]), argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), log, log
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "FELHOM_CRASH_AT=" + ts.Getenv("FELHOM_CRASH_AT")}
	ts.Check(cmd.Start())
	procMu.Lock()
	if running[ts] == nil {
		running[ts] = processes{}
	}
	running[ts][name] = cmd
	procMu.Unlock()
	ts.Defer(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		done := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		done.Stop()
		_ = log.Close()
	})
}

// cmdKilled kills with SIGKILL: killed agent | killed node | killed plugin NAME.
func cmdKilled(ts *testscript.TestScript, neg bool, args []string) {
	if args[0] == "plugin" {
		ts.Check(syscall.Kill(pluginPID(ts, args[1]), syscall.SIGKILL))
		return
	}
	procMu.Lock()
	cmd := running[ts][args[0]]
	procMu.Unlock()
	ts.Check(cmd.Process.Kill())
	_ = cmd.Wait()
}

// pluginPID waits for a plugin to run and asks the agent for its pid.
func pluginPID(ts *testscript.TestScript, name string) int {
	var ps []struct {
		Name string
		PID  int
	}
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command(filepath.Join(bin, "felhom-agent"), "plugins", "--json", "--config", ts.MkAbs("agent.toml")).Output()
		ts.Check(err)
		ts.Check(json.Unmarshal(out, &ps))
		for _, p := range ps {
			if p.Name == name && p.PID > 0 {
				return p.PID
			}
		}
	}
	ts.Fatalf("plugin %s does not run", name)
	return 0
}

// cmdWaitfor runs a command until it succeeds (with ! before it, until it
// fails): waitfor [!] COMMAND...
func cmdWaitfor(ts *testscript.TestScript, neg bool, args []string) {
	if args[0] == "!" {
		neg, args = true, args[1:]
	}
	end := time.Now().Add(5 * time.Minute) // an op cut off in mid-sending is settled after one; the machine may be busy
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err != nil) == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("waited for %q, last: %v\n--- agent.log\n%s", args, err, tail(read(ts, "agent.log")))
		}
		time.Sleep(50 * time.Millisecond) // another process: there is no event to wait for
	}
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

func retry(ts *testscript.TestScript, argv ...string) { cmdWaitfor(ts, false, argv) }

// cmdCount counts lines of the last command's output that contain a text:
// count N TEXT.
func cmdCount(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := strings.Count(ts.ReadFile("stdout"), args[1]); got != want {
		ts.Fatalf("%q occurs %d times, want %d", args[1], got, want)
	}
}
