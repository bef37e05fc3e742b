// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	gocmp "cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// memLauncher starts plugins in memory, so that supervision can be tested in
// a bubble.
type memLauncher struct {
	set plugin.Set

	mu     sync.Mutex // guards what follows
	starts []string
	fail   func(n int) error // for the n-th start, from 1
	last   *memPlugin
	health error
	why    error // how a process ended, if not as usual
}

type memPlugin struct {
	name   string
	exited chan struct{}
	kill   func()
	asked  bool
}

func (l *memLauncher) launch(ctx context.Context, s Spec) (*instance, error) {
	l.mu.Lock()
	l.starts = append(l.starts, s.Name)
	n := len(l.starts)
	l.mu.Unlock()
	if l.fail != nil {
		if err := l.fail(n); err != nil {
			return nil, err
		}
	}
	client, stop, err := plugintest.Connect(l.set)
	if err != nil {
		return nil, err
	}
	p := &memPlugin{name: s.Name, exited: make(chan struct{})}
	p.kill = sync.OnceFunc(func() { stop(); close(p.exited) })
	l.mu.Lock()
	l.last = p
	l.mu.Unlock()
	return &instance{
		client: client, info: plugin.Info{Name: s.Name, Version: "1"}, pid: n,
		exited: p.exited, why: func() error { return gocmp.Or(l.why, errors.New("exit status 7")) },
		health: func(context.Context) error { l.mu.Lock(); defer l.mu.Unlock(); return l.health },
		stop:   func(ask bool) error { p.asked = ask; p.kill(); return nil },
	}, nil
}

func (l *memLauncher) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.starts)
}

func (l *memLauncher) plugin() *memPlugin {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func testOptions(t *testing.T) Options {
	t.Helper()
	o := DefaultOptions()
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.SocketDir = t.TempDir()
	return o
}

// memHost runs a host on l until the test ends.
func memHost(t *testing.T, o Options, l launcher, specs ...Spec) *Host {
	t.Helper()
	o.SocketDir = "/tmp/unused"
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	h.opts.SocketDir = t.TempDir()
	h.start = l
	if err := h.Set(specs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
	return h
}

func executorSpec(name string) Spec {
	return Spec{Name: name, Kinds: []plugin.Kind{plugin.KindExecutor}, Path: "/x/" + name, Actions: []plugin.ActionKind{plugin.Start}}
}

func stateOf(t *testing.T, h *Host, name string) PluginStatus {
	t.Helper()
	for _, s := range h.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no plugin %q", name)
	return PluginStatus{}
}

func startAction() plugin.Action {
	return plugin.Action{OpID: "op1", Attempt: 1, Kind: plugin.Start, Guest: guest.ID{Kind: guest.LXC, VMID: 101}}
}

func noEmit(plugin.Progress) error { return nil }

func TestDeadPluginComesBackAfterBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := plugintest.NewWorld("n1")
		w.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}, Run: guest.Stopped})
		l := &memLauncher{set: plugin.Set{Executor: w.Executor()}}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		e, err := h.Executor(plugin.Start)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := e.Apply(t.Context(), startAction(), "", noEmit); err != nil || out.Status != plugin.Done {
			t.Errorf("%v, %v", out, err)
		}
		l.plugin().kill()
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Backoff || s.PID != 0 || !strings.Contains(s.LastError, "exit status 7") {
			t.Errorf("just after its death: %+v", s)
		}
		a := startAction()
		a.OpID = "op2"
		if _, err := e.Apply(t.Context(), a, "", noEmit); !errors.Is(err, plugin.ErrNotSent) || !errors.Is(err, plugin.ErrShutdown) {
			t.Errorf("a new action while it is down: %v", err)
		}
		if _, err := e.Apply(t.Context(), a, "UPID:", noEmit); errors.Is(err, plugin.ErrNotSent) || !errors.Is(err, plugin.ErrShutdown) {
			t.Errorf("an action with a handle while it is down: %v", err)
		}
		if _, err := e.Probe(t.Context(), plugin.ProbeQuery{Action: a}); !errors.Is(err, plugin.ErrUnavailable) || !errors.Is(err, plugin.ErrShutdown) {
			t.Errorf("a probe while it is down: %v", err)
		}
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if got := l.count(); got != 1 {
			t.Errorf("started again before its time (%d starts)", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Running || s.Restarts != 1 || s.PID != 2 {
			t.Errorf("a second later: %+v", s)
		}
		if out, err := e.Apply(t.Context(), a, "", noEmit); err != nil || out.Status != plugin.Done {
			t.Errorf("the same executor value after the restart: %v, %v", out, err)
		}
	})
}

func TestTooManyFailuresEndInQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{fail: func(int) error { return errors.New("no") }}
		h := memHost(t, testOptions(t), l, executorSpec("a"), executorSpec2("b"))
		time.Sleep(time.Hour)
		synctest.Wait()
		s := stateOf(t, h, "a")
		if s.State != Quarantined || s.LastError != "no" {
			t.Errorf("%+v", s)
		}
		if got := l.count(); got != 2*4 { // two plugins: the first start and three restarts
			t.Errorf("%d starts, want 8", got)
		}
		if at := s.Since; time.Since(at) < 59*time.Minute {
			t.Errorf("quarantined only %v ago: the waits are 1, 2 and 4 seconds", time.Since(at))
		}
		l.mu.Lock()
		l.fail = nil
		l.mu.Unlock()
		if err := h.Restart("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Running {
			t.Errorf("after Restart: %+v", s)
		}
		if s := stateOf(t, h, "b"); s.State != Quarantined {
			t.Errorf("the other one: %+v", s)
		}
		if err := h.Restart("c"); !errors.Is(err, plugin.ErrUnsupported) {
			t.Errorf("Restart of nothing: %v", err)
		}
	})
}

func executorSpec2(name string) Spec {
	s := executorSpec(name)
	s.Actions = []plugin.ActionKind{"acme.notify"}
	return s
}

// Failures that are far apart are not counted together.
func TestOldFailuresAreForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{set: plugin.Set{Executor: plugintest.NewWorld("n1").Executor()}}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		for range 20 {
			time.Sleep(4 * time.Minute)
			l.plugin().kill()
			synctest.Wait()
		}
		if s := stateOf(t, h, "a"); s.State != Backoff {
			t.Errorf("%+v", s)
		}
		for range 3 {
			time.Sleep(time.Minute)
			l.plugin().kill()
			synctest.Wait()
		}
		if s := stateOf(t, h, "a"); s.State != Quarantined {
			t.Errorf("four within ten minutes: %+v", s)
		}
	})
}

func TestRefusedWaitsForChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{fail: func(int) error { return refuse("chmod", "bad mode") }}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		time.Sleep(24 * time.Hour)
		if s := stateOf(t, h, "a"); s.State != Refused || l.count() != 1 || !strings.Contains(s.LastError, "remedy: chmod") {
			t.Errorf("%d starts, %+v", l.count(), s)
		}
		if err := h.Set([]Spec{executorSpec("a")}); err != nil { // the same: look again
			t.Fatal(err)
		}
		synctest.Wait()
		if l.count() != 2 {
			t.Errorf("%d starts after a reload, want 2", l.count())
		}
	})
}

func TestHangingPluginIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{set: plugin.Set{Executor: plugintest.NewWorld("n1").Executor()}}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		p := l.plugin()
		l.mu.Lock()
		l.health = context.DeadlineExceeded
		l.mu.Unlock()
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Running {
			t.Errorf("after two misses: %+v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Backoff || !strings.Contains(s.LastError, "3 health checks") {
			t.Errorf("after three misses: %+v", s)
		}
		if p.asked {
			t.Error("a plugin that does not answer was asked to end")
		}
	})
}

// What was killed for the memory it takes is silent as well.
func TestKilledForItsLimitIsNoHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{set: plugin.Set{Executor: plugintest.NewWorld("n1").Executor()}, why: errOverLimit, health: context.DeadlineExceeded}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if s := stateOf(t, h, "a"); s.State != Backoff || !strings.Contains(s.LastError, errOverLimit.Error()) || strings.Contains(s.LastError, "health") {
			t.Errorf("%+v", s)
		}
	})
}

