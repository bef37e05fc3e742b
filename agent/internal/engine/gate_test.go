// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

const (
	alice = "alice@example.com"
	bob   = "bob@example.com"
)

// people sign with the real ssh-keygen. allowed and revoked are the files as
// the agent reads them.
type people struct {
	t   testing.TB
	dir string

	mu               *sync.Mutex // guards what follows, while an engine runs
	allowed, revoked string
	broken           error
}

// newPeople: alice and bob may approve, mallory is nobody.
func newPeople(t testing.TB) *people {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	p := &people{t: t, dir: t.TempDir(), mu: new(sync.Mutex)}
	for _, who := range []string{alice, bob, "mallory"} {
		p.generate(who, "ed25519")
	}
	p.allowed = p.line(alice, "") + p.line(bob, "")
	return p
}

func (p *people) file(name string) string { return filepath.Join(p.dir, name) }

func (p *people) keygen(in string, args ...string) string {
	p.t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("ssh-keygen %q: %v", args, err)
	}
	return string(out)
}

func (p *people) generate(name, kind string, options ...string) {
	p.t.Helper()
	p.keygen("", append([]string{"-q", "-t", kind, "-N", "", "-C", "", "-f", p.file(name)}, options...)...)
}

func (p *people) pub(name string) string {
	p.t.Helper()
	b, err := os.ReadFile(p.file(name) + ".pub")
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// line is an allowed_signers line for a person's own key.
func (p *people) line(who, options string) string {
	if options != "" {
		options += " "
	}
	return who + " " + options + p.pub(who)
}

func (p *people) sign(who, namespace, text string) string {
	p.t.Helper()
	return p.keygen(text, "-Y", "sign", "-q", "-n", namespace, "-f", p.file(who))
}

// signed is how the people named sign a text, by their own keys.
func (p *people) signed(text string, who ...string) []ledger.Signature {
	p.t.Helper()
	var sigs []ledger.Signature
	for _, w := range who {
		sigs = append(sigs, ledger.Signature{Principal: w, Armored: p.sign(w, gate.ApprovalNamespace, text)})
	}
	return sigs
}

// spoil changes who may sign while the engine may read it.
func (p *people) spoil(f func(p *people)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func (p *people) keys() (*gate.Signers, *gate.Revoked, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return nil, nil, p.broken
	}
	s, err := gate.ParseSigners("allowed_signers", []byte(p.allowed), time.UTC)
	if err != nil {
		return nil, nil, err
	}
	r, err := gate.ParseRevoked("revoked_keys", []byte(p.revoked))
	return s, r, err
}

// The guest that the tests of the gate are about.
var doomed = guest.Config{
	"hostname": "old", "onboot": "1", "tags": "web", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:05,type=veth",
	"rootfs": "local:105/vm-105-disk-0.raw,size=8G",
}

// gateRig is a rig whose operator can sign. The quarantine lasts an hour.
func gateRig(r *rig, p *people) {
	r.keys = p.keys
	r.clock = func(context.Context) bool { return true }
	r.change = func(s *Settings) {
		s.Gate = GateSettings{Policy: gate.DefaultPolicy(), Window: time.Hour, Quarantine: time.Hour, BackupAge: 24 * time.Hour}
		s.Gate.Policy.MaxWindow = 4 * time.Hour
	}
	r.put(105, guest.Running, doomed)
	r.world.Change(105, func(g *plugintest.Guest) {
		g.Snapshots = []plugin.SnapshotInfo{{Name: "before", Time: time.Now().Add(-time.Hour)}}
	})
	r.start(Enforce)
}

// ask asks for an action and returns the op.
func (r *rig) ask(kind plugin.ActionKind, params map[string]string) op.Op {
	r.t.Helper()
	got, err := r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: kind, Params: params, By: "operator (uid 0)"})
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Ops[0]
}

func (r *rig) askDestroy() op.Op {
	r.t.Helper()
	return r.ask(plugin.Destroy, map[string]string{"without_backup": "1"})
}

