// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/hookinstall"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/agent/internal/power"
	"github.com/felhom/felhom-agent/agent/internal/setup"
	"github.com/felhom/felhom-agent/agent/internal/sysbus/bustest"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// fake answers as a healthy node does; what a test sets replaces that.
type fake struct {
	version   string
	err       error
	cluster   pve.Cluster
	perms     pve.Permissions
	resources []pve.Resource
	bus       *bustest.Bus
}

func (f *fake) Version(context.Context) (pve.Version, error) {
	return pve.Version{Version: f.version}, f.err
}
func (f *fake) Cluster(context.Context) (pve.Cluster, error) { return f.cluster, f.err }
func (f *fake) Permissions(context.Context, string) (pve.Permissions, error) {
	return f.perms, f.err
}
func (f *fake) Resources(context.Context) ([]pve.Resource, error) { return f.resources, f.err }

// granted is what a token with a role's grants tells of itself.
func granted(r setup.Role) pve.Permissions {
	out := pve.Permissions{}
	for _, g := range r.Grants(9) {
		out[g.Path] = map[string]bool{}
		for _, p := range g.Privs {
			out[g.Path][p] = true
		}
	}
	return out
}

// healthy is a host on which everything is as it should be.
func healthy(t *testing.T) (*Env, *fake) {
	t.Helper()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Agent.StateDir, cfg.Agent.LogDir, cfg.Agent.Mode = dir, dir, config.Enforce
	cfg.Hook.Socket, cfg.Control.Socket = dir+"/hook.sock", dir+"/control.sock"
	cfg.Hook.Spool = dir + "/spool"
	cfg.PVE.URL = "https://127.0.0.1:8006"
	node := &fake{version: "9.2.11", cluster: pve.Cluster{Quorate: true}, perms: granted(setup.Operate)}
	bus := bustest.New(t)
	bus.Set("/org/freedesktop/timedate1", "org.freedesktop.timedate1", "NTPSynchronized", true)
	node.bus = bus
	env := &Env{
		Config: cfg, Now: time.Now(), Node: "pve1", PVE: node, Bus: bus.Address, Proc: dir + "/proc", Root: true,
		Agent: &Agent{
			PID:     7,
			Engine:  engine.Status{Mode: engine.Enforce, NodeAt: time.Now(), Quorate: true},
			Plugins: []pluginhost.PluginStatus{{Name: "pve", State: pluginhost.Running, PID: 8}},
		},
		Hooks: func(context.Context) ([]hookinstall.Standing, error) {
			return []hookinstall.Standing{{Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Installed: true}}, nil
		},
	}
	for _, pid := range []int{7, 8} {
		procStatus(env, pid, "Uid:\t990\t990\nNoNewPrivs:\t1\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nSeccomp:\t2\n").write(t)
	}
	must(t, os.WriteFile(env.Proc+"/7/mountinfo", []byte("1 0 8:1 / / rw,relatime - ext4 a b\n2 1 8:1 / / ro,relatime - ext4 a b\n"), 0o600))
	must(t, os.MkdirAll(cfg.Hook.Spool, 0o700))
	for _, s := range []string{cfg.Hook.Socket, cfg.Control.Socket} {
		ln, err := net.Listen("unix", s)
		must(t, err)
		must(t, os.Chmod(s, 0o600))
		t.Cleanup(func() { ln.Close() })
	}
	j, _, err := journal.Open(t.Context(), journal.Options{Dir: dir + "/journal", Fold: ledger.New(), Host: "pve1"})
	must(t, err)
	must(t, j.Close())
	return env, node
}

type statusFile struct{ dir, text string }

func procStatus(env *Env, pid int, text string) statusFile {
	return statusFile{fmt.Sprintf("%s/%d", env.Proc, pid), text}
}

