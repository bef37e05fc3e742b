// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The bounds of a directory. They keep a snapshot well below what a message
// may hold.
const (
	maxFiles   = 2000
	maxFile    = 1 << 20  // bytes
	maxTotal   = 8 << 20  // bytes, signatures included
	maxSig     = 64 << 10 // bytes
	maxEntries = 10_000   // of any kind
	sigSuffix  = ".sig"
)

// attempts is how often a directory that changes while it is read is read
// again.
const attempts = 5

// errChanged: the directory changed while it was read.
var errChanged = errors.New("the directory changes while it is read")

// wanted says whether a name is that of a desired file or of the index of a
// signed set. Hidden files and what
// editors and packaging tools leave (.a.toml.swp, a.toml~, #a.toml#,
// a.toml.dpkg-new) are not.
func wanted(name string) bool {
	ext := strings.ToLower(filepath.Ext(name)) // the core refuses WEB.TOML: it must not be left out without a word
	return name == plugin.IndexName || (ext == ".toml" || ext == ".json") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "#")
}

// worthALook says whether an event may have changed a snapshot.
func worthALook(dir string, ev fsnotify.Event) bool {
	name := filepath.Base(ev.Name)
	return ev.Name == dir || wanted(strings.TrimSuffix(name, sigSuffix))
}

// identity is which directory a path is. The time of birth tells a directory
// from the next one that was given the same inode.
type identity struct {
	major, minor uint32
	ino          uint64
	born         unix.StatxTimestamp // zero where the file system has none
}

// reader reads a directory and remembers which one it was.
type reader struct {
	path string

	mu    sync.Mutex // guards what follows
	known identity   // the directory whose content was delivered last
	last  identity   // the directory that was looked at last
}

func newReader(path string) *reader { return &reader{path: path} }

// snapshot reads the directory as a whole.
func (r *reader) snapshot() plugin.Snapshot {
	files, err := r.settled()
	if err != nil {
		return plugin.Snapshot{Err: err.Error()}
	}
	return plugin.Snapshot{Revision: revision(files), Files: files}
}

// settled reads until two looks at the directory agree.
func (r *reader) settled() ([]plugin.File, error) {
	for range attempts {
		files, err := r.once()
		if !errors.Is(err, errChanged) {
			return files, err
		}
	}
	return nil, errChanged
}

func (r *reader) once() ([]plugin.File, error) {
	root, err := os.OpenRoot(r.path)
	if err != nil {
		r.looked(identity{})
		return nil, err
	}
	defer root.Close()
	dir, err := r.look(root)
	if err != nil {
		return nil, err
	}
	before, err := list(root)
	if err != nil {
		return nil, err
	}
	files, err := readAll(root, before)
	if err != nil {
		return nil, err
	}
	after, err := list(root)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(before, after) {
		return nil, errChanged
	}
	return files, r.accept(dir, len(files))
}

// accept refuses an empty directory in the place of one that was not: that is
// what an unmounted file system, or a replacement that is not filled yet,
// looks like.
func (r *reader) accept(dir identity, files int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if files == 0 && r.known != (identity{}) && r.known != dir {
		return fmt.Errorf("%s is another directory than before, and empty: is its file system mounted? "+
			"(if it is meant to be empty, restart this plugin)", r.path)
	}
	r.known = dir
	return nil
}

// look says which directory root is, if it is one whose content can be
// trusted.
func (r *reader) look(root *os.Root) (identity, error) {
	f, err := root.Open(".")
	if err != nil {
		return identity{}, err
	}
	defer f.Close()
	dir := identify(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	r.looked(dir)
	info, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	return dir, owned(r.path, info)
}

func (r *reader) looked(dir identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = dir
}

// moved says whether the path is not the directory that was looked at last.
func (r *reader) moved() bool {
	now := identify(unix.AT_FDCWD, r.path, 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	return now != r.last
}

// identify is zero for what cannot be looked at.
func identify(fd int, path string, flags int) identity {
	var st unix.Statx_t
	if err := unix.Statx(fd, path, flags, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}
	}
	return identity{major: st.Dev_major, minor: st.Dev_minor, ino: st.Ino, born: st.Btime}
}

// owned refuses what any user may write.
func owned(name string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s is writable by every user (mode %04o): chmod o-w", name, info.Mode().Perm())
	}
	return nil
}

