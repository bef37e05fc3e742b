// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// as makes a call as another token (id=secret) and returns its status line.
func (b *bench) as(token, method, path, form string) (int, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, "http://pve/api2/json"+path, strings.NewReader(form))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "PVEAPIToken="+token)
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.pipe.Client().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		b.t.Fatal(err)
	}
	_, reason, _ := strings.Cut(resp.Status, " ")
	return resp.StatusCode, reason
}

// TestPoolLends: a grant on a pool holds for its members for as long as they
// are in it, and no further: not for what a member is given besides, and only
// as far as the token's user goes.
func TestPoolLends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		const narrow = "agent@pve!n"
		if err := b.sim.AddToken("agent@pve", Token{ID: "n", Secret: "s"}); err != nil {
			t.Fatal(err)
		}
		b.sim.Grant(Grant{Path: "/pool/p", Who: narrow, Role: "PVEVMAdmin"})
		b.call("POST", "/pools", "poolid=p&comment=c")
		write := func() string {
			code, reason := b.as(narrow+"=s", "PUT", "/nodes/pve1/lxc/200/config", "description=x")
			if code == 200 {
				return ""
			}
			return reason
		}
		if write() == "" {
			t.Error("a write before the guest is in the pool")
		}
		b.call("PUT", "/pools/p", "vms=200")
		if why := write(); why != "" {
			t.Errorf("a write to a member: %s", why)
		}
		if code, reason := b.as(narrow+"=s", "PUT", "/nodes/pve1/lxc/200/config", "net1=name%3Deth1%2Cbridge%3Dvmbr0"); code != 403 || !strings.Contains(reason, "SDN.Use") {
			t.Errorf("a bridge the pool does not lend: %d %s", code, reason)
		}
		b.call("PUT", "/pools/p", "vms=200&delete=1")
		if write() == "" {
			t.Error("a write after the guest left the pool")
		}
	})
}

func TestPoolRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		b.call("POST", "/pools", "poolid=p")
		b.call("POST", "/pools", "poolid=q")
		b.call("PUT", "/pools/p", "vms=200")
		for _, tc := range []struct{ method, path, form, want string }{
			{"POST", "/pools", "poolid=p", "create pool failed: pool 'p' already exists"},
			{"PUT", "/pools/p", "vms=200", "update pools failed: VM 200 is already a pool member"},
			{"PUT", "/pools/q", "vms=200", "update pools failed: VM 200 belongs already to pool 'p' and 'allow-move' is not set"},
			{"PUT", "/pools/p", "vms=300&delete=1", "update pools failed: VM 300 is not a pool member"},
			{"DELETE", "/pools/p", "", "delete pool failed: pool 'p' is not empty (contains VM 200)"},
			{"POST", "/nodes/pve1/qemu", "vmid=301&pool=no", "Permission check failed (pool 'no' does not exist)"},
		} {
			if _, reason, _ := b.do(tc.method, tc.path, tc.form); reason != tc.want {
				t.Errorf("%s %s %s: %s, want %s", tc.method, tc.path, tc.form, reason, tc.want)
			}
		}
		b.call("PUT", "/pools/q", "vms=200&allow-move=1")
		b.call("DELETE", "/pools/p", "")
	})
}

// TestContentPermissions: who may see and remove a volume.
func TestContentPermissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		if err := b.sim.AddToken("agent@pve", Token{ID: "n", Secret: "s"}); err != nil {
			t.Fatal(err)
		}
		b.sim.Grant(Grant{Path: "/storage", Who: "agent@pve!n", Role: "PVEDatastoreUser"})
		b.ok(b.task("/nodes/pve1/vzdump", "vmid=200&storage=local&mode=stop"))
		dump := "/nodes/pve1/storage/local/content/" + b.backups(200)[0]
		for _, tc := range []struct{ method, path, want string }{
			{"GET", dump, "Permission check failed (/vms/200, VM.Backup)"},
			{"DELETE", dump, "Permission check failed (/vms/200, VM.Backup)"},
			{"DELETE", "/nodes/pve1/storage/local/content/local:200/vm-200-disk-0.raw", "Permission check failed (/storage/local, Datastore.Allocate)"},
			{"DELETE", "/nodes/pve1/storage/local/content/local:..%2Fetc%2Fpasswd", "unable to parse directory volume name '../etc/passwd'"},
		} {
			if _, reason := b.as("agent@pve!n=s", tc.method, tc.path, ""); reason != tc.want {
				t.Errorf("%s %s: %s, want %s", tc.method, tc.path, reason, tc.want)
			}
		}
	})
}
