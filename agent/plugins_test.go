// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// vendorOfBoth is a configuration with a vendor's plugin that is an executor
// and a provider, and the providers that it has.
func vendorOfBoth(t *testing.T, providers ...string) config.Config {
	t.Helper()
	c := config.Default()
	c.Plugins.Dir, c.Plugins.TrustedUIDs = t.TempDir(), []int{0, os.Getuid()}
	exe := []byte("\x7fELF and so on")
	sum := sha256.Sum256(exe)
	manifest := fmt.Sprintf("kind = [\"executor\", \"provider\"]\nexecutable = \"acme-plugin\"\nactions = [\"acme.notify\"]\nbenign = [\"acme.notify\"]\nsha256 = [%q]\n",
		hex.EncodeToString(sum[:]))
	for name, data := range map[string][]byte{"acme-plugin": exe, "acme.toml": []byte(manifest)} {
		if err := os.WriteFile(filepath.Join(c.Plugins.Dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range providers {
		c.Providers = append(c.Providers, config.Provider{Name: p, Plugin: "acme", At: "agent.toml:" + p})
	}
	return c
}

// TestPluginOfSeveralKinds: a plugin that is an executor and a provider is
// used as both, by one process.
func TestPluginOfSeveralKinds(t *testing.T) {
	for _, providers := range [][]string{nil, {"acme"}, {"fleet"}, {"fleet", "lab"}} {
		t.Run(fmt.Sprint(providers), func(t *testing.T) {
			var executors, fed []string
			for _, s := range specs(vendorOfBoth(t, providers...), "n1") {
				if s.Refused != "" {
					t.Errorf("%s is refused: %s", s.Name, s.Refused)
				}
				if slices.Contains(s.Kinds, plugin.KindExecutor) != (len(s.Actions) > 0) {
					t.Errorf("%s, %v, has actions %v: the host refuses it", s.Name, s.Kinds, s.Actions)
				}
				if slices.Contains(s.Kinds, plugin.KindExecutor) {
					executors = append(executors, s.Name)
				}
				if slices.Contains(s.Kinds, plugin.KindProvider) {
					fed = append(fed, s.Name)
					if s.At != "agent.toml:"+s.Name {
						t.Errorf("%s is asked for at %q", s.Name, s.At)
					}
				}
			}
			if len(executors) != 1 || !slices.Equal(fed, providers) {
				t.Errorf("executors %v, providers %v", executors, fed)
			}
		})
	}
}

// TestCopiesCanBeExecuted: Debian mounts /run so that nothing in it can be
// executed, so the copy of a plugin of several files is not there.
func TestCopiesCanBeExecuted(t *testing.T) {
	c := config.Default()
	if o := hostOptions(c); !strings.HasPrefix(o.CopyDir, c.Agent.StateDir+"/") {
		t.Errorf("copies are in %q", o.CopyDir)
	}
}
