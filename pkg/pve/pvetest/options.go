// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/mutant"
)

// Options describe the node to simulate. The zero value is a PVE 9 node
// "pve1" without guests, with the storage "local" and the user root@pam.
type Options struct {
	Node    string // host name; default "pve1"
	Version string // PVE's version, 8.x or 9.x; default "9.2.11"
	RepoID  string // source hash in GET version; default sixteen zeros

	// Skew is added to the clock in everything the node reports.
	Skew time.Duration
	// Speed divides the durations of guests (not PVE's own timeouts);
	// default 1.
	Speed float64

	Guests   []GuestSpec
	Storages []Storage // default: "local" of type dir at /var/lib/vz
	Bridges  []string  // default: vmbr0
	// BackupJobs and Replications are the cluster's scheduled jobs. They are
	// listed and they stand in the way; nothing runs them.
	BackupJobs   []BackupJob
	Replications []ReplicationJob
	Lacks        Lacks
	Users        []User // root@pam is always there
	Roles        map[string][]string
	ACL          []Grant
	Host         Host

	// RunHook replaces the execution of hookscripts; nil executes them.
	RunHook func(HookCall) error
	// HookEnv is added to the environment of executed hookscripts.
	HookEnv []string
	// Log receives one line per request, task and hook; nil discards.
	Log *slog.Logger
	// EtcPVE is a directory kept like /etc/pve (.vmlist, .version, configs);
	// empty keeps none.
	EtcPVE string
	// Seed makes generated hardware addresses and ids repeatable; 0 draws
	// one.
	Seed uint64

	// Mutant changes one behaviour, for tests of the tests; only packages
	// below this one can name any.
	Mutant mutant.Name
}

// GuestSpec is one guest at the beginning. Config holds API keys as text;
// File, when set, is the config file itself and Config is ignored.
type GuestSpec struct {
	Kind    guest.Kind
	VMID    int
	Config  map[string]string
	File    string
	Running bool
	Times   Times
}

// Times are a guest's durations; zero means as recorded on real nodes.
type Times struct {
	Start    time.Duration // from the order to running
	Stop     time.Duration // a hard stop
	Shutdown time.Duration // the guest's own shutdown
	// NoShutdown makes the guest ignore shutdown requests.
	NoShutdown bool
	// NoStart makes a container's start fail after pre-start.
	NoStart bool
	// Lives is how long a container's own program runs before it ends by
	// itself; 0 is for ever.
	Lives time.Duration
	// Lingering is for how long, before it reads as stopped, a container that
	// was asked to shut down is there without a process.
	Lingering time.Duration
	// Closing is how long after "stopped" a container's post-stop begins
	// when the stop came from inside.
	Closing time.Duration
}

// Storage is one entry of storage.cfg.
type Storage struct {
	ID      string
	Type    string // "dir" if empty
	Path    string // directory of a dir storage; hookscripts come from Path/snippets
	Content []string
	Total   int64 // bytes
	Used    int64
	Avail   int64 // default Total - Used
	Shared  bool
	// Keep is keep-last of prune-backups; 0 keeps all.
	Keep int
	// FileSystem is the type of what Path is on; "" = ext4.
	FileSystem string
	// Snippets lists files of Path/snippets and whether each is executable,
	// for a Sim that does not look at the disk; nil looks.
	Snippets map[string]bool
	Volumes  []Volume // templates and backups that are there from the start
}

// Lacks lists what the machine below cannot do, for nodes that are not
// ordinary ones.
type Lacks struct {
	AppArmor bool // no mount point can be hotplugged
	Policing bool // no traffic policing: rate= cannot be hotplugged
	OVMF     bool // no UEFI firmware
	// QEMUPatches: QEMU is without PVE's own commands for snapshots of
	// running machines and for backups.
	QEMUPatches bool
	// DNS: there is no name server, so unknown names fail in another way.
	DNS bool
	// OnlineResize: a mounted file system cannot be grown.
	OnlineResize bool
}

func (l Lacks) conf(h Host) conf.Host {
	return conf.Host{CgroupV1: h.CgroupMode == 1, CPUs: h.CPUs, NoAppArmor: l.AppArmor, NoPolicing: l.Policing, NoOVMF: l.OVMF, QEMU: h.QEMU}
}

// Volume is a file on a storage that no guest's config names.
type Volume struct {
	VolID   string
	Content string // vztmpl, backup, iso
	Format  string
	Size    int64
	// Unpacked is the size of an archive's content; default twice Size.
	Unpacked int64
	CTime    int64
	VMID     int
	Notes    string
	// Hidden keeps it out of content lists, as if it were put there later.
	Hidden bool
}

