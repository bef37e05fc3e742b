// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const manualPage = "../../../packaging/man/felhom-desired.5.md"

func readManual(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(manualPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// section cuts a part of the page out, from its heading to the next of the same
// or a higher level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("the manual page has no %q", heading)
	}
	level := strings.IndexByte(heading, ' ')
	for _, next := range []string{"# ", "## "}[:level] {
		rest, _, _ = strings.Cut(rest, "\n"+next)
	}
	return rest
}

func TestManualHasEveryKey(t *testing.T) {
	t.Parallel()
	page := readManual(t)
	for heading, keys := range map[string][]string{
		"# HEAD":      topKeys,
		"# GUEST":     guestKeys,
		"# PROVISION": provisionKeys,
	} {
		text := section(t, page, heading)
		for _, key := range keys {
			if !strings.Contains(text, "\n**"+key+"**") {
				t.Errorf("%s does not describe %s", heading, key)
			}
		}
	}
	startup := section(t, page, "# GUEST")
	for _, word := range append([]string{
		string(Enforce), string(Observe), string(Paused), string(Revert), string(Hold), string(StopShutdown), string(StopForce),
		string(guest.Running), string(guest.Stopped), RunField, manualConfig,
	}, startupOrder...) {
		if !strings.Contains(startup, word) {
			t.Errorf("the manual page does not say %s", word)
		}
	}
}

func TestManualHasEveryConfigKey(t *testing.T) {
	t.Parallel()
	page := readManual(t)
	for kind, heading := range map[guest.Kind]string{guest.LXC: "## Containers", guest.QEMU: "## Virtual machines"} {
		text := section(t, page, heading)
		var want []string
		for _, f := range guest.Standard().Forms(kind) {
			if f.Class != guest.Never && !own(trimIndex(f.Key)) {
				want = append(want, "**"+strings.ReplaceAll(f.Key, "[n]", "_N_")+"**")
			}
		}
		got := strings.Split(strings.Join(strings.Fields(text), " "), ", ")
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("%s (-got +want):\n%s", heading, d)
		}
	}
}

// TestManualExample parses the example, and the mistake in it is told as the
// page says.
func TestManualExample(t *testing.T) {
	t.Parallel()
	parts := strings.Split(section(t, readManual(t), "# EXAMPLE"), "```\n")
	if len(parts) != 5 {
		t.Fatalf("%d parts, want text and two blocks", len(parts))
	}
	if set := mustParse(t, "101.toml", parts[1]); len(set.Guests) != 1 {
		t.Errorf("%d guests", len(set.Guests))
	}
	_, err := Parse(testOptions, files("101.toml", strings.Replace(parts[1], `"2GiB"`, "2048", 1)))
	if err == nil {
		t.Fatal("the mistake is accepted")
	}
	want := strings.Join(strings.Fields(parts[3]), " ")
	if d := cmp.Diff(err.Error(), want); d != "" {
		t.Errorf("the mistake (-got +want):\n%s", d)
	}
}

func TestExamples(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../../packaging/examples/*.toml")
	if err != nil || len(names) < 3 {
		t.Fatalf("%d examples, %v", len(names), err)
	}
	var pairs []string
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, filepath.Base(name), string(data))
	}
	set := mustParse(t, pairs...) // all of them together, as from one directory
	want := []guest.VMID{101, 200, 9001, 9002}
	if d := cmp.Diff(sortedIDs(set.Guests), want); d != "" {
		t.Errorf("guests (-got +want):\n%s", d)
	}
	checkRender(t, set)
}