// entry is one file as the listing shows it; equal entries have not changed.
type entry struct {
	name      string
	size      int64
	modified  int64
	changed   int64
	ino       uint64
	mode      fs.FileMode
	signature bool
}

// list lists the desired files and their signatures, in order.
func list(root *os.Root) ([]entry, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("the directory holds more than %d entries", maxEntries)
	}
	slices.Sort(names)
	var all []entry
	for _, name := range names {
		base, signature := strings.CutSuffix(name, sigSuffix)
		if !wanted(base) {
			continue
		}
		info, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errChanged
		}
		if err != nil {
			return nil, err
		}
		e := entry{name: name, size: info.Size(), modified: info.ModTime().UnixNano(), mode: info.Mode(), signature: signature}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			e.ino, e.changed = st.Ino, st.Ctim.Nano()
		}
		all = append(all, e)
	}
	return all, nil
}

// readAll reads the listed files. A signature without its file is left out.
func readAll(root *os.Root, entries []entry) ([]plugin.File, error) {
	var files []plugin.File
	signatures := map[string][][]byte{}
	total := 0
	for _, e := range entries {
		data, err := readOne(root, e)
		if err != nil {
			return nil, err
		}
		if total += len(data); total > maxTotal {
			return nil, fmt.Errorf("the files hold more than %d MiB", maxTotal>>20)
		}
		if e.signature {
			signatures[strings.TrimSuffix(e.name, sigSuffix)] = split(data)
			continue
		}
		if files = append(files, plugin.File{Name: e.name, Data: data}); len(files) > maxFiles {
			return nil, fmt.Errorf("the directory holds more than %d files", maxFiles)
		}
	}
	for i := range files {
		files[i].Signatures = signatures[files[i].Name]
	}
	return files, nil
}

func readOne(root *os.Root, e entry) ([]byte, error) {
	limit := int64(maxFile)
	if e.signature {
		limit = maxSig
	}
	switch {
	case !utf8.ValidString(e.name):
		return nil, fmt.Errorf("%q: the name is not valid UTF-8", e.name)
	case e.mode&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("%s is a symbolic link; only regular files are taken", e.name)
	case !e.mode.IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", e.name)
	case e.size > limit:
		return nil, fmt.Errorf("%s has %d bytes, more than %d", e.name, e.size, limit)
	}
	f, err := root.OpenFile(e.name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // it was exchanged since it was listed
		return nil, errChanged
	}
	if err := owned(e.name, info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) != e.size {
		err = errChanged
	}
	return data, err
}

// split takes the signatures of a file apart: ssh-keygen writes one in armour,
// and several signers' may be written one after the other.
func split(data []byte) [][]byte {
	const begin = "-----BEGIN SSH SIGNATURE-----"
	first := bytes.Index(data, []byte(begin))
	if first < 0 {
		return [][]byte{data}
	}
	var all [][]byte
	for rest := data[first:]; len(rest) > 0; {
		next := bytes.Index(rest[1:], []byte(begin))
		if next < 0 {
			return append(all, rest)
		}
		all = append(all, rest[:next+1])
		rest = rest[next+1:]
	}
	return all
}

// revision is a hash of names, contents and signatures.
func revision(files []plugin.File) string {
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, f := range files {
		put([]byte(f.Name))
		put(f.Data)
		for _, s := range f.Signatures {
			put(s)
		}
		put(nil) // the end of the signatures
	}
	return hex.EncodeToString(h.Sum(nil))
}
