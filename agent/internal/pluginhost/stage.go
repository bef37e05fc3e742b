// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// program is how a plugin is executed.
type program struct {
	path string
	args []string // with args[0], without those of the spec
	// staged is the copy that is executed, to be removed afterwards; "" if the
	// checked descriptor is.
	staged string
}

// byDescriptor executes the checked file itself, whatever stands under its
// name by then: the child has the descriptor under the same number until it
// executes. That works for a file which the kernel executes; an interpreter
// would find its script's descriptor closed.
func byDescriptor(exe *executable) program {
	return program{path: "/proc/self/fd/" + strconv.Itoa(int(exe.file.Fd())), args: []string{exe.path}}
}

// program decides how a plugin is executed. A script, and a plugin of several
// files, is executed from a copy made of what was checked. What is not pinned
// is not in the copy: nothing can be slipped in beside a script. The
// interpreter and its modules are the system's, and outside the pins.
func (l *processLauncher) program(s Spec, exe *executable) (program, error) {
	if !exe.script && len(s.Files) == 0 {
		return byDescriptor(exe), nil
	}
	if len(s.SHA256) == 0 {
		return program{}, refuse("pin it: "+pinLine(exe.sum), "%s is a script, or has other files, and is not pinned", exe.path)
	}
	parent := l.opts.CopyDir
	if parent == "" {
		parent = l.opts.SocketDir
	}
	dir, err := os.MkdirTemp(parent, dirPrefix+"-files")
	if err != nil {
		return program{}, err
	}
	p, err := l.stage(s, exe, dir)
	if err != nil {
		return program{}, errors.Join(err, os.RemoveAll(dir))
	}
	p.staged = dir
	return p, nil
}

// stage makes the copy in dir.
func (l *processLauncher) stage(s Spec, exe *executable, dir string) (program, error) {
	main := filepath.Join(dir, filepath.Base(exe.path))
	sum, err := copyFile(main, io.NewSectionReader(exe.file, 0, maxExecutable), 0o500)
	if err != nil {
		return program{}, err
	}
	if sum != exe.sum {
		return program{}, refuse("find out who writes to it", "%s was changed while it was being copied", exe.path)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if err := l.stageOne(s, name, dir); err != nil {
			return program{}, err
		}
	}
	if !exe.script {
		return program{path: main, args: []string{exe.path}}, nil
	}
	interpreter, err := shebang(main, l.opts.TrustedUIDs)
	if err != nil {
		return program{}, err
	}
	return program{path: interpreter[0], args: append(interpreter, main)}, nil
}

// stageOne copies one of the pinned files beside the executable.
func (l *processLauncher) stageOne(s Spec, name, dir string) error {
	path := filepath.Join(filepath.Dir(s.Path), name)
	if err := checkParents(path, l.opts.TrustedUIDs); err != nil {
		return err
	}
	f, err := openTrusted(path, l.opts.TrustedUIDs)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	dst := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	sum, err := copyFile(dst, io.LimitReader(f, maxExecutable), info.Mode().Perm()&0o500)
	if err != nil {
		return err
	}
	if sum != s.Files[name] {
		return refuse(fmt.Sprintf("if you replaced it on purpose, put this line into the table files: %q = %q", name, sum),
			"%s is not the pinned file: its sha256 is %s", path, sum)
	}
	return nil
}

// copyFile copies r to a new file and returns the sha256 of what it wrote.
func copyFile(dst string, r io.Reader, mode os.FileMode) (string, error) {
	f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}

// shebang reads the first line of a script as the kernel does: an interpreter
// and at most one argument. The interpreter is executed by name, because the
// copy may lie where nothing can be executed.
func shebang(path string, trusted []uint32) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(f, 256).ReadSlice('\n')
	text, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "#!")
	if !ok || (err != nil && !errors.Is(err, io.EOF)) {
		return nil, refuse("use an ELF executable, or a script that begins with #!", "%s is neither", filepath.Base(path))
	}
	name, arg, _ := strings.Cut(strings.TrimSpace(text), " ")
	if !filepath.IsAbs(name) {
		return nil, refuse("name the interpreter by its path", "the interpreter of %s is %q", filepath.Base(path), name)
	}
	real, err := filepath.EvalSymlinks(name) // /bin and python3 are links on Debian
	if err != nil {
		return nil, refuse("install it", "the interpreter: %v", err)
	}
	if err := checkParents(real, trusted); err != nil {
		return nil, err
	}
	in, err := openTrusted(real, trusted)
	if err != nil {
		return nil, err
	}
	out := []string{name}
	if arg = strings.TrimSpace(arg); arg != "" {
		out = append(out, arg)
	}
	return out, in.Close()
}
