// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// agentRows are what the core must not believe: tried with the whole agent
// against the simulated node. Guest 101 is what the misbehaving source wants;
// 102 is a good one's, and must become as it is wanted.
var agentRows = []Row{
	{Name: "unsigned when a signature is required", Run: func(ctx context.Context, b *Bed) (string, error) {
		return b.withAgent(ctx, "require_signature = true\nissuer = \"ops\"\n", "require_signature is set")
	}},
	{Name: "two sources claim one guest", Run: func(ctx context.Context, b *Bed) (string, error) {
		return b.withAgent(ctx, "[[provider]]\nname = \"rival\"\nplugin = \"dir\"\nconfig = { path = \"WORK/bad\" }\n", "claim")
	}},
}

const nodeGuest = `[[guest]]
kind = "lxc"
vmid = %d
[guest.config]
arch = "amd64"
cores = 1
hostname = "ct%d"
memory = 256
ostype = "debian"
rootfs = "local:%d/vm-%d-disk-0.raw,size=1G"
swap = 0
unprivileged = 1
`

const agentConfig = `[agent]
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
[gate]
allowed_signers = "WORK/allowed_signers"
revoked_keys = ""
[pve]
url = "URL"
token_file = "WORK/pve/token"
ca_file = "WORK/pve/ca.pem"
[[provider]]
name = "good"
plugin = "dir"
config = { path = "WORK/good" }
[[provider]]
name = "bad"
plugin = "dir"
config = { path = "WORK/bad" }
`

// withAgent runs the agent with one more line of configuration for the bad
// source, and waits until the good one's guest is as it is wanted and the
// operator is told these words.
func (b *Bed) withAgent(ctx context.Context, more, words string) (told string, err error) {
	bin, err := b.agentBin()
	if err != nil {
		return "", err
	}
	n := node{bed: b, bin: bin, work: filepath.Join(b.env.Dir, "a"), more: more}
	stopNode, err := n.start(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stopNode()) }()
	if err := n.configure("observe"); err != nil {
		return "", err
	}
	stopAgent, err := n.background(ctx, "felhom-agent", "run", "--config", n.config())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stopAgent()) }()
	if told, err = n.told(ctx, words); err != nil { // every source has been heard
		return "", err
	}
	if err := n.enforce(ctx); err != nil {
		return "", err
	}
	return told, n.goodServed(ctx)
}

// node is a simulated node and an agent on it, as processes.
type node struct {
	bed       *Bed
	bin, work string
	more      string // of the agent's configuration
}

func (n node) config() string { return filepath.Join(n.work, "agent.toml") }

// start lays the directory out and starts the node; stop ends it.
func (n node) start(ctx context.Context) (stop func() error, err error) {
	if err := layOut(n.work); err != nil {
		return nil, err
	}
	stop, err = n.background(ctx, "pvesim", "--dir", n.work+"/pve", "--guests", n.work+"/guests.toml", "--listen", "127.0.0.1:0", "--pve", "9")
	if err != nil {
		return nil, err
	}
	err = n.bed.until(ctx, func() bool { _, err := n.run(ctx, "pvesim", "pct", "list"); return err == nil })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the node: %w", err), stop())
	}
	return stop, nil
}

// run runs a program to its end and returns what it printed.
func (n node) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, name), args...)
	cmd.Env = append(os.Environ(), "PVESIM_DIR="+filepath.Join(n.work, "pve"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// told waits for these words in the agent's status, and returns their line.
func (n node) told(ctx context.Context, words string) (line string, err error) {
	status := ""
	err = n.bed.until(ctx, func() bool {
		status, _ = n.run(ctx, "felhom-agent", "status", "--config", n.config())
		line = lineWith(status, words)
		return line != ""
	})
	if err != nil {
		return "", fmt.Errorf("%q is not in the status: %w; it is:\n%s", words, err, status)
	}
	return line, nil
}

// enforce lets an agent act that has only watched.
func (n node) enforce(ctx context.Context) error {
	if err := n.configure("enforce"); err != nil {
		return err
	}
	if out, err := n.run(ctx, "felhom-agent", "reload", "--config", n.config()); err != nil {
		return fmt.Errorf("reload: %w: %s", err, out)
	}
	return nil
}

// goodServed waits for what the good source wants, and sees to it that the bad
// one got nothing.
func (n node) goodServed(ctx context.Context) error {
	err := n.bed.until(ctx, func() bool {
		conf, _ := n.run(ctx, "pvesim", "pct", "config", "102")
		return strings.Contains(conf, "cores: 2\n")
	})
	if err != nil {
		return fmt.Errorf("the good source's guest is not as it is wanted: %w", err)
	}
	conf, err := n.run(ctx, "pvesim", "pct", "config", "101")
	if err == nil && !strings.Contains(conf, "cores: 1\n") {
		err = fmt.Errorf("guest 101 was changed:\n%s", conf)
	}
	return err
}

func (b *Bed) agentBin() (string, error) {
	bin, err := filepath.Abs(b.env.Bin)
	if err != nil || b.env.Bin == "" {
		return "", fmt.Errorf("%w: no programs of the agent are built", ErrSkip)
	}
	for _, name := range []string{"felhom-agent", "pvesim", "plugins/pve", "plugins/dir"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return "", fmt.Errorf("%w: %s/%s is not built", ErrSkip, bin, name)
		}
	}
	return bin, nil
}

func layOut(work string) error {
	var err error
	for _, d := range []string{"state", "run", "log", "spool", "plugins.d", "pve", "good", "bad"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(work, d), 0o700))
	}
	guests := ""
	for _, v := range []int{101, 102} {
		guests += fmt.Sprintf(nodeGuest, v, v, v, v)
	}
	for name, text := range map[string]string{
		"guests.toml": guests, "allowed_signers": "",
		"good/g.toml": "[guest.102]\nkind = \"lxc\"\ncores = 2\n", "bad/g.toml": "[guest.101]\nkind = \"lxc\"\ncores = 2\n",
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(work, name), []byte(text), 0o600))
	}
	return err
}

func (n node) configure(mode string) error {
	url, err := os.ReadFile(filepath.Join(n.work, "pve/url"))
	if err != nil {
		return err
	}
	text := strings.NewReplacer("MODE", mode, "WORK", n.work, "UID", fmt.Sprint(os.Getuid()), "BIN", n.bin, "URL", strings.TrimSpace(string(url))).
		Replace(agentConfig + n.more)
	return os.WriteFile(n.config(), []byte(text), 0o600)
}

// background starts a program whose output goes to NAME.log; stop ends it.
func (n node) background(ctx context.Context, name string, args ...string) (stop func() error, err error) {
	log, err := os.Create(filepath.Join(n.work, name+".log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return func() error { return errors.Join(end(cmd), log.Close()) }, nil
}

// end asks a program to end and waits until it has. How it ends is another
// test's.
func end(cmd *exec.Cmd) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !kill.Stop() {
		return fmt.Errorf("%s does not end when asked to", filepath.Base(cmd.Path))
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

func lineWith(text, words string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, words) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}
