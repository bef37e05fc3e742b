// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/config"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../../packaging/man/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestManualNamesEveryCommand(t *testing.T) {
	text := page(t, "felhom-agent.8.md")
	for _, c := range commands() {
		want := "**" + c.name
		if !strings.Contains(text, want) {
			t.Errorf("felhom-agent(8) does not name the command %s", c.name)
		}
	}
}

func TestManualNamesEveryKey(t *testing.T) {
	text := page(t, "felhom-agent.toml.5.md")
	for _, key := range config.Keys() {
		table, name, _ := strings.Cut(key, ".")
		at := strings.Index(text, "["+table+"]")
		if at < 0 || !strings.Contains(text[at:], "**"+name+"**") {
			t.Errorf("felhom-agent.toml(5) does not tell of %s", key)
		}
	}
}
