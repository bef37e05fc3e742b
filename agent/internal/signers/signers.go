// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package signers reads who may sign: the allowed_signers and revoked_keys
// files that approvals and signed desired sets are held against.
//
// Use: [Files] are the two paths and who may own them, from the configuration
// ([gate]); [Files.Load] reads both. Load at each check and do not keep the
// result: a key that was revoked a second ago counts no more, without a reload.
//
// It guarantees that the answer is whole or an error, and that an error means
// nobody may sign:
//
//   - A file that is named and missing is an error. For revoked_keys too: a
//     list of stolen keys that has got lost must not make them good again. Who
//     revokes nothing has an empty file, or sets the path to "".
//   - Without an allowed_signers ("") nobody may sign. Without a revoked_keys
//     ("") no key is revoked.
//   - Both files are regular, no links, owned by one of the owners, and
//     neither they nor a directory on the way can be written by anybody else.
//   - One malformed line refuses the file (package gate).
package signers

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/gate"
)

// maxFile is what package gate reads at most, and one byte that it refuses.
const maxFile = 4<<20 + 1

// Files are where it is written who may sign.
type Files struct {
	Allowed string // allowed_signers; "" = nobody may sign
	Revoked string // revoked_keys; "" = none is revoked
	// Owners are the users who may own the files and the directories above
	// them; empty means root alone.
	Owners []uint32
}

// Of are the files that a configuration names. Who may own a plugin may own them.
func Of(c config.Config) Files {
	return Files{Allowed: c.Gate.AllowedSigners, Revoked: c.Gate.RevokedKeys, Owners: c.Plugins.Trusted()}
}

// Keys are both files as they were when they were read.
type Keys struct {
	Signers *gate.Signers
	Revoked *gate.Revoked // nil revokes nothing
}

// errNone: signatures are wanted and nobody could give one.
var errNone = errors.New("nobody may sign: [gate] allowed_signers is not set")

// Load reads both files. With an error nobody may sign.
func (f Files) Load() (Keys, error) {
	if f.Allowed == "" {
		return Keys{}, errNone
	}
	data, err := f.read(f.Allowed, "create it with a line for each person who may sign, see ssh-keygen(1), ALLOWED SIGNERS")
	if err != nil {
		return Keys{}, fmt.Errorf("allowed_signers: %w", err)
	}
	var k Keys
	if k.Signers, err = gate.ParseSigners(f.Allowed, data, time.Local); err != nil {
		return Keys{}, err
	}
	if f.Revoked == "" {
		return k, nil
	}
	data, err = f.read(f.Revoked, "create it, an empty file revokes nothing; or set [gate] revoked_keys = \"\"")
	if err != nil {
		return Keys{}, fmt.Errorf("revoked_keys: %w", err)
	}
	if k.Revoked, err = gate.ParseRevoked(f.Revoked, data); err != nil {
		return Keys{}, err
	}
	return k, nil
}

// read returns a file that only the owners can have written.
func (f Files) read(path, missing string) ([]byte, error) {
	if err := f.checkParents(path); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist, so no signature is accepted: %s", path, missing)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%s is a symbolic link: name the file it points to", path)
	case err != nil:
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := f.checkOwner(path, info); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, maxFile))
}

// checkParents checks each directory from the root down to the file: who may
// write one of them may put another file in place.
func (f Files) checkParents(path string) error {
	dir := "/"
	for part := range strings.SplitSeq(filepath.Dir(path), "/") {
		dir = filepath.Join(dir, part)
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s, on the way to %s, is a symbolic link: name the path that it stands for", dir, path)
		}
		if err := f.checkOwner(dir, info); err != nil {
			return err
		}
	}
	return nil
}

func (f Files) checkOwner(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: the owner is not known", path)
	}
	if st.Uid != 0 && !slices.Contains(f.Owners, st.Uid) {
		return fmt.Errorf("%s is owned by uid %d: chown root it", path, st.Uid)
	}
	if info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil // others may write there, but only its owner may replace what is not theirs
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is writable by group or others (mode %04o): chmod go-w it", path, info.Mode().Perm())
	}
	return nil
}
