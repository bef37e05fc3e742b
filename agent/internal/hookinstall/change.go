// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookinstall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	// name is the snippet's file name on every storage.
	name = "felhom-hook"
	// mark is a line of every version of the snippet.
	mark = "\n# felhom-hook: the hookscript of guests that felhom-agent watches."
)

// Installer installs and removes.
type Installer struct {
	Facts *Facts
	Run   Runner
	// Snippet is the shipped snippet.
	Snippet []byte
	// Storage, if not empty, is the one to use.
	Storage string
}

// Step is one change, in words and as what does it.
type Step struct {
	What string
	do   func(context.Context) error
}

// Change is what install or remove would do to one guest; no steps = it is as
// wanted.
type Change struct {
	Guest Guest
	Steps []Step
	// Notes are what the admin should know.
	Notes []string
	// Now is how the guest stands before, Then after.
	Now, Then string
}

// Do carries the steps out in order, up to the first that fails.
func (c Change) Do(ctx context.Context) error {
	for _, s := range c.Steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
	}
	return nil
}

// command is pct or qm.
func command(id guest.ID) string {
	if id.Kind == guest.QEMU {
		return "qm"
	}
	return "pct"
}

// hookscript reads the option from a guest's config; "" if it has none.
func (in *Installer) hookscript(ctx context.Context, id guest.ID) (string, error) {
	out, err := in.Run(ctx, command(id), "config", id.VMID.String())
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "hookscript:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", nil
}

// set is the step that changes the option, and reads it back.
func (in *Installer) set(id guest.ID, volid string) Step {
	args := []string{"set", id.VMID.String(), "--hookscript", volid}
	if volid == "" {
		args = []string{"set", id.VMID.String(), "--delete", "hookscript"}
	}
	return Step{What: command(id) + " " + strings.Join(args, " "), do: func(ctx context.Context) error {
		if _, err := in.Run(ctx, command(id), args...); err != nil {
			return err
		}
		now, err := in.hookscript(ctx, id)
		if err == nil && now != volid {
			err = fmt.Errorf("afterwards the config says %q", now)
		}
		return err
	}}
}

// isOurs reports whether a volume id stands for our snippet.
func isOurs(volid string) bool { return strings.HasSuffix(volid, ":snippets/"+name) }

// Install plans to put the hookscript on a guest.
func (in *Installer) Install(ctx context.Context, g Guest) (Change, error) {
	c := Change{Guest: g}
	now, err := in.hookscript(ctx, g.ID)
	if err != nil {
		return c, err
	}
	c.Now = now
	st, err := in.target(g, now)
	if err != nil {
		return c, err
	}
	c.Then = st.ID + ":snippets/" + name
	stub, err := in.stub(st)
	if err != nil {
		return c, err
	}
	c.Steps = append(c.Steps, stub...)
	if now != c.Then {
		chain, note, err := in.chain(st, g.ID, now)
		if err != nil {
			return c, err
		}
		c.Steps = append(c.Steps, chain...)
		c.Notes = append(c.Notes, note...)
		c.Steps = append(c.Steps, in.set(g.ID, c.Then))
	}
	if !st.Shared && len(in.Facts.Nodes) > 1 {
		c.Notes = append(c.Notes, "storage "+st.ID+" is not shared: before "+g.ID.String()+" is migrated, the other node needs "+
			filepath.Join(st.snippets(), name)+" too, or it does not start there")
	}
	return c, nil
}

// target is where the guest's snippet belongs: where it is already, if that
// will do, else where it fits.
func (in *Installer) target(g Guest, now string) (Storage, error) {
	if isOurs(now) && in.Storage == "" {
		if st, _, err := in.Facts.resolve(now); err == nil && st.unfit(g, in.Facts.Node) == "" {
			return st, nil
		}
	}
	return in.Facts.pick(g, in.Storage)
}

// stub are the steps that put the snippet in place.
func (in *Installer) stub(st Storage) ([]Step, error) {
	path := filepath.Join(st.snippets(), name)
	have, err := readRegular(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	case !bytes.Contains(have, []byte(mark)):
		return nil, fmt.Errorf("%w: %s is there and is not felhom-agent's; it is not overwritten", ErrRefused, path)
	case bytes.Equal(have, in.Snippet) && executable(path):
		return nil, nil
	}
	return []Step{{What: "write " + path + " (mode 755)", do: func(context.Context) error { return put(path, in.Snippet, 0o755) }}}, nil
}

// maxSnippet bounds what is read of a file that should be a snippet.
const maxSnippet = 1 << 20

func readRegular(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSnippet {
		return nil, fmt.Errorf("%s is not a small regular file", path)
	}
	return os.ReadFile(path)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !noExec(path)
}

// put replaces a file by rename: at no moment is there none, or half of one,
// for a guest that starts.
func put(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
