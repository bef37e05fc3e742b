// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// scriptPlugin is a plugin whose executable is a script that runs another of
// its files, which is a copy of real.
func scriptPlugin(t *testing.T, interpreter, real string) (s Spec, dir string) {
	t.Helper()
	dir = filepath.Join(shortDir(t), "acme")
	mkdir(t, dir)
	mkdir(t, filepath.Join(dir, "lib"))
	copyTo(t, filepath.Join(dir, "lib", "real"), real)
	script := filepath.Join(dir, "acme")
	text := fmt.Sprintf("#!%s\nexec \"$(dirname \"$0\")/lib/real\" \"$@\"\n", interpreter)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Name: "a", Kinds: []plugin.Kind{plugin.KindExecutor}, Path: script, Args: []string{"good"},
		Actions: []plugin.ActionKind{"test.a"}, SHA256: []string{sumOf(t, script)},
		Files: map[string]string{"lib/real": sumOf(t, filepath.Join(dir, "lib", "real"))},
	}, dir
}

func TestScriptRunsFromItsCopy(t *testing.T) {
	mine, err := self()
	if err != nil {
		t.Fatal(err)
	}
	s, dir := scriptPlugin(t, "/usr/bin/env sh", mine)
	b := startBed(t, func(o *Options) { o.CopyDir = shortDir(t) }, s)
	b.await(t, "a", Running)
	// What is written beside the original from now on means nothing.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := b.must(t, "a", "env"); !strings.Contains(got, "HOME="+b.opts.SocketDir) {
		t.Errorf("environment %s", got)
	}
	b.stop()
	if left, _ := filepath.Glob(filepath.Join(b.opts.CopyDir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestProgramOfAScript(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"#!/bin/sh":               {"/bin/sh"},
		"#! /bin/sh -e ":          {"/bin/sh", "-e"},
		"#!/usr/bin/env -S sh -e": {"/usr/bin/env", "-S sh -e"}, // one argument, as the kernel has it
	} {
		s, _ := scriptPlugin(t, "/bin/sh", "/bin/false")
		script(t, &s, line+"\n")
		o := testOptions(t)
		o.CopyDir, o.TrustedUIDs = t.TempDir(), me()
		exe, err := openExecutable(s, me())
		if err != nil {
			t.Fatal(err)
		}
		p, err := (&processLauncher{opts: o}).program(s, exe)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		want = append(want, filepath.Join(p.staged, "acme"))
		if diff := cmp.Diff(want, p.args); diff != "" || p.path != want[0] {
			t.Errorf("%s: path %s, arguments (-want +got):\n%s", line, p.path, diff)
		}
		if err := errors.Join(exe.file.Close(), os.RemoveAll(p.staged)); err != nil {
			t.Error(err)
		}
	}
}

func TestStageRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(t *testing.T, s *Spec, dir string)
		why   string
	}{
		"not pinned":         {func(_ *testing.T, s *Spec, _ string) { s.SHA256 = nil }, "is not pinned; remedy"},
		"file changed":       {func(t *testing.T, _ *Spec, d string) { copyTo(t, d+"/lib/real", "/bin/true") }, `put this line into the table files: "lib/real" = "`},
		"file missing":       {func(t *testing.T, _ *Spec, d string) { remove(t, d+"/lib/real") }, "no such file"},
		"file is a link":     {func(t *testing.T, _ *Spec, d string) { remove(t, d+"/lib/real"); link(t, "/bin/true", d+"/lib/real") }, "is a symbolic link"},
		"library directory":  {func(t *testing.T, _ *Spec, d string) { chmod(t, d+"/lib", 0o777) }, "is writable by group or others"},
		"no interpreter":     {func(t *testing.T, s *Spec, d string) { script(t, s, "#!/usr/bin/no-such-shell\n") }, "the interpreter"},
		"relative":           {func(t *testing.T, s *Spec, d string) { script(t, s, "#!sh\n") }, "name the interpreter by its path"},
		"not a script":       {func(t *testing.T, s *Spec, d string) { script(t, s, "echo\n") }, "or a script that begins with #!"},
		"endless first line": {func(t *testing.T, s *Spec, d string) { script(t, s, "#!"+strings.Repeat("x", 5000)) }, "or a script that begins with #!"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := scriptPlugin(t, "/bin/sh", "/bin/false")
			o := testOptions(t)
			o.CopyDir, o.TrustedUIDs = t.TempDir(), me()
			l := &processLauncher{opts: o}
			tt.spoil(t, &s, dir)
			exe, err := openExecutable(s, me())
			if err != nil {
				t.Fatal(err)
			}
			defer exe.file.Close()
			if _, err := l.program(s, exe); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want %q", err, tt.why)
			}
			if left, _ := filepath.Glob(filepath.Join(o.CopyDir, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// script replaces the plugin's script, and its pin.
func script(t *testing.T, s *Spec, text string) {
	t.Helper()
	if err := os.WriteFile(s.Path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	s.SHA256 = []string{sumOf(t, s.Path)}
}