// User is an account with its tokens (id to secret).
type User struct {
	ID       string
	Password string
	Comment  string
	Tokens   []Token
}

// Token is one API token of a user. NoPrivSep gives it the user's privileges.
type Token struct {
	ID        string
	Secret    string
	NoPrivSep bool
}

// Grant is one line of the access control list; Who is a user or a full
// token id. NoPropagate keeps it to exactly the path.
type Grant struct {
	Path, Who, Role string
	NoPropagate     bool
}

// Host is what nodes/{node}/status tells of the machine.
type Host struct {
	CPUs        int
	Memory      int64 // bytes
	MemoryUsed  int64
	RootTotal   int64
	RootUsed    int64
	Model       string
	MHz         string
	Flags       string
	Vendor      string
	Family      string
	Kernel      string // release, "6.8.12-4-pve"
	KernelBuild string
	Uptime      time.Duration // since boot when the Sim starts
	CgroupMode  int           // 1 or 2; default 2
	QEMU        string        // version of the installed QEMU; default the one of the PVE version
	Address     string        // of the first bridge, "192.0.2.1/24"; empty for none
	// StatPhase is when, after the Sim starts, the first of the status
	// broadcasts is due that follow each other every ten seconds.
	StatPhase time.Duration
}

func (o *Options) setDefaults() error {
	def(&o.Node, "pve1")
	def(&o.Version, "9.2.11")
	def(&o.RepoID, "0000000000000000")
	if o.Speed == 0 {
		o.Speed = 1
	}
	if len(o.Storages) == 0 {
		o.Storages = []Storage{{ID: "local"}}
	}
	if o.Bridges == nil {
		o.Bridges = []string{"vmbr0"}
	}
	for i := range o.Storages {
		o.Storages[i].setDefaults()
	}
	o.Host.setDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o.validate()
}

func (s *Storage) setDefaults() {
	def(&s.Type, "dir")
	def(&s.Path, "/var/lib/vz")
	if len(s.Content) == 0 {
		s.Content = []string{"backup", "images", "iso", "rootdir", "snippets", "vztmpl"}
	}
	def(&s.Total, 100<<30)
	def(&s.Avail, s.Total-s.Used)
}

func (h *Host) setDefaults() {
	def(&h.CPUs, 4)
	def(&h.Memory, 16<<30)
	def(&h.MemoryUsed, 2<<30)
	def(&h.RootTotal, 100<<30)
	def(&h.RootUsed, 10<<30)
	def(&h.Model, "Simulated CPU")
	def(&h.MHz, "2000.000")
	def(&h.Flags, "fpu vme de pse tsc msr")
	def(&h.Vendor, "GenuineIntel")
	def(&h.Family, "6")
	def(&h.Kernel, "6.14.11-4-pve")
	def(&h.KernelBuild, "#1 SMP PREEMPT_DYNAMIC")
	def(&h.Uptime, time.Hour)
	def(&h.CgroupMode, 2)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

var nodeRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$`)

func (o *Options) validate() error {
	if !nodeRE.MatchString(o.Node) {
		return fmt.Errorf("node name %q is not a host name", o.Node)
	}
	if m := o.major(); m != 8 && m != 9 {
		return fmt.Errorf("version %q: only PVE 8 and 9 are simulated", o.Version)
	}
	if o.Speed < 0 {
		return fmt.Errorf("speed %v is negative", o.Speed)
	}
	return nil
}

func (o *Options) major() int {
	first, _, _ := strings.Cut(o.Version, ".")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return n
}

func (o *Options) accounts() *acl.Set {
	set := acl.New(o.major())
	for name, privs := range o.Roles {
		set.Roles[name] = privs
	}
	for _, u := range o.Users {
		au := set.Users[u.ID]
		if au == nil {
			au = &acl.User{Tokens: map[string]acl.Token{}}
			set.Users[u.ID] = au
		}
		au.Password, au.Comment = u.Password, u.Comment
		for _, t := range u.Tokens {
			au.Tokens[t.ID] = acl.Token{Secret: t.Secret, PrivSep: !t.NoPrivSep}
		}
	}
	for _, g := range o.ACL {
		set.Entries = append(set.Entries, acl.Entry{Path: g.Path, UGID: g.Who, Role: g.Role, Propagate: !g.NoPropagate})
	}
	return set
}
