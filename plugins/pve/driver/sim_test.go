// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/wire"
)

const (
	secretFull  = "00000000-0000-0000-0000-000000000001"
	secretRead  = "00000000-0000-0000-0000-000000000002"
	secretCPU   = "00000000-0000-0000-0000-000000000003"
	secretBlind = "00000000-0000-0000-0000-000000000004"
)

// network is the way to the node.
type network struct {
	way  func(ctx context.Context, network, addr string) (net.Conn, error)
	down atomic.Bool // makes every dial fail
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if n.down.Load() {
		return nil, errors.New("connection refused")
	}
	return n.way(ctx, network, addr)
}

// rig is a simulated node and a driver with all rights on it.
type rig struct {
	*Driver
	t    testing.TB
	sim  *pvetest.Sim
	opts pve.Options
	net  *network
	// twist, when set, answers a request in place of the node, or after it; it
	// reports whether it did. It gets the node as it is.
	twist atomic.Pointer[func(w http.ResponseWriter, r *http.Request, node http.Handler) bool]
}

// ServeHTTP is the node with its twist.
func (r *rig) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if f := r.twist.Load(); f != nil && (*f)(w, req, r.sim) {
		return
	}
	r.sim.ServeHTTP(w, req)
}

// twisted makes the answers to requests of this method whose path ends so be
// body with status 200.
func (r *rig) twisted(method, path, body string) {
	f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if req.Method != method || !strings.HasSuffix(req.URL.Path, path) {
			return false
		}
		_, _ = io.WriteString(w, body)
		return true
	}
	r.twist.Store(&f)
}

// fullRole is that of the token that may do everything the driver does.
var fullRole = []string{
	"VM.Audit", "VM.PowerMgmt", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Options", "VM.Config.Network",
	"VM.Config.Disk", "VM.Config.HWType", "VM.Config.Cloudinit", "SDN.Use", "Sys.Audit", "Datastore.AllocateSpace",
	"VM.Allocate", "VM.Clone", "VM.Snapshot", "VM.Snapshot.Rollback", "VM.Backup", "Datastore.Audit", "Datastore.Allocate", "Pool.Audit",
}

// newRig starts a node with the containers 101 (stopped) and 102 (running) and
// the virtual machines 201 (stopped) and 202 (running).
func newRig(t testing.TB, change func(*pvetest.Options, *Options)) *rig {
	t.Helper()
	so := pvetest.Options{
		Version: "8.4.21", Node: "pve1",
		Guests: []pvetest.GuestSpec{
			container(101, false), container(102, true), machine(201, false), machine(202, true),
		},
		Bridges: []string{"vmbr0"},
		Roles: map[string][]string{
			"Full": fullRole,
			"CPU":  {"VM.Audit", "VM.Config.CPU", "Sys.Audit"},
		},
		Users: []pvetest.User{{ID: "agent@pve", Tokens: []pvetest.Token{
			{ID: "full", Secret: secretFull}, {ID: "read", Secret: secretRead}, {ID: "cpu", Secret: secretCPU}, {ID: "blind", Secret: secretBlind},
		}}},
		ACL: []pvetest.Grant{
			{Path: "/", Who: "agent@pve", Role: "Full"},
			{Path: "/", Who: "agent@pve!full", Role: "Full"},
			{Path: "/", Who: "agent@pve!cpu", Role: "CPU"},
			{Path: "/", Who: "agent@pve!read", Role: "PVEAuditor"},
		},
		Seed: 1,
	}
	do := Options{Node: "pve1"}
	if change != nil {
		change(&so, &do)
	}
	sim, err := pvetest.New(so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	r := &rig{t: t, sim: sim}
	srv := sim.Server()
	srv.Handler = r
	r.opts = wire.Serve(t, srv)
	r.net = &network{way: r.opts.Dial}
	r.opts.Dial = r.net.dial
	r.Driver = r.driver("full", secretFull, do)
	return r
}

func container(vmid int, running bool) pvetest.GuestSpec {
	return pvetest.GuestSpec{Kind: guest.LXC, VMID: vmid, Running: running, Config: map[string]string{
		"hostname": "ct", "cores": "2", "memory": "512", "swap": "0", "arch": "amd64", "ostype": "debian", "unprivileged": "1",
		"rootfs": "local:101/vm-101-disk-0.raw,size=1G", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth",
	}}
}

func machine(vmid int, running bool) pvetest.GuestSpec {
	return pvetest.GuestSpec{Kind: guest.QEMU, VMID: vmid, Running: running, Config: map[string]string{
		"name": "vm", "cores": "2", "memory": "1024", "net0": "virtio=BC:24:11:00:00:02,bridge=vmbr0", "ostype": "l26",
	}}
}

// driver makes a driver with another token.
func (r *rig) driver(id, secret string, do Options) *Driver {
	r.t.Helper()
	o := r.opts
	var err error
	if o.Token, err = pve.ParseToken("agent@pve!" + id + "=" + secret); err != nil {
		r.t.Fatal(err)
	}
	if do.Client, err = pve.New(o); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(do.Client.Close)
	if do.Node == "" {
		do.Node = "pve1"
	}
	d, err := New(do)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

var opCount int

func act(kind plugin.ActionKind, k guest.Kind, vmid guest.VMID) plugin.Action {
	opCount++
	return plugin.Action{
		OpID: "op" + string(rune('a'+opCount%26)) + time.Duration(opCount).String(), Attempt: 1,
		Node: "pve1", Guest: guest.ID{Kind: k, VMID: vmid}, Kind: kind,
	}
}

// setAction is a config write that rests on the present config.
func (r *rig) setAction(k guest.Kind, vmid guest.VMID, set map[string]string, del ...string) plugin.Action {
	r.t.Helper()
	a := act(plugin.SetConfig, k, vmid)
	conf, err := r.pve.Config(context.Background(), r.ref(a.Guest))
	if err != nil {
		r.t.Fatal(err)
	}
	a.Set, a.Delete, a.Digest = set, del, conf.Digest
	return a
}

// result is what an Apply told.
type result struct {
	plugin.Outcome
	handles []string
	texts   []string
	err     error
}

func apply(ctx context.Context, d *Driver, a plugin.Action, handle string) (r result) {
	r.Outcome, r.err = d.Apply(ctx, a, handle, func(p plugin.Progress) error {
		if p.Handle != "" {
			r.handles = append(r.handles, p.Handle)
		}
		if p.Text != "" {
			r.texts = append(r.texts, p.Text)
		}
		return nil
	})
	return r
}

// changes are the mutations of the token's since n, as "what detail".
func (r *rig) changes(n int) []string {
	var out []string
	for _, m := range r.sim.Record()[n:] {
		if m.User != "agent@pve!full" && m.User != "agent@pve!cpu" {
			continue
		}
		text := m.What
		if m.Detail != "" {
			text += " " + m.Detail
		}
		out = append(out, text)
	}
	return out
}

func (r *rig) run(k guest.Kind, vmid guest.VMID) guest.RunState {
	r.t.Helper()
	g, err := r.pve.Status(context.Background(), r.ref(guest.ID{Kind: k, VMID: vmid}))
	if err != nil {
		r.t.Fatal(err)
	}
	return g.Run
}
