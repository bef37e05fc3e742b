// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestPluginScripts is TestScripts for who writes plugins: the examples are
// built too, and the scripts know where the sources are.
func TestPluginScripts(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "notify"), "./plugins/examples/notify")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build notify: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/plugin",
		Setup: func(e *testscript.Env) error {
			for _, d := range []string{"state", "run", "spool", "plugins.d", "desired", "pve/storage/snippets"} {
				if err := os.MkdirAll(filepath.Join(e.WorkDir, d), 0o700); err != nil {
					return err
				}
			}
			for name, value := range map[string]string{
				"PATH": bin + string(os.PathListSeparator) + os.Getenv("PATH"), "PVESIM_DIR": filepath.Join(e.WorkDir, "pve"),
				"UID": strconv.Itoa(os.Getuid()), "BIN": bin, "ROOT": root, "EXAMPLES": filepath.Join(root, "plugins/examples"),
				"GOFLAGS": os.Getenv("GOFLAGS"),
			} {
				e.Setenv(name, value)
			}
			for _, name := range goSettings {
				e.Setenv(name, goEnv(name))
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"node": cmdNode, "agent": cmdAgent, "waitfor": cmdWaitfor, "killed": cmdKilled, "pids": cmdPIDs,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "python-grpc" {
				return pythonGRPC(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		RequireExplicitExec: true,
	})
}

// goSettings are those with which modules are got here: a workspace reads the
// go.mod of modules that building the agent has no use for, and a machine that
// only builds and tests does not have these yet.
var goSettings = []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOINSECURE"}

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return ""
	}
	return string(out[:max(0, len(out)-1)])
}

// pythonGRPC says whether Debian's Python has what a plugin in Python needs.
var pythonGRPC = sync.OnceValue(func() bool {
	return exec.Command("/usr/bin/python3", "-c", "import grpc, google.protobuf, cryptography").Run() == nil
})

// cmdPIDs writes down which processes serve pve and local: pids FILE.
func cmdPIDs(ts *testscript.TestScript, neg bool, args []string) {
	text := ""
	for _, name := range []string{"pve", "local"} {
		text += fmt.Sprintln(name, pluginPID(ts, name))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
