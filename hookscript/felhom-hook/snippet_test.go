// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/pkg/hook"
)

const packaged = "helper=/usr/libexec/felhom-agent/felhom-hook\n"

// write writes a file that will be run. A child that another test starts
// meanwhile holds a copy of the open file until it runs its own program, and
// a file that is open for writing is not run ("text file busy"): so none is
// started meanwhile.
func write(tb testing.TB, path string, content []byte, mode os.FileMode) {
	tb.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, content, mode); err != nil {
		tb.Fatal(err)
	}
}

// snippet installs the snippet as on a snippets storage, with another helper.
func snippet(t *testing.T, helper string) (path string) {
	t.Helper()
	script, err := os.ReadFile("../felhom-hookscript")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(script), packaged, "helper='"+helper+"'\n", 1)
	if text == string(script) {
		t.Fatalf("the snippet does not say %q", packaged)
	}
	path = filepath.Join(t.TempDir(), "felhom-hook")
	write(t, path, []byte(text), 0o755)
	return path
}

// former gives a guest a former hookscript beside the snippet.
func former(t *testing.T, snippet, vmid, script string) (path string) {
	t.Helper()
	dir := snippet + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, vmid)
	write(t, path, []byte(script), 0o755)
	return path
}

func file(t *testing.T, content []byte, mode os.FileMode) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "helper")
	write(t, path, content, mode)
	return path
}

func script(t *testing.T, lines string) string {
	return file(t, []byte("#!/bin/sh\n"+lines+"\n"), 0o755)
}

// foreign is the helper as it would be for another architecture.
func foreign(t *testing.T) string {
	t.Helper()
	elf, err := os.ReadFile(helper)
	if err != nil {
		t.Fatal(err)
	}
	const machine, aarch64, x8664 = 18, 183, 62
	was := binary.LittleEndian.Uint16(elf[machine:])
	binary.LittleEndian.PutUint16(elf[machine:], aarch64+x8664-was)
	return file(t, elf, 0o755)
}

func truncated(t *testing.T, size func(int) int) string {
	t.Helper()
	elf, err := os.ReadFile(helper)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, elf[:size(len(elf))], 0o755)
}

// P7: whatever became of the helper, the guest starts, at once and in silence.
func TestSnippetWithBrokenHelper(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{
		"missing":                     "/nonexistent/felhom-hook",
		"a directory":                 t.TempDir(),
		"not executable":              file(t, []byte("#!/bin/sh\nexit 1\n"), 0o644),
		"empty":                       file(t, nil, 0o755),
		"text":                        file(t, []byte("certainly not a program\n"), 0o755),
		"an ELF header":               truncated(t, func(int) int { return 64 }),
		"a piece of an ELF":           truncated(t, func(int) int { return 20 }),
		"half an ELF":                 truncated(t, func(n int) int { return n / 2 }),
		"nearly an ELF":               truncated(t, func(n int) int { return n - 4096 }),
		"another architecture":        foreign(t),
		"interpreter missing":         file(t, []byte("#!/nonexistent/interpreter\n"), 0o755),
		"killed":                      script(t, "kill -9 $$"),
		"terminated":                  script(t, "kill -TERM $$"),
		"interrupted":                 script(t, "kill -INT $$"),
		"pipe":                        script(t, "kill -PIPE $$"),
		"crashes":                     script(t, "kill -SEGV $$"),
		"exits 1":                     script(t, "exit 1"),
		"exits 116":                   script(t, "exit 116"),
		"exits 118":                   script(t, "exit 118"),
		"exits 255":                   script(t, "exit 255"),
		"prints without newline":      script(t, "printf out; printf err >&2; exit 3"),
		"prints a lot":                script(t, "yes | head -c 1000000; yes | head -c 1000000 >&2"),
		"leaves children":             script(t, "sleep 8 & sleep 8 >&2 & (sleep 8 &) & exit 0"),
		"reads stdin":                 script(t, "cat; read x"),
		"a loop of links":             loop(t),
		"a path with a quote's blank": "/nonexistent/a b c",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := snippet(t, broken)
			for _, phase := range []string{"pre-start", "post-start", "pre-stop", "post-stop"} {
				if got := run(t, nil, path, "101", phase); got != (result{}) {
					t.Errorf("%s: %+v", phase, got)
				}
			}
		})
	}
}

func loop(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "helper")
	if err := os.Symlink(path, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSnippetPassesOnOnlyTheVeto(t *testing.T) {
	t.Parallel()
	path := snippet(t, script(t, "exit "+strconv.Itoa(hook.ExitVeto)))
	ran := filepath.Join(t.TempDir(), "ran")
	former(t, path, "101", "#!/bin/sh\ntouch "+ran+"\n")
	if got := run(t, nil, path, "101", "pre-start"); got != (result{status: hook.ExitVeto}) {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the former hookscript ran although the start was refused")
	}
}

// The real helper behind the snippet, with the agent in each of its states.
func TestSnippetWithHelper(t *testing.T) {
	t.Parallel()
	in := agentUp(t)
	for name, socket := range map[string]string{"up": in.socket, "down": "/nonexistent", "hung": agentHung(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spool := t.TempDir()
			path := snippet(t, script(t, fmt.Sprintf(`exec %s -socket %s -spool %s "$@"`, helper, socket, spool)))
			got := run(t, []string{"PVE_MIGRATED_FROM=pve2"}, path, "4711", "pre-start")
			if got != (result{}) {
				t.Errorf("got %+v", got)
			}
			events := spooledEvents(t, spool)
			if name == "up" {
				events = append(events, in.got()...)
			}
			if len(events) == 0 || events[0].VMID != 4711 || events[0].Phase != "pre-start" || events[0].MigratedFrom != "pve2" {
				t.Errorf("events %+v", events)
			}
		})
	}
}

