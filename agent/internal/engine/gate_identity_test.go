// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

const wants105 = "[guest.105]\nkind = \"lxc\"\nrun = \"running\"\ncores = 2\n"

// identityRig is a guest 105 that the agent has known for a while.
func identityRig(t *testing.T, f func(r *rig)) {
	t.Helper()
	bubble(t, func(r *rig) {
		r.put(105, guest.Running, maps.Clone(doomed))
		r.world.Change(105, func(g *plugintest.Guest) { g.Config["cores"] = "2" })
		r.change = func(s *Settings) { s.AllowAdditive = true }
		r.start(Enforce)
		r.mustDesire(wants105)
		after(10 * time.Minute)
		f(r)
		r.stop()
	})
}

// records counts the records of a type on disk.
func (r *rig) records(want ledger.Type) (n int) {
	r.t.Helper()
	err := journal.Read(fsys.OS{}, r.dir, 0, func(e journal.Entry, _ journal.Frame) bool {
		if rec, err := ledger.Decode(e.Payload); err == nil && rec.Type == want {
			n++
		}
		return true
	})
	if err != nil {
		r.t.Error(err)
	}
	return n
}

func (r *rig) why(id guest.VMID) string {
	v, err := r.eng.View(id)
	if err != nil || len(v.Plan.Withheld) == 0 {
		return ""
	}
	return v.Plan.Withheld[0].Why
}

// foreignTask is one of somebody else's that has ended well.
func (r *rig) foreignTask(id guest.VMID, kind string) {
	now := time.Now()
	r.world.AddTask(id, plugin.Task{
		UPID: "UPID:pve1:" + kind + now.String(), Type: kind, ID: id.String(), User: "root@pam", Started: now, Ended: now.Add(time.Second), Status: "OK",
	})
}

// drift makes the guest differ from its document.
func (r *rig) drift(id guest.VMID) {
	r.world.Change(id, func(g *plugintest.Guest) { g.Config["cores"] = "8" })
}

// TestRecreatedToTheByte: the config is what it was; only tasks tell. What they
// told outlives PVE's memory of them and the agent, costs one record, and ends
// with accept.
func TestRecreatedToTheByte(t *testing.T) {
	identityRig(t, func(r *rig) {
		time.Sleep(2 * time.Second)
		r.foreignTask(105, "vzdestroy")
		time.Sleep(2 * time.Second)
		r.foreignTask(105, "vzcreate")
		time.Sleep(2 * time.Second)
		r.drift(105)
		after(time.Hour)
		r.wantApplied()
		if got := r.why(105); !strings.Contains(got, "vzcreate by root@pam") || !strings.Contains(got, "accept 105") {
			t.Errorf("why: %q", got)
		}
		if n := r.records(ledger.TypeIdentity); n > 2 {
			t.Errorf("%d records of one verdict", n)
		}
		r.world.ForgetTasks()
		r.stop()
		r.start(Enforce)
		for range 20 {
			r.world.Hint(plugin.Hint{All: true})
			r.eng.Resync("test")
			after(time.Minute)
		}
		r.wantApplied()
		if n := r.records(ledger.TypeIdentity); n > 2 {
			t.Errorf("%d records of one verdict after a restart", n)
		}
		r.must(r.eng.Accept(r.t.Context(), 105, "bob"))
		after(time.Minute)
		r.wantApplied("105 set_config")
	})
}

