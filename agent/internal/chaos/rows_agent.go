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
	work := filepath.Join(b.env.Dir, "a")
	if err := layOut(work); err != nil {
		return "", err
	}
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
		cmd.Env = append(os.Environ(), "PVESIM_DIR="+filepath.Join(work, "pve"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	stopNode, err := background(ctx, work, "node", filepath.Join(bin, "pvesim"), "--dir", work+"/pve", "--guests", work+"/guests.toml", "--listen", "127.0.0.1:0", "--pve", "9")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stopNode()) }()
	if err := b.until(ctx, func() bool { _, err := run("pvesim", "pct", "list"); return err == nil }); err != nil {
		return "", fmt.Errorf("the node: %w", err)
	}
	if err := configure(work, bin, "observe", more); err != nil {
		return "", err
	}
	stopAgent, err := background(ctx, work, "agent", filepath.Join(bin, "felhom-agent"), "run", "--config", work+"/agent.toml")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stopAgent()) }()
	status := ""
	err = b.until(ctx, func() bool { // every source has been heard
		status, _ = run("felhom-agent", "status", "--config", work+"/agent.toml")
		told = lineWith(status, words)
		return told != ""
	})
	if err != nil {
		return "", fmt.Errorf("%q is not in the status: %w; it is:\n%s", words, err, status)
	}
	if err := configure(work, bin, "enforce", more); err != nil {
		return "", err
	}
	if out, err := run("felhom-agent", "reload", "--config", work+"/agent.toml"); err != nil {
		return "", fmt.Errorf("reload: %w: %s", err, out)
	}
	err = b.until(ctx, func() bool {
		conf, _ := run("pvesim", "pct", "config", "102")
		return strings.Contains(conf, "cores: 2\n")
	})
	if err != nil {
		return "", fmt.Errorf("the good source's guest is not as it is wanted: %w", err)
	}
	conf, err := run("pvesim", "pct", "config", "101")
	if err == nil && !strings.Contains(conf, "cores: 1\n") {
		err = fmt.Errorf("guest 101 was changed:\n%s", conf)
	}
	return told, err
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

func configure(work, bin, mode, more string) error {
	url, err := os.ReadFile(filepath.Join(work, "pve/url"))
	if err != nil {
		return err
	}
	text := strings.NewReplacer("MODE", mode, "WORK", work, "UID", fmt.Sprint(os.Getuid()), "BIN", bin, "URL", strings.TrimSpace(string(url))).
		Replace(agentConfig + more)
	return os.WriteFile(filepath.Join(work, "agent.toml"), []byte(text), 0o600)
}

// background starts a program whose output goes to NAME.log; stop ends it.
func background(ctx context.Context, work, name, path string, args ...string) (stop func() error, err error) {
	log, err := os.Create(filepath.Join(work, name+".log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if !kill.Stop() {
			return errors.Join(fmt.Errorf("%s does not end when asked to", name), log.Close())
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = nil // how it ends is another test's
		}
		return errors.Join(err, log.Close())
	}, nil
}

func lineWith(text, words string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, words) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}
