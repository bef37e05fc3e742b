// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write KEYS.md anew")

// schemaKeys are the plain names of the config keys of that kind and PVE major
// version, an indexed one as "net[n]".
func schemaKeys(t *testing.T, kind guest.Kind, pve int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("testdata/keys/%s-%d.txt", kind, pve))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

var kinds = []guest.Kind{guest.LXC, guest.QEMU}

func TestEverySchemaKeyHasARow(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	for _, kind := range kinds {
		keys8, keys9 := schemaKeys(t, kind, 8), schemaKeys(t, kind, 9)
		for _, key := range keys9 {
			form, ok := table.Form(kind, strings.Replace(key, "[n]", "0", 1))
			if !ok {
				t.Errorf("%s %s: the schema has it, the table has no row", kind, key)
				continue
			}
			if got, want := form.Since == 9, !slices.Contains(keys8, key); got != want {
				t.Errorf("%s %s: since PVE %d, but in the schema of 8: %v", kind, key, form.Since, !want)
			}
		}
		for _, form := range table.Forms(kind) {
			if !slices.Contains(keys9, form.Key) {
				t.Errorf("%s %s: the table has a row, the schema no such key", kind, form.Key)
			}
		}
	}
}

func TestEveryRowIsWhole(t *testing.T) {
	t.Parallel()
	table := guest.Standard()
	for _, kind := range kinds {
		for _, f := range table.Forms(kind) {
			if why := incomplete(f); why != "" {
				t.Errorf("%s %s: %s", kind, f.Key, why)
			}
		}
	}
}

func incomplete(f guest.Form) string {
	classes := []guest.Class{guest.Benign, guest.Additive, guest.Irreversible, guest.Never}
	switch {
	case f.Value == nil || f.Value.Name() == "" || f.Value.Rule() == "":
		return "no value kind"
	case !slices.Contains(classes, f.Class):
		return fmt.Sprintf("no class (%q)", f.Class)
	case f.Default != "" && f.Value.Check(f.Default) != nil:
		return "the default is no value: " + f.Value.Check(f.Default).Error()
	case (f.Class == guest.Never || f.AsText) && f.Note == "":
		return "never written or plain text, and no reason"
	case (f.ClassOf != nil || f.EffectOf != nil || f.PrivilegeOf != nil) && f.Note == "":
		return "a column depends on the change, and no note says how"
	case strings.HasSuffix(f.Key, "[n]") != (f.Last > 0):
		return "an index without a last one"
	case f.Class != guest.Never && f.Privilege == "" && f.PrivilegeOf == nil:
		return "no privilege"
	}
	return ""
}

// TestKeysDocument keeps KEYS.md what the table is; -update writes it.
func TestKeysDocument(t *testing.T) {
	t.Parallel()
	want := keysDocument(guest.Standard())
	if *update {
		if err := os.WriteFile("KEYS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("KEYS.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(want, string(got)); d != "" {
		t.Errorf("KEYS.md is not what the table says; run `go test ./pkg/guest -run TestKeysDocument -update` (-want +got):\n%s", d)
	}
}

const keysIntro = `# Config keys

What felhom-agent makes of each config key of Proxmox VE 8 and 9. Written by
` + "`go test ./pkg/guest -run TestKeysDocument -update`" + `; do not edit.

- *kind* is the kind of value, *default* what an absent key means; a value that
  says the default and an absent key are the same.
- *same if* says how two values are compared.
- *class*: benign may be done in mode enforce; additive also needs
  allow_additive; irreversible needs a signed approval; never is refused,
  whoever asks.
- *effect* is when a change takes hold on a running guest: live, at its next
  restart, after a stop, or never by a token (needs-root). A stopped guest takes
  every change at once, except what needs-root.
- *varies* means that it depends on the change or on other keys, as the note
  says.
- *privilege* is what the agent's token needs besides VM.Audit.
`

func keysDocument(table *guest.Table) string {
	var b strings.Builder
	b.WriteString(keysIntro)
	for _, kind := range kinds {
		title := map[guest.Kind]string{guest.LXC: "Containers", guest.QEMU: "Virtual machines"}[kind]
		fmt.Fprintf(&b, "\n## %s\n\n| key | kind | default | same if | class | effect | privilege | note |\n|---|---|---|---|---|---|---|---|\n", title)
		for _, f := range table.Forms(kind) {
			b.WriteString(keyRow(f))
		}
	}
	return b.String()
}

func keyRow(f guest.Form) string {
	varies := func(s string, yes bool) string {
		if yes {
			return s + ", varies"
		}
		return s
	}
	value := f.Value.Name()
	if f.Unit != "" {
		value += " (" + f.Unit + ")"
	}
	rule, note := f.Value.Rule(), f.Note
	if f.Secret {
		rule = "secret: " + rule + ", unless PVE shows stars"
	}
	if f.Since > 8 {
		note = strings.TrimSpace(fmt.Sprintf("PVE %d. %s", f.Since, note))
	}
	cells := []string{
		f.Key, value, f.Default, rule,
		varies(string(f.Class), f.ClassOf != nil),
		varies(string(cmp.Or(f.Effect, guest.Live)), f.EffectOf != nil),
		varies(strings.ReplaceAll(f.Privilege, "|", " or "), f.PrivilegeOf != nil),
		note,
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}
