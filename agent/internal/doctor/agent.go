// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/hook"
)

const startIt = "systemctl status felhom-agent; systemctl start felhom-agent"

func agent(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return one(Warn, startIt, "the agent does not answer: %v", env.AgentErr)
	}
	e := env.Agent.Engine
	switch {
	case e.Twin != "":
		return one(Bad, "stop one of the two agents, then `felhom-agent resume`", "%s", e.Twin)
	case e.Breaker != "":
		return one(Bad, "felhom-agent plan; felhom-agent resume", "%s", e.Breaker)
	case e.Paused:
		return one(Warn, "felhom-agent resume", "the host is paused by the operator")
	}
	return ok("it runs (pid %d), mode %s", env.Agent.PID, e.Mode)
}

// reconcile looks at when the node was last observed: everything else follows
// from that.
func reconcile(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return unknown("the agent does not answer")
	}
	e := env.Agent.Engine
	age := env.Now.Sub(e.NodeAt).Round(time.Second)
	switch {
	case e.NodeErr != "":
		return one(Bad, "see the checks of pve, tls and privileges", "the node cannot be observed: %s", e.NodeErr)
	case e.NodeAt.IsZero():
		return one(Warn, "wait a moment; felhom-agent plugins", "the node was not observed yet")
	case age > 3*env.Config.Agent.Resync:
		return one(Bad, "journalctl -u felhom-agent", "the node was last observed %s ago, every %s is due", age, env.Config.Agent.Resync)
	}
	return ok("the node was observed %s ago", age)
}

func desired(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return unknown("the agent does not answer")
	}
	var out []Finding
	for _, p := range env.Agent.Engine.Providers {
		if p.Err != "" {
			out = append(out, one(Warn, "correct it; the last good one holds until then", "provider %s: newest not accepted: %s", p.Name, firstLine(p.Err))...)
		}
	}
	for _, c := range env.Agent.Engine.Conflicts {
		out = append(out, one(Warn, "leave the guest to one of them", "%s", c)...)
	}
	if out != nil {
		return out
	}
	return ok("%d providers, %d guests managed", len(env.Agent.Engine.Providers), len(env.Agent.Engine.Guests))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func journalCheck(_ context.Context, env *Env) []Finding {
	if env.Agent != nil && env.Agent.Engine.Journal != "" {
		return one(Bad, "free space on its file system, or see felhom-agent journal check", "it cannot be written, so nothing is changed: %s", env.Agent.Engine.Journal)
	}
	dir := filepath.Join(env.Config.Agent.StateDir, "journal")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return one(Warn, "start the agent once", "there is none in %s yet", dir)
	}
	rep, err := journal.Check(fsys.OS{}, dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v; root may look", err)
	case err != nil:
		return one(Bad, "felhom-agent journal check", "it cannot be read: %v", err)
	case !rep.OK():
		return one(Bad, "felhom-agent journal check", "it is damaged: %v", rep.Problems[0])
	}
	return ok("%d entries verified, head %d", rep.Entries, rep.Head.Seq)
}

const (
	// leastFree is below what the state's file system counts as full, and
	// lowFree as nearly so, in bytes.
	leastFree = 64 << 20
	lowFree   = 512 << 20
)

func disk(_ context.Context, env *Env) []Finding {
	var out []Finding
	for _, dir := range []string{env.Config.Agent.StateDir, env.Config.Agent.LogDir} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			out = append(out, unknown("%s: %v", dir, err)...)
			continue
		}
		out = append(out, space(dir, int64(st.Bavail)*st.Bsize, st.Files, st.Ffree)...)
	}
	return out
}

func space(dir string, free int64, inodes, freeInodes uint64) []Finding {
	const remedy = "free space there; with no room for the journal nothing is changed"
	switch {
	case free < leastFree:
		return one(Bad, remedy, "%s has %d MiB left", dir, free>>20)
	case inodes > 0 && freeInodes < 1000:
		return one(Bad, remedy, "%s has %d inodes left", dir, freeInodes)
	case free < lowFree:
		return one(Warn, remedy, "%s has %d MiB left", dir, free>>20)
	}
	return ok("%s has %d MiB left", dir, free>>20)
}

func sockets(_ context.Context, env *Env) []Finding {
	var out []Finding
	for what, path := range map[string]string{"hook": env.Config.Hook.Socket, "control": env.Config.Control.Socket} {
		out = append(out, socket(env, what, path)...)
	}
	if out == nil {
		return ok("both are there, for root alone")
	}
	return out
}

// socket says what is wrong with a socket; nil if nothing is.
func socket(env *Env, what, path string) []Finding {
	info, err := os.Lstat(path)
	there := err == nil
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v; root may look", err)
	case env.Agent == nil && !there:
		return nil // as it should be: hooks of a stopped agent spool at once
	case env.Agent == nil && what == "hook":
		return one(Warn, startIt, "%s is there and no agent answers: each hook waits for its budget before it spools", path)
	case env.Agent == nil:
		return one(Warn, startIt, "%s is there and no agent answers", path)
	case !there:
		return one(Bad, "systemctl restart felhom-agent", "the agent runs and its %s socket %s is gone", what, path)
	case info.Mode().Type() != fs.ModeSocket:
		return one(Bad, "remove it, then systemctl restart felhom-agent", "%s is no socket", path)
	case info.Mode().Perm()&0o077 != 0:
		return one(Bad, "chmod 600 "+path, "%s is open to others (mode %04o)", path, info.Mode().Perm())
	}
	return nil
}

