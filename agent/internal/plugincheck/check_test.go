// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/felhom/felhom-agent/agent/internal/plugincheck"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// TestMain is the plugin of these tests.
func TestMain(m *testing.M) {
	if os.Getenv(plugin.CookieKey) == plugin.CookieValue || slices.Contains(os.Args, "broken") {
		bePlugin(os.Args[1])
		return
	}
	goleak.VerifyTestMain(m)
}

// bePlugin is a plugin with one thing wrong, or none.
func bePlugin(mode string) {
	switch mode {
	case "noisy":
		fmt.Println("starting up ...")
	case "family":
		child := exec.Command("sleep", "600")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = child.Start()
	}
	t := &teller{mode: mode, log: os.Args[2]}
	switch mode {
	case "mute provider":
		plugin.Serve(plugin.Set{Provider: t, Configurer: t})
	default:
		plugin.Serve(plugin.Set{Executor: t, Configurer: t})
	}
	if mode == "stays" {
		select {}
	}
}

// teller adds a line to a file for each op.
type teller struct {
	mode, log string
}

func (t *teller) Configure(_ context.Context, c plugin.Config) error {
	if t.mode == "takes anything" {
		return nil
	}
	return c.Decode(&struct{}{})
}

func (t *teller) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "teller", Version: "1", Actions: []plugin.ActionKind{"test.tell"}}, nil
}

func (t *teller) Apply(ctx context.Context, a plugin.Action, _ string, _ func(plugin.Progress) error) (plugin.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return plugin.Outcome{}, err
	}
	if a.Kind != "test.tell" {
		return plugin.Outcome{}, fmt.Errorf("%w: %s", plugin.ErrUnsupported, a.Kind)
	}
	if len(a.Params)+len(a.Set)+len(a.Delete) > 0 {
		return plugin.Outcome{}, fmt.Errorf("%w: test.tell takes nothing", plugin.ErrInvalid)
	}
	f, err := os.OpenFile(t.log, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return plugin.Outcome{}, err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return plugin.Outcome{}, err
	}
	if t.mode == "forgetful" || !t.told(f, a) {
		_, err = fmt.Fprintf(f, "%s/%d\n", a.OpID, a.Attempt)
	}
	return plugin.Outcome{Status: plugin.Done}, err
}

func (t *teller) told(f *os.File, a plugin.Action) bool {
	all, _ := io.ReadAll(f)
	return strings.Contains(string(all), fmt.Sprintf("%s/%d\n", a.OpID, a.Attempt))
}

func (t *teller) Probe(_ context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	f, err := os.Open(t.log)
	if err == nil {
		defer f.Close()
		if t.told(f, q.Action) && t.mode != "forgetful" {
			return plugin.Verdict{Finding: plugin.Settled, Outcome: plugin.Outcome{Status: plugin.Done}}, nil
		}
	}
	return plugin.Verdict{Finding: plugin.NotSent}, nil
}

func (t *teller) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	_ = emit(plugin.Snapshot{Revision: fmt.Sprint(time.Now().UnixNano())})
	<-ctx.Done()
	return ctx.Err()
}

// judge runs the kit on this binary in a mode and returns what failed.
func judge(t *testing.T, mode string) (failed []string, rep plugincheck.Report) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "told")
	rep, err = plugincheck.Run(t.Context(), plugincheck.Options{
		Path: self, Args: []string{mode, log, "broken"}, Effects: `grep -c "^$1/" ` + log, Log: t.Output(), Patience: patience(mode),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Results {
		if r.Status == plugincheck.Failed {
			failed = append(failed, r.Name)
			t.Logf("%s: %s", r.Name, r.Detail)
		}
	}
	return failed, rep
}

// patience is more than any machine needs, but where the plugin would use all
// of it.
func patience(mode string) int {
	if mode == "stays" {
		return 1
	}
	return 10
}

func TestGoodPluginPasses(t *testing.T) {
	t.Parallel()
	failed, rep := judge(t, "good")
	if len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	if rep.Name != "teller" || len(rep.Results) < 30 || rep.Count(plugincheck.Skipped) != 3 { // resume, emit fails, restart
		t.Errorf("%s, %d checks, %d skipped", rep.Name, len(rep.Results), rep.Count(plugincheck.Skipped))
	}
}

// Each check is worth something only if it can fail: what is broken is found,
// and nothing else is complained about.
func TestBrokenPluginsAreFound(t *testing.T) {
	for mode, want := range map[string][]string{
		"noisy":          {"cookie", "handshake", "stdout", "newer host", "foreign host", "start"},
		"forgetful":      {"executor once per op", "executor once per op at once", "executor probe done", "crash"},
		"takes anything": {"unknown key"},
		"stays":          {"shutdown", "lost host"},
		"family":         {"left behind"},
		"mute provider":  {"provider stable", "restart"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			failed, _ := judge(t, mode)
			for _, w := range want {
				if !slices.Contains(failed, w) {
					t.Errorf("check %q did not fail", w)
				}
			}
			for _, f := range failed {
				if !slices.Contains(want, f) && patience(mode) > 1 {
					t.Errorf("check %q failed", f)
				}
			}
		})
	}
}

// What cannot be started at all is judged too, and a file that is not there is
// an error.
func TestNoPlugin(t *testing.T) {
	rep, err := plugincheck.Run(t.Context(), plugincheck.Options{Path: "/bin/false"})
	if err != nil || rep.Count(plugincheck.Failed) < 3 {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := plugincheck.Run(t.Context(), plugincheck.Options{Path: "/no/such/file"}); err == nil {
		t.Error("no error")
	}
}
