// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestCopiesCanBeExecuted: Debian mounts /run so that nothing in it can be
// executed, so the copy of a plugin of several files is not there.
func TestCopiesCanBeExecuted(t *testing.T) {
	env := map[string]string{"RUNTIME_DIRECTORY": "/run/felhom-plugin-acme", "STATE_DIRECTORY": "/var/lib/felhom-plugin-acme"}
	o := options(func(k string) string { return env[k] }, 0)
	if !strings.HasPrefix(o.CopyDir, "/var/lib/felhom-plugin-acme/") || !strings.HasPrefix(o.SocketDir, "/run/felhom-plugin-acme/") {
		t.Errorf("copies in %q, sockets in %q", o.CopyDir, o.SocketDir)
	}
	delete(env, "STATE_DIRECTORY")
	if o := options(func(k string) string { return env[k] }, 0); o.CopyDir != "" {
		t.Errorf("copies in %q", o.CopyDir)
	}
}
