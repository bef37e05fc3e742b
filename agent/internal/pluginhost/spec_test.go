// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func TestSpecValidation(t *testing.T) {
	good := executorSpec("a")
	tests := map[string]func(s *Spec){
		"name":       func(s *Spec) { s.Name = "A/b" },
		"kind":       func(s *Spec) { s.Kinds = []plugin.Kind{"driver"} },
		"executable": func(s *Spec) { s.Path = "x/../y" },
		"actions":    func(s *Spec) { s.Actions = nil },
		"benign":     func(s *Spec) { s.Benign = []plugin.ActionKind{"acme.x"} },
		"env":        func(s *Spec) { s.Env = map[string]string{"PLUGIN_CLIENT_CERT": "x"} },
		"sha256":     func(s *Spec) { s.SHA256 = []string{"abc"} },
		"files":      func(s *Spec) { s.Files = map[string]string{"../x": strings.Repeat("0", 64)} },
		"secrets":    func(s *Spec) { s.Secrets = map[string]SecretSource{"x": {}} },
	}
	if err := good.validate(); err != nil {
		t.Errorf("the good one: %v", err)
	}
	for field, spoil := range tests {
		s := good
		spoil(&s)
		if err := s.validate(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}
