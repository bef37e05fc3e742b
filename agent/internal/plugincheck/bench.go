// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// bench is where a plugin is tried: a private directory with the copy, and the
// host's options.
type bench struct {
	o    Options
	dir  string
	opts pluginhost.Options
	spec pluginhost.Spec
	run  string // makes the op ids of this run unlike any other's
	ops  atomic.Int64

	shared *pluginhost.Process // for the checks that do no harm; see process
	kinds  []plugin.Kind
	info   plugin.Info
}

func newBench(o Options) (_ *bench, err error) {
	dir, err := os.MkdirTemp(shortTemp(), "felhom")
	if err != nil {
		return nil, err
	}
	b := &bench{o: o, dir: dir, run: "plugin-test-" + strings.ToLower(rand.Text()[:8])}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if b.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	b.opts = pluginhost.DefaultOptions()
	b.opts.Logger = slog.New(slog.DiscardHandler)
	if o.Log != nil {
		b.opts.Logger = slog.New(slog.NewTextHandler(o.Log, nil))
	}
	b.opts.SocketDir = filepath.Join(b.dir, "s")
	b.opts.TrustedUIDs = []uint32{0, uint32(os.Getuid())}
	b.opts.Version = "plugin-test"
	b.opts.StartTimeout = b.patient(startTimeout)
	b.spec = pluginhost.Spec{
		Name: "plugin", Args: o.Args, Env: o.Env, Config: o.Config, Secrets: o.Secrets, Kinds: o.Kinds,
	}
	return b, b.stage()
}

// startTimeout is longer than the agent's own, so that a slow plugin is called
// slow and not broken.
const startTimeout = 60 * time.Second

// hung is when a plugin counts as hung where nothing is said of how fast it must
// be: longer than any load explains.
const hung = time.Minute

// shortTemp is a place for sockets: their paths are bounded.
func shortTemp() string {
	if dir := os.TempDir(); len(dir) <= 24 {
		return dir
	}
	return "/tmp"
}

func (b *bench) close() {
	if b.shared != nil {
		_ = b.shared.Stop(true) // the checks have judged its end by others
	}
	for _, pid := range b.left() { // reported by the check "left behind"
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	_ = os.RemoveAll(b.dir)
}

// stage copies the plugin to where only its user can write, and pins it.
func (b *bench) stage() error {
	from, err := filepath.Abs(b.o.Path)
	if err != nil {
		return err
	}
	bin := filepath.Join(b.dir, "bin")
	b.spec.Path = filepath.Join(bin, filepath.Base(from))
	sum, err := copyTo(b.spec.Path, from)
	if err != nil {
		return err
	}
	b.spec.SHA256 = []string{sum}
	for _, name := range b.o.Files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file %q is not below the executable's directory", name)
		}
		sum, err := copyTo(filepath.Join(bin, name), filepath.Join(filepath.Dir(from), name))
		if err != nil {
			return err
		}
		if b.spec.Files == nil {
			b.spec.Files = map[string]string{}
		}
		b.spec.Files[name] = sum
	}
	return nil
}

// copyTo copies a file with its mode, without the bits that would let others
// write, and returns its sha256. A process that is started meanwhile would take
// the open copy along until it has become its own program, and for so long the
// kernel refuses to execute the copy (ETXTBSY): no other run in this process
// starts one.
func copyTo(dst, src string) (string, error) {
	in, err := os.Open(src)
	if err != nil {
		return "", err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", src)
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return "", err
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()&0o755)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, out.Close())
}

// patient is how long the plugin is given where the agent gives it d.
func (b *bench) patient(d time.Duration) time.Duration {
	return d * time.Duration(max(b.o.Patience, 1))
}

// launch starts a process of its own for a check that may harm it. The caller
// stops it.
func (b *bench) launch(ctx context.Context) (*pluginhost.Process, error) {
	return pluginhost.Launch(ctx, b.opts, b.spec)
}

// process is the process of the checks that do no harm, started anew if it is
// gone.
func (b *bench) process(ctx context.Context) (*pluginhost.Process, error) {
	if b.shared != nil {
		select {
		case <-b.shared.Exited():
			_ = b.shared.Stop(false) // it is gone already
		default:
			return b.shared, nil
		}
	}
	p, err := b.launch(ctx)
	b.shared = p
	return p, err
}

// stillAlive says what is wrong with a process after what was done to it.
func stillAlive(ctx context.Context, p *pluginhost.Process) error {
	select {
	case <-p.Exited():
		return fmt.Errorf("the process ended: %w", p.Why())
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	if err := p.Health(ctx); err != nil {
		select {
		case <-p.Exited():
			return fmt.Errorf("the process ended: %w", p.Why())
		default:
			return fmt.Errorf("it does not answer a health check any more: %w", err)
		}
	}
	return nil
}

// action is one that was not used before.
func (b *bench) action() plugin.Action {
	a, n := b.o.Action, b.ops.Add(1)
	a.OpID, a.Attempt = fmt.Sprintf("%s-%d", b.run, n), 1
	a.Guest = b.o.Guests[int(n-1)%len(b.o.Guests)]
	if a.Node == "" {
		a.Node = "pve1"
	}
	if a.Reason == "" {
		a.Reason = "plugin test"
	}
	return a
}

// canApply says why no action is applied.
func (b *bench) canApply() error {
	switch {
	case !slices.Contains(b.kinds, plugin.KindExecutor):
		return skip("it is no executor")
	case b.o.Action.Kind == "":
		return skip("no action was named (--action): the core's kinds change guests")
	}
	return nil
}

// effects counts how often an op was carried out, by the caller's command; nil
// if there is none.
func (b *bench) effects() func(opID string) int {
	if b.o.Effects == "" {
		return nil
	}
	return func(opID string) int {
		out, err := exec.Command("/bin/sh", "-c", b.o.Effects, "sh", opID).Output()
		n, perr := strconv.Atoi(strings.TrimSpace(string(out)))
		var exit *exec.ExitError
		if perr != nil || (err != nil && !errors.As(err, &exit)) { // grep -c ends with 1 when it counts 0
			return -1
		}
		return n
	}
}

// change changes a provider's source, by the caller's command; nil if there is
// none.
func (b *bench) change() func() {
	if b.o.Change == "" {
		return nil
	}
	return func() { _ = exec.Command("/bin/sh", "-c", b.o.Change).Run() } // the check sees that nothing changed
}

// left are the processes that were started for this bench and still run: they
// have its socket directory in their environment.
func (b *bench) left() []int {
	var pids []int
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(env), "PLUGIN_UNIX_SOCKET_DIR="+b.opts.SocketDir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