// spoolTypes are file systems in memory.
var spoolTypes = map[int64]bool{unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true}

func spool(_ context.Context, env *Env) []Finding {
	dir := env.Config.Hook.Spool
	entries, err := hook.ReadSpool(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return one(Bad, "systemctl restart felhom-agent, which makes it", "%s is missing: an event that the agent does not take is lost", dir)
	case err != nil:
		return unknown("%v", err)
	}
	var out []Finding
	if info, err := os.Stat(filepath.Join(dir, "lost")); err == nil && info.Size() > 0 {
		out = append(out, one(Warn, "the agent looks at every guest, then begins to count anew", "%d events were lost", info.Size())...)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && !spoolTypes[int64(st.Type)] {
		out = append(out, one(Warn, "put it on a tmpfs, as the package does", "%s is not in memory: a hook may wait for a disk", dir)...)
	}
	if n := overdue(entries, env.Now); n > 0 && env.Agent != nil {
		out = append(out, one(Warn, "journalctl -u felhom-agent", "%d events wait although the agent runs", n)...)
	}
	if out == nil {
		return ok("%d events wait in %s", len(entries), dir)
	}
	return out
}

// overdue is how many entries a running agent would have taken by now. Every
// helper leaves one, for a moment.
func overdue(entries []hook.Entry, now time.Time) (n int) {
	for _, e := range entries {
		if e.Err != nil || now.Sub(time.Unix(0, e.Event.Time)) > 5*time.Second {
			n++
		}
	}
	return n
}

func plugins(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return unknown("the agent does not answer")
	}
	var out []Finding
	for _, p := range env.Agent.Plugins {
		if p.State != pluginhost.Running {
			out = append(out, one(Bad, "felhom-agent plugins", "%s is %s: %s", p.Name, p.State, firstLine(p.LastError))...)
			continue
		}
		out = append(out, contained(env, p)...)
	}
	if out == nil {
		return ok("%s", apart(env.Agent.Plugins))
	}
	return out
}

// apart says how each plugin is kept apart from the agent.
func apart(ps []pluginhost.PluginStatus) string {
	var in []string
	for _, p := range ps {
		in = append(in, p.Name+": "+cmp.Or(p.Isolation, "?"))
	}
	return fmt.Sprintf("%d run (%s)", len(ps), strings.Join(in, ", "))
}

// contained tells which protections a plugin's process really has.
func contained(env *Env, p pluginhost.PluginStatus) []Finding {
	s, err := processOf(env.Proc, p.PID)
	if err != nil {
		return unknown("plugin %s (pid %d): %v", p.Name, p.PID, err)
	}
	weak := s.weak()
	if len(weak) == 0 {
		return nil
	}
	return one(Warn, "run it under the shipped unit", "plugin %s runs %s", p.Name, strings.Join(weak, ", "))
}

// hardening looks at what the kernel says of the agent's process, not at what
// a unit file says.
func hardening(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return unknown("the agent does not answer")
	}
	s, err := processOf(env.Proc, env.Agent.PID)
	if err != nil {
		return unknown("pid %d: %v", env.Agent.PID, err)
	}
	weak := s.weak()
	if ro, err := rootReadOnly(env.Proc, env.Agent.PID); err == nil && !ro {
		weak = append(weak, "with a writable root file system")
	}
	if len(weak) == 0 {
		return ok("own user, no capabilities, no new privileges, system calls filtered, read-only root")
	}
	return one(Warn, "start it by its unit, and look for drop-ins: systemctl cat felhom-agent", "the agent runs %s", strings.Join(weak, ", "))
}

// process is what /proc/PID/status says of a process's rights.
type process struct{ uid, noNewPrivs, capBnd, capEff, seccomp string }

func processOf(proc string, pid int) (process, error) {
	f, err := os.Open(filepath.Join(proc, fmt.Sprint(pid), "status"))
	if err != nil {
		return process{}, err
	}
	defer f.Close()
	var s process
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Uid":
			s.uid, _, _ = strings.Cut(value, "\t")
		case "NoNewPrivs":
			s.noNewPrivs = value
		case "CapBnd":
			s.capBnd = value
		case "CapEff":
			s.capEff = value
		case "Seccomp":
			s.seccomp = value
		}
	}
	return s, nil
}

// weak lists the protections that are missing.
func (s process) weak() []string {
	var out []string
	for _, c := range []struct {
		missing bool
		what    string
	}{
		{s.uid == "0", "as root"},
		{strings.Trim(s.capEff, "0") != "", "with capabilities"},
		{strings.Trim(s.capBnd, "0") != "", "with capabilities within reach"},
		{s.noNewPrivs != "1", "able to gain privileges"},
		{s.seccomp != "2", "without a system call filter"},
	} {
		if c.missing {
			out = append(out, c.what)
		}
	}
	return out
}

func rootReadOnly(proc string, pid int) (bool, error) {
	b, err := os.ReadFile(filepath.Join(proc, fmt.Sprint(pid), "mountinfo"))
	if err != nil {
		return false, err
	}
	ro := false
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == "/" {
			ro = strings.HasPrefix(f[5], "ro") // the last one mounted there counts
		}
	}
	return ro, nil
}