// approve signs an op's request as the people named and hands it in.
func (r *rig) approve(p *people, o op.Op, who ...string) error {
	r.t.Helper()
	_, err := r.eng.Approve(r.t.Context(), o.ID, o.Request, p.signed(o.Request, who...), "operator (uid 0)")
	return err
}

func (r *rig) op(id string) op.Op {
	r.t.Helper()
	o, ok := r.led.Op(id)
	if !ok {
		r.t.Fatalf("op %s is not known", id)
	}
	return o
}

func gateBubble(t *testing.T, f func(r *rig, p *people)) {
	t.Helper()
	p := newPeople(t)
	synctest.Test(t, func(t *testing.T) {
		clear(cache)
		r := newRig(t)
		gateRig(r, p)
		defer r.stop()
		f(r, p)
	})
}

func TestDestroyIsQuarantineFirst(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		if o.State != op.Awaiting || !strings.Contains(o.Request, "\neffect: rootfs: local:105/vm-105-disk-0.raw,size=8G (8G)\n") ||
			!strings.Contains(o.Request, "\neffect: snapshot before of 1999-12-31T23:00:00Z is lost\n") {
			t.Fatalf("op %s is %s with the request\n%s", o.ID, o.State, o.Request)
		}
		after(time.Minute)
		r.wantApplied() // nothing without a signature
		r.must(r.approve(p, o, alice))
		after(time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		g, _ := r.world.Guest(105)
		if g.Config["onboot"] != "0" || g.Config["protection"] != "1" || g.Config["tags"] != "web;"+quarantineTag {
			t.Errorf("in quarantine: %v", g.Config)
		}
		after(50 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config") // the hour is not over
		after(15 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
		if got := r.op(o.ID); got.State != op.Succeeded || got.Approval == nil || got.Approval.Nonce == "" {
			t.Errorf("op %+v", got)
		}
		if r.led.Guest(105).Lost == "" {
			t.Error("the journal does not know that the guest was destroyed")
		}
	})
}

func TestUndoTakesAGuestOutOfQuarantine(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(time.Minute)
		if _, err := r.eng.Undo(r.t.Context(), o.ID, "alice"); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 set_config", "105 start")
		g, _ := r.world.Guest(105)
		if g.Config["onboot"] != "1" || g.Config["protection"] != "" || g.Config["tags"] != "web" || g.Run != guest.Running {
			t.Errorf("after undo: %s %v", g.Run, g.Config)
		}
		if got := r.op(o.ID); got.State != op.Abandoned {
			t.Errorf("the destroy is %s", got.State)
		}
	})
}

func TestDecommissionBacksUpFirst(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		if _, err := r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.Destroy}); err == nil || !strings.Contains(err.Error(), "backup=STORAGE") {
			t.Errorf("a destroy without any backup was taken: %v", err)
		}
		o := r.ask(plugin.Destroy, map[string]string{"backup": "pbs"})
		r.must(r.approve(p, o, alice))
		after(2 * time.Hour)
		r.wantApplied("105 backup", "105 shutdown", "105 set_config", "105 destroy")
	})
}

// TestBenignOrders need no signature, whatever the mode.
func TestBenignOrders(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		if o := r.ask(plugin.TakeSnapshot, map[string]string{"name": "now"}); r.op(o.ID).State != op.Succeeded {
			t.Errorf("snapshot: %+v", r.op(o.ID))
		}
		volume := r.op(r.ask(plugin.Backup, map[string]string{"storage": "local"}).ID).Made["volume"]
		if volume == "" {
			t.Error("the backup does not tell its volume")
		}
		r.wantApplied("105 snapshot", "105 backup")
		for kind, params := range map[plugin.ActionKind]map[string]string{
			plugin.Rollback: {"name": "now"}, plugin.DeleteSnapshot: {"name": "now"},
			plugin.DeleteBackup: {"volume": volume}, "acme.wipe": {"disk": "1"},
		} {
			if o := r.ask(kind, params); r.op(o.ID).State != op.Awaiting {
				t.Errorf("%s: %+v", kind, r.op(o.ID))
			}
		}
		after(time.Minute)
		r.wantApplied("105 snapshot", "105 backup")
	})
}

