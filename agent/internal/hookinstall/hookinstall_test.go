// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookinstall

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// cluster stands in for PVE's commands: answers of pvesh by path, and configs
// that pct and qm read and write.
type cluster struct {
	t       *testing.T
	api     map[string]any
	conf    map[string]string // VMID -> hookscript
	calls   []string          // what changed something
	refuses error
}

type row = map[string]any

// newCluster has a node pve1 with lxc/101 and qemu/102, and the storage local
// with snippets in dir.
func newCluster(t *testing.T) (*cluster, string) {
	dir := t.TempDir()
	return &cluster{
		t: t, conf: map[string]string{},
		api: map[string]any{
			"/nodes": []row{{"node": "pve1"}},
			"/cluster/resources": []row{
				{"type": "lxc", "vmid": 101, "node": "pve1", "name": "web"},
				{"type": "qemu", "vmid": 102, "node": "pve1"},
				{"type": "lxc", "vmid": 103, "node": "pve1", "template": 1},
				{"type": "lxc", "vmid": 104, "node": "pve2"},
			},
			"/cluster/ha/resources": []row{},
			"/storage":              []row{{"storage": "local", "type": "dir", "path": dir, "content": "iso,snippets"}},
		},
	}, dir
}

func (c *cluster) run(_ context.Context, name string, args ...string) ([]byte, error) {
	switch {
	case name == "pvesh":
		v, ok := c.api[args[1]]
		if !ok {
			return nil, errors.New("no such path " + args[1])
		}
		return json.Marshal(v)
	case args[0] == "config":
		if h := c.conf[args[1]]; h != "" {
			return []byte("cores: 1\nhookscript: " + h + "\nmemory: 512\n"), nil
		}
		return []byte("cores: 1\n"), nil
	}
	if c.refuses != nil {
		return nil, c.refuses
	}
	c.calls = append(c.calls, name+" "+strings.Join(args, " "))
	c.conf[args[1]] = args[3]
	if args[2] == "--delete" {
		delete(c.conf, args[1])
	}
	return nil, nil
}

func (c *cluster) installer() *Installer {
	c.t.Helper()
	f, err := Gather(c.t.Context(), c.run, "pve1")
	if err != nil {
		c.t.Fatal(err)
	}
	return &Installer{Facts: f, Run: c.run, Snippet: []byte("#!/bin/sh" + mark + " x\nexit 0\n")}
}

func (in *Installer) guest(t *testing.T, id guest.VMID) Guest {
	t.Helper()
	gs, err := in.Facts.Find([]guest.VMID{id})
	if err != nil {
		t.Fatal(err)
	}
	return gs[0]
}

