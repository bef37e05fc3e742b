// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/identity"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

func wants300(how string) string {
	return "[guest.300]\nkind = \"lxc\"\nrun = \"running\"\ncores = 2\n[guest.300.provision]\n" + how + "\n"
}

const fromTemplate = `template = "local:vztmpl/debian.tar.zst"`

// provisionRig may make guests.
func provisionRig(t *testing.T, f func(r *rig)) {
	t.Helper()
	bubble(t, func(r *rig) {
		r.change = func(s *Settings) { s.AllowAdditive = true }
		f(r)
	})
}

// made counts the guests that came of provision ops.
func (r *rig) made() (n int) {
	for _, o := range r.led.Ops() {
		if o.Kind == plugin.Provision {
			n += r.world.Effects(o.ID)
		}
	}
	return n
}

func TestProvision(t *testing.T) {
	for how, source := range map[string]string{
		fromTemplate: "template", `backup = "local:backup/vzdump-lxc-9-x.tar.zst"`: "backup", "clone = 9000": "clone",
	} {
		t.Run(source, func(t *testing.T) {
			provisionRig(t, func(r *rig) {
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wants300(how))
				after(10 * time.Minute)
				got := r.applied()
				if len(got) == 0 || got[0] != "300 provision" || r.made() != 1 {
					t.Fatalf("sent %q", got)
				}
				if c := r.world.Calls()[0].Action; c.Params["how"] != source || c.Guest.Kind != guest.LXC {
					t.Errorf("provision %+v", c)
				}
				g, _ := r.world.Guest(300)
				if r.state(300) != StateConverged || g.Run != guest.Running || g.Config["cores"] != "2" {
					t.Errorf("it is %s: %s, %v", r.state(300), g.Run, g.Config)
				}
				if led := r.led.Guest(300); led.Incarnation == "" || led.HalfMade != "" {
					t.Errorf("%+v", led)
				}
			})
		})
	}
}

// TestNothingIsMade without the policy, without proof of absence, and where
// there is a guest already.
func TestNothingIsMade(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(r *rig)
		why  string
	}{
		{"policy", func(r *rig) { r.change = nil }, "allow_additive"},
		{"absence not proven", func(r *rig) {
			r.put(300, guest.Stopped, guest.Config{})
			r.world.Change(300, func(g *plugintest.Guest) { g.Presence = plugin.Unsure })
		}, "does not prove"},
		{"on another node", func(r *rig) {
			r.put(300, guest.Stopped, guest.Config{})
			r.world.Change(300, func(g *plugintest.Guest) { g.Presence = plugin.Elsewhere })
		}, "another node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			provisionRig(t, func(r *rig) {
				tt.set(r)
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wants300(fromTemplate))
				after(time.Hour)
				r.wantApplied()
				if got := r.why(300); !strings.Contains(got, tt.why) {
					t.Errorf("why: %q", got)
				}
			})
		})
	}
}

// TestAlreadyExists: somebody was quicker. His guest is a stranger, whatever it
// looks like, until it is accepted; once he removes it, none is made.
func TestAlreadyExists(t *testing.T) {
	for _, end := range []string{"accepted", "removed"} {
		t.Run(end, func(t *testing.T) {
			provisionRig(t, func(r *rig) {
				r.world.Script(func(a plugin.Action) plugintest.Behaviour {
					if a.Kind == plugin.Provision && a.Attempt == 1 {
						r.put(300, guest.Stopped, guest.Config{"cores": "8", "rootfs": "local:300/vm-300-disk-0.raw,size=8G"})
					}
					return plugintest.Behaviour{}
				})
				r.start(Enforce)
				defer r.stop()
				r.mustDesire(wants300(fromTemplate))
				after(time.Hour)
				r.wantApplied("300 provision")
				if got := r.why(300); !strings.Contains(got, "already exists") || !strings.Contains(got, "accept 300") {
					t.Errorf("why: %q", got)
				}
				if end == "removed" {
					r.world.Remove(300)
					after(time.Hour)
					r.wantApplied("300 provision")
					return
				}
				r.must(r.eng.Accept(r.t.Context(), 300, "bob"))
				after(time.Minute)
				r.wantApplied("300 provision", "300 set_config", "300 start")
			})
		})
	}
}