func (s statusFile) write(t *testing.T) {
	t.Helper()
	must(t, os.MkdirAll(s.dir, 0o700))
	must(t, os.WriteFile(s.dir+"/status", []byte(s.text), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// worstOf is the verdict of one check.
func worstOf(ctx context.Context, env *Env, name string) (Verdict, []Finding) {
	for _, c := range Checks {
		if c.Name == name {
			f := c.Do(ctx, env)
			return Worst(f), f
		}
	}
	return "", nil
}

func TestHealthyHost(t *testing.T) {
	env, _ := healthy(t)
	for _, f := range Run(t.Context(), env) {
		switch {
		case f.Check == "tls": // nothing listens: see TestTLS
		case f.Check == "spool" && strings.Contains(f.Reason, "not in memory"): // the test's directory is not
		case f.Check == "disk" && f.Verdict == Warn: // this machine's own
		case f.Verdict != OK:
			t.Errorf("%s: %s: %s", f.Check, f.Verdict, f.Reason)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, tc := range []struct {
		check   string
		verdict Verdict
		words   string
		spoil   func(*Env, *fake)
	}{
		{"agent", Warn, "does not answer: gone", func(e *Env, _ *fake) { e.Agent, e.AgentErr = nil, errors.New("gone") }},
		{"agent", Bad, "uses our token", func(e *Env, _ *fake) { e.Agent.Engine.Twin = "somebody uses our token" }},
		{"agent", Bad, "too many", func(e *Env, _ *fake) { e.Agent.Engine.Breaker = "too many guests" }},
		{"agent", Warn, "paused", func(e *Env, _ *fake) { e.Agent.Engine.Paused = true }},
		{"reconcile", Unknown, "", func(e *Env, _ *fake) { e.Agent = nil }},
		{"reconcile", Bad, "cannot be observed: 595", func(e *Env, _ *fake) { e.Agent.Engine.NodeErr = "595" }},
		{"reconcile", Warn, "not observed yet", func(e *Env, _ *fake) { e.Agent.Engine.NodeAt = time.Time{} }},
		{"reconcile", Bad, "ago", func(e *Env, _ *fake) { e.Now = e.Now.Add(time.Hour) }},
		{"desired state", Warn, "guests.toml:3", func(e *Env, _ *fake) {
			e.Agent.Engine.Providers = []engine.ProviderStatus{{Name: "dir", Err: "guests.toml:3: no\nmore"}}
		}},
		{"desired state", Warn, "two want 101", func(e *Env, _ *fake) { e.Agent.Engine.Conflicts = []string{"two want 101"} }},
		{"journal", Bad, "no space", func(e *Env, _ *fake) { e.Agent.Engine.Journal = "no space" }},
		{"journal", Warn, "there is none", func(e *Env, _ *fake) { e.Config.Agent.StateDir = "/nonexistent" }},
		{"journal", Bad, "damaged", func(e *Env, _ *fake) { damage(e.Config.Agent.StateDir) }},
		{"disk", Unknown, "no such file", func(e *Env, _ *fake) { e.Config.Agent.StateDir = "/nonexistent" }},
		{"sockets", Bad, "is gone", func(e *Env, _ *fake) { os.Remove(e.Config.Hook.Socket) }},
		{"sockets", Bad, "open to others", func(e *Env, _ *fake) { _ = os.Chmod(e.Config.Control.Socket, 0o666) }},
		{"sockets", Warn, "hook.sock is there and no agent answers: each hook waits", func(e *Env, _ *fake) { e.Agent = nil; os.Remove(e.Config.Control.Socket) }},
		{"sockets", Warn, "control.sock is there and no agent answers systemctl", func(e *Env, _ *fake) { e.Agent = nil; os.Remove(e.Config.Hook.Socket) }},
		{"sockets", Warn, "no agent answers", func(e *Env, _ *fake) { e.Agent = nil }},
		{"sockets", OK, "", func(e *Env, _ *fake) {
			e.Agent = nil
			os.Remove(e.Config.Hook.Socket)
			os.Remove(e.Config.Control.Socket)
		}},
		{"spool", Bad, "is missing", func(e *Env, _ *fake) { os.RemoveAll(e.Config.Hook.Spool) }},
		{"spool", Warn, "3 events were lost", func(e *Env, _ *fake) { put(e.Config.Hook.Spool+"/lost", "xxx") }},
		{"plugins", Unknown, "", func(e *Env, _ *fake) { e.Agent = nil }},
		{"plugins", Bad, "sha256 differs", func(e *Env, _ *fake) {
			e.Agent.Plugins[0].State, e.Agent.Plugins[0].LastError = pluginhost.Refused, "sha256 differs"
		}},
		{"plugins", Warn, "plugin pve runs as root", func(e *Env, _ *fake) {
			put(e.Proc+"/8/status", "Uid:\t0\t0\nNoNewPrivs:\t1\nSeccomp:\t2\n")
		}},
		{"hardening", Warn, "as root, with capabilities, with capabilities within reach, able to gain privileges, without a system call filter", func(e *Env, _ *fake) {
			put(e.Proc+"/7/status", "Uid:\t0\t0\nNoNewPrivs:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nSeccomp:\t0\n")
		}},
		{"hardening", Warn, "writable root", func(e *Env, _ *fake) {
			put(e.Proc+"/7/mountinfo", "1 0 8:1 / / rw,relatime - ext4 a b\n")
		}},
		{"hardening", Unknown, "", func(e *Env, _ *fake) { e.Proc = "/nonexistent" }},
		{"clock", Unknown, "no signature is accepted", func(e *Env, _ *fake) { e.Bus = "unix:path=/nonexistent" }},
		{"clock", Warn, "is not synchronised", unsynchronised("")},
		{"clock", Bad, "no signature is accepted", unsynchronised("alice ssh-ed25519 AAAA")},
		{"clock", Warn, "taken for right", func(e *Env, f *fake) {
			unsynchronised("alice ssh-ed25519 AAAA")(e, f)
			e.Config.Gate.AssumeClock = true
		}},
		{"host state", Warn, "tasks only", func(e *Env, _ *fake) { e.Agent.Power = power.State{Blind: "no bus"} }},
		{"host state", Warn, "going down", func(e *Env, _ *fake) { e.Agent.Power = power.State{Frozen: "it is going down"} }},
		{"pve", Warn, "no PVE connection", func(e *Env, _ *fake) { e.Config.PVE.URL = "" }},
		{"pve", Unknown, "token: gone", func(e *Env, _ *fake) { e.PVE, e.PVEErr = nil, errors.New("the token: gone") }},
		{"pve", Bad, "refuses the token", func(_ *Env, n *fake) { n.err = fmt.Errorf("401: %w", pve.ErrDenied) }},
		{"pve", Bad, "does not answer", func(_ *Env, n *fake) { n.err = errors.New("refused") }},
		{"pve", Warn, "older", func(_ *Env, n *fake) { n.version = "7.4-20" }},
		{"pve", Unknown, "tells no version", func(_ *Env, n *fake) { n.version = "" }},
		{"pve", Warn, "older", func(_ *Env, n *fake) { n.version = "6.4-1" }},
		{"pve", Warn, "newer", func(_ *Env, n *fake) { n.version = "10.0" }},
		{"quorum", Bad, "no quorum", func(_ *Env, n *fake) { n.cluster = pve.Cluster{Name: "c"} }},
		{"quorum", OK, "quorate", func(_ *Env, n *fake) { n.cluster = pve.Cluster{Name: "c", Quorate: true} }},
		{"quorum", Unknown, "595", func(_ *Env, n *fake) { n.err = errors.New("595") }},
		{"privileges", Bad, "lacks VM.PowerMgmt on /vms", func(_ *Env, n *fake) { delete(n.perms["/vms"], "VM.PowerMgmt") }},
		{"privileges", Bad, "on /vms", func(_ *Env, n *fake) { n.perms["/vms"] = nil }},
		{"privileges", Bad, "lacks VM.PowerMgmt on /vms", func(_ *Env, n *fake) { n.perms["/vms"]["VM.PowerMgmt"] = false }}, // not on the guests
		{"privileges", Warn, "never does: Permissions.Modify, Sys.Modify", func(_ *Env, n *fake) {
			n.perms["/"]["Sys.Modify"], n.perms["/"]["Permissions.Modify"] = true, true
		}},
		{"privileges", OK, "role observe", func(e *Env, n *fake) { e.Config.Agent.Mode, n.perms = config.Observe, granted(setup.Observe) }},
		{"privileges", OK, "role operate", func(_ *Env, n *fake) { n.perms = onRoot(granted(setup.Operate)) }},
		{"approvals", OK, "nobody may sign", func(*Env, *fake) {}},
		{"approvals", OK, "nobody may sign", signedBy("hub namespaces=\"felhom-desired-v1\" " + aKey)},
		{"approvals", Warn, "lacks VM.Allocate on /vms", signedBy("alice " + aKey)},
		{"approvals", OK, "may do what", func(e *Env, n *fake) { signedBy("alice "+aKey)(e, n); n.perms = granted(setup.Full) }},
		{"approvals", Unknown, "token: gone", func(e *Env, n *fake) {
			signedBy("alice "+aKey)(e, n)
			e.PVE, e.PVEErr = nil, errors.New("the token: gone")
		}},
		{"approvals", Unknown, "595", func(e *Env, n *fake) { signedBy("alice "+aKey)(e, n); n.err = errors.New("595") }},
		{"approvals", Warn, "signers:1: the key is missing", signedBy("alice")},
		{"ha", Bad, "lxc/101 is in HA state error", func(_ *Env, n *fake) { n.resources = haGuest("error") }},
		{"ha", OK, "1 guests", func(_ *Env, n *fake) { n.resources = haGuest("started") }},
		{"ha", Warn, "is running and wanted stopped", func(e *Env, n *fake) {
			n.resources = haGuest("started")
			e.Agent.Engine.Guests = []engine.View{{ID: n.resources[0].ID, Run: guest.Running, Wanted: guest.Stopped}}
		}},
		{"hooks", Unknown, "root may look", func(e *Env, _ *fake) { e.Hooks = nil }},
		{"hooks", Bad, "lxc/101: it is gone", hookTrouble("it is gone", true)},
		{"hooks", Warn, "without the hookscript", hookTrouble("", false)},
	} {
		t.Run(tc.check+" "+tc.words, func(t *testing.T) {
			env, node := healthy(t)
			tc.spoil(env, node)
			got, findings := worstOf(t.Context(), env, tc.check)
			text := fmt.Sprint(findings)
			if got != tc.verdict || !strings.Contains(text, tc.words) {
				t.Errorf("got %s: %s; want %s with %q", got, text, tc.verdict, tc.words)
			}
			for _, f := range findings {
				if f.Verdict == Bad && f.Remedy == "" {
					t.Errorf("no remedy for %q", f.Reason)
				}
			}
		})
	}
}

// TestEventsThatWait: each helper leaves an event for a moment; one that stays is
// a sign of trouble.
func TestEventsThatWait(t *testing.T) {
	for age, want := range map[time.Duration]bool{0: false, time.Minute: true} {
		env, _ := healthy(t)
		must(t, hook.Spool(env.Config.Hook.Spool, hook.New(101, guest.PreStart, "")))
		env.Now = time.Now().Add(age)
		_, findings := worstOf(t.Context(), env, "spool")
		if got := strings.Contains(fmt.Sprint(findings), "1 events wait although the agent runs"); got != want {
			t.Errorf("after %s: %v", age, findings)
		}
	}
}

// unsynchronised is a clock that nobody keeps, on a host with these signers.
func unsynchronised(signers string) func(*Env, *fake) {
	return func(e *Env, n *fake) {
		n.bus.Set("/org/freedesktop/timedate1", "org.freedesktop.timedate1", "NTPSynchronized", false)
		e.Config.Gate.AllowedSigners = e.Config.Agent.StateDir + "/signers"
		_ = os.WriteFile(e.Config.Gate.AllowedSigners, []byte(signers), 0o600)
	}
}

const aKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGwcj5mCGaUZy7LLH0gcWOWSgGQUGFGVTKTkQKOGrdTZ"

// signedBy is a host with these signers.
func signedBy(signers string) func(*Env, *fake) {
	return func(e *Env, _ *fake) {
		e.Config.Gate.AllowedSigners, e.Config.Gate.RevokedKeys = e.Config.Agent.StateDir+"/signers", ""
		e.Config.Plugins.TrustedUIDs = []int{os.Getuid()}
		put(e.Config.Gate.AllowedSigners, signers)
	}
}

func haGuest(state string) []pve.Resource {
	id := guest.ID{Kind: guest.LXC, VMID: 101}
	return []pve.Resource{
		{Ref: pve.Ref{Node: "pve1", ID: id}, HAState: state},
		{Ref: pve.Ref{Node: "pve2", ID: guest.ID{Kind: guest.LXC, VMID: 102}}, HAState: "error"}, // another node's
	}
}

func hookTrouble(why string, installed bool) func(*Env, *fake) {
	return func(e *Env, _ *fake) {
		id := guest.ID{Kind: guest.LXC, VMID: 101}
		e.Agent.Engine.Guests = []engine.View{{ID: id}}
		e.Hooks = func(context.Context) ([]hookinstall.Standing, error) {
			return []hookinstall.Standing{{Guest: id, Installed: installed, Trouble: why}}, nil
		}
	}
}

// onRoot is the same granted on "/" alone, as the manual of PVE does it.
func onRoot(p pve.Permissions) pve.Permissions {
	all := map[string]bool{}
	for _, privs := range p {
		for name := range privs {
			all[name] = true
		}
	}
	return pve.Permissions{"/": all}
}

// put writes a file, for a table's functions that have no test of their own.
func put(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// damage flips a byte in the middle of the journal.
func damage(state string) {
	files, _ := filepath.Glob(state + "/journal/*")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && len(b) > 40 {
			b[len(b)/2] ^= 1
			_ = os.WriteFile(f, b, 0o600)
		}
	}
}

func TestSpace(t *testing.T) {
	for _, tc := range []struct {
		free   int64
		inodes uint64
		want   Verdict
	}{{10 << 20, 1e6, Bad}, {100 << 20, 1e6, Warn}, {1 << 40, 1e6, OK}, {1 << 40, 10, Bad}} {
		if got := Worst(space("/x", tc.free, 1e7, tc.inodes)); got != tc.want {
			t.Errorf("%d bytes, %d inodes: %s, want %s", tc.free, tc.inodes, got, tc.want)
		}
	}
}

func TestTLS(t *testing.T) {
	env, node := healthy(t)
	sim, err := pvetest.New(pvetest.Options{Node: "pve1"})
	must(t, err)
	t.Cleanup(sim.Close)
	certs, err := pvetest.NewCertificates("pve1", net.IPv4(127, 0, 0, 1))
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certs.TLS}})
	must(t, err)
	srv, done := sim.Server(), make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	url := "https://" + ln.Addr().String()
	env.Config.PVE.URL = url
	end, err := certificateEnd(t.Context(), url)
	must(t, err)
	for _, tc := range []struct {
		now  time.Time
		err  error
		want Verdict
	}{
		{end.Add(-365 * 24 * time.Hour), nil, OK},
		{end.Add(-3 * 24 * time.Hour), nil, Warn},
		{end.Add(time.Hour), nil, Bad},
		{end.Add(-365 * 24 * time.Hour), fmt.Errorf("x509: %w", pve.ErrNotSent), Bad},
	} {
		env.Now, node.err = tc.now, tc.err
		if got, f := worstOf(t.Context(), env, "tls"); got != tc.want {
			t.Errorf("%s before the end: %s, want %s: %v", end.Sub(tc.now), got, tc.want, f)
		}
	}
}

func TestWorst(t *testing.T) {
	all := []Finding{{Verdict: OK}, {Verdict: Unknown}}
	if got := Worst(all); got != Unknown {
		t.Errorf("got %s", got)
	}
	if got := Worst(append(all, Finding{Verdict: Warn}, Finding{Verdict: Bad}, Finding{Verdict: OK})); got != Bad {
		t.Errorf("got %s", got)
	}
}
