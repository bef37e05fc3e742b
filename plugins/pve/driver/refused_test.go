// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// TestRefusedKeys: which keys PVE's recorded refusals are about.
func TestRefusedKeys(t *testing.T) {
	d := &Driver{forms: guest.Standard()}
	all := map[guest.Kind]map[string]string{
		guest.LXC: {
			"cores": "2", "memory": "512", "description": "x", "hostname": "h", "tags": "a;b", "hookscript": "local:snippets/x", "onboot": "1",
			"features": "keyctl=1", "dev0": "/dev/x", "mp0": "/host,mp=/x", "mp1": "local:1,mp=/y", "rootfs": "local:101/x.raw",
			"net0": "name=eth0,bridge=vmbr0", "net1": "name=eth1,bridge=vmbr01,tag=5",
		},
		guest.QEMU: {
			"cores": "2", "memory": "512", "description": "x", "startup": "order=1", "args": "-x", "sshkeys": "k", "boot": "order=scsi0",
			"scsi0": "nope:1", "net0": "virtio,bridge=nobr", "agent": "1", "balloon": "9999", "ciuser": "u", "name": "n", "freeze": "1",
			"vmgenid": "1", "serial0": "/dev/ttyS0", "hostpci0": "00:01.0", "tags": "a",
		},
	}
	lxc, vm := guest.LXC, guest.QEMU
	tests := []struct {
		kind guest.Kind
		err  pve.Error // Reason, Params
		want string    // keys, blank-separated
	}{
		{lxc, pve.Error{Params: map[string]string{"cores": "x", "size": "y"}}, "cores"},
		{lxc, pve.Error{Reason: "Permission check failed (/vms/101, VM.Config.CPU)"}, "cores"},
		{lxc, pve.Error{Reason: "Permission check failed (/vms/101, VM.Config.Memory)"}, "memory"},
		{lxc, pve.Error{Reason: "Permission check failed (/vms/101, VM.Allocate)"}, "features"},
		{lxc, pve.Error{Reason: "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)"}, "net0"},
		{lxc, pve.Error{Reason: "Permission check failed (/sdn/zones/localnetwork/vmbr01/5, SDN.Use)"}, "net1"},
		{lxc, pve.Error{Reason: "Permission check failed (/storage/local, Datastore.AllocateSpace)"}, "mp1"},
		{lxc, pve.Error{Reason: "Permission check failed (changing the hookscript is only allowed for root@pam)"}, "hookscript"},
		{lxc, pve.Error{Reason: "Permission check failed (changing feature flags (except nesting) is only allowed for root@pam)"}, "features"},
		{lxc, pve.Error{Reason: "Permission check failed (configuring device passthrough is only allowed for root@pam)"}, "dev0"},
		{lxc, pve.Error{Reason: "Permission check failed (mount point type bind is only allowed for root@pam)"}, "mp0"},
		{lxc, pve.Error{Reason: "Permission check failed (/, Sys.Modify for modifying tag 'a')"}, "tags"},
		{lxc, pve.Error{Reason: "bridge 'vmbr01' does not exist"}, "net1"},
		{lxc, pve.Error{Reason: "unable to delete required option 'memory'"}, "memory"},
		{lxc, pve.Error{Reason: "something about nothing we sent"}, ""},
		{lxc, pve.Error{Params: map[string]string{"delete": "unknown option 'onboot'"}}, "onboot"},
		{lxc, pve.Error{Params: map[string]string{"delete": "you can't use '-memory' and -delete memory' at the same time"}}, "memory"},
		{vm, pve.Error{Reason: "Permission check failed (/, Sys.Modify)"}, "startup"},
		{vm, pve.Error{Reason: "only root can set 'args' config"}, "args"},
		{vm, pve.Error{Reason: "only root can set 'vmgenid' config"}, "vmgenid"},
		{vm, pve.Error{Reason: "only root can modify 'serial0' config for real devices"}, "serial0"},
		{vm, pve.Error{Reason: "only root can set 'hostpci0' config for non-mapped devices"}, "hostpci0"},
		{vm, pve.Error{Reason: "SSH public key validation error"}, "sshkeys"},
		{vm, pve.Error{Reason: "invalid bootorder: device 'scsi0' does not exist'"}, "boot"},
		{vm, pve.Error{Reason: "storage 'nope' does not exist"}, "scsi0"},
		{vm, pve.Error{Reason: "balloon value too large (must be smaller than assigned memory)"}, "balloon memory"},
		{vm, pve.Error{Reason: "Permission check failed (/vms/201, VM.PowerMgmt)"}, "freeze"},
	}
	for _, tt := range tests {
		a := plugin.Action{Kind: plugin.SetConfig, Guest: guest.ID{Kind: tt.kind, VMID: 101}, Set: all[tt.kind]}
		got := d.refusedKeys(a, &tt.err)
		if diff := cmp.Diff(strings.Fields(tt.want), sortedKeys(got), cmp.Transformer("nil", func(s []string) string { return strings.Join(s, " ") })); diff != "" {
			t.Errorf("%s %q %v (-want +got):\n%s", tt.kind, tt.err.Reason, tt.err.Params, diff)
		}
	}
}

