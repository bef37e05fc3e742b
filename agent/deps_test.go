// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/felhom/felhom-agent/"

// rule says what a part of the tree may not import, and why.
type rule struct {
	from   string   // import path prefix below the module
	not    []string // prefixes: of the module if they have no dot in the first element
	except []string // packages of from that may
	why    string
}

var rules = []rule{
	{"pkg/", []string{"agent/", "plugins/", "hookscript/"}, nil, "what others may import must not drag the core behind it"},
	{"pkg/guest", []string{"pkg/pve", "pkg/plugin", "pkg/hook", "github.com/", "golang.org/", "google.golang.org/"}, nil, "the vocabulary imports only the standard library"},
	{"pkg/hook", []string{"net/http", "pkg/pve", "pkg/plugin", "github.com/", "golang.org/", "google.golang.org/"}, nil, "the hook helper is started at every start and stop: it must stay small"},
	{"pkg/pve", []string{"github.com/hashicorp/", "google.golang.org/"}, []string{"pkg/pve/pvetest"}, "the client is small and speaks HTTP only"},
	{"pkg/pve/pvetest", []string{"agent/", "plugins/", "pkg/plugin", "pkg/hook", "hookscript/"}, nil, "the simulator knows nothing of the agent, so it cannot learn to agree with its bugs"},
	{"agent/", []string{"plugins/", "github.com/nats-io/"}, []string{"agent/internal/fleet"}, "what a source speaks is in its plugin; only the fleet's test puts both into one process"},
	{"agent/", []string{"pkg/pve/pvetest/hooktable"}, nil, "the recorded hook rows are for tests"},
	{"plugins/", []string{"agent/"}, nil, "first-party plugins are written as a stranger's would be"},
	{"hookscript/", []string{"agent/", "plugins/", "pkg/plugin", "pkg/pve", "net/http"}, nil, "the helper links neither gRPC nor HTTP"},
	{"agent/internal/engine", []string{"agent/internal/pluginhost", "agent/internal/hookserver", "agent/internal/control", "agent/internal/config", "pkg/pve"}, nil, "the engine declares what it needs; the wiring hands it in"},
	{"agent/internal/plan", []string{"agent/internal/journal", "agent/internal/queue", "agent/internal/engine", "os", "net", "time/tzdata"}, nil, "deciding is pure"},
	{"agent/internal/queue", []string{"pkg/", "agent/"}, nil, "the queue knows nothing of guests"},
	{"agent/internal/gate", []string{"agent/", "plugins/", "pkg/pve", "pkg/plugin", "pkg/hook", "os", "net", "time/tzdata"}, nil, "deciding whether a signature is a permission is pure, and knows nothing of who acts on it"},
	{"agent/internal/identity", []string{"agent/", "plugins/", "pkg/pve", "pkg/hook", "os", "net", "time/tzdata", "github.com/", "golang.org/", "google.golang.org/"}, nil, "whether a guest is the one that was known is decided from evidence alone: pure, so that the same evidence gives the same verdict after a crash"},
	{"agent/internal/journal", []string{"pkg/", "agent/internal/op", "agent/internal/ledger", "agent/internal/engine"}, nil, "the journal knows nothing of what its payloads mean"},
	{"agent/internal/fsys", []string{"pkg/", "agent/"}, []string{"agent/internal/fsys/fault"}, "the one way to the disk stands at the bottom"},
}

// pkgInfo is what `go list -json` tells.
type pkgInfo struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Dir        string
	GoFiles    []string
	Name       string
}

func list(t *testing.T) []pkgInfo {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Dir,GoFiles,Name", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkgInfo
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkgInfo
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func TestImportDirections(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rules {
			if !under(name, r.from) || slices.ContainsFunc(r.except, func(e string) bool { return under(name, e) }) {
				continue
			}
			for _, imp := range p.Imports {
				short := strings.TrimPrefix(imp, module)
				for _, no := range r.not {
					if under(short, no) && (short != imp) == ours(no) {
						t.Errorf("%s imports %s: %s", name, short, r.why)
					}
				}
			}
		}
	}
}

// ours reports whether a rule's prefix means a package of this module.
func ours(prefix string) bool {
	first, _, _ := strings.Cut(prefix, "/")
	return slices.Contains([]string{"agent", "pkg", "plugins", "hookscript"}, first)
}

func under(name, prefix string) bool {
	trimmed := strings.TrimSuffix(prefix, "/")
	return name == trimmed || strings.HasPrefix(name, trimmed+"/")
}

func TestHookHelperLinksNeitherGRPCNorHTTP(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath != module+"hookscript/felhom-hook" {
			continue
		}
		for _, dep := range p.Deps {
			if dep == "net/http" || strings.HasPrefix(dep, "google.golang.org/") || strings.HasPrefix(dep, "github.com/hashicorp") {
				t.Errorf("felhom-hook links %s", dep)
			}
		}
	}
}

func TestCoreLinksNoSource(t *testing.T) {
	for _, p := range list(t) {
		if p.ImportPath != module+"agent/cmd/felhom-agent" {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "github.com/nats-io/") || strings.HasPrefix(dep, module+"plugins/") {
				t.Errorf("felhom-agent links %s", dep)
			}
		}
	}
}

func TestEachPackageHasOneDoc(t *testing.T) {
	for _, p := range list(t) {
		n := 0
		for _, f := range p.GoFiles {
			if strings.HasSuffix(f, ".pb.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has %d package comments, want exactly one", p.ImportPath, n)
		}
	}
}

func TestEachFileNamesItsLicence(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "build") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b[:min(len(b), 200)]), "SPDX-License-Identifier: Apache-2.0") {
			t.Errorf("%s does not name its licence", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGoModHasNoReplace(t *testing.T) {
	b, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "replace ") {
		t.Error("go.mod has a replace directive: the tree that is tested would not be the tree that is shipped")
	}
}
