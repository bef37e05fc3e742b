// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// roles are the tokens' roles of the recorded table of privileges.
var roles = map[string]string{
	"CPU only":                   "VM.Audit VM.Config.CPU",
	"Options only":               "VM.Audit VM.Config.Options",
	"Disk only (no Datastore.*)": "VM.Audit VM.Config.Disk",
	"Network only (no SDN.Use)":  "VM.Audit VM.Config.Network",
	"Memory only":                "VM.Audit VM.Config.Memory",
	"HWType only":                "VM.Audit VM.Config.HWType",
	"Audit only":                 "VM.Audit",
}

// TestPrivileges asks, for each key and role, what a real node answered.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	var table struct{ LXC, QEMU map[string]map[string][2]any }
	if err := decode(testdata(t, "privileges/privileges.json.gz"), &table); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		list, _ := recordedWrites(t, kind)
		sent := narrowWrites(list)
		base := newStates(list).baseline[list[0].vmid()]
		cells := 0
		keys := table.LXC
		if kind == guest.QEMU {
			keys = table.QEMU
		}
		for name, byRole := range keys {
			params, ok := sent[name]
			if !ok {
				t.Errorf("%s %s: what was sent is not known", kind, name)
				continue
			}
			for role, want := range byRole {
				cells++
				if d := cmp.Diff(cell(want), ask(base, roles[role], params)); d != "" {
					t.Errorf("%s %s with %s (-recorded +model)\n%s", kind, name, role, d)
				}
			}
		}
		t.Logf("%s: %d cells", kind, cells)
	}
}

// narrowWrites are the parameters that were sent for each key. Of a few keys
// every recorded write of the table was left out; their values are like the
// others'.
func narrowWrites(list []recorded) map[string]map[string]string {
	out := make(map[string]map[string]string)
	for _, r := range list {
		if r.As == "token narrow" && len(r.Put) == 1 {
			out[r.Key] = r.Put
		}
	}
	for k, v := range map[string]string{"cdrom": "none", "lock": "backup", "tags": "a"} {
		if out[k] == nil {
			out[k] = map[string]string{k: v}
		}
	}
	return out
}

func cell(c [2]any) string { return scalar(c[0]) + " " + scalar(c[1]) }

func ask(g *Guest, role string, params map[string]string) string {
	set := makeSet(role)
	caller := Caller{User: "agent@pve!narrow", Allowed: func(_, priv string) bool { return set[priv] }}
	r := recorded{Kind: g.Kind}
	res := g.Put(Request{Version: 8, Caller: caller, Params: params, Env: r.env(g)})
	if res.Err == nil {
		return "200 OK"
	}
	first, _, _ := strings.Cut(res.Err.Error(), ";")
	return first
}
