// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// FuzzParse parses any bytes as both formats: never a panic, a rejection always
// says why, and what is accepted means the same when it is written and parsed
// again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(fullTOML))
	f.Add([]byte(fullJSON))
	for _, pattern := range []string{"testdata/errors/*.txtar", "../../../packaging/examples/*.toml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			addSeeds(f, name)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkLines(t, strings.ReplaceAll(string(data), "\r\n", "\n"))
		for _, name := range []string{"f.toml", "f.json"} {
			set, err := Parse(testOptions, plugin.Snapshot{Files: []plugin.File{{Name: name, Data: data}}})
			var ps Problems
			switch {
			case err == nil:
				checkRender(t, set)
			case set != nil || !errors.As(err, &ps) || len(ps) == 0:
				t.Fatalf("rejected with set %v and error %v", set, err)
			}
			for _, p := range ps {
				if p.Wrong == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
					t.Fatalf("problem %+v is no line of text", p)
				}
			}
		}
	})
}

// addSeeds adds a document, or all documents of an archive.
func addSeeds(f *testing.F, name string) {
	data, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	if !strings.HasSuffix(name, ".txtar") {
		f.Add(data)
		return
	}
	for _, file := range txtar.Parse(data).Files {
		if file.Name != "want" {
			f.Add(file.Data)
		}
	}
}
