// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

var rollback = []string{AllAddresses, "smbios1", AllVolumes}

// changesOf is what each of the core's action kinds may change.
var changesOf = map[plugin.ActionKind][]string{
	plugin.Start: nil, plugin.Shutdown: nil, plugin.Stop: nil, plugin.Reboot: nil, plugin.SetConfig: {"net0"},
	plugin.Provision: {Everything}, plugin.GrowDisk: nil, plugin.TakeSnapshot: nil, plugin.Backup: nil,
	plugin.Rollback: rollback, plugin.Restore: {Everything}, plugin.Destroy: {Everything},
	plugin.DeleteSnapshot: nil, plugin.DeleteBackup: nil, plugin.DeleteVolume: nil,
	"acme.notify": nil, "": nil,
}

func TestChanges(t *testing.T) {
	for kind, want := range changesOf {
		a := plugin.Action{Kind: kind, Guest: guest.ID{Kind: guest.LXC}, Set: map[string]string{"net0": "x"}, Params: map[string]string{"disk": "rootfs"}}
		if got := Changes(a); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

// TestEachKindIsDecided: an action kind that is added to the SDK has a line
// in the table above.
func TestEachKindIsDecided(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../../pkg/plugin/executor.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "ActionKind" {
			return true
		}
		kinds++
		kind := strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
		if _, decided := changesOf[plugin.ActionKind(kind)]; !decided {
			t.Errorf("nobody has decided which evidence %q may change", kind)
		}
		return true
	})
	if kinds == 0 {
		t.Error("no action kinds found")
	}
}

func TestWhatASetConfigChanges(t *testing.T) {
	for kind, want := range map[guest.Kind][]string{
		guest.LXC:  {"mp0", "net0", "net12", "unused0"},
		guest.QEMU: {"meta", "net0", "net12", "scsi0", "smbios1", "unused0"},
	} {
		a := plugin.Action{
			Kind: plugin.SetConfig, Guest: guest.ID{Kind: kind, VMID: 101},
			Set:    map[string]string{"net12": "a", "net0": "a", "mp0": "a", "scsi0": "a", "memory": "1", "description": "a", "network": "a"},
			Delete: []string{"unused0", "net0", "smbios1", "meta", "vmgenid", "rootfs2"},
		}
		if got := Changes(a); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
	if got := Changes(plugin.Action{Kind: plugin.SetConfig, Set: map[string]string{"memory": "1"}}); len(got) != 0 {
		t.Errorf("memory: %q", got)
	}
}
