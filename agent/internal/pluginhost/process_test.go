// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func TestProcessServes(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "good"))
	st := b.await(t, "a", Running)
	if st.Version != "3.1" || st.PID == 0 {
		t.Errorf("%+v", st)
	}
	if got := b.must(t, "a", "pid"); got != "pid "+strconv.Itoa(st.PID) {
		t.Errorf("got %q, status says %d", got, st.PID)
	}
	_, err := b.do(t, "a", "denied")
	const words = "403 Permission check failed (/vms/101, VM.PowerMgmt)"
	if !errors.Is(err, plugin.ErrDenied) || !strings.Contains(err.Error(), words) || !strings.HasPrefix(err.Error(), "plugin a: ") {
		t.Errorf("got %v", err)
	}
	b.stop()
	if err := syscall.Kill(st.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

func TestProcessSeesNothingOfTheAgent(t *testing.T) {
	t.Setenv("PVE_TOKEN", "felhom@pve!agent=0000")
	s := spec(t, "a", "good")
	s.Env = map[string]string{"ACME_MODE": "x"}
	b := startBed(t, nil, s)
	b.await(t, "a", Running)
	allowed := []string{
		"PATH", "LANG", "HOME", "TMPDIR", "ACME_MODE", plugin.CookieKey, "PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT",
		"PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT", "PLUGIN_UNIX_SOCKET_DIR",
	}
	for _, kv := range strings.Split(strings.Trim(b.must(t, "a", "env"), "[]"), `" "`) {
		if name, _, _ := strings.Cut(strings.Trim(kv, `"`), "="); !slices.Contains(allowed, name) {
			t.Errorf("the plugin sees %s", name)
		}
	}
	if got := b.must(t, "a", "stdin"); got != "0 bytes, <nil>" {
		t.Errorf("standard input: %s", got)
	}
	for _, d := range strings.Split(b.must(t, "a", "descriptors"), "\n") {
		_, target, _ := strings.Cut(d, "=")
		ok := strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "anon_inode:") ||
			target == "/dev/null" || strings.HasPrefix(target, "/sys/fs/cgroup") || strings.HasPrefix(target, "/proc/")
		if !ok {
			t.Errorf("the plugin has descriptor %s", d)
		}
	}
}