// change plans and does.
func change(t *testing.T, plan func(context.Context, Guest) (Change, error), g Guest) Change {
	t.Helper()
	c, err := plan(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func script(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestInstallAndRemove(t *testing.T) {
	c, dir := newCluster(t)
	in := c.installer()
	for range 2 { // the second time nothing is left to do
		change(t, in.Install, in.guest(t, 101))
		change(t, in.Install, in.guest(t, 102))
	}
	want := []string{"pct set 101 --hookscript local:snippets/felhom-hook", "qm set 102 --hookscript local:snippets/felhom-hook"}
	if !slices.Equal(c.calls, want) {
		t.Errorf("ran %q, want %q", c.calls, want)
	}
	stub := filepath.Join(dir, "snippets/felhom-hook")
	if !executable(stub) {
		t.Error("the snippet is not executable")
	}
	for range 2 {
		change(t, in.Remove, in.guest(t, 101))
	}
	if len(c.calls) != 3 || c.calls[2] != "pct set 101 --delete hookscript" || !executable(stub) {
		t.Errorf("ran %q; the snippet is there: %v", c.calls, executable(stub))
	}
}

func TestSnippetIsThereBeforeAConfigNamesIt(t *testing.T) {
	c, dir := newCluster(t)
	in := c.installer()
	plan, err := in.Install(t.Context(), in.guest(t, 101))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "snippets")); err == nil {
		t.Error("planning alone wrote something")
	}
	last := plan.Steps[len(plan.Steps)-1].What
	if len(plan.Steps) != 2 || !strings.HasPrefix(last, "pct set 101") {
		t.Errorf("the option is set before something else: %v", plan.Steps)
	}
}

func TestFormerHookscriptStaysInTheChainAndComesBack(t *testing.T) {
	c, dir := newCluster(t)
	old := filepath.Join(dir, "snippets/old.pl")
	script(t, old)
	c.conf["101"] = "local:snippets/old.pl"
	in := c.installer()
	change(t, in.Install, in.guest(t, 101))
	link := filepath.Join(dir, "snippets/felhom-hook.d/101")
	if to, _ := os.Readlink(link); to != old {
		t.Errorf("chained: %q", to)
	}
	if st, err := in.Status(t.Context(), in.guest(t, 101)); err != nil || !st.Installed || st.Former != "local:snippets/old.pl" || st.Trouble != "" {
		t.Errorf("status %+v, %v", st, err)
	}
	change(t, in.Install, in.guest(t, 101))
	if err := os.Chmod(old, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Remove(t.Context(), in.guest(t, 101)); !errors.Is(err, ErrRefused) {
		t.Errorf("a former hookscript with which the guest would not start comes back: %v", err)
	}
	if err := os.Chmod(old, 0o755); err != nil {
		t.Fatal(err)
	}
	change(t, in.Remove, in.guest(t, 101))
	if c.conf["101"] != "local:snippets/old.pl" {
		t.Errorf("afterwards: %q", c.conf["101"])
	}
}

// TestRollbackToASnapshotThatNamesOurs: with the snippet comes back what it
// chained, although the hookscript was removed since.
func TestRollbackToASnapshotThatNamesOurs(t *testing.T) {
	c, dir := newCluster(t)
	old := filepath.Join(dir, "snippets/old.pl")
	script(t, old)
	c.conf["101"] = "local:snippets/old.pl"
	in := c.installer()
	change(t, in.Install, in.guest(t, 101))
	snapshot := c.conf["101"]
	change(t, in.Remove, in.guest(t, 101))
	c.conf["101"] = snapshot // PVE's rollback
	if to, _ := os.Readlink(filepath.Join(dir, "snippets/felhom-hook.d/101")); to != old {
		t.Errorf("chained: %q", to)
	}
	if st, err := in.Status(t.Context(), in.guest(t, 101)); err != nil || st.Former != "local:snippets/old.pl" || st.Trouble != "" {
		t.Errorf("status %+v, %v", st, err)
	}
	change(t, in.Remove, in.guest(t, 101))
	change(t, in.Install, in.guest(t, 101))
	change(t, in.Remove, in.guest(t, 101))
	if c.conf["101"] != "local:snippets/old.pl" {
		t.Errorf("afterwards: %q", c.conf["101"])
	}
}

func TestRefusals(t *testing.T) {
	twoNodes := func(c *cluster) { c.api["/nodes"] = []row{{"node": "pve1"}, {"node": "pve2"}} }
	ha := func(c *cluster) {
		twoNodes(c)
		c.api["/cluster/ha/resources"] = []row{{"sid": "ct:101", "group": "g"}}
		c.api["/cluster/ha/groups"] = []row{}
	}
	storage := func(c *cluster, key string, v any) { c.api["/storage"].([]row)[0][key] = v }
	for _, tc := range []struct {
		name, want string
		set        func(*cluster, string)
	}{
		{"no snippets content", "pvesm set local --content iso,snippets", func(c *cluster, _ string) { storage(c, "content", "iso") }},
		{"disabled", "disabled", func(c *cluster, _ string) { storage(c, "disable", 1) }},
		{"not on this node", "node pve1 does not have it", func(c *cluster, _ string) { storage(c, "nodes", "pve2") }},
		{"not shared and HA", "not shared", func(c *cluster, _ string) { ha(c) }},
		{"shared, but not where HA may start it", "node pve2 does not have it", func(c *cluster, _ string) {
			ha(c)
			storage(c, "shared", "1")
			storage(c, "nodes", "pve1")
		}},
		{"nfs that is not mounted", "not mounted", func(c *cluster, _ string) { storage(c, "type", "nfs") }},
		{"no directory", "no such file", func(c *cluster, _ string) { storage(c, "path", "/nonexistent") }},
		{"somebody else's file", "is not felhom-agent's", func(_ *cluster, dir string) { script(t, dir+"/snippets/felhom-hook") }},
		{"a hookscript that is missing", "is not an executable file", func(c *cluster, _ string) { c.conf["101"] = "local:snippets/gone" }},
		{"a hookscript on no storage", "cannot be chained", func(c *cluster, _ string) { c.conf["101"] = "old:snippets/x" }},
		{"two scripts for one chain", "one of the two", func(c *cluster, dir string) {
			script(t, dir+"/snippets/x")
			script(t, dir+"/snippets/felhom-hook.d/101")
			c.conf["101"] = "local:snippets/x"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, dir := newCluster(t)
			tc.set(c, dir)
			in := c.installer()
			_, err := in.Install(t.Context(), in.guest(t, 101))
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a refusal with %q", err, tc.want)
			}
			if len(c.calls) > 0 {
				t.Errorf("ran %q", c.calls)
			}
		})
	}
}

func TestHATakesAStorageThatAllItsNodesHave(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra map[string]any
	}{
		{"everywhere", map[string]any{"/cluster/ha/groups": []row{}}},
		{"a restricted group", map[string]any{"/cluster/ha/groups": []row{{"group": "g", "nodes": "pve1:2,pve3", "restricted": 1}}}},
		{"a strict rule of PVE 9", map[string]any{"/cluster/ha/rules": []row{{"type": "node-affinity", "strict": 1, "nodes": "pve1,pve3", "resources": "vm:9,ct:101"}}}},
	} {
		c, dir := newCluster(t)
		c.api["/nodes"] = []row{{"node": "pve1"}, {"node": "pve2"}, {"node": "pve3"}}
		c.api["/cluster/ha/resources"] = []row{{"sid": "ct:101", "group": "g"}}
		for k, v := range tc.extra {
			c.api[k] = v
		}
		shared := t.TempDir()
		two := row{"storage": "two", "type": "dir", "shared": 1, "path": dir, "content": "snippets", "nodes": "pve1,pve3"}
		all := row{"storage": "all", "type": "dir", "shared": 1, "path": shared, "content": "snippets"}
		c.api["/storage"] = append(c.api["/storage"].([]row), two)
		if tc.name == "everywhere" {
			c.api["/storage"] = append(c.api["/storage"].([]row), all)
		}
		in := c.installer()
		got := change(t, in.Install, in.guest(t, 101)).Then
		want := map[bool]string{true: "all", false: "two"}[tc.name == "everywhere"] + ":snippets/felhom-hook"
		if got != want {
			t.Errorf("%s: on %s, want %s", tc.name, got, want)
		}
	}
}