// TestRefusedAndThenMade: a create that PVE refused left nothing; the next one
// is as good as a first.
func TestRefusedAndThenMade(t *testing.T) {
	provisionRig(t, func(r *rig) {
		n := 0
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if n++; n == 1 {
				return plugintest.Behaviour{Outcome: &plugin.Outcome{Status: plugin.Refused, Message: "not enough space on local"}}
			}
			return plugintest.Behaviour{}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wants300(fromTemplate))
		after(time.Hour)
		if got := r.state(300); got != StateConverged || r.made() != 1 {
			t.Errorf("it is %s, made %d times: %s", got, r.made(), r.why(300))
		}
	})
}

// TestHalfMade: what a failed create has left is nobody's guest. A signature
// ends it, and ends nothing else that came under its VMID meanwhile.
func TestHalfMade(t *testing.T) {
	for _, end := range []string{"destroyed", "accepted", "replaced"} {
		t.Run(end, func(t *testing.T) {
			gateBubble(t, func(r *rig, p *people) {
				r.world.Script(func(a plugin.Action) plugintest.Behaviour {
					if a.Kind != plugin.Provision {
						return plugintest.Behaviour{}
					}
					r.put(300, guest.Stopped, guest.Config{"rootfs": "local:300/vm-300-disk-0.raw,size=8G"})
					return plugintest.Behaviour{Task: time.Second, Fail: "tar: exit code 2"}
				})
				set := settings(Enforce)
				r.change(&set)
				set.AllowAdditive = true
				r.must(r.eng.Reload(set))
				r.mustDesire(wants300(fromTemplate))
				after(time.Hour)
				r.wantApplied("300 provision")
				if got := r.why(300); !strings.Contains(got, "half made") || !strings.Contains(got, "ask destroy 300") {
					t.Errorf("why: %q", got)
				}
				if end == "accepted" {
					r.must(r.eng.Accept(r.t.Context(), 300, "bob"))
					after(time.Minute)
					r.wantApplied("300 provision", "300 set_config", "300 start")
					return
				}
				got, err := r.eng.Ask(r.t.Context(), Order{Guest: 300, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}, By: "operator"})
				if err != nil {
					t.Fatal(err)
				}
				if end == "replaced" {
					time.Sleep(2 * time.Second)
					r.foreignTask(300, "vzdestroy")
					r.foreignTask(300, "vzcreate")
					time.Sleep(2 * time.Second)
				}
				r.must(r.approve(p, got.Ops[0], alice))
				after(3 * time.Hour)
				_, there := r.world.Guest(300)
				if o := r.op(got.Ops[0].ID); there != (end == "replaced") || (o.State == op.Succeeded) == there {
					t.Errorf("the destroy is %s: %s; there: %v", o.State, o.Message, there)
				}
				if n := len(r.applied()); end == "replaced" && n != 1 {
					t.Errorf("sent %q", r.applied())
				}
			})
		})
	}
}

// TestCrashInTheMiddleOfACreate: at whatever point the agent dies, one guest is
// made, and its successor knows whose it is.
func TestCrashInTheMiddleOfACreate(t *testing.T) {
	for _, point := range []string{CrashBeforeIntent, CrashIntent, CrashHandle, CrashSent, CrashOutcome} {
		for _, task := range []time.Duration{0, 30 * time.Second, 10 * time.Minute} {
			t.Run(fmt.Sprint(point, " ", task), func(t *testing.T) {
				provisionRig(t, func(r *rig) {
					r.world.Script(func(a plugin.Action) plugintest.Behaviour {
						if a.Kind == plugin.Provision {
							return plugintest.Behaviour{Task: task}
						}
						return plugintest.Behaviour{}
					})
					died := false
					r.crash = func(at string) {
						if at == point {
							died = true
							runtime.Goexit() // this lane does nothing any more
						}
					}
					r.start(Enforce)
					r.mustDesire(wants300(fromTemplate))
					after(11 * time.Minute)
					r.stop()
					if !died {
						t.Fatal("it did not die")
					}
					r.crash = nil
					r.start(Enforce)
					defer r.stop()
					after(time.Hour)
					if r.made() != 1 || r.state(300) != StateConverged {
						t.Errorf("made %d times, it is %s: %s", r.made(), r.state(300), r.why(300))
					}
					for _, o := range r.led.Ops() {
						if !o.State.Ended() {
							t.Errorf("%s is %s", o.Kind, o.State)
						}
					}
				})
			})
		}
	}
}

