// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookinstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Storage is one that can hold files.
type Storage struct {
	ID      string
	Type    string
	Path    string // "" if it has none
	Dir     string // of the snippets, below Path
	Content []string
	Nodes   []string // none = all
	Shared  bool
	Off     bool
	Mount   string // where a file system must be mounted; "" = nowhere
}

// sharedTypes are shared by what they are; a directory is if it says so.
var sharedTypes = []string{"nfs", "cifs", "cephfs", "glusterfs"}

func (f *Facts) storages(ctx context.Context, run Runner) error {
	var rows []struct {
		Storage, Type, Path, Content, Nodes string
		Shared, Disable                     flag
		Dirs                                string          `json:"content-dirs"`
		Mount                               json.RawMessage `json:"is_mountpoint"`
	}
	if err := get(ctx, run, "/storage", &rows); err != nil {
		return err
	}
	for _, r := range rows {
		s := Storage{
			ID: r.Storage, Type: r.Type, Path: r.Path, Dir: "snippets", Content: words(r.Content), Nodes: words(r.Nodes),
			Shared: bool(r.Shared) || slices.Contains(sharedTypes, r.Type), Off: bool(r.Disable),
		}
		if s.Path == "" && slices.Contains(sharedTypes, r.Type) {
			s.Path = "/mnt/pve/" + r.Storage
		}
		s.Mount = mountPoint(s, strings.Trim(string(r.Mount), `"`))
		for _, d := range words(r.Dirs) {
			if dir, ok := strings.CutPrefix(d, "snippets="); ok {
				s.Dir = dir
			}
		}
		f.Storages = append(f.Storages, s)
	}
	slices.SortFunc(f.Storages, func(a, b Storage) int { return strings.Compare(a.ID, b.ID) })
	return nil
}

// mountPoint reads is_mountpoint: a boolean of PVE's, or a path.
func mountPoint(s Storage, said string) string {
	var yes flag
	_ = yes.UnmarshalJSON([]byte(said)) // it has no error
	switch {
	case slices.Contains(sharedTypes, s.Type), bool(yes):
		return s.Path
	case strings.HasPrefix(said, "/"):
		return said
	}
	return ""
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// snippets is the directory of the storage's snippets.
func (s Storage) snippets() string { return filepath.Join(s.Path, s.Dir) }

// unfit says why guests whose hookscript is on s would not start, or "".
func (s Storage) unfit(g Guest, node string) string {
	needed := []string{node}
	if g.HA {
		needed = g.Nodes
	}
	switch {
	case s.Off:
		return "it is disabled"
	case s.Path == "":
		return "it has no directory (type " + s.Type + ")"
	case !slices.Contains(s.Content, "snippets"):
		return fmt.Sprintf("its content has no snippets; `pvesm set %s --content %s` adds it", s.ID, strings.Join(append(slices.Clone(s.Content), "snippets"), ","))
	case g.HA && len(needed) > 1 && !s.Shared:
		return "it is not shared, and HA may start " + g.ID.String() + " on " + strings.Join(needed, ", ") + ", where the snippet would be missing"
	}
	if len(s.Nodes) > 0 {
		for _, n := range needed {
			if !slices.Contains(s.Nodes, n) {
				return "node " + n + " does not have it"
			}
		}
	}
	return s.unreachable()
}

// unreachable says why the storage's files are not there now, or "".
func (s Storage) unreachable() string {
	info, err := os.Stat(s.Path)
	switch {
	case err != nil:
		return err.Error()
	case !info.IsDir():
		return s.Path + " is not a directory"
	case s.Mount != "" && !mounted(s.Mount):
		return s.Mount + " is not mounted"
	case noExec(s.Path):
		return s.Path + " is on a file system that runs nothing (mounted noexec)"
	}
	return ""
}

// noExec reports whether the file system of path is mounted so that no file of
// it is run, whatever its mode says.
func noExec(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_NOEXEC != 0
}

// mounted reports whether a file system, or a part of one, is mounted at path.
func mounted(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st) != nil {
		return false
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// ErrRefused marks what would keep a guest from starting.
var ErrRefused = errors.New("refused")

// pick chooses the storage for a guest: the wanted one, else a shared one in a
// cluster, else "local", else the first that fits.
func (f *Facts) pick(g Guest, wanted string) (Storage, error) {
	var best *Storage
	var reasons []string
	for i, s := range f.Storages {
		if wanted != "" && s.ID != wanted {
			continue
		}
		if why := s.unfit(g, f.Node); why != "" {
			reasons = append(reasons, s.ID+": "+why)
			continue
		}
		if best == nil || f.rank(s) > f.rank(*best) {
			best = &f.Storages[i]
		}
	}
	switch {
	case best != nil:
		return *best, nil
	case len(reasons) > 0:
		return Storage{}, fmt.Errorf("%w: no storage fits:\n    %s", ErrRefused, strings.Join(reasons, "\n    "))
	case wanted != "":
		return Storage{}, fmt.Errorf("%w: there is no storage %s", ErrRefused, wanted)
	}
	return Storage{}, fmt.Errorf("%w: there is no storage", ErrRefused)
}

func (f *Facts) rank(s Storage) int {
	switch {
	case s.Shared && len(f.Nodes) > 1:
		return 2
	case s.ID == "local":
		return 1
	}
	return 0
}

// resolve is the file that a volume id of a snippet stands for.
func (f *Facts) resolve(volid string) (Storage, string, error) {
	id, rest, _ := strings.Cut(volid, ":")
	name, ok := strings.CutPrefix(rest, "snippets/")
	if !ok || name == "" || strings.Contains(name, "/") || name == "." || name == ".." {
		return Storage{}, "", fmt.Errorf("%q is no snippet", volid)
	}
	for _, s := range f.Storages {
		if s.ID == id && s.Path != "" {
			return s, filepath.Join(s.snippets(), name), nil
		}
	}
	return Storage{}, "", fmt.Errorf("%q: storage %q has no directory or is not there", volid, id)
}