// TestTheOnlyKeyIsTheRefusedOne: whatever PVE says.
func TestTheOnlyKeyIsTheRefusedOne(t *testing.T) {
	d := &Driver{forms: guest.Standard()}
	a := plugin.Action{Kind: plugin.SetConfig, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, Delete: []string{"onboot"}}
	if got := d.refusedKeys(a, &pve.Error{Reason: "no"}); got["onboot"] != "no" {
		t.Errorf("%v", got)
	}
	if got := d.refusedKeys(a, &pve.Error{Kind: pve.ErrNoGuest, Reason: "no"}); got != nil {
		t.Errorf("of a guest that is gone: %v", got)
	}
	// A token that was exchanged, or that PVE could not look up: it would be
	// set aside for good what PVE never looked at.
	if got := d.refusedKeys(a, &pve.Error{Kind: pve.ErrDenied, Status: 401, Reason: "Authentication failed!"}); got != nil {
		t.Errorf("of a token that is not known: %v", got)
	}
}

// TestRecordedRefusals: testdata/refusals.jsonl.gz holds what a PVE 8.4.21
// answered to tokens of few privileges, for each config key, and a key that
// the same token may write. Of a write of both, the right one is named.
func TestRecordedRefusals(t *testing.T) {
	d := &Driver{forms: guest.Standard()}
	samples := map[string]string{
		"net0": "name=eth0,bridge=vmbr0", "net1": "name=eth1,bridge=vmbr0", "mp0": "local:1,mp=/x", "rootfs": "local:101/x.raw",
		"dev0": "/dev/null", "features": "keyctl=1", "hostpci0": "00:01.0", "usb0": "1234:5678", "serial0": "/dev/ttyS0",
		"scsi1": "local:1", "sata0": "local:1", "virtio0": "local:1", "efidisk0": "local:1", "tpmstate0": "local:1",
		"cdrom": "none", "ide2": "local:iso/x.iso,media=cdrom", "parallel0": "/dev/usb/lp0", "vmstatestorage": "local", "rng0": "source=/dev/urandom", "unused0": "local:101/y.raw",
	}
	value := func(key string) string { return orElse(samples[key], "1") }
	n := 0
	for _, r := range readRefusals(t) {
		n++
		a := plugin.Action{Kind: plugin.SetConfig, Guest: guest.ID{Kind: r.Kind, VMID: 101}, Set: map[string]string{
			r.Key: value(r.Key), r.Other: value(r.Other),
		}}
		got := d.refusedKeys(a, &pve.Error{Kind: pve.ErrDenied, Status: r.Status, Reason: r.Reason})
		if len(got) != 1 || got[r.Key] != r.Reason {
			t.Errorf("%s %s and %s: %s: %v", r.Kind, r.Key, r.Other, r.Reason, got)
		}
	}
	if n < 300 {
		t.Errorf("only %d refusals", n)
	}
}

type refusal struct {
	Kind       guest.Kind
	Key, Other string
	Status     int
	Reason     string
}

func readRefusals(t *testing.T) (out []refusal) {
	t.Helper()
	f, err := os.Open("testdata/refusals.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(z); ; {
		var r refusal
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
}
