// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

const guestsTOML = `
[[guest]]
kind = "lxc"
vmid = 101
running = true
start = "20ms"
stop = "20ms"
config = { hostname = "web", cores = 2, memory = 512, ostype = "debian", unprivileged = true, rootfs = "local:101/vm-101-disk-0.raw,size=8G" }
`

// node runs pvesim in this process and returns its directory.
func node(t *testing.T) string {
	t.Helper()
	// A socket path is short: not below the test's own long directory.
	dir, err := os.MkdirTemp("", "pvesim")
	if err != nil {
		t.Fatal(err)
	}
	guests := filepath.Join(dir, "guests.toml")
	if err := os.WriteFile(guests, []byte(guestsTOML), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(notice, 1)
	go func() {
		done <- run(ctx, []string{"--dir", dir, "--guests", guests, "--listen", "127.0.0.1:0", "--quiet"}, ready, io.Discard)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("pvesim: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("pvesim ended: %v", err)
	case <-time.After(5 * time.Minute): // a busy machine
		t.Fatal("pvesim does not get ready")
	}
	return dir
}

// notice is a writer that says when something was written.
type notice chan struct{}

func (n notice) Write(p []byte) (int, error) {
	select {
	case n <- struct{}{}:
	default:
	}
	return len(p), nil
}

func command(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), append([]string{"--dir", dir}, args...), &out, io.Discard)
	return out.String(), err
}

func TestNodeOverTLSAndItsKeyboard(t *testing.T) {
	t.Parallel()
	dir := node(t)
	if _, err := command(t, dir, "pct", "set", "101", "--cores", "4", "--delete", "swap"); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, dir, "pct", "stop", "101"); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, dir, "pct", "list")
	if err != nil || !strings.Contains(out, "101        stopped") {
		t.Errorf("list: %v\n%s", err, out)
	}
	_, err = command(t, dir, "pct", "stop", "101")
	if err == nil || err.Error() != "CT 101 not running" {
		t.Errorf("second stop: %v", err)
	}
	if cfg := get(t, dir, "/nodes/pve1/lxc/101/config"); cfg["cores"] != 4.0 {
		t.Errorf("config over the API: %v", cfg)
	}
	checkRecord(t, dir, "config", "stop")
}

func TestStartAllAndStopAll(t *testing.T) {
	t.Parallel()
	dir := node(t)
	for _, step := range []struct{ do, want string }{{"stopall", "stopped"}, {"startall", "stopped"}, {"onboot", ""}, {"startall", "running"}} {
		args := []string{step.do}
		if step.do == "onboot" {
			args = []string{"pct", "set", "101", "--onboot", "1"}
		}
		if _, err := command(t, dir, args...); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if out, err := command(t, dir, "pct", "status", "101"); err != nil || !strings.Contains(out, step.want) {
			t.Errorf("after %s: %q, %v", step.do, out, err)
		}
	}
}

func checkRecord(t *testing.T, dir string, want ...string) {
	t.Helper()
	out, err := command(t, dir, "record")
	if err != nil {
		t.Fatal(err)
	}
	var rec []pvetest.Mutation
	if err := json.Unmarshal([]byte(out), &rec); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range rec {
		got = append(got, m.What)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("record %v, want %v", got, want)
	}
}

// get reads an object over TLS with the CA and the token that the node wrote.
func get(t *testing.T, dir, path string) map[string]any {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(read("ca.pem")))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	req, err := http.NewRequest(http.MethodGet, read("url")+"/api2/json"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "PVEAPIToken="+read("token"))
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var env struct{ Data map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&env); err != nil {
		t.Fatal(err)
	}
	return env.Data
}

func TestFilesOfANode(t *testing.T) {
	t.Parallel()
	dir := node(t)
	info, err := os.Stat(filepath.Join(dir, "token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", info.Mode(), err)
	}
	version := func() float64 {
		b, err := os.ReadFile(filepath.Join(dir, "etc-pve/.vmlist"))
		if err != nil {
			t.Fatal(err)
		}
		var l struct {
			IDs map[string]struct{ Version float64 }
		}
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		return l.IDs["101"].Version
	}
	before := version()
	if _, err := command(t, dir, "pct", "set", "101", "--cores", "3"); err != nil {
		t.Fatal(err)
	}
	if after := version(); after <= before {
		t.Errorf(".vmlist version went from %v to %v after a write", before, after)
	}
}

func TestFaultsFromTheKeyboard(t *testing.T) {
	t.Parallel()
	dir := node(t)
	if _, err := command(t, dir, "fault", "lock", "--guest", "lxc/101", "--lock", "backup"); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, dir, "pct", "stop", "101"); err == nil || err.Error() != "CT is locked (backup)" {
		t.Errorf("stop under a lock: %v", err)
	}
	if _, err := command(t, dir, "pct", "unlock", "101"); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, dir, "fault", "task", "--task", "vzstop", "--reason", "it broke")
	if err != nil || out != "fault 1 armed\n" {
		t.Errorf("fault: %q, %v", out, err)
	}
	if _, err := command(t, dir, "pct", "stop", "101"); err == nil || err.Error() != "it broke" {
		t.Errorf("stop with a fault: %v", err)
	}
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"bogus"}, {"pct", "start"}, {"pct", "dance", "101"}, {"pct", "set", "101", "cores"}, {"fault", "crash"}} {
		if _, err := command(t, t.TempDir(), args...); !errors.Is(err, errUsage) {
			t.Errorf("%v: got %v, want a usage error", args, err)
		}
	}
}

func TestGuestsFileIsStrict(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown key":  "[[guest]]\nkind = \"lxc\"\nvmid = 101\ncolour = 1\n",
		"bad duration": "[[guest]]\nkind = \"lxc\"\nvmid = 101\nstart = \"soon\"\n",
		"config list":  "[[guest]]\nkind = \"lxc\"\nvmid = 101\nconfig = { tags = [\"a\"] }\n",
	} {
		path := filepath.Join(t.TempDir(), "g.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readGuests(path); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