// TestStranger: nothing of the guest's own is left.
func TestStranger(t *testing.T) {
	identityRig(t, func(r *rig) {
		r.world.Change(105, func(g *plugintest.Guest) {
			g.Config = guest.Config{"cores": "8", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:99,type=veth", "rootfs": "other:105/vm-105-disk-7.raw,size=4G"}
			g.Run = guest.Stopped
		})
		after(time.Hour)
		r.wantApplied()
		if got := r.led.Guest(105).Verdict; got != identity.Stranger {
			t.Errorf("verdict %s: %s", got, r.why(105))
		}
	})
}

// TestChanged: one address is another. What is benign goes on, the rest waits.
func TestChanged(t *testing.T) {
	identityRig(t, func(r *rig) {
		r.world.Change(105, func(g *plugintest.Guest) {
			g.Config["net0"] = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:99,type=veth"
			g.Config["cores"] = "8"
		})
		r.mustDesire(wants105 + "disk = { rootfs = \"16G\" }\n")
		after(10 * time.Minute)
		r.wantApplied("105 set_config")
		if got := r.led.Guest(105).Verdict; got != identity.Changed {
			t.Errorf("verdict %s", got)
		}
		r.must(r.eng.Accept(r.t.Context(), 105, "bob"))
		after(10 * time.Minute)
		if got := r.applied(); len(got) < 2 || got[1] != "105 grow_disk" {
			t.Errorf("after accept: %q", got)
		}
	})
}

// TestOurOwnChangesExplainThemselves: an address that a document gives, a
// rollback and a restore by this agent leave the guest the same.
func TestOurOwnChangesExplainThemselves(t *testing.T) {
	gateBubble(t, func(r *rig, p *people) {
		r.mustDesire("[guest.105]\nkind = \"lxc\"\nnet0 = \"name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:77,type=veth\"\n")
		after(10 * time.Minute)
		r.wantApplied("105 set_config")
		same := func(when string) {
			t.Helper()
			after(10 * time.Minute)
			if g := r.led.Guest(105); g.Verdict != identity.Same && g.Verdict != "" || len(g.Explained) > 0 {
				t.Errorf("%s: verdict %s %q, explained %q", when, g.Verdict, g.VerdictWhy, g.Explained)
			}
		}
		same("an address of ours")
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Kind == plugin.Rollback || a.Kind == plugin.Restore { // its config comes back as it was then
				time.AfterFunc(time.Second/2, func() {
					r.world.Change(105, func(g *plugintest.Guest) {
						g.Config["net0"] = doomed["net0"]
						g.Config["rootfs"] = "local:105/vm-105-disk-" + string(a.Kind) + ".raw,size=8G"
					})
				})
			}
			return plugintest.Behaviour{Task: time.Second}
		})
		r.mustDesire("[guest.105]\nkind = \"lxc\"\n")
		volume := r.op(r.ask(plugin.Backup, map[string]string{"storage": "local"}).ID).Made["volume"]
		for _, o := range []op.Op{askRollback(r), r.ask(plugin.Restore, map[string]string{"source": volume})} {
			if o.State == op.Awaiting { // the second one's plan has changed by then
				o = r.op(o.ID)
			}
			if err := r.approve(p, o, alice); err != nil {
				o = r.op(o.ID)
				r.must(r.approve(p, o, alice))
			}
			if got := r.op(o.ID); got.State != op.Succeeded {
				t.Errorf("%s is %s: %s", got.Kind, got.State, got.Message)
			}
			same(string(o.Kind))
		}
	})
}

// TestGone: lost, and not made again without forget.
func TestGone(t *testing.T) {
	doc := wants105 + "[guest.105.provision]\ntemplate = \"local:vztmpl/debian.tar.zst\"\n"
	identityRig(t, func(r *rig) {
		r.mustDesire(doc)
		r.world.Remove(105)
		after(time.Hour)
		r.wantApplied()
		if got := r.why(105); !strings.Contains(got, "it was here and is gone") {
			t.Errorf("why: %q", got)
		}
		r.stop()
		r.start(Enforce)
		after(time.Hour)
		r.wantApplied()
		r.must(r.eng.Forget(r.t.Context(), 105, "bob"))
		after(time.Minute)
		if got := r.applied(); len(got) == 0 || got[0] != "105 provision" {
			t.Errorf("after forget: %q", got)
		}
	})
}

// TestBackAgain: a guest that was away, or on another node, and is there again
// as it was is not surely the same.
func TestBackAgain(t *testing.T) {
	for _, where := range []plugin.Presence{plugin.Gone, plugin.Elsewhere} {
		t.Run(string(where), func(t *testing.T) {
			identityRig(t, func(r *rig) {
				r.world.Change(105, func(g *plugintest.Guest) { g.Presence = where })
				after(10 * time.Minute)
				r.world.Change(105, func(g *plugintest.Guest) { g.Presence = plugin.Here })
				r.mustDesire(wants105 + "disk = { rootfs = \"16G\" }\n")
				after(10 * time.Minute)
				r.wantApplied()
				if got := r.led.Guest(105).Verdict; got != identity.Changed {
					t.Errorf("verdict %s", got)
				}
			})
		})
	}
}

// TestTransientAbsenceIsNone: what cannot be told changes nothing.
func TestTransientAbsenceIsNone(t *testing.T) {
	identityRig(t, func(r *rig) {
		r.world.Change(105, func(g *plugintest.Guest) { g.Presence = plugin.Unsure })
		after(time.Hour)
		r.world.Change(105, func(g *plugintest.Guest) { g.Presence = plugin.Here })
		r.drift(105)
		after(10 * time.Minute)
		r.wantApplied("105 set_config")
	})
}
