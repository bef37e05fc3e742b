// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
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

const told = `pa"ss/w\rd+22`

// telling is a plugin with a secret.
func telling(t *testing.T) Spec {
	t.Helper()
	file := filepath.Join(shortDir(t), "token")
	if err := os.WriteFile(file, []byte(told+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "a", "good")
	s.Secrets = map[string]SecretSource{"token": {File: file}}
	return s
}

// TestSecretInWords: what a plugin says goes into the log, the journal, the
// status and reports; its secrets do not, however they are written.
func TestSecretInWords(t *testing.T) {
	b := startBed(t, nil, telling(t))
	b.await(t, "a", Running)
	e, err := b.Executor("test.a")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	a := plugin.Action{
		OpID: "op1", Attempt: 1, Kind: "test.a", Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Params: map[string]string{"do": "tell"},
		Set: map[string]string{"cipassword": "and-the-guests-own"}, Secret: []string{"cipassword"},
	}
	out, err := e.Apply(t.Context(), a, "", func(p plugin.Progress) error { said = append(said, p.Text); return nil })
	if err != nil {
		t.Fatal(err)
	}
	said = append(said, out.Message, out.Reason, out.RefusedKeys["memory"])
	_, err = b.do(t, "a", "fail")
	if !errors.Is(err, plugin.ErrDenied) {
		t.Errorf("got %v", err)
	}
	for _, s := range append(said, err.Error()) {
		if n := strings.Count(s, "[secret]"); n == 0 || len(s) > 80 {
			t.Errorf("it is in %q", s)
		}
	}
}
