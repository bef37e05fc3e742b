// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/signers"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxDocument is what the agent takes for one file.
const maxDocument = 1 << 20

// cmdIndex works on a directory of documents: it needs no agent, and runs
// wherever the documents are signed.
func cmdIndex(_ context.Context, e *env, args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "make":
			return indexMake(e, args[1:])
		case "check":
			return indexCheck(e, args[1:])
		}
	}
	return exitUsage, fmt.Errorf("%w: want `felhom-agent index make DIR` or `check DIR`", errUsage)
}

func indexMake(e *env, args []string) (int, error) {
	f := newFlags(e, "index make", "list the documents of a directory in "+plugin.IndexName+", for signing.\nPrints what is to be signed, and how.")
	issuer := f.String("issuer", "", "the `name` in allowed_signers under which the set is signed")
	host := f.String("host", shortHost(), "the host `name` that the set is for")
	serial := f.Uint64("serial", 0, "the serial `number`; 0 is one more than that of the present index")
	notAfter := f.String("not-after", "720h", "until when it holds: a `duration` from now, or a time like 2027-01-31T00:00:00Z")
	nothing := f.Bool("nothing", false, "say on purpose that there is nothing to manage")
	dirs, err := f.parse(args, 1, 1)
	if err != nil {
		return exitUsage, err
	}
	end, err := indexEnd(*notAfter)
	if err != nil {
		return exitUsage, err
	}
	files, err := documents(dirs[0])
	if err != nil {
		return exitError, err
	}
	if *nothing != (len(files) == 0) {
		return exitError, fmt.Errorf("%s has %d documents: --nothing is for a set that manages nothing, and needed then", dirs[0], len(files))
	}
	if *serial == 0 {
		if *serial, err = nextSerial(dirs[0]); err != nil {
			return exitError, err
		}
	}
	text, err := gate.NewIndex(*issuer, *host, *serial, end, files).Text()
	if err != nil {
		return exitError, err
	}
	return exitOK, writeIndex(e, dirs[0], text)
}

func indexEnd(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d).UTC().Truncate(time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%w: --not-after %q is neither a duration like 720h nor a time like 2027-01-31T00:00:00Z", errUsage, s)
	}
	return t.UTC().Truncate(time.Second), nil
}

// documents reads what the dir provider would carry, the index aside.
func documents(dir string) ([]gate.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []gate.File
	for _, entry := range entries {
		name := entry.Name()
		ext := filepath.Ext(name)
		if ext != ".toml" && ext != ".json" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") {
			continue
		}
		data, err := fsys.ReadFile(fsys.OS{}, "INDEX", filepath.Join(dir, name), maxDocument)
		if err != nil {
			return nil, err
		}
		files = append(files, gate.File{Name: name, Data: data})
	}
	return files, nil
}

func nextSerial(dir string) (uint64, error) {
	text, err := fsys.ReadFile(fsys.OS{}, "INDEX", filepath.Join(dir, plugin.IndexName), maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	x, err := gate.ParseIndex(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w; give the --serial", filepath.Join(dir, plugin.IndexName), err)
	}
	return x.Serial + 1, nil
}

// writeIndex removes the former signatures: they are of another text.
func writeIndex(e *env, dir string, text []byte) error {
	path := filepath.Join(dir, plugin.IndexName)
	if err := os.Remove(path + ".sig"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fsys.WriteFileAtomic(fsys.OS{}, "INDEX", path, text, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s\nThis is in %s now. To sign it, each signer:\n\n    ssh-keygen -Y sign -n %s -f KEY < %s >> %s.sig\n",
		text, path, gate.DesiredNamespace, path, path)
	return nil
}

func indexCheck(e *env, args []string) (int, error) {
	f := newFlags(e, "index check", "check a signed directory as the agent would, all but the serial it had last.\nExit status: 0 it would be taken, 1 it would not.")
	issuer := f.String("issuer", "", "the `name` whose sets are taken; empty is whom the index names")
	host := f.String("host", shortHost(), "the host `name` that the set is for")
	threshold := f.Int("threshold", 1, "how many people must have signed")
	dirs, err := f.parse(args, 1, 1)
	if err != nil {
		return exitUsage, err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return exitError, err
	}
	keys, err := signers.Of(cfg).Load()
	if err != nil {
		return exitError, err
	}
	text, signed, err := readIndex(dirs[0])
	if err != nil {
		return exitError, err
	}
	if x, err := gate.ParseIndex(text); err == nil && *issuer == "" {
		*issuer = x.Issuer
	}
	files, err := documents(dirs[0])
	if err != nil {
		return exitError, err
	}
	policy := gate.IndexPolicy{Issuer: *issuer, Host: *host, Rule: gate.Rule{Threshold: *threshold}}
	x, err := gate.VerifyIndex(text, signed, files, policy, time.Now(), keys.Signers, keys.Revoked)
	if err != nil {
		return exitError, err
	}
	fmt.Fprintf(e.stdout, "good: serial %d of %s for %s, not after %s, %d files, %d signatures\n",
		x.Serial, x.Issuer, x.Host, x.NotAfter.Format(time.RFC3339), len(x.Files), len(signed))
	return exitOK, nil
}

func readIndex(dir string) ([]byte, []gate.Signed, error) {
	path := filepath.Join(dir, plugin.IndexName)
	text, err := fsys.ReadFile(fsys.OS{}, "INDEX", path, maxDocument)
	if err != nil {
		return nil, nil, err
	}
	paste, err := fsys.ReadFile(fsys.OS{}, "INDEX", path+".sig", maxDocument)
	if err != nil {
		return nil, nil, err
	}
	armored, err := gate.SplitSignatures(paste)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.sig: %w", path, err)
	}
	var signed []gate.Signed
	for _, a := range armored {
		signed = append(signed, gate.Signed{Armored: a})
	}
	return text, signed, nil
}

// shortHost is this host's name, "" if it has none.
func shortHost() string {
	h, err := shortHostname()
	if err != nil {
		return ""
	}
	return h
}