// TestDocumentsCannotDoWhatIsIrreversible: a document that deletes a volume or
// takes protection off leads to a request, not to a change.
func TestDocumentsCannotDoWhatIsIrreversible(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.world.Change(105, func(g *plugintest.Guest) {
			g.Run = guest.Stopped
			g.Config["mp0"], g.Config["protection"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G", "1"
		})
		r.mustDesire("[guest.105]\nkind = \"lxc\"\ncores = 2\ndelete = [\"mp0\"]\n[guest.105.config]\nprotection = \"0\"\n")
		after(time.Minute)
		r.wantApplied("105 set_config")
		if g, _ := r.world.Guest(105); g.Config["mp0"] == "" || g.Config["protection"] != "1" {
			t.Fatalf("changed without a signature: %v", g.Config)
		}
		waiting := r.led.Waiting(105)
		if len(waiting) != 1 || r.state(105) != StateAwaiting {
			t.Fatalf("%d ops wait, state %s", len(waiting), r.state(105))
		}
		after(2 * time.Hour) // it is not asked for again and again; its time passes
		if n := len(r.led.Waiting(105)); n != 1 {
			t.Errorf("%d ops wait", n)
		}
		err := r.approve(p, waiting[0], alice)
		if err == nil || !strings.Contains(err.Error(), "new request") {
			t.Fatalf("an expired request: %v", err)
		}
		r.must(r.approve(p, r.op(waiting[0].ID), alice))
		after(time.Minute)
		// PVE deletes no volume of a protected guest, so that is asked for now.
		r.must(r.approve(p, r.led.Waiting(105)[0], alice))
		after(time.Minute)
		r.wantApplied("105 set_config", "105 set_config", "105 set_config")
		if g, _ := r.world.Guest(105); g.Config["mp0"] != "" || g.Config["protection"] != "0" {
			t.Errorf("after the approval: %v", g.Config)
		}
		if got := r.state(105); got != StateConverged {
			t.Errorf("state %s", got)
		}
	})
}

// TestReplacedGuest: at each step of a destroy the guest is replaced by another
// under its VMID. The other is never touched.
func TestReplacedGuest(t *testing.T) {
	replaced := func(r *rig) {
		r.world.Change(105, func(g *plugintest.Guest) {
			g.Run = guest.Stopped
			g.Config = guest.Config{
				"hostname": "new", "protection": g.Config["protection"], "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:99,type=veth",
				"rootfs": "local:105/vm-105-disk-7.raw,size=4G",
			}
		})
	}
	for _, tt := range []struct {
		name string
		when time.Duration // after the approval; negative: before
		sent []string
	}{
		{"before the approval", -1, nil},
		{"in quarantine", 30 * time.Minute, []string{"105 shutdown", "105 set_config"}},
		{"a moment before the deletion", 59 * time.Minute, []string{"105 shutdown", "105 set_config"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				o := r.askDestroy()
				if tt.when < 0 {
					replaced(r)
				}
				r.must(r.approve(p, o, alice))
				after(max(tt.when, 0))
				if tt.when > 0 {
					replaced(r)
				}
				after(5 * time.Hour)
				if got := r.op(o.ID); got.State != op.Refused && got.State != op.Abandoned || got.Message == "" {
					t.Errorf("the destroy is %s: %q", got.State, got.Message)
				}
				if diff := slices.Compare(r.applied(), tt.sent); diff != 0 {
					t.Errorf("sent %q, want %q", r.applied(), tt.sent)
				}
				if _, there := r.world.Guest(105); !there {
					t.Error("the other guest was destroyed")
				}
			})
		})
	}
}

// TestRestartInTheMiddleOfADestroy: the grant outlives the agent.
func TestRestartInTheMiddleOfADestroy(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(10 * time.Minute)
		r.stop()
		r.start(Enforce)
		after(2 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
		if got := r.op(o.ID).State; got != op.Succeeded {
			t.Errorf("the destroy is %s", got)
		}
	})
}

