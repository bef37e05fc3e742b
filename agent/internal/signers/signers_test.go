// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package signers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGf8WCDnc/h1vX0vT2wSyYAlKjHx0WQBRwQ7BbLmcpC3"

// good makes both files; the revoked one revokes nothing.
func good(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Allowed: filepath.Join(dir, "allowed_signers"), Revoked: filepath.Join(dir, "revoked_keys"), Owners: []uint32{uint32(os.Getuid())}}
	write(t, f.Allowed, "alice@example.com "+key+"\n")
	write(t, f.Revoked, "# none\n")
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	f := good(t)
	k, err := f.Load()
	if err != nil || k.Signers.Len() != 1 || k.Revoked.Len() != 0 {
		t.Fatalf("%+v, %v", k, err)
	}
	write(t, f.Revoked, key+"\n") // read anew each time
	if k, err = f.Load(); err != nil || k.Revoked.Len() != 1 {
		t.Errorf("after a revocation: %+v, %v", k, err)
	}
	f.Revoked = ""
	if k, err = f.Load(); err != nil || k.Revoked != nil {
		t.Errorf("without revoked_keys: %+v, %v", k, err)
	}
}

// Each way in which who may sign is not known for sure: nobody may.
func TestNobodyMaySign(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f *Files)
		want  string
	}{
		"not set":            {func(_ *testing.T, f *Files) { f.Allowed = "" }, "allowed_signers is not set"},
		"no allowed_signers": {func(t *testing.T, f *Files) { must(t, os.Remove(f.Allowed)) }, "create it with a line"},
		"no revoked_keys":    {func(t *testing.T, f *Files) { must(t, os.Remove(f.Revoked)) }, "an empty file revokes nothing"},
		"a bad line":         {func(t *testing.T, f *Files) { write(t, f.Allowed, "alice\n") }, "allowed_signers:1"},
		"a bad revocation":   {func(t *testing.T, f *Files) { write(t, f.Revoked, "ssh-ed25519 A\n") }, "revoked_keys:1"},
		"writable by others": {func(t *testing.T, f *Files) { must(t, os.Chmod(f.Allowed, 0o602)) }, "chmod go-w"},
		"writable revoked":   {func(t *testing.T, f *Files) { must(t, os.Chmod(f.Revoked, 0o620)) }, "chmod go-w"},
		"writable directory": {func(t *testing.T, f *Files) { must(t, os.Chmod(filepath.Dir(f.Allowed), 0o777)) }, "chmod go-w"},
		"a directory":        {func(t *testing.T, f *Files) { must(t, os.Remove(f.Allowed)); must(t, os.Mkdir(f.Allowed, 0o700)) }, "not a regular file"},
		"a link": {func(t *testing.T, f *Files) {
			must(t, os.Rename(f.Allowed, f.Allowed+"-2"))
			must(t, os.Symlink(f.Allowed+"-2", f.Allowed))
		}, "symbolic link"},
		"a link on the way": {func(t *testing.T, f *Files) {
			link := filepath.Join(filepath.Dir(f.Allowed), "link")
			must(t, os.Symlink(filepath.Dir(f.Allowed), link))
			f.Allowed = filepath.Join(link, "allowed_signers")
		}, "symbolic link"},
		"a stranger's": {func(t *testing.T, f *Files) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			must(t, os.Chown(f.Allowed, 12345, -1))
		}, "owned by uid 12345"},
		"too big": {func(t *testing.T, f *Files) { write(t, f.Allowed, strings.Repeat("#\n", maxFile/2+1)) }, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			f := good(t)
			c.spoil(t, &f)
			k, err := f.Load()
			if err == nil || !strings.Contains(err.Error(), c.want) || k != (Keys{}) {
				t.Errorf("got %+v, %v; want %q", k, err, c.want)
			}
		})
	}
}

// The owner of a sticky directory may rename what is in it, whosever that is:
// an older file that was left there, for one.
func TestStickyDirectoryOfAStranger(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "sticky") // every directory on the way is root's
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		must(t, os.Chown(dir, 65534, 65534))
	}
	must(t, os.Chmod(dir, 0o755|os.ModeSticky))
	if err := (Files{}).checkParents(filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), dir+" is owned by uid") {
		t.Errorf("got %v", err)
	}
}
