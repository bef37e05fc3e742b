// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

func TestConfigure(t *testing.T) {
	dir := t.TempDir()
	certs, err := pvetest.NewCertificates("pve1")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token, ca, junk := file("token", "agent@pve!full="+secretFull+"\n"), file("ca", string(certs.CA)), file("junk", "agent@pve!full="+secretFull+" x")
	good := map[string]any{"node": "pve1", "token_file": token, "ca_file": ca}
	with := func(key string, v any) map[string]any {
		m := map[string]any{key: v}
		for k, v := range good {
			if _, set := m[k]; !set {
				m[k] = v
			}
		}
		return m
	}
	handed := map[string]plugin.Secret{"token": plugin.Secret("agent@pve!full=" + secretFull)}
	tests := []struct {
		name    string
		conf    map[string]any
		secrets map[string]plugin.Secret
		want    string // part of the error, "" for none
	}{
		{"good", good, nil, ""},
		{"everything", map[string]any{
			"node": "pve1", "url": "https://10.0.0.1", "ca_file": ca, "server_name": "pve1", "vmlist": "/x", "poll_seconds": 5, "poll_file_seconds": 0.2,
			"pins": []string{"sha256:" + strings.Repeat("A", 43) + "="},
		}, handed, ""},
		{"no node", map[string]any{"token_file": token}, nil, "node"},
		{"bad node", with("node", "../x"), nil, "node"},
		{"no token", map[string]any{"node": "pve1"}, nil, "token_file"},
		{"two tokens", good, handed, "token_file"},
		{"missing token file", with("token_file", dir+"/none"), nil, "token_file"},
		{"no token in it", with("token_file", junk), nil, "token_file"},
		{"missing CA", with("ca_file", dir+"/none"), nil, "ca_file"},
		{"no certificate in it", with("ca_file", token), nil, "ca"},
		{"plain HTTP", with("url", "http://localhost"), nil, "url"},
		{"bad pin", with("pins", []string{"x"}), nil, "pin"},
		{"unknown key", with("insecure", true), nil, "insecure"},
		{"wrong type", with("poll_seconds", "2s"), nil, "poll_seconds"},
		{"poll too often", with("poll_seconds", 0.001), nil, "poll_seconds"},
		{"poll too rarely", with("poll_file_seconds", 1e9), nil, "poll_file_seconds"},
	}
	for _, tt := range tests {
		text, err := json.Marshal(tt.conf)
		if err != nil {
			t.Fatal(err)
		}
		var d Driver
		err = d.Configure(t.Context(), plugin.Config{JSON: text, Secrets: tt.secrets})
		switch {
		case tt.want == "" && (err != nil || d.ready() != nil || d.pve.User() != "agent@pve!full"):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (!errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), tt.want) || d.ready() == nil):
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), secretFull):
			t.Errorf("%s: the secret is in %v", tt.name, err)
		}
	}
}

func TestConfigureDefaults(t *testing.T) {
	o, err := Config{Node: "pve1"}.options(map[string]plugin.Secret{"token": plugin.Secret("agent@pve!full=" + secretFull)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(o)
	if err != nil || d.opts.Poll != 2*time.Second || d.opts.PollFile != 500*time.Millisecond {
		t.Errorf("%+v, %v", d.opts, err)
	}
}