// TestLostCreate: the reply is lost, and PVE forgets the task before anybody
// could look. What is there then is not taken for a guest of ours.
func TestLostCreate(t *testing.T) {
	provisionRig(t, func(r *rig) {
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Kind == plugin.Provision {
				return plugintest.Behaviour{Task: time.Minute, Fail: "interrupted by signal", LoseLate: true}
			}
			return plugintest.Behaviour{}
		})
		r.start(Enforce)
		defer r.stop()
		r.mustDesire(wants300(fromTemplate))
		time.AfterFunc(30*time.Second, func() {
			r.put(300, guest.Stopped, guest.Config{"rootfs": "local:300/vm-300-disk-0.raw,size=8G"})
			r.world.ForgetTasks()
		})
		after(time.Hour)
		r.wantApplied("300 provision")
		if g := r.led.Guest(300); g.HalfMade == "" || g.Verdict != identity.Stranger {
			t.Errorf("half made %q, verdict %s: %s", g.HalfMade, g.Verdict, r.why(300))
		}
	})
}

// TestTwoAgentsMakeOneGuest: both are told to make it, in one cluster where the
// first to ask PVE wins. It is made once, and once it is removed by hand
// neither makes it again.
func TestTwoAgentsMakeOneGuest(t *testing.T) {
	provisionRig(t, func(r *rig) {
		r.world.Script(func(a plugin.Action) plugintest.Behaviour {
			if a.Kind == plugin.Provision {
				return plugintest.Behaviour{Task: 10 * time.Second}
			}
			return plugintest.Behaviour{}
		})
		r.start(Enforce)
		defer r.stop()
		other := r.second()
		defer other.stop()
		for _, one := range []*rig{r, other} {
			if err := one.desire(wants300(fromTemplate)); err != nil {
				t.Fatal(err)
			}
		}
		after(time.Hour)
		if n := r.made() + other.made(); n != 1 {
			t.Errorf("made %d times", n)
		}
		tried := 0
		for _, what := range r.applied() {
			if what == "300 provision" {
				tried++
			}
		}
		if tried != 2 {
			t.Errorf("%d tried to make it", tried)
		}
		r.world.Remove(300)
		had := len(r.applied())
		for range 3 { // none of them is just frozen
			for _, one := range []*rig{r, other} {
				if err := one.eng.Resume(r.t.Context(), 0, "test"); err != nil {
					t.Error(err)
				}
			}
			after(time.Hour)
		}
		if n := r.made() + other.made(); n != 1 || len(r.applied()) != had {
			t.Errorf("after the removal: made %d times, sent %q", n, r.applied()[had:])
		}
	})
}

// otherNode sees the world's guests from another node of the cluster, and none
// of its tasks.
type otherNode struct{ plugin.Observer }

func (o otherNode) Guest(ctx context.Context, q plugin.GuestQuery) (plugin.Observation, error) {
	obs, err := o.Observer.Guest(ctx, plugin.GuestQuery{VMID: q.VMID})
	if obs.Presence == plugin.Here {
		obs = plugin.Observation{Presence: plugin.Elsewhere, Time: obs.Time}
	}
	return obs, err
}

// second is the agent of another node, with a journal of its own.
func (r *rig) second() *rig {
	r.t.Helper()
	o := &rig{t: r.t, dir: r.t.TempDir(), world: r.world, led: ledger.New()}
	j, _, err := journal.Open(r.t.Context(), journal.Options{Dir: o.dir, Fold: o.led, Host: "pve2"})
	if err != nil {
		r.t.Fatal(err)
	}
	o.jrn = j
	set := settings(Enforce)
	set.AllowAdditive = true
	o.eng, err = New(Options{
		Host: "pve2", Settings: set, Observer: otherNode{r.world.Observer()}, Executors: oneExecutor{r.world.Executor()},
		Journal: j, Ledger: o.led, Cache: memCache{}, Logger: slog.New(slog.DiscardHandler), QueueSize: 100, Drain: time.Second,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	o.cancel, o.done = cancel, make(chan error, 1)
	go func() { o.done <- o.eng.Run(ctx) }()
	return o
}
