// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
)

// fileRows change files under the host's hands.
var fileRows = []Row{
	{Name: "file renamed between hash and exec", Run: renamed},
	{Name: "file written in place", Run: written},
	{Name: "import swapped beside a script", Quick: true, Run: swapped},
}

// attempts is how often a plugin is started while its file is being changed.
const attempts = 40

// copySelf copies this program, as good or evil.
func (b *Bed) copySelf(name, as string) (path, sum string, err error) {
	data, err := os.ReadFile(b.env.Self)
	if err != nil {
		return "", "", err
	}
	at, err := stampAt(data)
	if err != nil {
		return "", "", err
	}
	copy(data[at:], as)
	dir := filepath.Join(b.env.Dir, "v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	path = filepath.Join(dir, name)
	h := sha256.Sum256(data)
	return path, hex.EncodeToString(h[:]), os.WriteFile(path, data, 0o755)
}

// stampAt is where the word is that makes the program good or evil.
func stampAt(data []byte) (int, error) {
	head := []byte(strings.Join([]string{"felhom-chaos", "stamp:"}, "-")) // not a second stamp
	at := bytes.Index(data, append(head, "good"...))
	if at < 0 || bytes.Contains(data[at+1:], append(head, "good"...)) {
		return 0, errors.New("the program has not exactly one stamp")
	}
	return at + len(head), nil
}

// storm starts the plugin again and again while change runs, and says what is
// wrong if ever an evil one serves.
func (b *Bed) storm(ctx context.Context, s pluginhost.Spec, change func()) error {
	s.Restart.Restarts = 1000
	if err := b.add(s); err != nil {
		return err
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				change()
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for range attempts {
		before := b.status(bad)
		if err := b.Host.Restart(bad); err != nil {
			return err
		}
		err := b.until(ctx, func() bool {
			st := b.status(bad)
			return st.Since != before.Since && st.State != pluginhost.Starting && st.State != pluginhost.Waiting
		})
		if err != nil {
			return err
		}
		if strings.Contains(b.status(bad).Version, "evil") {
			return errors.New("a file that was not pinned serves")
		}
	}
	return nil
}

// renamed: another file takes the place of the one that was checked.
func renamed(ctx context.Context, b *Bed) (string, error) {
	path, sum, err := b.copySelf("p", "good")
	if err != nil {
		return "", err
	}
	evil, _, err := b.copySelf("evil", "evil")
	if err != nil {
		return "", err
	}
	s := b.spec(bad, "good", badKind)
	s.Path, s.SHA256 = path, []string{sum}
	tmp := path + ".tmp"
	err = b.storm(ctx, s, func() {
		_ = os.Rename(path, tmp) // what fails is tried again
		_ = os.Rename(evil, path)
		_ = os.Rename(path, evil)
		_ = os.Rename(tmp, path)
	})
	if err != nil {
		return "", err
	}
	if err := os.Rename(evil, path); err != nil {
		return "", err
	}
	if err := b.Host.Restart(bad); err != nil {
		return "", err
	}
	return b.told(ctx, pluginhost.Refused, "put this line into")
}

// written: the very file that was checked gets another content.
func written(ctx context.Context, b *Bed) (string, error) {
	path, sum, err := b.copySelf("p", "good")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	at, err := stampAt(data)
	if err != nil {
		return "", err
	}
	write := func(word string) { // fails while the file is being executed
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteAt([]byte(word), int64(at))
			_ = f.Close()
		}
	}
	s := b.spec(bad, "good", badKind)
	s.Path, s.SHA256 = path, []string{sum}
	// Not so often that the file is always open for writing, which alone keeps it
	// from being executed; often enough to fall between hash and exec.
	err = b.storm(ctx, s, func() {
		write("good")
		time.Sleep(rand.N(60 * time.Millisecond))
		write("evil")
		time.Sleep(rand.N(20 * time.Millisecond))
	})
	if err != nil {
		return "", err
	}
	if err := b.add(); err != nil { // end it: nobody can write what is being executed
		return "", err
	}
	if err := b.until(ctx, func() bool { write("evil"); return isEvil(path, at) }); err != nil {
		return "", err
	}
	if err := b.add(s); err != nil {
		return "", err
	}
	return b.told(ctx, pluginhost.Refused, "is not the pinned file")
}

func isEvil(path string, at int) bool {
	data, err := os.ReadFile(path)
	return err == nil && string(data[at:at+4]) == "evil"
}

// swapped: what a script reads beside itself is another file, or one more.
func swapped(ctx context.Context, b *Bed) (string, error) {
	dir, mark := filepath.Join(b.env.Dir, "v"), filepath.Join(b.env.Dir, "mark")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	script := "#!/bin/sh\nd=$(dirname \"$0\")\n. \"$d/lib.sh\"\nif [ -e \"$d/extra.sh\" ]; then . \"$d/extra.sh\"; fi\nexec \"$PROGRAM\" \"$@\"\n"
	lib := "PROGRAM=" + b.env.Self + "\n"
	evil := "touch " + mark + "\n" + lib
	put := func(name, text string, mode os.FileMode) (string, error) {
		h := sha256.Sum256([]byte(text))
		tmp := filepath.Join(dir, name+".tmp")
		err := os.WriteFile(tmp, []byte(text), mode)
		return hex.EncodeToString(h[:]), errors.Join(err, os.Rename(tmp, filepath.Join(dir, name)))
	}
	main, err1 := put("p.sh", script, 0o755)
	pin, err2 := put("lib.sh", lib, 0o644)
	_, err3 := put("extra.sh", evil, 0o644)
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	s := b.spec(bad, "good", badKind)
	s.Path, s.SHA256, s.Files = filepath.Join(dir, "p.sh"), []string{main}, map[string]string{"lib.sh": pin}
	err := b.storm(ctx, s, func() {
		_, _ = put("lib.sh", evil, 0o644)
		_, _ = put("lib.sh", lib, 0o644)
	})
	if err != nil {
		return "", err
	}
	if _, err := put("lib.sh", evil, 0o644); err != nil {
		return "", err
	}
	if err := b.Host.Restart(bad); err != nil {
		return "", err
	}
	told, err := b.told(ctx, pluginhost.Refused, "lib.sh is not the pinned file")
	if _, serr := os.Stat(mark); serr == nil {
		err = errors.Join(err, fmt.Errorf("what stood beside the script was executed"))
	}
	return told, err
}