func TestWhatIsNotKnownAboutHAIsAnError(t *testing.T) {
	for _, missing := range []string{"/cluster/ha/resources", "/nodes", "/storage", "/cluster/resources"} {
		c, _ := newCluster(t)
		delete(c.api, missing)
		if _, err := Gather(t.Context(), c.run, "pve1"); err == nil {
			t.Errorf("without %s there is an answer", missing)
		}
	}
	c, _ := newCluster(t)
	c.api["/cluster/ha/resources"] = []row{{"sid": "ct:101"}}
	if _, err := Gather(t.Context(), c.run, "pve1"); err == nil {
		t.Error("without groups and rules there is an answer")
	}
	if _, err := Gather(t.Context(), c.run, "elsewhere"); err == nil {
		t.Error("a node that is none")
	}
}

// TestAnotherGuestsFormerHookscriptIsNotRun: what was chained for a VMID is of
// the guest that had it then. Where nothing or something else is set now, that
// counts.
func TestAnotherGuestsFormerHookscriptIsNotRun(t *testing.T) {
	for _, now := range []string{"", "local:snippets/new"} {
		c, dir := newCluster(t)
		script(t, dir+"/snippets/old")
		script(t, dir+"/snippets/new")
		c.conf["101"] = "local:snippets/old"
		in := c.installer()
		change(t, in.Install, in.guest(t, 101))
		c.conf["101"] = now // it was destroyed, and made anew
		change(t, in.Install, in.guest(t, 101))
		want := ""
		if now != "" {
			want = dir + "/snippets/new"
		}
		if to, _ := os.Readlink(dir + "/snippets/felhom-hook.d/101"); to != want {
			t.Errorf("%q: chained %q, want %q", now, to, want)
		}
		if st, err := in.Status(t.Context(), in.guest(t, 101)); err != nil || !st.Installed || st.Former != now || st.Trouble != "" {
			t.Errorf("%q: %+v, %v", now, st, err)
		}
	}
	c, dir := newCluster(t) // the storage was moved: the link leads nowhere
	script(t, dir+"/snippets/old")
	c.conf["101"] = "local:snippets/old"
	if err := errors.Join(os.Mkdir(dir+"/snippets/felhom-hook.d", 0o755), os.Symlink("/nonexistent", dir+"/snippets/felhom-hook.d/101"),
		os.WriteFile(dir+"/snippets/felhom-hook.d/101.former", []byte("local:snippets/old\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	moved := c.installer()
	change(t, moved.Install, moved.guest(t, 101))
	if st, err := moved.Status(t.Context(), moved.guest(t, 101)); err != nil || st.Former != "local:snippets/old" || st.Trouble != "" {
		t.Errorf("%+v, %v", st, err)
	}
	c, dir = newCluster(t)
	script(t, dir+"/snippets/felhom-hook.d/101") // by hand: it stays
	in := c.installer()
	change(t, in.Install, in.guest(t, 101))
	if !executable(dir + "/snippets/felhom-hook.d/101") {
		t.Error("what was put there by hand is gone")
	}
}

func TestMoveTakesTheChainAlong(t *testing.T) {
	c, dir := newCluster(t)
	script(t, dir+"/snippets/old")
	c.conf["101"] = "local:snippets/old"
	in := c.installer()
	change(t, in.Install, in.guest(t, 101))
	other := t.TempDir()
	c.api["/storage"] = append(c.api["/storage"].([]row), row{"storage": "nas", "type": "dir", "shared": 1, "path": other, "content": "snippets"})
	in = c.installer()
	in.Storage = "nas"
	change(t, in.Install, in.guest(t, 101))
	if st, err := in.Status(t.Context(), in.guest(t, 101)); err != nil || st.Hookscript != "nas:snippets/felhom-hook" || st.Former != "local:snippets/old" {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestAnOlderSnippetIsReplaced(t *testing.T) {
	c, dir := newCluster(t)
	in := c.installer()
	change(t, in.Install, in.guest(t, 101))
	in.Snippet = append(slices.Clone(in.Snippet), "# newer\n"...)
	if st, _ := in.Status(t.Context(), in.guest(t, 101)); !strings.Contains(st.Trouble, "another version") {
		t.Errorf("status %+v", st)
	}
	change(t, in.Install, in.guest(t, 101))
	b, err := os.ReadFile(dir + "/snippets/felhom-hook")
	if err != nil || string(b) != string(in.Snippet) {
		t.Errorf("%q, %v", b, err)
	}
	if left, _ := filepath.Glob(dir + "/snippets/.felhom*"); left != nil {
		t.Errorf("left over: %q", left)
	}
}

func TestRefusalOfPVEIsPassedOn(t *testing.T) {
	c, _ := newCluster(t)
	c.refuses = errors.New("CT is locked (backup)")
	in := c.installer()
	plan, err := in.Install(t.Context(), in.guest(t, 101))
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "CT is locked (backup)") {
		t.Errorf("got %v", err)
	}
}

func TestFind(t *testing.T) {
	c, _ := newCluster(t)
	f := c.installer().Facts
	all, err := f.Find(nil)
	if err != nil || len(all) != 2 {
		t.Errorf("all but templates of this node: %v, %v", all, err)
	}
	if _, err := f.Find([]guest.VMID{104}); err == nil {
		t.Error("a guest of another node was found")
	}
}

// TestStorageThatMustBeMounted: what is written below a mount point that is
// empty now is hidden later, and no guest that names it starts.
func TestStorageThatMustBeMounted(t *testing.T) {
	for name, tt := range map[string]struct {
		mount any
		fits  bool
	}{
		"not mounted":                   {"yes", false},
		"as a number":                   {1, false},
		"no mount point":                {"no", true},
		"below one":                     {"/proc", true},
		"below one that is not mounted": {"DIR", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, dir := newCluster(t)
			if tt.mount == "DIR" {
				tt.mount = dir
			}
			c.api["/storage"] = []row{{"storage": "local", "type": "dir", "path": dir, "content": "snippets", "is_mountpoint": tt.mount}}
			in := c.installer()
			_, err := in.Install(t.Context(), in.guest(t, 101))
			if (err == nil) != tt.fits {
				t.Errorf("install: %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "is not mounted") {
				t.Errorf("it does not say why: %v", err)
			}
		})
	}
}

// TestStorageThatRunsNothing: PVE looks at the mode of a hookscript only, and
// the guest does not start.
func TestStorageThatRunsNothing(t *testing.T) {
	c, dir := newCluster(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOEXEC, "size=64k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	in := c.installer()
	if _, err := in.Install(t.Context(), in.guest(t, 101)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("install: %v", err)
	}
	script(t, filepath.Join(dir, "snippets/mine.sh"))
	c.conf["101"] = "local:snippets/mine.sh"
	if s, err := in.Status(t.Context(), in.guest(t, 101)); err != nil || !strings.Contains(s.Trouble, "does not start") {
		t.Errorf("a guest with a script there: %+v, %v", s, err)
	}
}

// TestBindMountIsAMount: of the same device as what it is mounted on.
func TestBindMountIsAMount(t *testing.T) {
	dir := t.TempDir()
	if mounted(dir) {
		t.Error("a directory is taken for a mount point")
	}
	if err := syscall.Mount(t.TempDir(), dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("no directory can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	if !mounted(dir) {
		t.Error("a bind mount is not seen")
	}
}