// TestSignerRevokedDuringQuarantine: a grant is worth no more than the keys
// that it stands on, to its last moment.
func TestSignerRevokedDuringQuarantine(t *testing.T) {
	for name, spoil := range map[string]func(p *people){
		"revoked":          func(p *people) { p.revoked = p.pub(alice) },
		"listed no more":   func(p *people) { p.allowed = p.line(bob, "") },
		"the list is gone": func(p *people) { p.broken = os.ErrNotExist },
	} {
		t.Run(name, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				o := r.askDestroy()
				r.must(r.approve(p, o, alice))
				after(time.Minute)
				p.spoil(spoil)
				after(5 * time.Hour)
				r.wantApplied("105 shutdown", "105 set_config")
				if got := r.op(o.ID).State; got != op.Refused && got != op.Abandoned {
					t.Errorf("the destroy is %s", got)
				}
			})
		})
	}
}

// TestQuarantineLongerThanTheBackupIsFresh: the backup that was recent when the
// destroy was asked for does not age it out.
func TestQuarantineLongerThanTheBackupIsFresh(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		set := settings(Enforce)
		r.change(&set)
		set.Gate.BackupAge = 30 * time.Minute
		r.must(r.eng.Reload(set))
		r.ask(plugin.Backup, map[string]string{"storage": "pbs"})
		o := r.ask(plugin.Destroy, nil)
		r.must(r.approve(p, o, alice))
		after(2 * time.Hour)
		r.wantApplied("105 backup", "105 shutdown", "105 set_config", "105 destroy")
	})
}

// TestUnreadableGuestInQuarantineWaits: PVE answers 500 now and then; that is no
// reason to give a grant up, nor to go on.
func TestUnreadableGuestInQuarantineWaits(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(30 * time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "failed to read from command socket" })
		after(45 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config")
		r.world.Change(105, func(g *plugintest.Guest) { g.ConfigErr = "" })
		after(10 * time.Minute)
		r.wantApplied("105 shutdown", "105 set_config", "105 destroy")
	})
}

// TestQuarantineOutlivesAGrantThatIsOver: the guest stays as it is until
// somebody says undo.
func TestQuarantineOutlivesAGrantThatIsOver(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.mustDesire("[guest.105]\nkind = \"lxc\"\nrun = \"running\"\n")
		o := r.askDestroy()
		r.must(r.approve(p, o, alice))
		after(10 * time.Minute)
		r.world.Change(105, func(g *plugintest.Guest) {
			g.Snapshots = append(g.Snapshots, plugin.SnapshotInfo{Name: "precious", Time: time.Now()})
		})
		after(5 * time.Hour)
		r.wantApplied("105 shutdown", "105 set_config")
		if got := r.op(o.ID); got.State != op.Refused || !strings.Contains(got.Message, "new: snapshot precious") {
			t.Errorf("the destroy is %s: %s", got.State, got.Message)
		}
		if _, err := r.eng.Undo(r.t.Context(), o.ID, "alice"); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		r.wantApplied("105 shutdown", "105 set_config", "105 set_config", "105 start")
		if got := r.state(105); got != StateConverged {
			t.Errorf("state %s", got)
		}
	})
}

// TestTasksThatCannotBeSeen: where it is not known what happened to a guest it
// is not surely the same, and nothing irreversible is asked for it.
func TestTasksThatCannotBeSeen(t *testing.T) {
	gateBubble(t, func(r *rig, _ *people) {
		r.askDestroy()
		r.world.SetTasksGap("the token sees only its own tasks")
		_, err := r.eng.Ask(r.t.Context(), Order{Guest: 105, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}})
		if err == nil || !strings.Contains(err.Error(), "the token sees only its own tasks") {
			t.Errorf("asked for although tasks cannot be seen: %v", err)
		}
		r.world.SetTasksGap("")
		r.askDestroy() // it is no mark for ever
	})
}
