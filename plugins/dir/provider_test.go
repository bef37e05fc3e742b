// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// TestMain is also the plugin, and the process of the mount test.
func TestMain(m *testing.M) {
	if os.Getenv(plugin.CookieKey) == plugin.CookieValue {
		main()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "unmount" {
		os.Exit(unmountStory(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// configured makes a provider of dir.
func configured(t *testing.T, dir string) *Provider {
	t.Helper()
	p := New("1", quietLog())
	must(t, p.Configure(t.Context(), plugin.Config{JSON: fmt.Appendf(nil, `{"path": %q}`, dir)}))
	return p
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	for js, want := range map[string]string{
		`{}`:                             "",
		`{"path": "/x", "relist": "5s"}`: "",
		`{"path": "x"}`:                  "path",
		`{"path": "/x/../y"}`:            "path",
		`{"relist": "1ms"}`:              "relist",
		`{"relist": "often"}`:            "relist",
		`{"paht": "/x"}`:                 "paht",
		`{"path": 5}`:                    "path",
	} {
		err := New("1", quietLog()).Configure(t.Context(), plugin.Config{JSON: []byte(js)})
		if (want == "") != (err == nil) || (err != nil && (!errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want))) {
			t.Errorf("%s: %v", js, err)
		}
	}
	if err := New("1", quietLog()).Watch(t.Context(), nil); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("Watch without a configuration: %v", err)
	}
}

// changer changes the directory, differently each time.
func changer(t *testing.T, dir string) func() {
	var n atomic.Int64
	return func() { write(t, dir, "b.toml", fmt.Sprintf("x = %d\n", n.Add(1))) }
}

func TestContract(t *testing.T) {
	ways := map[string]func(t *testing.T, dir string) plugin.Provider{
		"direct": func(t *testing.T, dir string) plugin.Provider { return configured(t, dir) },
		"pipe": func(t *testing.T, dir string) plugin.Provider {
			return plugintest.Pipe(t, plugin.Set{Provider: configured(t, dir)}).Provider()
		},
		"binary": startSelf,
	}
	for name, connect := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "a.toml", "x = 1\n")
			plugintest.TestProvider(t, plugintest.ProviderCase{Provider: connect(t, dir), Change: changer(t, dir)})
		})
	}
}

// forever ends what hangs. It decides nothing: a busy machine may take long.
const forever = 5 * time.Minute

func startSelf(t *testing.T, dir string) plugin.Provider {
	self, err := os.Executable()
	must(t, err)
	p, err := plugintest.Start(plugintest.Command{Path: self, StartTimeout: forever})
	must(t, err)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	_, err = p.Client().Configure(t.Context(), plugin.Config{JSON: fmt.Appendf(nil, `{"path": %q}`, dir)}, "test")
	must(t, err)
	return p.Client().Provider()
}

// recorder collects the snapshots of a watch.
type recorder struct {
	mu   sync.Mutex
	all  []plugin.Snapshot
	news chan struct{}
}

