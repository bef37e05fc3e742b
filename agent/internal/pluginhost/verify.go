// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errRefused is the kind of an error that only a person can end.
var errRefused = errors.New("refused")

// ErrRefused is the kind of a Launch's error that only a person can end: the
// file or the configuration must change.
var ErrRefused = errRefused

// refuse makes an errRefused: what is wrong, and what to do about it.
func refuse(remedy, format string, args ...any) error {
	return fmt.Errorf("%w: %s; remedy: %s", errRefused, fmt.Sprintf(format, args...), remedy)
}

// maxExecutable bounds the size of a plugin's file, in bytes.
const maxExecutable = 512 << 20

// executable is a file that was checked and may be executed through its
// descriptor.
type executable struct {
	file   *os.File
	path   string
	sum    string // sha256, hexadecimal
	script bool   // not an ELF file
}

// openExecutable opens the file of s and checks it: nobody but the trusted may
// have written it or may replace it, and it has one of the pins, if there are
// any. The caller closes the file.
func openExecutable(s Spec, trusted []uint32) (*executable, error) {
	if err := checkParents(s.Path, trusted); err != nil {
		return nil, err
	}
	f, err := openTrusted(s.Path, trusted)
	if err != nil {
		return nil, err
	}
	e := &executable{file: f, path: s.Path}
	if err := e.check(s); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return e, nil
}

func (e *executable) check(s Spec) error {
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o111 == 0 {
		return refuse("chmod a+x "+quote(e.path), "%s is not executable (mode %04o)", e.path, info.Mode().Perm())
	}
	if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return refuse("chmod ug-s "+quote(e.path), "%s is setuid or setgid", e.path)
	}
	magic := make([]byte, 4)
	if _, err := e.file.ReadAt(magic, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	e.script = !bytes.Equal(magic, []byte("\x7fELF"))
	if e.sum, err = e.hash(); err != nil {
		return err
	}
	return checkPin(s, e.sum)
}

// hash reads the whole file through the descriptor, from its start and
// without moving its offset.
func (e *executable) hash() (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(e.file, 0, maxExecutable+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", e.path, err)
	}
	if n > maxExecutable {
		return "", refuse("use a smaller file", "%s has more than %d MiB", e.path, maxExecutable>>20)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// recheck says whether the file still has the content that was checked. The
// kernel lets nobody write a file that is being executed, so once the process
// runs the answer stands.
func (e *executable) recheck() error {
	sum, err := e.hash()
	if err != nil {
		return err
	}
	if sum != e.sum {
		return refuse("find out who writes to it", "%s was changed while it was being started", e.path)
	}
	return nil
}

func checkPin(s Spec, sum string) error {
	if len(s.SHA256) == 0 || slices.Contains(s.SHA256, sum) {
		return nil
	}
	where := "the plugin's manifest"
	if s.Source != "" {
		where = s.Source
	}
	return refuse(fmt.Sprintf("if you replaced it on purpose, put this line into %s: %s", where, pinLine(sum)),
		"%s is not the pinned file: its sha256 is %s", s.Path, sum)
}

// pinLine is the line of a manifest that pins sum.
func pinLine(sum string) string { return fmt.Sprintf("sha256 = [%q]", sum) }

// openTrusted opens a regular file that only the trusted may write. The last
// component is not followed if it is a link.
func openTrusted(path string, trusted []uint32) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, refuse("name the file it points to", "%s is a symbolic link", path)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES):
		return nil, refuse("install it, or correct the path", "%s: %v", path, err)
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse("name a regular file", "%s is not a regular file", path)
	}
	if err == nil {
		err = checkOwner(path, info, trusted)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkParents checks each directory from the root down to the file: whoever
// may write one of them may put another file in place.
func checkParents(path string, trusted []uint32) error {
	dir := "/"
	for _, part := range strings.Split(filepath.Dir(path), "/") {
		dir = filepath.Join(dir, part)
		info, err := os.Lstat(dir)
		if err != nil {
			return refuse("install the plugin, or correct the path", "%v", err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return refuse("name the path that it stands for", "%s, on the way to %s, is a symbolic link", dir, path)
		}
		if err := checkOwner(dir, info, trusted); err != nil {
			return err
		}
	}
	return nil
}

func checkOwner(path string, info fs.FileInfo, trusted []uint32) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: the owner is not known", path)
	}
	if !slices.Contains(trusted, st.Uid) {
		return refuse("chown root:root "+quote(path), "%s is owned by uid %d", path, st.Uid)
	}
	if info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil // others may write there, but only its owner may replace what is not theirs
	}
	if info.Mode().Perm()&0o022 != 0 {
		return refuse("chmod go-w "+quote(path), "%s is writable by group or others (mode %04o)", path, info.Mode().Perm())
	}
	return nil
}

// quote makes a path fit to be pasted into a shell.
func quote(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$`*?[](){}<>|&;#~!") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