// One miss here and there is not a hang.
func TestSingleMissesAreForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{set: plugin.Set{Executor: plugintest.NewWorld("n1").Executor()}}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		for i := range 50 {
			l.mu.Lock()
			l.health = nil
			if i%3 != 0 {
				l.health = errors.New("busy")
			}
			l.mu.Unlock()
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		if s := stateOf(t, h, "a"); s.State != Running || s.Restarts != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSetTouchesOnlyWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &memLauncher{set: plugin.Set{Executor: plugintest.NewWorld("n1").Executor()}}
		a, b := executorSpec("a"), executorSpec2("b")
		h := memHost(t, testOptions(t), l, a, b)
		pid := stateOf(t, h, "a").PID
		b.Args = []string{"-v"}
		c := Spec{Name: "c", Kinds: []plugin.Kind{plugin.KindProvider}, Path: "/x/c"}
		if err := h.Set([]Spec{a, b, c}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := stateOf(t, h, "a").PID; got != pid {
			t.Errorf("the unchanged plugin was restarted: %d, %d", pid, got)
		}
		if l.count() != 4 {
			t.Errorf("%d starts, want a, b, b, c", l.count())
		}
		if err := h.Set([]Spec{a}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := len(h.Status()); got != 1 {
			t.Errorf("%d plugins left", got)
		}
		if _, err := h.Executor("acme.notify"); !errors.Is(err, plugin.ErrUnsupported) {
			t.Errorf("executor of a plugin that is gone: %v", err)
		}
	})
}

func TestConflictsAreRefused(t *testing.T) {
	observer := func(name string) Spec {
		return Spec{Name: name, Kinds: []plugin.Kind{plugin.KindObserver}, Path: "/x/" + name}
	}
	tests := map[string]struct {
		specs []Spec
		name  string
		why   string
	}{
		"name":     {[]Spec{executorSpec("a"), executorSpec2("a")}, "a-2", `another plugin is named "a"`},
		"action":   {[]Spec{executorSpec("a"), executorSpec("b")}, "b", `plugin a serves action "start" already`},
		"observer": {[]Spec{observer("a"), observer("b")}, "b", "plugin a is the observer already"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := plugintest.NewWorld("n1")
				l := &memLauncher{set: plugin.Set{Executor: w.Executor(), Observer: w.Observer()}}
				h := memHost(t, testOptions(t), l, tt.specs...)
				if s := stateOf(t, h, "a"); s.State != Running {
					t.Errorf("the first: %+v", s)
				}
				if s := stateOf(t, h, tt.name); s.State != Refused || !strings.Contains(s.LastError, tt.why) {
					t.Errorf("the second: %+v", s)
				}
				if l.count() != 1 {
					t.Errorf("%d starts", l.count())
				}
			})
		})
	}
}

func TestCallsEndWhenThePluginDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := plugintest.NewWorld("n1")
		w.Put(plugintest.Guest{ID: guest.ID{Kind: guest.LXC, VMID: 101}})
		w.Script(func(plugin.Action) plugintest.Behaviour { return plugintest.Behaviour{Hang: true} })
		l := &memLauncher{set: plugin.Set{Executor: w.Executor()}}
		h := memHost(t, testOptions(t), l, executorSpec("a"))
		e, err := h.Executor(plugin.Start)
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() {
			_, err := e.Apply(t.Context(), startAction(), "", noEmit)
			result <- err
		}()
		synctest.Wait()
		l.plugin().kill()
		if err := <-result; !errors.Is(err, plugin.ErrShutdown) || errors.Is(err, plugin.ErrNotSent) {
			t.Errorf("a call in flight: %v", err)
		}
		if _, err := e.Apply(t.Context(), plugin.Action{Kind: plugin.Stop}, "", noEmit); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("another kind by this route: %v", err)
		}
	})
}

func TestStatesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t)
		var mu sync.Mutex
		var got []State
		o.OnChange = func(s PluginStatus) { mu.Lock(); defer mu.Unlock(); got = append(got, s.State) }
		l := &memLauncher{
			set:  plugin.Set{Executor: plugintest.NewWorld("n1").Executor()},
			fail: func(n int) error { return map[int]error{1: errors.New("no")}[n] },
		}
		memHost(t, o, l, executorSpec("a"))
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]State{Starting, Backoff, Starting, Running}, got); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}