func record(t *testing.T, p *Provider) *recorder {
	t.Helper()
	r := &recorder{news: make(chan struct{}, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Watch(ctx, func(s plugin.Snapshot) error {
			r.mu.Lock()
			r.all = append(r.all, s)
			r.mu.Unlock()
			r.news <- struct{}{}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// next waits for one more snapshot.
func (r *recorder) next(t *testing.T) plugin.Snapshot {
	t.Helper()
	select {
	case <-r.news:
	case <-time.After(forever):
		t.Fatal("no snapshot comes")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1]
}

// Each way of saving a file, seen by inotify: one snapshot with the new text.
func TestSavesGiveOneSnapshot(t *testing.T) {
	saves := map[string]func(t *testing.T, dir, text string){
		"in place": func(t *testing.T, dir, text string) { write(t, dir, "a.toml", text) },
		"rename": func(t *testing.T, dir, text string) {
			replace(t, dir, "a.toml", text)
		},
		"like vim": func(t *testing.T, dir, text string) {
			write(t, dir, "4913", "")
			must(t, os.Remove(filepath.Join(dir, "4913")))
			must(t, os.Rename(filepath.Join(dir, "a.toml"), filepath.Join(dir, "a.toml~")))
			write(t, dir, "a.toml", text)
			must(t, os.Remove(filepath.Join(dir, "a.toml~")))
		},
		"in pieces": func(t *testing.T, dir, text string) {
			f, err := os.Create(filepath.Join(dir, "a.toml"))
			must(t, err)
			for _, b := range []byte(text) {
				_, err := f.Write([]byte{b})
				must(t, err)
				<-time.After(5 * time.Millisecond)
			}
			must(t, f.Close())
		},
		"several files": func(t *testing.T, dir, text string) {
			for i := range 50 {
				write(t, dir, fmt.Sprintf("%02d.toml", i), text)
			}
			write(t, dir, "a.toml", text)
		},
	}
	for name, save := range saves {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for !savedAtOnce(t, save) {
				t.Log("the save took longer than the quiet time: that is more than one")
			}
		})
	}
}

// savedAtOnce saves in a directory of its own and judges what comes of it. It
// returns false, and judges nothing, if the machine was too busy to make one save
// of it: a pause as long as the quiet time is the end of a save.
func savedAtOnce(t *testing.T, save func(t *testing.T, dir, text string)) bool {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "a.toml", "x = 1\n")
	r := record(t, configured(t, dir))
	if s := r.next(t); len(s.Files) != 1 || s.Err != "" {
		t.Fatalf("at first: %+v", s)
	}
	const text = "x = 2\n"
	begun := time.Now()
	save(t, dir, text)
	if time.Since(begun) >= quiet {
		return false
	}
	s := r.next(t)
	if got := string(s.Files[len(s.Files)-1].Data); got != text {
		t.Errorf("the snapshot has %q", got)
	}
	<-time.After(2 * quiet)
	if n := len(r.news); n != 0 {
		t.Errorf("%d more snapshots", n)
	}
	return true
}

func TestDirectoryComesAndGoes(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir, other := filepath.Join(parent, "d"), filepath.Join(parent, "other")
	r := record(t, configured(t, dir))
	if s := r.next(t); !strings.Contains(s.Err, "no such file") {
		t.Errorf("not there: %+v", s)
	}
	must(t, os.Mkdir(dir, 0o755))
	if s := r.next(t); s.Err != "" || len(s.Files) != 0 {
		t.Errorf("made, empty: %+v", s)
	}
	replace(t, dir, "a.toml", "x = 1\n")
	if s := r.next(t); len(s.Files) != 1 {
		t.Errorf("filled: %+v", s)
	}
	must(t, os.Rename(dir, other))
	if s := r.next(t); !strings.Contains(s.Err, "no such file") || len(s.Files) != 0 {
		t.Errorf("moved away: %+v", s)
	}
	must(t, os.Mkdir(dir, 0o755))
	if s := r.next(t); !strings.Contains(s.Err, "another directory") {
		t.Errorf("an empty one in its place: %+v", s)
	}
	replace(t, dir, "b.toml", "x = 2\n")
	if s := r.next(t); s.Err != "" || names(s)[0] != "b.toml" {
		t.Errorf("filled: %+v", s)
	}
	replace(t, dir, "b.toml", "x = 3\n") // the new directory is watched as the old one was
	if s := r.next(t); string(s.Files[0].Data) != "x = 3\n" {
		t.Errorf("changed: %+v", s)
	}
}

// TestUnmountIsNotEmptiness runs in a process with a mount table of its own.
func TestUnmountIsNotEmptiness(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "unmount", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "cannot mount") {
		t.Skipf("no right to mount: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func unmountStory(dir string) int {
	// Unshareflags made the mounts private.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		fmt.Println("cannot mount:", err)
		return 1
	}
	if err := os.WriteFile(filepath.Join(dir, "a.toml"), []byte("x = 1\n"), 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	p := New("1", quietLog())
	if err := p.Configure(context.Background(), plugin.Config{JSON: fmt.Appendf(nil, `{"path": %q}`, dir)}); err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), forever)
	defer cancel()
	step, failed := 0, 0
	_ = p.Watch(ctx, func(s plugin.Snapshot) error {
		step++
		switch {
		case step == 1 && len(s.Files) == 1:
			if err := syscall.Unmount(dir, 0); err != nil {
				fmt.Println("unmount:", err)
				failed = 1
			}
		case step == 2 && strings.Contains(s.Err, "is its file system mounted?"):
			cancel()
		default:
			fmt.Printf("step %d: %+v\n", step, s)
			failed = 1
			cancel()
		}
		return nil
	})
	if step != 2 {
		fmt.Println("steps:", step)
		return 1
	}
	return failed
}

// bubble runs a watch whose directory is a variable.
type bubble struct {
	mu      sync.Mutex
	now     plugin.Snapshot
	moved   bool
	verdict error
	reads   int
	got     []string
	changes chan struct{}
}

func (b *bubble) start(t *testing.T) {
	b.changes = make(chan struct{}, 1)
	w := &watch{
		log: quietLog(), changes: b.changes, relist: time.Minute, arm: func() {},
		read:  func() plugin.Snapshot { b.mu.Lock(); defer b.mu.Unlock(); b.reads++; b.moved = false; return b.now },
		moved: func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.moved },
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.run(ctx, func(s plugin.Snapshot) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.got = append(b.got, fmt.Sprintf("%v %s%s", time.Since(began), s.Revision, s.Err))
			return b.verdict
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

func (b *bubble) set(f func(b *bubble)) {
	b.mu.Lock()
	f(b)
	b.mu.Unlock()
	synctest.Wait()
}

func (b *bubble) signal() {
	select {
	case b.changes <- struct{}{}:
	default:
	}
	synctest.Wait()
}

func (b *bubble) check(t *testing.T, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.got); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}

func TestTimingOfWatch(t *testing.T) {
	rev := func(r string) func(*bubble) { return func(b *bubble) { b.now = plugin.Snapshot{Revision: r} } }
	tests := map[string]func(t *testing.T, b *bubble){
		"a change after the quiet time": func(t *testing.T, b *bubble) {
			b.set(rev("2"))
			b.signal()
			time.Sleep(100 * time.Millisecond)
			b.signal() // the quiet time begins again
			time.Sleep(time.Second)
			synctest.Wait()
			b.check(t, "0s 1", "250ms 2")
		},
		"changes without end": func(t *testing.T, b *bubble) {
			for i := range 35 {
				b.set(rev(fmt.Sprint(i / 12)))
				b.signal()
				time.Sleep(100 * time.Millisecond)
			}
			b.check(t, "0s 1", "1s 0", "2s 1", "3s 2")
		},
		"a lost event is found by the relist": func(t *testing.T, b *bubble) {
			b.set(rev("2"))
			time.Sleep(61 * time.Second)
			synctest.Wait()
			b.check(t, "0s 1", "1m0s 2")
		},
		"another directory is found by the glance": func(t *testing.T, b *bubble) {
			b.set(func(b *bubble) { b.moved = true; b.now = plugin.Snapshot{Err: "gone"} })
			time.Sleep(9 * time.Second)
			b.set(rev("1"))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			b.check(t, "0s 1", "2s gone", "10s 1")
		},
		"nothing new, nothing said": func(t *testing.T, b *bubble) {
			for range 10 {
				b.signal()
				time.Sleep(time.Minute)
			}
			synctest.Wait()
			b.check(t, "0s 1")
			if b.reads < 10 {
				t.Errorf("only %d reads", b.reads)
			}
		},
		"what was rejected is offered again": func(t *testing.T, b *bubble) {
			b.set(func(b *bubble) { b.now = plugin.Snapshot{Revision: "2"}; b.verdict = errors.New("the journal is full") })
			b.signal()
			time.Sleep(65 * time.Second)
			b.set(func(b *bubble) { b.verdict = nil })
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			b.check(t, "0s 1", "150ms 2", "1m0.15s 2", "2m0.15s 2")
		},
	}
	for name, story := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bubble{now: plugin.Snapshot{Revision: "1"}}
				b.start(t)
				story(t, b)
			})
		})
	}
}
