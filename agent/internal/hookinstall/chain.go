// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// A guest's former hookscript is beside the snippet: felhom-hook.d/VMID is a
// link to it, which the snippet runs, and felhom-hook.d/VMID.former holds its
// volume id, which remove puts back.

func (s Storage) link(id guest.VMID) string {
	return filepath.Join(s.snippets(), name+".d", id.String())
}

func (s Storage) formerFile(id guest.VMID) string { return s.link(id) + ".former" }

// former is the volume id of the chained hookscript; "" if there is none, or
// somebody put it there by hand.
func (s Storage) former(id guest.VMID) (string, error) {
	b, err := readRegular(s.formerFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// chained says whether something is linked for the guest.
func (s Storage) chained(id guest.VMID) bool {
	_, err := os.Lstat(s.link(id))
	return err == nil
}

// chain are the steps that keep what the guest's hookscript was so far.
func (in *Installer) chain(st Storage, id guest.ID, now string) ([]Step, []string, error) {
	if isOurs(now) {
		return in.moveChain(st, id, now)
	}
	old, err := st.former(id.VMID)
	if err != nil {
		return nil, nil, err
	}
	if now == "" {
		return unlinkSteps(st, id.VMID, old), leftOver(st, id, old), nil
	}
	_, path, err := in.Facts.resolve(now)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the present hookscript cannot be chained: %w", ErrRefused, err)
	}
	if !executable(path) {
		return nil, nil, fmt.Errorf("%w: the present hookscript %s (%s) is not an executable file: %s does not start as it is; correct or delete the option first",
			ErrRefused, now, path, id)
	}
	to, _ := os.Readlink(st.link(id.VMID))
	if st.chained(id.VMID) && to != path && old == "" {
		return nil, nil, fmt.Errorf("%w: %s is there and is not %s; one of the two has to go first", ErrRefused, st.link(id.VMID), path)
	}
	steps := in.linkSteps(st, id.VMID, path, now)
	if old != now || to != path {
		steps = append(unlinkSteps(st, id.VMID, old), steps...)
	}
	return steps, []string{"the former hookscript " + now + " is run after ours, as before"}, nil
}

// unlinkSteps take away what an installation before this one chained: it was of
// the guest that had the VMID then, or was given up since.
func unlinkSteps(st Storage, id guest.VMID, old string) []Step {
	if old == "" {
		return nil
	}
	return []Step{{What: "remove " + st.link(id) + ", the former hookscript " + old + " of an earlier installation", do: func(context.Context) error {
		if err := os.Remove(st.link(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Remove(st.formerFile(id))
	}}}
}

// leftOver tells of a chained script that begins to run with ours; old is one
// that is taken away.
func leftOver(st Storage, id guest.ID, old string) []string {
	if !st.chained(id.VMID) || old != "" {
		return nil
	}
	return []string{st.link(id.VMID) + " is there and will be run"}
}

func (in *Installer) linkSteps(st Storage, id guest.VMID, path, volid string) []Step {
	link, former := st.link(id), st.formerFile(id)
	return []Step{{What: "link " + link + " -> " + path, do: func(context.Context) error {
		if err := put(former, []byte(volid+"\n"), 0o644); err != nil {
			return err
		}
		if err := os.Symlink(path, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}}}
}

// moveChain takes what is chained along to another storage.
func (in *Installer) moveChain(st Storage, id guest.ID, now string) ([]Step, []string, error) {
	old, _, err := in.Facts.resolve(now)
	if err != nil || !old.chained(id.VMID) {
		return nil, leftOver(st, id, ""), nil
	}
	volid, err := old.former(id.VMID)
	if err != nil {
		return nil, nil, err
	}
	path, err := os.Readlink(old.link(id.VMID))
	if err != nil || volid == "" {
		return nil, nil, fmt.Errorf("%w: %s was put there by hand; put it to %s as well, and try again", ErrRefused, old.link(id.VMID), st.link(id.VMID))
	}
	if st.chained(id.VMID) {
		return nil, leftOver(st, id, ""), nil
	}
	return in.linkSteps(st, id.VMID, path, volid), []string{"the former hookscript " + volid + " stays in the chain"}, nil
}

// Remove plans to take the hookscript off a guest: the former one comes back.
func (in *Installer) Remove(ctx context.Context, g Guest) (Change, error) {
	c := Change{Guest: g}
	now, err := in.hookscript(ctx, g.ID)
	if err != nil {
		return c, err
	}
	c.Now, c.Then = now, now
	if !isOurs(now) {
		return c, nil
	}
	c.Then = ""
	st, path, err := in.Facts.resolve(now)
	if err != nil {
		c.Steps = []Step{in.set(g.ID, "")} // it does not start as it is
		return c, nil
	}
	c.Notes = append(c.Notes, path+" stays: a snapshot or a backup may name it, and the guest would not start after a rollback or a restore")
	volid, err := st.former(g.ID.VMID)
	if err != nil {
		return c, err
	}
	if volid == "" {
		if st.chained(g.ID.VMID) {
			c.Notes = append(c.Notes, st.link(g.ID.VMID)+" was put there by hand; it stays, and is run no more")
		}
		c.Steps = append(c.Steps, in.set(g.ID, ""))
		return c, nil
	}
	return c, in.putBack(&c, st, volid)
}

// putBack makes the former hookscript the guest's own again. It stays chained
// for the snapshots and backups that name ours.
func (in *Installer) putBack(c *Change, st Storage, volid string) error {
	id := c.Guest.ID
	if _, path, err := in.Facts.resolve(volid); err != nil || !executable(path) {
		return fmt.Errorf("%w: the former hookscript %s is not an executable file any more, with it %s would not start; remove %s to give it up",
			ErrRefused, volid, id, st.formerFile(id.VMID))
	}
	c.Then = volid
	c.Steps = append(c.Steps, in.set(id, volid))
	c.Notes = append(c.Notes, st.link(id.VMID)+" stays as well: after such a rollback or restore it is run again")
	return nil
}

// Standing is how the hookscript of one guest stands.
type Standing struct {
	Guest      guest.ID `json:"guest"`
	Name       string   `json:"name,omitempty"`
	Hookscript string   `json:"hookscript,omitempty"`
	// Installed is whether it is ours; Former what it chains.
	Installed bool   `json:"installed"`
	Former    string `json:"former,omitempty"`
	// Trouble says what would keep the guest from starting, or events from
	// arriving; "" if nothing.
	Trouble string `json:"trouble,omitempty"`
}

// Status tells how a guest stands.
func (in *Installer) Status(ctx context.Context, g Guest) (Standing, error) {
	s := Standing{Guest: g.ID, Name: g.Name}
	now, err := in.hookscript(ctx, g.ID)
	if err != nil {
		return s, err
	}
	s.Hookscript, s.Installed = now, isOurs(now)
	if now == "" {
		return s, nil
	}
	st, path, err := in.Facts.resolve(now)
	switch {
	case err != nil:
		s.Trouble = "the guest does not start: " + err.Error()
	case !executable(path):
		s.Trouble = "the guest does not start: " + path + " is not an executable file"
	case s.Installed:
		in.own(&s, g, st, path)
	}
	return s, nil
}

// own fills in what is only of interest where the hookscript is ours.
func (in *Installer) own(s *Standing, g Guest, st Storage, path string) {
	s.Former, _ = st.former(g.ID.VMID)
	if s.Former == "" && st.chained(g.ID.VMID) {
		s.Former = st.link(g.ID.VMID)
	}
	have, err := readRegular(path)
	switch why := st.unfit(g, in.Facts.Node); {
	case g.HA && why != "":
		s.Trouble = "storage " + st.ID + ": " + why
	case err != nil:
		s.Trouble = err.Error()
	case in.Snippet != nil && string(have) != string(in.Snippet):
		s.Trouble = path + " is another version than this package's; `felhom-agent hook install " + g.ID.VMID.String() + "` replaces it"
	case st.chained(g.ID.VMID) && !executable(st.link(g.ID.VMID)):
		s.Trouble = st.link(g.ID.VMID) + " is not an executable file and is not run"
	}
}
