// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// TestMain lets the test binary be the plugin: the host's handshake tells.
func TestMain(m *testing.M) {
	if os.Getenv(plugin.CookieKey) == plugin.CookieValue {
		main()
		return
	}
	os.Exit(m.Run())
}

const secret = "00000000-0000-0000-0000-000000000001"

// startNode serves a simulated node on a real port and returns the plugin's
// configuration for it.
func startNode(t *testing.T) (*pvetest.Sim, plugin.Config) {
	t.Helper()
	dir := t.TempDir()
	sim, err := pvetest.New(pvetest.Options{
		Node: "pve1", Speed: 20, EtcPVE: dir,
		Guests: []pvetest.GuestSpec{{Kind: guest.LXC, VMID: 101, Config: map[string]string{
			"hostname": "ct", "memory": "512", "arch": "amd64", "ostype": "debian", "unprivileged": "1", "rootfs": "local:101/vm-101-disk-0.raw,size=1G",
		}}},
		Users: []pvetest.User{{ID: "agent@pve", Tokens: []pvetest.Token{{ID: "full", Secret: secret, NoPrivSep: true}}}},
		ACL:   []pvetest.Grant{{Path: "/", Who: "agent@pve", Role: "Administrator"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	certs, err := pvetest.NewCertificates("pve1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certs.TLS}})
	if err != nil {
		t.Fatal(err)
	}
	srv := sim.Server()
	srv.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return sim, config(t, dir, l.Addr(), certs)
}

func config(t *testing.T, dir string, addr net.Addr, certs *pvetest.Certificates) plugin.Config {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, certs.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{
		"url": "https://" + addr.String(), "node": "pve1", "ca_file": ca, "server_name": "pve1", "vmlist": filepath.Join(dir, ".vmlist"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return plugin.Config{JSON: text, Secrets: map[string]plugin.Secret{"token": plugin.Secret("agent@pve!full=" + secret)}}
}

// patience ends what hangs. It decides nothing: a busy machine may take long.
const patience = 5 * time.Minute

// startPlugin starts this binary as the plugin.
func startPlugin(t *testing.T) *plugin.Client {
	t.Helper()
	p, err := plugintest.Start(plugintest.Command{Path: os.Args[0], StartTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p.Client()
}

// TestPluginProcess: the plugin as the agent runs it, over the real wire and
// real TLS.
func TestPluginProcess(t *testing.T) {
	sim, conf := startNode(t)
	c := startPlugin(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kinds, err := c.Configure(ctx, conf, "test")
	if err != nil || len(kinds) != 2 {
		t.Fatalf("kinds %v, %v", kinds, err)
	}
	info, err := c.Executor().Describe(ctx)
	if err != nil || info.Name != "pve" || info.Version == "" {
		t.Errorf("%+v, %v", info, err)
	}
	node, err := c.Observer().List(ctx)
	if err != nil || len(node.Guests) != 1 || node.Guests[0].Run != guest.Stopped {
		t.Errorf("%+v, %v", node, err)
	}
	hints := make(chan plugin.Hint, 100)
	watch, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- c.Observer().Watch(watch, func(h plugin.Hint) error { hints <- h; return nil }) }()
	if h := <-hints; !h.All {
		t.Errorf("first hint %+v", h)
	}
	handle := ""
	a := plugin.Action{OpID: "1", Attempt: 1, Node: "pve1", Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Kind: plugin.Start}
	out, err := c.Executor().Apply(ctx, a, "", func(p plugin.Progress) error { handle += p.Handle; return nil })
	if err != nil || out.Status != plugin.Done || !strings.HasPrefix(handle, "UPID:pve1:") {
		t.Errorf("handle %q: %+v, %v", handle, out, err)
	}
	select {
	case h := <-hints:
		if len(h.Guests) != 1 || h.Guests[0] != 101 {
			t.Errorf("hint %+v", h)
		}
	case <-ctx.Done():
		t.Error("no hint")
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
	if n := len(sim.Record()); n != 1 {
		t.Errorf("%d changes", n)
	}
}

// TestPluginRefusesConfig: the operator is told which key is wrong, and the
// secret is not.
func TestPluginRefusesConfig(t *testing.T) {
	c := startPlugin(t)
	conf := plugin.Config{JSON: []byte(`{"node":"pve1","insecure":true}`), Secrets: map[string]plugin.Secret{"token": plugin.Secret("agent@pve!full=" + secret)}}
	_, err := c.Configure(t.Context(), conf, "test")
	if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), "insecure") || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
}
