// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
)

// TestWordsDoNotTouchTheTerminal: what a plugin says is read, not obeyed.
func TestWordsDoNotTouchTheTerminal(t *testing.T) {
	var out strings.Builder
	e := &env{stdout: calm{&out}, style: true}
	writePluginLine(e, []pluginhost.PluginStatus{{
		Name: "a", State: pluginhost.Quarantined, LastError: "bäd\x1b]52;c;cm0gLXJm\x07\x1b[8mhidden\x1b[2K\rfine \u009b2Jx\x7f\xff",
	}})
	want := "plugins: a quarantined\n  \x1b[31ma: bäd\\x1b]52;c;cm0gLXJm\\x07\\x1b[8mhidden\\x1b[2K\\x0dfine \\x9b2Jx\\x7f\\xff\x1b[0m\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, ok := shown(null).(calm); !ok {
		t.Error("a terminal is given what it is told")
	}
	if plain(shown(null)) != null {
		t.Error("ssh-keygen does not see that it talks to a terminal")
	}
	if _, ok := shown(&out).(calm); ok {
		t.Error("what is no terminal is not given what it is told")
	}
}