func TestProcessGetsConfigAndSecrets(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("s3cr3t-value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "a", "good")
	s.Config = map[string]any{"path": "/x", "n": 3}
	s.Secrets = map[string]SecretSource{"token": {Credential: "token"}}
	b := startBed(t, func(o *Options) { o.CredentialsDir = dir }, s)
	b.await(t, "a", Running)
	if got := b.must(t, "a", "config"); got != fmt.Sprintf(`{"n":3,"path":"/x"} %x`, sha256.Sum256([]byte("s3cr3t-value"))) {
		t.Errorf("got %s", got)
	}
	b.must(t, "a", "leak secret")
	b.waitLog(t, "the token is [secret]")
	if strings.Contains(b.log.String(), "s3cr3t-value") || strings.Contains(fmt.Sprint(b.Status()), "s3cr3t-value") {
		t.Error("the secret is in the log or in the status")
	}
}

func (b *bed) waitLog(t *testing.T, want string) {
	t.Helper()
	waitFor(t, b.log, want)
}

func waitFor(t *testing.T, log *capture, want string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(log.String(), want); {
		if time.Now().After(deadline) {
			t.Fatalf("not in the log: %q", want)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestSecretOpenToAllIsRefused(t *testing.T) {
	file := filepath.Join(shortDir(t), "token")
	if err := os.WriteFile(file, []byte("s3cr3t"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "a", "good")
	s.Secrets = map[string]SecretSource{"token": {File: file}}
	b := startBed(t, nil, s)
	if st := b.await(t, "a", Refused); !strings.Contains(st.LastError, "remedy: chmod o= "+file) {
		t.Errorf("%s", st.LastError)
	}
}

func TestBadStarts(t *testing.T) {
	tests := map[string]struct {
		state State
		why   string
	}{
		"crash at start": {Quarantined, "exit status 2; its last words:"},
		"garbage":        {Quarantined, `printed "hello, world"`},
		"old protocol":   {Refused, `speaks version "0" of the protocol`},
		"new protocol":   {Refused, `speaks version "2" of the protocol`},
		"elsewhere":      {Quarantined, "not on a socket in its own directory"},
		"no certificate": {Refused, "AutoMTLS"},
		"picky":          {Refused, `key "path": want a path`},
		"json trap":      {Running, ""},
		"stray prints":   {Running, ""},
	}
	var specs []Spec
	names := map[string]string{}
	for mode := range tests {
		name := strings.ReplaceAll(mode, " ", "-")
		names[mode] = name
		s := spec(t, name, mode)
		s.Restart.Restarts = 1
		specs = append(specs, s)
	}
	b := startBed(t, nil, specs...)
	for mode, tt := range tests {
		st := b.await(t, names[mode], tt.state)
		if !strings.Contains(st.LastError, tt.why) {
			t.Errorf("%s: the reason is %q, want %q in it", mode, st.LastError, tt.why)
		}
	}
	for _, mode := range []string{"json trap", "stray prints"} {
		b.must(t, names[mode], "pid")
	}
}

func TestHangAtStart(t *testing.T) {
	s := spec(t, "a", "hang at start")
	s.Restart.Restarts = 1
	b := startBed(t, func(o *Options) { o.StartTimeout = 200 * time.Millisecond }, s)
	if st := b.await(t, "a", Quarantined); !strings.Contains(st.LastError, "deadline exceeded") {
		t.Errorf("%s", st.LastError)
	}
}

func TestCrashInACall(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "good"), spec(t, "b", "good"))
	first := b.await(t, "a", Running)
	other := b.await(t, "b", Running)
	began := time.Now()
	_, err := b.do(t, "a", "crash")
	if !errors.Is(err, plugin.ErrShutdown) || errors.Is(err, plugin.ErrNotSent) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > time.Minute { // its own deadline is later
		t.Errorf("the call ended after %v", took)
	}
	b.waitLog(t, "exit status 3")
	var again PluginStatus
	for again.PID == 0 || again.PID == first.PID {
		again = b.await(t, "a", Running)
	}
	if again.Restarts != 1 {
		t.Errorf("%+v", again)
	}
	b.must(t, "a", "pid")
	if now := b.await(t, "b", Running); now.PID != other.PID {
		t.Error("the other plugin was restarted too")
	}
}

func TestFrozenPluginIsReplaced(t *testing.T) {
	b := startBed(t, func(o *Options) {
		o.HealthInterval, o.HealthTimeout, o.HealthMisses = 50*time.Millisecond, 3*time.Second, 2
		o.Restart.Restarts = 50 // a busy machine may look like a hang
	}, spec(t, "a", "good"))
	first := b.await(t, "a", Running)
	if _, err := b.do(t, "a", "freeze"); !errors.Is(err, plugin.ErrShutdown) {
		t.Errorf("the call in the frozen plugin: %v", err)
	}
	b.waitLog(t, "does not answer")
	for st := first; st.PID == first.PID; {
		st = b.await(t, "a", Running)
	}
	b.must(t, "a", "pid")
}

func TestFloodIsBounded(t *testing.T) {
	b := startBed(t, func(o *Options) { o.LogRate, o.LogBurst = 10, 20 }, spec(t, "a", "good"))
	b.await(t, "a", Running)
	b.must(t, "a", "flood")
	if n := strings.Count(b.log.String(), "plugin says"); n > 500 {
		t.Errorf("%d lines of the flood were logged", n)
	}
	b.must(t, "a", "pid")
}

func TestHugeAnswerIsRefused(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "good"))
	st := b.await(t, "a", Running)
	if _, err := b.do(t, "a", "huge"); err == nil || errors.Is(err, plugin.ErrNotSent) {
		t.Errorf("got %v", err)
	}
	if got := b.must(t, "a", "pid"); got != "pid "+strconv.Itoa(st.PID) {
		t.Errorf("the plugin was restarted: %s", got)
	}
}

// field.md C.1: a grandchild that holds stderr blocks go-plugin's Kill.
func TestGrandchildDoesNotHoldUsUp(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "good"))
	b.await(t, "a", Running)
	pid, err := strconv.Atoi(b.must(t, "a", "grandchild"))
	if err != nil || pid == 0 {
		t.Fatalf("no grandchild: %v", err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }() // only if it is still there
	began := time.Now()
	b.stop()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the stop took %v", took)
	}
	if alive(pid) { // it left the group, and is ended all the same
		t.Error("the grandchild lives on")
	}
}

