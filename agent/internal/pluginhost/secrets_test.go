// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestSecretThatIsAPipe: a secret's file that nobody writes to holds up
// neither the plugin's start nor, with it, the agent's end.
func TestSecretThatIsAPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := readSecret(SecretSource{File: path}, Options{})
		got <- err
	}()
	select {
	case err := <-got:
		if !errors.Is(err, errRefused) {
			t.Errorf("got %v, want a refusal", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for somebody to write")
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0) // lets it go
		if err == nil {
			_ = unix.Close(fd)
		}
	}
}

// tellingPlugin says its secret when it is configured.
type tellingPlugin struct{ plugin.Provider }

func (tellingPlugin) Configure(_ context.Context, c plugin.Config) error {
	return fmt.Errorf("%w: connect to hub?token=%s: refused", plugin.ErrInvalid, c.Secrets["token"].Reveal())
}

// TestSecretInAnError: why a plugin does not start is in the log and the
// status; its secret is not.
func TestSecretInAnError(t *testing.T) {
	t.Parallel()
	client, stop, err := plugintest.Connect(plugin.Set{Provider: tellingPlugin{}})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	cfg := plugin.Config{Secrets: map[string]plugin.Secret{"token": "hunter22"}}
	_, _, err = introduce(t.Context(), client, Spec{Name: "a", Kinds: []plugin.Kind{plugin.KindProvider}}, cfg, "1")
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "connect to hub") || strings.Contains(err.Error(), "hunter22") {
		t.Errorf("got %v", err)
	}
}
