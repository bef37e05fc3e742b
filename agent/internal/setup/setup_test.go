// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// node is a simulated one, whose pveum the steps run.
type node struct {
	t    *testing.T
	sim  *pvetest.Sim
	argv []string
}

func newNode(t *testing.T, version string) (*node, Options) {
	sim, err := pvetest.New(pvetest.Options{Node: "pve1", Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	n := &node{t: t, sim: sim}
	dir := t.TempDir()
	certs, err := pvetest.NewCertificates("pve1")
	if err != nil {
		t.Fatal(err)
	}
	pve := filepath.Join(dir, "pve")
	if err := errors.Join(os.MkdirAll(pve+"/local", 0o755), os.WriteFile(pve+"/pve-root-ca.pem", certs.CA, 0o644)); err != nil {
		t.Fatal(err)
	}
	major := 9
	if strings.HasPrefix(version, "8") {
		major = 8
	}
	return n, Options{Role: Operate, Node: "pve1", Major: major, Etc: dir + "/etc", PVE: pve, Units: dir + "/units", Run: n.run}
}

func (n *node) run(_ context.Context, name string, args ...string) ([]byte, error) {
	n.argv = append(n.argv, name+" "+strings.Join(args, " "))
	v, err := n.sim.Pveum(args)
	if err != nil || v == nil {
		return nil, err
	}
	m := v.(map[string]any)
	return []byte(`{"full-tokenid":"` + m["full-tokenid"].(string) + `","value":"` + m["value"].(string) + `"}`), nil
}

func do(t *testing.T, o Options) error {
	t.Helper()
	steps, err := o.Steps()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.Do(t.Context()); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryRoleIsTakenByPVEAndMayBeRepeated(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		_, o := newNode(t, version)
		for _, r := range append(slices.Clone(Roles), Observe) {
			o.Role = r
			if err := do(t, o); err != nil {
				t.Errorf("PVE %s, role %s: %v", version, r, err)
			}
		}
	}
}

func TestTokenIsForRootAloneAndOnNoCommandLine(t *testing.T) {
	n, o := newNode(t, "9.2.11")
	if err := do(t, o); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(o.TokenFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(o.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	id, secret, _ := strings.Cut(strings.TrimSpace(string(b)), "=")
	if id != "felhom@pve!agent-pve1" || len(secret) < 16 {
		t.Errorf("token %q with a secret of %d", id, len(secret))
	}
	for _, a := range n.argv {
		if strings.Contains(a, secret) {
			t.Errorf("the secret is an argument: %s", strings.ReplaceAll(a, secret, "***"))
		}
	}
	drop, err := os.ReadFile(o.dropIn())
	if err != nil || !strings.Contains(string(drop), "LoadCredential=pve-token:"+o.TokenFile()) {
		t.Errorf("drop-in %q, %v", drop, err)
	}
	if err := do(t, o); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(o.TokenFile()); string(again) != string(b) {
		t.Error("the second time made another token")
	}
}

func TestLostSecret(t *testing.T) {
	_, o := newNode(t, "9.2.11")
	if err := do(t, o); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.TokenFile()); err != nil {
		t.Fatal(err)
	}
	if err := do(t, o); !errors.Is(err, ErrTokenLost) {
		t.Errorf("got %v", err)
	}
	o.NewToken = true
	if err := do(t, o); err != nil {
		t.Errorf("with a new token: %v", err)
	}
	other := o
	other.Node, other.NewToken = "pve2", false
	if err := do(t, other); err == nil || !strings.Contains(err.Error(), "holds another token") {
		t.Errorf("somebody else's token: %v", err)
	}
}

func TestWhatPveumPrintsIsNeverQuoted(t *testing.T) {
	_, o := newNode(t, "9.2.11")
	for _, out := range []string{"sekrit", `{"full-tokenid":"other@pve!x","value":"sekrit"}`, `{"value":"sekrit"}`} {
		if err := o.keep([]byte(out)); err == nil || strings.Contains(err.Error(), "sekrit") {
			t.Errorf("%s: %v", out, err)
		}
	}
}

func TestGrants(t *testing.T) {
	all := func(r Role, major int) []string {
		var out []string
		for _, g := range r.Grants(major) {
			for _, p := range g.Privs {
				out = append(out, g.Path+" "+p)
			}
		}
		return out
	}
	for _, tc := range []struct {
		role     Role
		has, not []string
	}{
		{Observe, []string{"/ Sys.Audit", "/ Pool.Audit", "/vms VM.Audit", "/storage Datastore.Audit"}, []string{"/vms VM.PowerMgmt", "/sdn/zones SDN.Use"}},
		{
			Operate,
			[]string{"/vms VM.PowerMgmt", "/vms VM.Config.Memory", "/vms VM.Config.CDROM", "/vms VM.Snapshot", "/vms VM.Backup", "/sdn/zones SDN.Use", "/storage Datastore.AllocateSpace"},
			[]string{"/vms VM.Allocate", "/vms VM.Config.Disk", "/vms VM.Snapshot.Rollback", "/storage Datastore.Allocate", "/ Sys.Modify"},
		},
		{Provision, []string{"/vms VM.Allocate", "/vms VM.Clone", "/vms VM.Config.Disk"}, []string{"/vms VM.Snapshot.Rollback", "/storage Datastore.Allocate"}},
		{Full, []string{"/vms VM.Snapshot.Rollback", "/storage Datastore.Allocate"}, []string{"/ Sys.Modify", "/vms VM.Monitor", "/vms VM.Console"}},
	} {
		have := all(tc.role, 9)
		for _, p := range tc.has {
			if !slices.Contains(have, p) {
				t.Errorf("%s lacks %s", tc.role, p)
			}
		}
		for _, p := range tc.not {
			if slices.Contains(have, p) {
				t.Errorf("%s has %s", tc.role, p)
			}
		}
		cannot := strings.Join(tc.role.Cannot(9), "\n")
		if cannot == "" {
			t.Errorf("%s can do everything", tc.role)
		}
		if says := strings.Contains(cannot, "even with a signed approval: that takes --role full"); says == (tc.role == Full) {
			t.Errorf("%s, what an approval is good for:\n%s", tc.role, cannot)
		}
	}
	if slices.ContainsFunc(all(Full, 7), func(p string) bool { return strings.Contains(p, "SDN.") }) {
		t.Error("PVE 7 does not know SDN.Use")
	}
}

func TestEveryActionKindHasItsPrivileges(t *testing.T) {
	for _, k := range plugin.CoreActions() {
		if !slices.Contains(Full.Kinds(), k) {
			t.Errorf("no role serves %s", k)
		}
	}
}

func TestRefresh(t *testing.T) {
	_, o := newNode(t, "9.2.11")
	for i, want := range []string{"was replaced", "up to date"} {
		got, err := o.Refresh(nil)
		if err != nil || len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
	certs, err := pvetest.NewCertificates("pve1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.PVE+"/local/pveproxy-ssl.pem", certs.Cert, 0o640); err != nil {
		t.Fatal(err)
	}
	custom, err := o.CustomCert()
	if err != nil || custom == nil {
		t.Fatal(custom, err)
	}
	if got, err := o.Refresh(nil); err != nil || !strings.Contains(got[1], "not pinned") {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := o.Refresh([]string{custom.Pin}); err != nil || !strings.Contains(got[1], "is pinned") {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(o.PVE+"/pve-root-ca.pem", []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Refresh(nil); err == nil {
		t.Error("garbage was copied over a good CA")
	}
}
