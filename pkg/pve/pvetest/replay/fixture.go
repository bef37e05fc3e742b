// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// fixture is what a recording does not say by itself.
type fixture struct {
	Node    string
	Version string
	RepoID  string
	Uptime  int64 // seconds, at the first exchange
	Floor   float64
	Host    struct {
		CPUs                                                  int
		Memory, MemoryUsed                                    int64
		RootTotal, RootUsed                                   int64
		Model, MHz, Flags                                     string
		Vendor, Family                                        string
		Kernel, KernelBuild                                   string
		CgroupMode                                            int
		Address, QEMU                                         string
		StatPhase                                             string // duration
		NoAppArmor, NoPolicing, NoOVMF, NoOnlineResize, NoDNS bool
		NoQEMUPatches                                         bool
	}
	Bridges []string
	Roles   map[string][]string
	User    []struct {
		ID, Password string
		Comment      string
		Tokens       map[string]string
		NoPrivSep    []string
	}
	ACL     []struct{ Path, Who, Role string }
	Storage []struct {
		ID, Path           string
		Content            []string
		Total, Used, Avail int64
		Snippets           map[string]bool
		Volume             []pvetest.Volume
	}
	Guest []struct {
		Kind    guest.Kind
		VMID    int
		File    string
		Running bool
	}
	Step   []step
	Except []exception

	mutant mutant.Name // behaviour that a test changes
}

// step is what happened to the node before an exchange without being one.
type step struct {
	Before string   // id of the exchange
	Do     []string // orders, see steps.go
	UPID   string   // recorded id of the task that the last order started
	Guest  []struct {
		Kind    guest.Kind
		VMID    int
		File    string
		Running bool
	}
	Why string // how it is known
}

// exception is an exchange (or several, by a glob) that is not matched on
// purpose.
type exception struct {
	ID, Why string
}

func readFixture(fsys fs.FS, name string) (*fixture, error) {
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("fixture: %w", err)
	}
	return parseFixture(name, string(b))
}

func parseFixture(name, text string) (*fixture, error) {
	var f fixture
	md, err := toml.Decode(text, &f)
	if err != nil {
		return nil, fmt.Errorf("fixture %s: %w", name, err)
	}
	if un := md.Undecoded(); len(un) > 0 {
		return nil, fmt.Errorf("fixture %s: unknown key %s", name, un[0])
	}
	for _, s := range f.Step {
		if s.Why == "" {
			return nil, fmt.Errorf("fixture %s: step before %s gives no reason", name, s.Before)
		}
	}
	for _, e := range f.Except {
		if e.Why == "" {
			return nil, fmt.Errorf("fixture %s: exception %s gives no reason", name, e.ID)
		}
	}
	return &f, nil
}

// options turns the fixture into the Sim's options; the node's clock begins
// at start.
func (f *fixture) options(start time.Time) (pvetest.Options, error) {
	h := f.Host
	phase, err := time.ParseDuration(either(h.StatPhase, "0s"))
	if err != nil {
		return pvetest.Options{}, fmt.Errorf("fixture: statphase: %w", err)
	}
	opt := pvetest.Options{
		Node: f.Node, Version: f.Version, RepoID: f.RepoID, Skew: time.Until(start), Seed: 1, Mutant: f.mutant,
		Bridges: f.Bridges, Roles: f.Roles,
		Lacks: pvetest.Lacks{AppArmor: h.NoAppArmor, Policing: h.NoPolicing, OVMF: h.NoOVMF, OnlineResize: h.NoOnlineResize, DNS: h.NoDNS, QEMUPatches: h.NoQEMUPatches},
		Host: pvetest.Host{
			CPUs: h.CPUs, Memory: h.Memory, MemoryUsed: h.MemoryUsed, RootTotal: h.RootTotal, RootUsed: h.RootUsed,
			Model: h.Model, MHz: h.MHz, Flags: h.Flags, Vendor: h.Vendor, Family: h.Family, Kernel: h.Kernel,
			KernelBuild: h.KernelBuild, CgroupMode: h.CgroupMode, Uptime: time.Duration(f.Uptime) * time.Second,
			Address: h.Address, QEMU: h.QEMU, StatPhase: phase,
		},
		RunHook: func(pvetest.HookCall) error { return nil },
	}
	f.addAccounts(&opt)
	for _, s := range f.Storage {
		opt.Storages = append(opt.Storages, pvetest.Storage{
			ID: s.ID, Path: s.Path, Content: s.Content, Total: s.Total, Used: s.Used, Avail: s.Avail,
			Snippets: s.Snippets, Volumes: s.Volume,
		})
	}
	for _, g := range f.Guest {
		opt.Guests = append(opt.Guests, pvetest.GuestSpec{Kind: g.Kind, VMID: g.VMID, File: g.File, Running: g.Running})
	}
	return opt, nil
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (f *fixture) addAccounts(opt *pvetest.Options) {
	for _, u := range f.User {
		nosep := map[string]bool{}
		for _, t := range u.NoPrivSep {
			nosep[t] = true
		}
		pu := pvetest.User{ID: u.ID, Password: u.Password, Comment: u.Comment}
		for id, secret := range u.Tokens {
			pu.Tokens = append(pu.Tokens, pvetest.Token{ID: id, Secret: secret, NoPrivSep: nosep[id]})
		}
		opt.Users = append(opt.Users, pu)
	}
	for _, g := range f.ACL {
		opt.ACL = append(opt.ACL, pvetest.Grant{Path: g.Path, Who: g.Who, Role: g.Role})
	}
}
