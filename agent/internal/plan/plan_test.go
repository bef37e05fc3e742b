// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/desired"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

func lxc(id guest.VMID, f func(*desired.Guest)) *desired.Guest {
	g := &desired.Guest{VMID: id, Kind: guest.LXC, Config: guest.Config{}}
	if f != nil {
		f(g)
	}
	return g
}

func here(id guest.VMID, run guest.RunState, conf guest.Config) plugin.Observation {
	return plugin.Observation{
		Presence: plugin.Here, Config: conf, Digest: "d1",
		State: plugin.GuestState{ID: guest.ID{Kind: guest.LXC, VMID: id}, Name: "web", Run: run},
	}
}

// sketch is a plan in words: "set_config: cores 2 -> 4", "withheld run: ...".
func sketch(g Guest) []string {
	var out []string
	for _, a := range g.Actions {
		out = append(out, string(a.Kind)+": "+a.Reason)
	}
	for _, a := range g.Gated {
		out = append(out, "gated "+string(a.Kind)+": "+a.Reason)
	}
	for _, w := range g.Withheld {
		why := w.Why
		if w.Waiting {
			why = "waiting: " + why
		}
		out = append(out, "withheld "+w.Field+": "+w.What+" | "+why)
	}
	return out
}

func TestGuest(t *testing.T) {
	running := guest.Config{"cores": "2", "memory": "512", "hostname": "web"}
	tests := []struct {
		name   string
		want   *desired.Guest
		obs    plugin.Observation
		pol    Policy
		frozen string
		sketch []string
	}{
		{
			name: "as wanted",
			want: lxc(101, func(g *desired.Guest) { g.Config["cores"] = "2"; g.Run = guest.Running }),
			obs:  here(101, guest.Running, running),
		},
		{
			name: "what is not set is not managed",
			want: lxc(101, nil),
			obs:  here(101, guest.Stopped, running),
		},
		{
			name: "all benign changes are one set_config, config before run state",
			want: lxc(101, func(g *desired.Guest) {
				g.Config["cores"], g.Config["memory"], g.Run = "4", "1024", guest.Running
			}),
			obs:    here(101, guest.Stopped, running),
			sketch: []string{"set_config: cores 2 -> 4, memory 512 -> 1024", "start: run stopped -> running"},
		},
		{
			name: "config that could not be read is never written, run state is still compared",
			want: lxc(101, func(g *desired.Guest) { g.Config["cores"], g.Run = "4", guest.Running }),
			obs: func() plugin.Observation {
				o := here(101, guest.Stopped, nil)
				o.ConfigError = "Permission check failed (/vms/101, VM.Audit)"
				return o
			}(),
			sketch: []string{
				"start: run stopped -> running",
				"withheld config: config not known | Permission check failed (/vms/101, VM.Audit)",
			},
		},
		{
			name:   "stop is a clean shutdown with the guest's own timeout",
			want:   lxc(101, func(g *desired.Guest) { g.Run = guest.Stopped }),
			obs:    here(101, guest.Running, guest.Config{"startup": "order=1,down=90"}),
			sketch: []string{"shutdown: run running -> stopped (may take 1m30s)"},
		},
		{
			name:   "force does not stop hard before a shutdown failed",
			want:   lxc(101, func(g *desired.Guest) { g.Run, g.Stop = guest.Stopped, desired.StopForce }),
			obs:    here(101, guest.Running, guest.Config{}),
			sketch: []string{"shutdown: run running -> stopped (may take 1m0s)"},
		},
		{
			name:   "force stops hard once a shutdown failed",
			want:   lxc(101, func(g *desired.Guest) { g.Run, g.Stop = guest.Stopped, desired.StopForce }),
			obs:    here(101, guest.Running, guest.Config{}),
			pol:    Policy{ForceStop: true},
			sketch: []string{"stop: run running -> stopped (hard: a clean shutdown failed)"},
		},
		{
			name:   "a failed shutdown alone does not stop hard",
			want:   lxc(101, func(g *desired.Guest) { g.Run = guest.Stopped }),
			obs:    here(101, guest.Running, guest.Config{}),
			pol:    Policy{ForceStop: true},
			sketch: []string{"shutdown: run running -> stopped (may take 1m0s)"},
		},
		{
			name:   "a held run state is left alone",
			want:   lxc(101, func(g *desired.Guest) { g.Run = guest.Running }),
			obs:    here(101, guest.Stopped, running),
			pol:    Policy{Hold: map[string]string{"run": "held: stopped by alice@pam"}},
			sketch: []string{"withheld run: run stopped -> running | held: stopped by alice@pam"},
		},
		{
			name: "a config key changed by hand is put back by default",
			want: lxc(101, func(g *desired.Guest) { g.Config["cores"] = "4" }),
			obs:  here(101, guest.Running, running), pol: Policy{Hold: map[string]string{"*": "changed by hand"}},
			sketch: []string{"set_config: cores 2 -> 4"},
		},
		{
			name: "a config key changed by hand is left alone where the document says hold",
			want: lxc(101, func(g *desired.Guest) {
				g.Config["cores"], g.Config["memory"] = "4", "1024"
				g.OnManual = map[string]desired.OnManual{"cores": desired.Hold}
			}),
			obs: here(101, guest.Running, running), pol: Policy{Hold: map[string]string{"*": "changed by hand"}},
			sketch: []string{"set_config: memory 512 -> 1024", "withheld cores: cores 2 -> 4 | changed by hand"},
		},
		{
			name: "a key PVE refused is set aside, the rest is sent without it",
			want: lxc(101, func(g *desired.Guest) { g.Config["cores"], g.Config["memory"] = "4", "1024" }),
			obs:  here(101, guest.Running, running), pol: Policy{SetAside: map[string]string{"cores": "no"}},
			sketch: []string{"set_config: memory 512 -> 1024", "withheld cores: cores 2 -> 4 | PVE refused it: no"},
		},
		{
			name:   "a lock holds everything back",
			want:   lxc(101, func(g *desired.Guest) { g.Config["cores"], g.Run = "4", guest.Stopped }),
			obs:    func() plugin.Observation { o := here(101, guest.Running, running); o.State.Lock = "backup"; return o }(),
			sketch: []string{"withheld config: cores 2 -> 4 | waiting: the guest is locked (backup)", "withheld run: run running -> stopped (may take 1m0s) | waiting: the guest is locked (backup)"},
		},
		{
			name:   "while the host goes down nobody is started or stopped",
			want:   lxc(101, func(g *desired.Guest) { g.Run = guest.Running }),
			obs:    here(101, guest.Stopped, running),
			frozen: "a stopall is running", sketch: []string{"withheld run: run stopped -> running | waiting: a stopall is running"},
		},
		{
			name: "HA-managed: run state is reported, config is managed",
			want: lxc(101, func(g *desired.Guest) { g.Run, g.Config["cores"] = guest.Running, "4" }),
			obs: func() plugin.Observation {
				o := here(101, guest.Stopped, running)
				o.HA = plugin.HA{Managed: true, State: "stopped"}
				return o
			}(),
			sketch: []string{"set_config: cores 2 -> 4", "withheld run: run stopped -> running | the HA stack manages this guest (state stopped); say ha = \"request\" to have it asked"},
		},
		{
			name: "HA-managed and already requested: not requested twice",
			want: lxc(101, func(g *desired.Guest) { g.Run, g.HA = guest.Running, "request" }),
			obs: func() plugin.Observation {
				o := here(101, guest.Stopped, running)
				o.HA = plugin.HA{Managed: true, State: "stopped"}
				return o
			}(),
			pol:    Policy{HARequested: guest.Running},
			sketch: []string{"withheld run: run stopped -> running | requested from the HA stack, which has not carried it out yet"},
		},
		{
			name:   "another kind under this VMID is a stranger",
			want:   &desired.Guest{VMID: 101, Kind: guest.QEMU, Run: guest.Running},
			obs:    here(101, guest.Stopped, running),
			sketch: []string{"withheld guest: stranger | the document wants qemu, but lxc/101 has this VMID"},
		},
		{
			name:   "an absent guest is reported, not made",
			want:   lxc(101, func(g *desired.Guest) { g.Run = guest.Running }),
			obs:    plugin.Observation{Presence: plugin.Gone},
			sketch: []string{"withheld guest: absent | no such guest on this node, and its document does not say how to make it"},
		},
		{
			name:   "a template is left alone",
			want:   lxc(101, func(g *desired.Guest) { g.Config["cores"] = "4" }),
			obs:    func() plugin.Observation { o := here(101, guest.Stopped, running); o.State.Template = true; return o }(),
			sketch: []string{"withheld guest: template | a template is left alone"},
		},
		{
			name: "a change of rootfs needs a signature",
			want: lxc(101, func(g *desired.Guest) { g.Delete = []string{"mp0"} }),
			obs:  here(101, guest.Stopped, guest.Config{"mp0": "local:101/vm-101-disk-1.raw,mp=/data,size=1G"}),
			sketch: []string{
				"gated set_config: mp0 local:101/vm-101-disk-1.raw,mp=/data,size=1G -> (absent)",
				"withheld mp0: mp0 local:101/vm-101-disk-1.raw,mp=/data,size=1G -> (absent) | irreversible: it needs a signed approval",
			},
		},
		{
			name: "ignored keys are not compared",
			want: lxc(101, func(g *desired.Guest) {
				g.Config["cores"], g.Ignore, g.Run = "4", []string{"cores", "run"}, guest.Stopped
			}),
			obs:    here(101, guest.Running, running),
			sketch: nil,
		},
		{
			name: "disk size is never part of a set_config",
			want: lxc(101, func(g *desired.Guest) { g.Disks = map[string]int64{"rootfs": 16 << 30} }),
			obs:  here(101, guest.Running, guest.Config{"rootfs": "local:101/vm-101-disk-0.raw,size=8G"}),
			sketch: []string{
				"withheld rootfs: rootfs size 8G -> 16G | it makes something new, which needs allow_additive = true",
			},
		},
		{
			name:   "a disk that is larger than wanted is as wanted",
			want:   lxc(101, func(g *desired.Guest) { g.Disks = map[string]int64{"rootfs": 4 << 30} }),
			obs:    here(101, guest.Running, guest.Config{"rootfs": "local:101/vm-101-disk-0.raw,size=8G"}),
			sketch: nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{PVE: 8, Frozen: tt.frozen, Guests: map[guest.VMID]Policy{101: tt.pol}}
			if diff := cmp.Diff(tt.sketch, sketch(in.Guest(tt.want, tt.obs))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDigestGoesWithEveryWrite(t *testing.T) {
	g := Input{}.Guest(lxc(101, func(g *desired.Guest) { g.Config["cores"] = "4" }), here(101, guest.Running, guest.Config{"cores": "2"}))
	if len(g.Actions) != 1 || g.Actions[0].Digest != "d1" {
		t.Fatalf("actions = %+v", g.Actions)
	}
}

func TestSecretValuesDoNotReachTheReason(t *testing.T) {
	want := &desired.Guest{VMID: 200, Kind: guest.QEMU, Config: guest.Config{"cipassword": "hunter2"}}
	obs := here(200, guest.Stopped, guest.Config{"name": "x"})
	obs.State.ID = guest.ID{Kind: guest.QEMU, VMID: 200}
	for _, line := range sketch(Input{PVE: 8}.Guest(want, obs)) {
		if strings.Contains(line, "hunter2") {
			t.Errorf("the plan shows a secret: %s", line)
		}
	}
}

func TestMakeIsInVMIDOrderAndCounts(t *testing.T) {
	in := Input{
		Want: map[guest.VMID]*desired.Guest{}, Observed: map[guest.VMID]plugin.Observation{},
	}
	for _, id := range []guest.VMID{300, 100, 200} {
		in.Want[id] = lxc(id, func(g *desired.Guest) { g.Run = guest.Running })
		in.Observed[id] = here(id, guest.Stopped, guest.Config{})
	}
	in.Observed[100] = here(100, guest.Running, guest.Config{})
	in.Observed[900] = here(900, guest.Running, guest.Config{})
	p := Make(in)
	var ids []guest.VMID
	for _, g := range p.Guests {
		ids = append(ids, g.ID.VMID)
	}
	if diff := cmp.Diff([]guest.VMID{200, 300}, ids); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if p.Converged != 1 || p.Surplus != 1 || p.Changes() != 2 {
		t.Errorf("converged %d, surplus %d, changes %d", p.Converged, p.Surplus, p.Changes())
	}
}

func TestStopTimeoutOfTheDocumentWins(t *testing.T) {
	want := lxc(101, func(g *desired.Guest) { g.StopTimeout = 5 * time.Second })
	if got := stopTimeout(want, here(101, guest.Running, guest.Config{"startup": "down=90"})); got != 5*time.Second {
		t.Errorf("timeout = %s", got)
	}
}

// TestStopTimeoutIsOneThatPluginsTake: PVE sets "down=" no bound, and what a
// plugin refuses would keep the guest from ever being stopped.
func TestStopTimeoutIsOneThatPluginsTake(t *testing.T) {
	for _, down := range []string{"down=86401", "down=9999999999", "order=1,down=999999999999999999"} {
		if got := stopTimeout(lxc(101, nil), here(101, guest.Running, guest.Config{"startup": down})); got != maxDown {
			t.Errorf("%s: timeout = %s, want %s", down, got, maxDown)
		}
	}
}

// TestUnknownConfigIsNotConverged: also of a guest of which only disks are
// managed.
func TestUnknownConfigIsNotConverged(t *testing.T) {
	obs := here(101, guest.Running, nil)
	obs.ConfigError = "it cannot be read"
	want := lxc(101, func(g *desired.Guest) { g.Disks = map[string]int64{"rootfs": 16 << 30} })
	got := sketch(Input{AllowAdditive: true}.Guest(want, obs))
	if diff := cmp.Diff([]string{"withheld config: config not known | it cannot be read"}, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}