func TestHangAtKillIsBounded(t *testing.T) {
	b := startBed(t, func(o *Options) { o.StopTimeout = 300 * time.Millisecond }, spec(t, "a", "hang at kill"))
	st := b.await(t, "a", Running)
	began := time.Now()
	b.stop()
	if took := time.Since(began); took < 300*time.Millisecond || took > time.Minute { // by itself it would never end
		t.Errorf("the stop took %v", took)
	}
	if err := syscall.Kill(st.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

func TestRunEndsWhilePluginsStart(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "hang at start"), spec(t, "b", "crash at start"))
	b.await(t, "a", Starting)
	began := time.Now()
	b.stop()
	if took := time.Since(began); took > time.Minute { // it is not waited for until its start timeout
		t.Errorf("the stop took %v", took)
	}
}

// beHost is a host that prints its plugin's pid and waits to be killed.
func beHost(dir string) {
	o := DefaultOptions()
	o.Logger, o.SocketDir, o.TrustedUIDs = slog.New(slog.DiscardHandler), dir, []uint32{0, uint32(os.Getuid())}
	o.StartTimeout = patience
	path, err := self()
	h, err2 := New(o)
	err3 := h.Set([]Spec{{
		Name: "a", Kinds: []plugin.Kind{plugin.KindExecutor}, Path: path, Actions: []plugin.ActionKind{"test.a"},
		Args: []string{"hang at kill"}, // it would not end by itself
	}})
	if err := errors.Join(err, err2, err3); err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for {
			if st := h.Status()[0]; st.State == Running {
				fmt.Println(st.PID)
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
	_ = h.Run(context.Background())
}

// field.md C.2: the plugin must not outlive a host that was killed.
func TestPluginDiesWithKilledHost(t *testing.T) {
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	cmd := exec.Command(path, "be-host", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || pid == 0 {
		t.Fatalf("the host did not start its plugin: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(patience); alive(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("plugin %d lives on", pid)
		}
		<-time.After(5 * time.Millisecond)
	}
	// The next host sweeps what the killed one left.
	if left, _ := filepath.Glob(filepath.Join(dir, dirPrefix+"*")); len(left) == 0 {
		t.Error("nothing was left: the test shows nothing")
	}
	if err := prepareDir(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left after the sweep: %v", left)
	}
}

// alive says whether a process runs; a zombie that nobody waits for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// Nobody but the host may talk to a plugin: its certificate is asked for.
func TestStrangerCannotCallAPlugin(t *testing.T) {
	b := startBed(t, nil, spec(t, "a", "good"))
	b.await(t, "a", Running)
	socks, _ := filepath.Glob(filepath.Join(b.opts.SocketDir, "*", "*"))
	if len(socks) == 0 {
		t.Fatal("no socket")
	}
	info, err := os.Stat(b.opts.SocketDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket directory: %v, %v", info.Mode(), err)
	}
	for _, sock := range socks {
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 64)
		n, err := conn.Read(b)
		if err == nil && bytes.Contains(b[:n], []byte("\x00\x00")) && b[0] != 0x15 { // not a TLS alert
			t.Errorf("answered in clear: %q", b[:n])
		}
		_ = conn.Close()
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestPinnedFile(t *testing.T) {
	s := spec(t, "a", "good")
	s.SHA256 = []string{strings.Repeat("0", 64), sumOf(t, s.Path)}
	wrong := spec(t, "b", "good")
	wrong.SHA256 = []string{strings.Repeat("0", 64)}
	wrong.Source = "/etc/felhom-agent/plugins.d/b.toml"
	b := startBed(t, nil, s, wrong)
	b.await(t, "a", Running)
	st := b.await(t, "b", Refused)
	want := "put this line into /etc/felhom-agent/plugins.d/b.toml: sha256 = [\"" + sumOf(t, s.Path) + "\"]"
	if !strings.Contains(st.LastError, want) {
		t.Errorf("%s", st.LastError)
	}
}
