// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range []string{built, keyDir} {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// built is the directory of the programs that this run built, "" if there was none.
var built string

// programs returns the directory of the real programs: FELHOM_BIN, or built once.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("FELHOM_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "felhom-torture-bin")
	if err != nil {
		return "", err
	}
	built = dir
	for name, pkg := range map[string]string{
		"felhom-agent": "./agent/cmd/felhom-agent", "pvesim": "./pkg/pve/pvetest/cmd/pvesim",
		"plugins/pve": "./plugins/pve", "plugins/dir": "./plugins/dir",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Dir = "../../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return dir, nil
})

// rig is the real agent beside a simulated node, each in a process of its own.
type rig struct {
	t          *testing.T
	bin, dir   string
	state      string
	sim, agent *exec.Cmd
	user       string
}

const rigGuests = `
[[guest]]
kind = "lxc"
vmid = 101
start = "700ms"
[guest.config]
arch = "amd64"
cores = 1
hostname = "one"
memory = 256
rootfs = "local:101/vm-101-disk-0.raw,size=1G"
[[guest]]
kind = "lxc"
vmid = 102
running = true
shutdown = "700ms"
[guest.config]
arch = "amd64"
cores = 1
hostname = "two"
memory = 256
rootfs = "local:102/vm-102-disk-0.raw,size=1G"
[[guest]]
kind = "qemu"
vmid = 201
start = "700ms"
[guest.config]
cores = 1
memory = "512"
name = "three"
`

const rigDesired = `[guest.101]
kind = "lxc"
run = "running"
cores = 2
[guest.102]
kind = "lxc"
run = "stopped"
memory = "512MiB"
[guest.201]
kind = "qemu"
run = "running"
cores = 2
`

const rigConfig = `[agent]
mode = "enforce"
node = "pve1"
resync = "5s"
state_dir = "STATE"
run_dir = "DIR/run"
log_dir = "DIR/log"
[hook]
socket = "DIR/run/hook.sock"
spool = "DIR/spool"
peer_uids = [UID]
[control]
socket = "DIR/run/control.sock"
[plugins]
dir = "DIR/plugins.d"
firstparty = "BIN/plugins"
trusted_uids = [UID]
[pve]
url = "URL"
token_file = "DIR/pve/token"
ca_file = "DIR/pve/ca.pem"
vmlist = "DIR/pve/etc-pve/.vmlist"

[[provider]]
name = "local"
plugin = "dir"
config = { path = "DIR/desired" }
`

// newRig starts a node. state is where the agent keeps its journal, "" for a place in the rig's own directory.
func newRig(t *testing.T, state string) *rig {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "torture") // short: sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, bin: bin, dir: dir, state: state}
	if state == "" {
		r.state = filepath.Join(dir, "state")
	}
	for _, d := range []string{"state", "run", "spool", "plugins.d", "desired"} {
		r.must(os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	r.write("guests.toml", rigGuests)
	r.write("desired/guests.toml", rigDesired)
	r.sim = r.background("pve.log", nil, "pvesim", "--dir", filepath.Join(dir, "pve"), "--guests", filepath.Join(dir, "guests.toml"), "--listen", "127.0.0.1:0")
	if !r.wait("the node", 5*time.Minute, func() bool { _, err := r.record(); return err == nil }) {
		t.Fatal("the node does not come up")
	}
	conf := strings.NewReplacer("DIR", dir, "STATE", r.state, "BIN", bin, "UID", fmt.Sprint(os.Getuid()), "URL", strings.TrimSpace(r.read("pve/url"))).Replace(rigConfig)
	r.write("agent.toml", conf)
	r.user, _, _ = strings.Cut(strings.TrimSpace(r.read("pve/token")), "=")
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) write(name, text string) {
	r.must(os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
}

func (r *rig) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(r.dir, name))
	return string(b)
}

// background starts a program that ends with the test.
func (r *rig) background(log string, env []string, name string, args ...string) *exec.Cmd {
	r.t.Helper()
	out, err := os.OpenFile(filepath.Join(r.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	r.must(err)
	defer out.Close()
	cmd := exec.Command(filepath.Join(r.bin, name), args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.must(cmd.Start())
	r.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// run runs the agent's command line and returns what it printed and whether it succeeded.
func (r *rig) run(args ...string) (string, bool) {
	out, err := exec.Command(filepath.Join(r.bin, "felhom-agent"), append(args, "--config", filepath.Join(r.dir, "agent.toml"))...).CombinedOutput()
	return string(out), err == nil
}

// wait polls: there is no event to wait for in another process.
func (r *rig) wait(what string, d time.Duration, ok func() bool) bool {
	r.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Logf("%s: not within %v\n%s", what, d, tail(r.read("agent.log")))
			return false
		}
	}
	return true
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// start starts the agent; crashAt is a named point with a count, or "".
func (r *rig) start(crashAt string) {
	r.t.Helper()
	r.agent = r.background("agent.log", []string{"FELHOM_CRASH_AT=" + crashAt}, "felhom-agent", "run", "--config", filepath.Join(r.dir, "agent.toml"))
}

// kill is kill -9, of the agent only: its plugins must notice by themselves.
func (r *rig) kill() {
	_ = r.agent.Process.Kill()
	_ = r.agent.Wait()
}

// died waits for an agent that is to kill itself.
func (r *rig) died(d time.Duration) bool {
	done := make(chan struct{})
	go func() { _ = r.agent.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		_ = r.agent.Process.Kill()
		<-done
		return false
	}
}

func (r *rig) converged() bool { _, ok := r.run("plan"); return ok }

func (r *rig) record() (out []pvetest.Mutation, err error) {
	b, err := exec.Command(filepath.Join(r.bin, "pvesim"), "--dir", filepath.Join(r.dir, "pve"), "record").Output()
	if err != nil {
		return nil, err
	}
	return out, json.NewDecoder(bytes.NewReader(b)).Decode(&out)
}

// plugin returns a plugin's process id, 0 if it does not run.
func (r *rig) plugin(name string) int {
	out, _ := r.run("plugins", "--json")
	var ps []struct {
		Name string
		PID  int
	}
	_ = json.Unmarshal([]byte(out), &ps)
	for _, p := range ps {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

// judge waits until the guests are as wanted and holds the node's record against the journal.
func (r *rig) judge(d time.Duration) (v Verdict) {
	if !r.wait("the plan is empty", d, r.converged) {
		out, _ := r.run("plan")
		v.Jam("after %v the guests are not as wanted: %.500s", d, out)
	}
	if out, ok := r.run("journal", "check"); !ok {
		v.Jam("felhom-agent journal check: %.300s", out)
	}
	var s *Story
	var err error
	r.wait("every op has an end", 30*time.Second, func() bool { // a guest may be as wanted just before its task ends
		s, err = ReadStory(fsys.OS{}, filepath.Join(r.state, "journal"))
		return err != nil || s.quiet()
	})
	if err != nil {
		v.Jam("%v", err)
		return v
	}
	rec, err := r.record()
	if err != nil {
		v.Jam("record: %v", err)
	}
	v.Add("node", s.Judge(rec, r.user))
	v.Add("ends", s.JudgeEnds())
	if !v.OK() {
		v.Texts = append(v.Texts, tail(r.read("agent.log")))
	}
	return v
}
