// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

const secretLean = "00000000-0000-0000-0000-000000000005"

// privilegeKind is an action's kind in pve.Privileges.
func privilegeKind(a plugin.Action) string {
	if a.Kind == plugin.Provision {
		return string(a.Kind) + " " + a.Params["how"]
	}
	return string(a.Kind)
}

// realPath is a path of pve.Privileges for an action.
func realPath(path string, a plugin.Action) string {
	source := a.Params["source"]
	if id, ok := backupOwner(source); ok {
		source = id.VMID.String()
	}
	from, _, _ := strings.Cut(a.Params["source"], ":")
	storage := "tank"
	if v := a.Params["volume"]; v != "" {
		storage, _, _ = strings.Cut(v, ":")
	} else if a.Kind == plugin.Backup {
		storage = "local"
	}
	return strings.NewReplacer("{vmid}", a.Guest.VMID.String(), "{source}", source, "{storage}", storage, "{from}", from, "{bridge}", "vmbr0").Replace(path)
}

// lean makes a driver whose token has exactly these privileges.
func (r *rig) lean(a plugin.Action, privs []pve.Privilege) *Driver {
	r.t.Helper()
	byPath := map[string][]string{}
	for _, p := range privs {
		path := realPath(p.Path, a)
		byPath[path] = append(byPath[path], p.Name)
	}
	for path, names := range byPath {
		role := "Lean" + strings.NewReplacer("/", "-").Replace(path)
		r.sim.SetRole(role, names)
		r.sim.Grant(pvetest.Grant{Path: path, Who: "lean@pve", Role: role, NoPropagate: path == "/"})
	}
	o := r.opts
	var err error
	if o.Token, err = pve.ParseToken("lean@pve!lean=" + secretLean); err != nil {
		r.t.Fatal(err)
	}
	client, err := pve.New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(client.Close)
	d, err := New(Options{Client: client, Node: "pve1"})
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func withLean(version string) func(*pvetest.Options, *Options) {
	return func(o *pvetest.Options, do *Options) {
		onZFS(o, do)
		o.Version = version
		o.Users = append(o.Users, pvetest.User{ID: "lean@pve", Tokens: []pvetest.Token{{ID: "lean", Secret: secretLean, NoPrivSep: true}}})
	}
}

// plainKeys takes out what a config key of its own needs a privilege for.
func plainKeys(a plugin.Action) plugin.Action {
	for k := range a.Set {
		if !diskKey.MatchString(k) {
			delete(a.Set, k)
		}
	}
	return a
}

// TestPrivileges: a token with exactly the privileges of the table can do each
// kind, and one without any one of them cannot, and changes nothing.
func TestPrivileges(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		for _, c := range append(lifeCases(), powerCases()...) {
			for _, id := range twoKinds {
				t.Run(fmt.Sprintf("%s/%s/%s", version[:1], c.name, id.Kind), func(t *testing.T) { privilegesOf(t, version, c, id) })
			}
		}
	}
}

func powerCases() []lifeCase {
	return []lifeCase{
		{name: "start", prepare: func(_ *rig, id guest.ID) plugin.Action { return act(plugin.Start, id.Kind, id.VMID) }},
		{name: "stop", prepare: func(r *rig, id guest.ID) plugin.Action {
			r.must(act(plugin.Start, id.Kind, id.VMID))
			return act(plugin.Stop, id.Kind, id.VMID)
		}},
	}
}

func privilegesOf(t *testing.T, version string, c lifeCase, id guest.ID) {
	major := int(version[0] - '0')
	var privs []pve.Privilege
	for without := -1; without == -1 || without < len(privs); without++ {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, withLean(version))
			a := plainKeys(c.prepare(r, id))
			privs = pve.Privileges(privilegeKind(a), id.Kind, major)
			if len(privs) == 0 {
				t.Fatalf("no privileges for %q", privilegeKind(a))
			}
			n := len(r.sim.Record())
			has := slices.Clone(privs)
			if without >= 0 {
				has = slices.Delete(has, without, without+1)
				// One storage may stand for two in the table.
				has = slices.DeleteFunc(has, func(p pve.Privilege) bool {
					return p.Name == privs[without].Name && realPath(p.Path, a) == realPath(privs[without].Path, a)
				})
			}
			got := apply(t.Context(), r.lean(a, has), a, "")
			switch changed := len(r.sim.Record()) > n; {
			case without < 0 && got.Status != plugin.Done:
				t.Fatalf("with %v: %+v", privs, got)
			case without >= 0 && a.Kind == plugin.Destroy && r.resting(a).Digest == a.Digest:
				// The protection was put back, or not touched.
			case without >= 0 && (got.Status == plugin.Done || changed):
				t.Errorf("without %v: %+v, changed: %v", privs[without], got, changed)
			}
		})
	}
}

// TestPrivilegesOfAll: every kind is in the table.
func TestPrivilegesOfAll(t *testing.T) {
	for _, k := range plugin.CoreActions() {
		if len(pve.Privileges(string(k), guest.LXC, 9)) == 0 || len(pve.Privileges(string(k), guest.QEMU, 8)) == 0 {
			t.Errorf("%s is not in the table", k)
		}
	}
	if pve.Privileges("acme.notify", guest.LXC, 9) != nil {
		t.Error("a vendor's kind is in it")
	}
}
