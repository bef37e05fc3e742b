// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package skeleton writes the beginning of a plugin: a small one that works,
// keeps every rule of the contract, and says in its comments where the
// author's own work goes. An executor in Go, a provider in Python.
//
// It guarantees that nothing is overwritten.
package skeleton

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/felhom/felhom-agent/pkg/plugin/python"
)

//go:embed go python
var files embed.FS

// Languages are those that Write knows.
var Languages = []string{"go", "python"}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Write writes a plugin of this name into a directory, which it makes, and
// returns the names of the files.
func Write(dir, lang, name string) ([]string, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("name %q: want a letter and up to 30 of a-z, 0-9 and -", name)
	}
	entries, err := files.ReadDir(lang)
	if err != nil || (lang != "go" && lang != "python") {
		return nil, fmt.Errorf("language %q: known are %s", lang, strings.Join(Languages, " and "))
	}
	texts := map[string][]byte{}
	var names []string
	for _, e := range entries {
		out, text, err := render(lang, e, name)
		if err != nil {
			return nil, err
		}
		texts[out] = text
		names = append(names, out)
	}
	if lang == "python" {
		texts[python.KitName], texts[python.MessagesName] = python.Kit, python.Messages
		names = append(names, python.KitName, python.MessagesName)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := writeNew(filepath.Join(dir, n), texts[n]); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// render fills in the name. What the file is called in the end is its name
// without .tmpl, and with NAME replaced.
func render(lang string, e fs.DirEntry, name string) (string, []byte, error) {
	text, err := files.ReadFile(path.Join(lang, e.Name()))
	if err != nil {
		return "", nil, err
	}
	t, err := template.New(e.Name()).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return "", nil, err
	}
	var out bytes.Buffer
	kind := strings.ReplaceAll(name, "-", "_")
	if err := t.Execute(&out, map[string]string{"Name": name, "Kind": kind + ".do"}); err != nil {
		return "", nil, err
	}
	return strings.ReplaceAll(strings.TrimSuffix(e.Name(), ".tmpl"), "NAME", name), out.Bytes(), nil
}

// writeNew writes a file that is not there yet; a script may be executed.
func writeNew(name string, text []byte) error {
	mode := os.FileMode(0o644)
	if bytes.HasPrefix(text, []byte("#!")) {
		mode = 0o755
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
