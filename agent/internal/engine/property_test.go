// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/wire"
	"github.com/felhom/felhom-agent/plugins/pve/driver"
)

// values are config values a document may name, the awkward ones among them,
// per kind and key. Each is valid for PVE.
var values = map[guest.Kind]map[string][]string{
	guest.LXC: {
		"cores": {"1", "2", "4"}, "memory": {"256", "512", "1024"}, "swap": {"0", "64", "512"},
		"cpulimit": {"0.5", "1", "2"}, "cpuunits": {"100", "200"}, "onboot": {"0", "1"},
		"description": {"one line", "two\nlines", "100% ümläut: #hash", "trailing\n\n"},
		"tags":        {"a", "B;a", "zeta alpha"}, "hostname": {"web", "db-1"},
		"startup": {"3", "order=3", "order=1,up=5,down=7"}, "nameserver": {"192.0.2.1", "192.0.2.2 192.0.2.3"},
		"searchdomain": {"example.org"}, "console": {"0", "1"}, "tty": {"1", "2"}, "cmode": {"tty", "shell"},
		"net0": {"name=eth0,bridge=vmbr0,ip=dhcp", "bridge=vmbr0,name=eth0,firewall=1,ip=dhcp"},
	},
	guest.QEMU: {
		"cores": {"1", "2", "4"}, "sockets": {"1", "2"}, "memory": {"512", "1024"}, "cpulimit": {"0.5", "2"},
		"onboot": {"0", "1"}, "description": {"one line", "two\nlines", "trailing  "},
		"tags": {"a", "B;a", "zeta alpha"}, "name": {"vm1", "vm2"},
		"agent": {"1", "enabled=1,fstrim_cloned_disks=1"}, "tablet": {"0", "1"}, "acpi": {"0", "1"},
		"net0": {"virtio,bridge=vmbr0", "virtio,bridge=vmbr0,firewall=1"},
	},
}

// TestPlanAfterApplyIsEmpty is P6 and P1 over random nodes and documents.
func TestPlanAfterApplyIsEmpty(t *testing.T) {
	if raceDetector {
		t.Skip("not under the race detector, see raceDetector")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FELHOM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	rounds := 4
	if testing.Short() {
		rounds = 3
	}
	for i := range rounds {
		s := seed + uint64(i)
		ok := t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { converges(t, rand.New(rand.NewPCG(s, 1))) })
		})
		if !ok {
			t.Fatalf("again with FELHOM_SEED=%d", s)
		}
	}
}