// The former hookscript keeps what it had: arguments, environment, output and
// status, with a helper and without a package.
func TestSnippetChains(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		script string
		want   result
	}{
		"succeeds":                          {`echo "$# $1 $2 $PVE_MIGRATED_FROM"; echo note >&2`, result{0, "2 101 pre-start pve2\n", "note\n"}},
		"vetoes":                            {"echo not ready >&2; exit 3", result{3, "", "not ready\n"}},
		"vetoes with the status of a shell": {"exit 127", result{status: 127}},
		"dies":                              {"kill -9 $$", result{status: 128 + 9}},
		"no newline":                        {"printf x", result{out: "x"}},
		"reads stdin":                       {"wc -c", result{out: "0\n"}},
		"knows where it is":                 {`basename "$(dirname "$0")"`, result{out: "felhom-hook.d\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, helper := range []string{"/nonexistent", script(t, "exit 0"), script(t, "kill -9 $$")} {
				path := snippet(t, helper)
				former(t, path, "101", "#!/bin/sh\n"+tt.script+"\n")
				if got := run(t, []string{"PVE_MIGRATED_FROM=pve2"}, path, "101", "pre-start"); got != tt.want {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
				if got := run(t, nil, path, "102", "pre-start"); got != (result{}) {
					t.Errorf("another guest: %+v", got)
				}
			}
		})
	}
}

func TestSnippetSaysWhatItCannotChain(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path string) error{
		"not executable":    func(p string) error { return os.Chmod(p, 0o644) },
		"a dangling link":   func(p string) error { os.Remove(p); return os.Symlink("/nonexistent/script", p) },
		"a directory":       func(p string) error { os.Remove(p); return os.Mkdir(p, 0o755) },
		"a pipe, no reader": func(p string) error { os.Remove(p); return syscall.Mkfifo(p, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := snippet(t, "/nonexistent")
			if err := plant(former(t, path, "101", "#!/bin/sh\nexit 1\n")); err != nil {
				t.Fatal(err)
			}
			got := run(t, nil, path, "101", "pre-start")
			want := result{err: "felhom-hook: " + path + ".d/101 is not an executable file and was not run\n"}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			defer w.Close()
			cmd := exec.Command(path, "101", "post-stop")
			cmd.Stderr = w
			if err := cmd.Run(); err != nil {
				t.Errorf("nobody reads: %v", err)
			}
		})
	}
}

// A link to a former hookscript elsewhere is as good as the script.
func TestSnippetChainsThroughLink(t *testing.T) {
	t.Parallel()
	path := snippet(t, "/nonexistent")
	p := former(t, path, "101", "")
	os.Remove(p)
	if err := os.Symlink(script(t, "echo linked; exit 5"), p); err != nil {
		t.Fatal(err)
	}
	if got := run(t, nil, path, "101", "pre-start"); got != (result{5, "linked\n", ""}) {
		t.Errorf("got %+v", got)
	}
}

// A script that is linked is run by its own name, as PVE ran it: many look for
// files beside it, and without them refuse the start. What the link says is
// taken as it is, with and without a PATH.
func TestSnippetRunsWhatIsLinkedByItsOwnName(t *testing.T) {
	t.Parallel()
	own := script(t, `echo "$0"; . "${0%/*}/lib.sh"`)
	write(t, filepath.Join(filepath.Dir(own), "lib.sh"), []byte("exit 4\n"), 0o644)
	path := snippet(t, "/nonexistent")
	p := former(t, path, "101", "")
	os.Remove(p)
	if err := os.Symlink(own, p); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{"A=1", "PATH=", "PATH=/nonexistent"} {
		got := run(t, []string{env}, path, "101", "pre-start")
		if want := (result{4, own + "\n", ""}); env == "A=1" && got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if got.out == "" {
			t.Errorf("%s: it was not run: %+v", env, got)
		}
	}
}

func TestSnippetInOddPlaces(t *testing.T) {
	t.Parallel()
	ok := script(t, "exit 0")
	for name, command := range map[string]string{
		"closed descriptors":   `"$0" 101 pre-start <&- >&- 2>&-`,
		"no arguments":         `"$0"`,
		"an odd argument":      `"$0" ../.. pre-start`,
		"an empty argument":    `"$0" "" pre-start`,
		"run by name":          `cd "${0%/*}" && sh "${0##*/}" 101 pre-start`,
		"an empty environment": `env -i "$0" 101 pre-start`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, nil, "/bin/sh", "-c", command, snippet(t, ok))
			if got.status != 0 || got.out != "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}
