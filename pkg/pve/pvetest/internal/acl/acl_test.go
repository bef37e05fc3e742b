// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func newSet() *Set {
	s := New(9)
	s.Roles["A"] = []string{"VM.Audit", "VM.PowerMgmt"}
	s.Roles["B"] = []string{"VM.Audit", "VM.Backup"}
	s.Users["u@pve"] = &User{Tokens: map[string]Token{"sep": {Secret: "x", PrivSep: true}, "full": {Secret: "y"}}}
	return s
}

func TestPerms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, who, path string
		entries         []Entry
		pool            string
		want            string
	}{
		{"inherited", "u@pve", "/vms/101", []Entry{{"/", "u@pve", "A", true}}, "", "VM.Audit VM.PowerMgmt"},
		{"a deeper entry replaces", "u@pve", "/vms/101", []Entry{{"/", "u@pve", "A", true}, {"/vms/101", "u@pve", "B", true}}, "", "VM.Audit VM.Backup"},
		{"two roles at one level add", "u@pve", "/vms/101", []Entry{{"/", "u@pve", "A", true}, {"/", "u@pve", "B", true}}, "", "VM.Audit VM.Backup VM.PowerMgmt"},
		{"not propagated", "u@pve", "/vms/101", []Entry{{"/vms", "u@pve", "A", false}}, "", ""},
		{"not propagated, at the path", "u@pve", "/vms", []Entry{{"/vms", "u@pve", "A", false}}, "", "VM.Audit VM.PowerMgmt"},
		{"NoAccess wins", "u@pve", "/vms/101", []Entry{{"/vms", "u@pve", "A", true}, {"/vms", "u@pve", "NoAccess", true}}, "", ""},
		{"a separated token needs both", "u@pve!sep", "/vms/101", []Entry{{"/", "u@pve", "A", true}, {"/", "u@pve!sep", "B", true}}, "", "VM.Audit"},
		{"a separated token without entries", "u@pve!sep", "/vms/101", []Entry{{"/", "u@pve", "A", true}}, "", ""},
		{"a full token is its user", "u@pve!full", "/vms/101", []Entry{{"/", "u@pve", "A", true}}, "", "VM.Audit VM.PowerMgmt"},
		{"an unknown token", "u@pve!none", "/vms/101", []Entry{{"/", "u@pve", "A", true}}, "", ""},
		{"a pool lends", "u@pve", "/vms/101", []Entry{{"/pool/p", "u@pve", "A", true}}, "p", "VM.Audit VM.PowerMgmt"},
		{"a pool lends to members only", "u@pve", "/vms/102", []Entry{{"/pool/p", "u@pve", "A", true}}, "p", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSet()
			s.Entries = tt.entries
			if tt.pool != "" {
				s.Pools[tt.pool] = &Pool{VMs: map[int]bool{101: true}}
			}
			got := strings.Join(slices.Sorted(maps.Keys(s.Perms(tt.who, tt.path))), " ")
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRootHoldsEverythingAndItsTokenIsNotRoot(t *testing.T) {
	t.Parallel()
	s := newSet()
	s.Users[Root].Tokens["t"] = Token{Secret: "x"}
	if !s.Perms(Root, "/").Has("Sys.Modify") || !s.Perms(Root+"!t", "/vms/1").Has("Permissions.Modify") {
		t.Error("root or its token lacks a privilege")
	}
	s.Users[Root].Tokens["t"] = Token{Secret: "x", PrivSep: true}
	if len(s.Perms(Root+"!t", "/")) != 0 {
		t.Error("a separated token of root has privileges without an entry")
	}
}

func TestForgetGuest(t *testing.T) {
	t.Parallel()
	s := newSet()
	s.Entries = []Entry{{"/vms/101", "u@pve", "A", true}, {"/vms/102", "u@pve", "A", true}}
	s.Pools["p"] = &Pool{VMs: map[int]bool{101: true}}
	s.ForgetGuest(101)
	if len(s.Entries) != 1 || s.PoolOf(101) != "" {
		t.Errorf("entries %v, pool %q", s.Entries, s.PoolOf(101))
	}
}

func TestPrivilegesOfAVersion(t *testing.T) {
	t.Parallel()
	if !slices.Contains(New(8).Privileges(), "VM.Monitor") || slices.Contains(New(9).Privileges(), "VM.Monitor") {
		t.Error("VM.Monitor belongs to 8 only")
	}
	if slices.Contains(New(8).Privileges(), "VM.Replicate") || !slices.Contains(New(9).Privileges(), "VM.Replicate") {
		t.Error("VM.Replicate belongs to 9 only")
	}
}