func converges(t *testing.T, rnd *rand.Rand) {
	specs := randomNode(rnd)
	doc := randomDocument(rnd, specs)
	sim, d := node(t, rnd, specs)
	before := configs(t, sim, specs)

	led := ledger.New()
	j, _, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), Fold: led, Host: "pve1"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Options{
		Host: "pve1", Settings: settings(Enforce), Observer: d, Executors: everyKind{d}, Journal: j, Ledger: led,
		Cache: memCache{}, Logger: slog.New(slog.DiscardHandler), QueueSize: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	err = e.SetDesired(ctx, "dir", plugin.Snapshot{Revision: "r", Files: []plugin.File{{Name: "d.toml", Data: []byte(doc)}}})
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	time.Sleep(15 * time.Minute)
	p, err := e.Plan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range p.Guests {
		t.Errorf("after apply the plan of %s is not empty: %q\n%s\nafter: %v", g.ID, planWords(g.Actions, g.Withheld), doc, configs(t, sim, specs)[g.ID.VMID])
	}
	untouched(t, sim, e, before, specs)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func planWords[A, W any](actions []A, withheld []W) string { return fmt.Sprint(actions, withheld) }

type everyKind struct{ exec plugin.Executor }

func (x everyKind) Executor(plugin.ActionKind) (plugin.Executor, error) { return x.exec, nil }

// untouched checks that no guest outside of the document was changed.
func untouched(t *testing.T, sim *pvetest.Sim, e *Engine, before map[guest.VMID]map[string]any, specs []pvetest.GuestSpec) {
	t.Helper()
	after := configs(t, sim, specs)
	for id := range before {
		if e.wanted(id) == nil && fmt.Sprint(before[id]) != fmt.Sprint(after[id]) {
			t.Errorf("guest %s, which no document names, was changed", id)
		}
	}
	for _, m := range sim.Record() {
		if strings.HasPrefix(m.User, "agent@pve") && e.wanted(guest.VMID(m.VMID)) == nil {
			t.Errorf("a mutation of a guest that no document names: %+v", m)
		}
	}
}

func configs(t *testing.T, sim *pvetest.Sim, specs []pvetest.GuestSpec) map[guest.VMID]map[string]any {
	t.Helper()
	out := map[guest.VMID]map[string]any{}
	for _, s := range specs {
		c, err := sim.Operator(s.Kind).Config(s.VMID, false)
		if err != nil {
			t.Fatal(err)
		}
		out[guest.VMID(s.VMID)] = c
	}
	return out
}

func randomNode(rnd *rand.Rand) []pvetest.GuestSpec {
	var specs []pvetest.GuestSpec
	for i := range 3 + rnd.IntN(5) {
		s := pvetest.GuestSpec{Kind: guest.LXC, VMID: 101 + i, Running: rnd.IntN(2) == 0}
		if rnd.IntN(3) == 0 {
			s.Kind = guest.QEMU
		}
		s.Config = base(s.Kind, s.VMID)
		for key, vals := range values[s.Kind] {
			// What only PVE itself puts into a normal form is not put into a file.
			if key != "net0" && key != "tags" && key != "description" && rnd.IntN(3) == 0 {
				s.Config[key] = vals[rnd.IntN(len(vals))]
			}
		}
		specs = append(specs, s)
	}
	return specs
}

func base(k guest.Kind, vmid int) map[string]string {
	mac := fmt.Sprintf("BC:24:11:00:00:%02X", vmid%256)
	if k == guest.QEMU {
		return map[string]string{"name": "vm", "memory": "1024", "net0": "virtio=" + mac + ",bridge=vmbr0", "ostype": "l26"}
	}
	return map[string]string{
		"hostname": "ct", "memory": "512", "swap": "0", "arch": "amd64", "ostype": "debian", "unprivileged": "1",
		"rootfs": fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=8G", vmid, vmid),
		"net0":   "name=eth0,bridge=vmbr0,hwaddr=" + mac + ",ip=dhcp,type=veth",
	}
}

// randomDocument wants something of most of the guests.
func randomDocument(rnd *rand.Rand, specs []pvetest.GuestSpec) string {
	b := &strings.Builder{}
	b.WriteString("# random\n")
	for _, s := range specs {
		if rnd.IntN(4) == 0 {
			continue
		}
		fmt.Fprintf(b, "[guest.%d]\nkind = %q\n", s.VMID, s.Kind)
		if rnd.IntN(2) == 0 {
			fmt.Fprintf(b, "run = %q\n", []string{"running", "stopped"}[rnd.IntN(2)])
		}
		var rest strings.Builder
		for _, key := range slices.Sorted(maps.Keys(values[s.Kind])) {
			vals := values[s.Kind][key]
			if rnd.IntN(2) == 0 {
				continue
			}
			v := vals[rnd.IntN(len(vals))]
			if line := field(key, v); line != "" {
				b.WriteString(line)
			} else {
				fmt.Fprintf(&rest, "%s = %q\n", key, v)
			}
		}
		fmt.Fprintf(b, "[guest.%d.config]\n%s", s.VMID, rest.String())
	}
	return b.String()
}

// field writes a key that documents have a field of its own for, or "".
func field(key, v string) string {
	switch key {
	case "cores":
		return fmt.Sprintf("%s = %s\n", key, v)
	case "memory", "swap":
		return fmt.Sprintf("%s = \"%sMiB\"\n", key, v)
	case "onboot":
		return fmt.Sprintf("onboot = %v\n", v == "1")
	case "tags":
		return fmt.Sprintf("tags = [\"%s\"]\n", strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ';' }), "\", \""))
	case "description", "startup", "hostname", "name", "net0":
		return fmt.Sprintf("%s = %s\n", key, strconv.Quote(v))
	}
	return ""
}

// node is a simulated node and the real driver on it.
func node(t *testing.T, rnd *rand.Rand, specs []pvetest.GuestSpec) (*pvetest.Sim, *driver.Driver) {
	t.Helper()
	version := []string{"8.4.21", "9.2.11"}[rnd.IntN(2)]
	role := []string{
		"VM.Audit", "VM.PowerMgmt", "VM.Allocate", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Options", "VM.Config.Network",
		"VM.Config.Disk", "VM.Config.HWType", "VM.Config.Cloudinit", "SDN.Use", "Sys.Audit", "Datastore.AllocateSpace", "Sys.Modify",
	}
	const secret = "00000000-0000-0000-0000-000000000001"
	sim, err := pvetest.New(pvetest.Options{
		Version: version, Node: "pve1", Guests: specs, Seed: rnd.Uint64() | 1,
		Roles: map[string][]string{"Full": role},
		Users: []pvetest.User{{ID: "agent@pve", Tokens: []pvetest.Token{{ID: "full", Secret: secret}}}},
		ACL:   []pvetest.Grant{{Path: "/", Who: "agent@pve", Role: "Full"}, {Path: "/", Who: "agent@pve!full", Role: "Full"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	client := wire.Client(t, sim.Server(), "agent@pve!full="+secret)
	d, err := driver.New(driver.Options{Client: client, Node: "pve1"})
	if err != nil {
		t.Fatal(err)
	}
	return sim, d
}
